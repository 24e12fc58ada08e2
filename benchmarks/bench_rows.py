"""The proof of independent rows on large and foreign graphs: seconds, memory, and whether it goes through.

    python benchmarks/bench_rows.py --large            # guided-diffusion's 552 M UNet at 224×224, random weights, about 5 GiB
    python benchmarks/bench_rows.py --foreign          # classifiers of timm, torchvision and transformers, all with random weights
    python benchmarks/bench_rows.py --foreign --only swin
    python benchmarks/bench_rows.py --opening          # what proof and probe cost the zoo's engines

`--foreign` needs timm and torchvision, which no part of the package does. torchvision's own operators, which no classifier uses,
are declared where its build does not fit this torch. Writes results/rows.json, each part of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx

from diffsmooth_trt.engine.rows import Unproved, prove

RESULTS = Path(__file__).parent / "results" / "rows.json"
PACKAGES = ("torch", "onnx", "onnxscript", "timm", "torchvision", "transformers")
CONFIG, SIGMA = "256x256_diffusion_uncond", 0.5
BATCH = 4
TIMM = (
    *(
        "resnet18",
        "convnext_atto",
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "swin_tiny_patch4_window7_224",
    ),
    *("swinv2_tiny_window8_256", "beit_base_patch16_224", "efficientnet_b0", "mobilenetv3_small_100", "regnety_002"),
    *(
        "maxvit_rmlp_pico_rw_256",
        "coatnet_nano_rw_224",
        "densenet121",
        "mixer_s32_224",
        "eva02_tiny_patch14_336",
        "cait_xxs24_224",
    ),
    *("levit_128s", "mobilevit_xxs", "poolformer_s12", "pvt_v2_b0", "xcit_nano_12_p16_224", "inception_v3", "nfnet_f0"),
)
TORCHVISION = (
    *(
        "resnet18",
        "swin_v2_t",
        "maxvit_t",
        "vit_b_32",
        "shufflenet_v2_x0_5",
        "googlenet",
        "squeezenet1_1",
        "regnet_y_400mf",
    ),
)
KINDS = ((True, True), (True, False), (False, True), (False, False))  # by dynamo, for any batch
TRANSFORMERS = ("ViT", "DeiT", "Swin", "Beit", "ConvNext", "ResNet", "Dinov2", "MobileNetV2", "Swinv2", "PoolFormer")


@dataclass(frozen=True)
class Found:
    """One graph: what exported it, for which batch, its nodes, the seconds that its proof took, and why there is none."""

    source: str
    name: str
    exporter: str
    batch: str
    nodes: int
    seconds: float
    refused: str


def _declare_operators() -> None:
    import torch

    try:
        import torchvision  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["library"] = library  # declared as long as the process lives


def _transformers(name: str) -> tuple[Any, int]:
    import torch
    import transformers

    sizes: dict[str, Any] = {"image_size": 64, "num_labels": 10}
    if name in ("ViT", "DeiT", "Beit", "Dinov2"):
        sizes |= {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = getattr(transformers, f"{name}Config")(**sizes)
    net = getattr(transformers, f"{name}ForImageClassification")(config).eval()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            return self.net(pixel_values=x).logits

    return Logits().eval(), 64


def _networks(only: str) -> Iterator[tuple[str, str, Callable[[], tuple[Any, int]]]]:
    """Source, name and a maker of (network, image size)."""
    import timm
    import torchvision  # type: ignore[import-not-found, unused-ignore]

    def of_timm(name: str) -> tuple[Any, int]:
        net = timm.create_model(name, pretrained=False, exportable=True).eval()
        return net, net.default_cfg["input_size"][-1]

    def of_torchvision(name: str) -> tuple[Any, int]:
        more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        return torchvision.models.get_model(name, weights=None, **more).eval(), 224

    makers = (
        ("timm", TIMM, of_timm),
        ("torchvision", TORCHVISION, of_torchvision),
        ("transformers", TRANSFORMERS, _transformers),
    )
    for source, names, make in makers:
        for name in names:
            if only in name.lower():
                yield source, name, lambda make=make, name=name: make(name)  # type: ignore[misc]


def _exported(net: Any, size: int, dynamo: bool, dynamic: bool) -> onnx.ModelProto:
    import torch

    x, file = torch.rand(BATCH, 3, size, size), io.BytesIO()
    if dynamo:
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=shapes, opset_version=18, verbose=False)
        if program is None:
            raise RuntimeError("nothing was exported")
        proto: onnx.ModelProto = program.model_proto
        return proto
    axes = {"x": {0: "batch"}, "y": {0: "batch"}} if dynamic else None
    export: Any = torch.onnx.export  # its types know no buffers
    export(net, (x,), file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes, opset_version=17)
    return onnx.load_model_from_string(file.getvalue())


def _proved(model: onnx.ModelProto, size: int, batch: int) -> tuple[int, float, str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    (name,) = (value.name for value in model.graph.input if value.name not in weights)
    start = time.perf_counter()
    try:
        prove(model, {name: (batch, 3, size, size)})
        refused = ""
    except Unproved as error:
        refused = str(error)
    return len(model.graph.node), time.perf_counter() - start, refused


def foreign(only: str, quick: bool) -> list[Found]:
    """The proof of every foreign classifier as both exporters write it, for any batch and for a fixed one."""
    import torch

    _declare_operators()
    found = []
    for source, name, make in _networks(only):
        torch.manual_seed(0)
        net, size = make()
        for dynamo, dynamic in KINDS[::3] if quick else KINDS:
            exporter, batch = "dynamo" if dynamo else "TorchScript", "any" if dynamic else str(BATCH)
            try:
                with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
                    warnings.simplefilter("ignore")
                    model = _exported(net, size, dynamo, dynamic)
            except Exception as error:  # whatever an exporter cannot do is not about us
                reason = " ".join(str(error).split())[:90]
                print(f"{source} {name} {exporter} {batch}: not exported ({type(error).__name__}: {reason})")
                continue
            nodes, seconds, refused = _proved(model, size, 6 if dynamic else BATCH)
            found.append(Found(source, name, exporter, batch, nodes, round(seconds, 3), refused))
            line = f"{source:12} {name:34} {exporter:11} {batch:>3} {nodes:6} nodes {seconds:6.2f} s"
            print(f"{line}  {refused or 'proved'}", flush=True)
    return found


def write_large(folder: Path) -> Path:
    """The 552 M denoiser as `export denoiser` traces and saves it, not compared with anything."""
    import torch

    from diffsmooth_trt.exporting.checks.inputs import ImageCheck
    from diffsmooth_trt.exporting.graph.one_shot import denoiser_pair
    from diffsmooth_trt.exporting.sources.openai import OpenAI
    from diffsmooth_trt.exporting.writers.onnx import _save, trace
    from diffsmooth_trt.nets.options import named_options

    torch.manual_seed(0)
    family = OpenAI(named_options(CONFIG))
    with torch.no_grad():
        source, module = denoiser_pair(family, family.network().eval(), family.level(SIGMA, False))[:2]
    return _save(trace(module, ImageCheck(source, (3, 224, 224), SIGMA), None), folder, "large.onnx")[-1]


def read_large(path: Path) -> dict[str, Any]:
    """In a process of its own: seconds and peak memory of reading the file and of the proof for 64 rows.

    `parameters` are those that the graph holds: the timestep's embedding is folded into them.
    """
    before = _peak_mib()
    start = time.perf_counter()
    model = onnx.load_model(str(path), load_external_data=False)
    read = time.perf_counter() - start
    (name,) = (value.name for value in model.graph.input)
    start = time.perf_counter()
    proof = prove(model, {name: (64, 3, 224, 224)}, str(path.parent))
    seconds = time.perf_counter() - start
    parameters = sum(max(1, _size(tensor)) for tensor in model.graph.initializer)
    return {
        "nodes": proof.nodes,
        "parameters": parameters,
        "bytes_of_weights": 4 * parameters,
        "seconds_read": round(read, 3),
        "seconds_proof": round(seconds, 3),
        "mib_before": before,
        "mib_peak": _peak_mib(),
    }


def _peak_mib() -> int:
    """Peak resident memory of this process alone: what getrusage gives may be its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def _size(tensor: onnx.TensorProto) -> int:
    size = 1
    for each in tensor.dims:
        size *= each
    return size


def opening() -> list[dict[str, Any]]:
    """The zoo's pair in ONNX Runtime on one thread at batch 64: seconds to open, for proof and probe, and of a batch."""
    from diffsmooth_trt import zoo
    from diffsmooth_trt.engine import open_engine
    from diffsmooth_trt.engine.graph import read_graph

    def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
        start = time.perf_counter()
        made = call()
        return round(time.perf_counter() - start, 3), made

    found = []
    for file in (zoo.DENOISER, zoo.CLASSIFIER_DDS):
        whole, engine = seconds(lambda file=file: open_engine(file, batch=64, backend="onnxruntime", threads=1))  # type: ignore[misc]
        with engine:
            (inputs,) = engine._probe_inputs()
            probe, _ = seconds(engine.probe)
            batch, _ = seconds(lambda engine=engine, inputs=inputs: engine.run(inputs))  # type: ignore[misc]
        graph = read_graph(file, role=None, sigma=None)
        proof, _ = seconds(lambda graph=graph: graph.prove_rows(64))  # type: ignore[misc]
        found.append({"file": file.name, "seconds": whole, "proof": proof, "probe": probe, "batch": batch})
    return found


def versions() -> dict[str, str]:
    """The versions of what took part."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--large", action="store_true", help="the 552 M UNet")
    p.add_argument("--opening", action="store_true", help="what proof and probe cost the zoo's engines")
    p.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--foreign", action="store_true", help="classifiers of other packages")
    p.add_argument("--only", default="", help="of these, the ones with this in their names; nothing is written")
    p.add_argument("--quick", action="store_true", help="two exports of each instead of four")
    a = p.parse_args()
    if a.read:
        print(json.dumps(read_large(a.read)))
        return
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if a.large:
        with tempfile.TemporaryDirectory() as folder:
            path = write_large(Path(folder))
            command = [sys.executable, __file__, "--read", str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        results["large"] = {"config": CONFIG, "versions": versions(), **found}
        print(json.dumps(results["large"], indent=1))
    if a.opening:
        results["opening"] = opening()
        print(json.dumps(results["opening"], indent=1))
    if a.foreign:
        graphs = foreign(a.only, a.quick)
        proved = sum(not each.refused for each in graphs)
        print(
            f"{proved} of {len(graphs)} graphs of {len({(each.source, each.name) for each in graphs})} networks proved"
        )
        results["foreign"] = {"versions": versions(), "graphs": [asdict(each) for each in graphs]}
    if not a.only:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
