"""Small random networks of every family and form that exports have, as files of every precision that they have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from diffsmooth_trt.engine.facts import METADATA_KEY, EngineFacts
from diffsmooth_trt.engine.graph import read_graph
from diffsmooth_trt.exporting import export_detector
from diffsmooth_trt.exporting.checks.inputs import ImageCheck
from diffsmooth_trt.exporting.classifier import classifier_file
from diffsmooth_trt.exporting.denoiser import denoiser_file
from diffsmooth_trt.exporting.graph.output_size import OutputSize
from diffsmooth_trt.exporting.graph.preprocessing import Overrides
from diffsmooth_trt.exporting.program import program_file
from diffsmooth_trt.exporting.writers.onnx import _append_facts, _save, trace
from diffsmooth_trt.exporting.writers.onnx_half import to_half
from diffsmooth_trt.exporting.writers.onnx_int8 import quantise
from diffsmooth_trt.exporting.writers.report import ExportReport
from diffsmooth_trt.nets import edm, options
from diffsmooth_trt.nets.classifiers import classifier_from_arch
from diffsmooth_trt.nets.detector import Detector

SIZE, ROWS, SIGMA = 16, 4, 0.25
ONE: dict[str, Any] = {"channel_mult": "1", "attention_resolutions": "16"}  # one level: quick to trace
UNET: dict[str, Any] = {
    "image_size": SIZE, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "attention_resolutions": "8",
    "num_head_channels": 32,
}  # fmt: skip
CONDITIONAL = UNET | ONE | {"class_cond": True, "num_classes": 5, "null_class": 4}
IMPROVED = {name: value for name, value in UNET.items() if name != "num_head_channels"} | ONE | {"num_heads": 2}
SONG: dict[str, Any] = {
    "img_resolution": SIZE, "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8],
    "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1],
    "label_dim": 3,
}  # fmt: skip
DIFFUSERS: dict[str, Any] = {
    "sample_size": SIZE, "block_out_channels": (32, 32), "layers_per_block": 1, "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
VIT: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8, "num_labels": 6,
}  # fmt: skip


def _random(net: Any) -> Any:
    torch.manual_seed(5)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return net.eval()


def traced(
    module: torch.nn.Module, check: ImageCheck, facts: EngineFacts, out: Path, batch: int | None, store_fp16: bool
) -> ExportReport:
    """The file alone: what it computes is compared with its source elsewhere."""
    files = _save(trace(module, check, batch), out.parent, out.name)
    _append_facts(files[-1], facts)
    return ExportReport(out, facts, None, None, 0, 0)


def _denoiser(
    family: str, chosen: dict[str, Any], conditional: bool = False, output: OutputSize | None = None
) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        parsed: Any = edm.parse_options(chosen) if family == "edm" else options.parse_options(family, chosen)
        torch.save(_random(parsed.network()).state_dict(), folder / "net.pt")
        return _folded(family, folder / "net.pt", chosen, None if conditional else SIGMA, output)

    return make


def _folded(
    family: str, checkpoint: Path, chosen: dict[str, Any] | None, sigma: float | None, output: OutputSize | None = None
) -> Path:
    return denoiser_file(
        family, checkpoint, chosen, sigma, checkpoint.with_name("fp32.onnx"), batch=None, store_fp16=False,
        image_size=None, fractional=False, clamp=True, output=output or OutputSize(), write=traced,
    ).path  # fmt: skip


def _diffusers(folder: Path) -> Path:
    import diffusers

    net: Any = diffusers.UNet2DModel(**DIFFUSERS)
    scheduler: Any = diffusers.DDPMScheduler(beta_schedule="linear")
    _random(net).save_pretrained(folder / "net" / "unet")
    scheduler.save_pretrained(folder / "net" / "scheduler")
    return _folded("diffusers", folder / "net", None, SIGMA)


class _Own(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 8), (8, 8), (8, 3))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return (x + 0.1 * y).clamp(0, 1)


def _program(folder: Path) -> Path:
    x, rows = torch.rand(ROWS, 3, SIZE, SIZE), ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(_random(_Own()), (x,), dynamic_shapes=rows), folder / "net.pt2")
    return program_file(folder / "net.pt2", SIGMA, folder / "fp32.onnx", None, OutputSize(), True, write=traced).path


def _classifier(arch: str, image_size: int | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(classifier_from_arch(arch).module.state_dict(), folder / "net.pt")
        over = Overrides(image_size, None, None, None, None, None, None)
        return classifier_file(arch, folder / "net.pt", folder / "fp32.onnx", over, None, False, write=traced).path

    return make


def _huggingface(kind: str, **more: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import transformers

        library: Any = transformers
        config = getattr(library, f"{kind}Config")(**VIT, **more)
        library.utils.logging.disable_progress_bar()
        _random(getattr(library, f"{kind}ForImageClassification")(config)).save_pretrained(folder / "net")
        over = Overrides(SIZE, 32, None, None, None, [0.5] * 3, [0.5] * 3)
        return classifier_file("hf", folder / "net", folder / "fp32.onnx", over, None, False, write=traced).path

    return make


def _detector(folder: Path) -> Path:
    torch.save(Detector().state_dict(), folder / "net.pt")
    return export_detector(folder / "net.pt", folder / "fp32.onnx").path


# Each makes its file in an empty folder.
FORMS: dict[str, Callable[[Path], Path]] = {
    "improved-diffusion": _denoiser("improved-diffusion", IMPROVED),
    "guided-diffusion": _denoiser("guided-diffusion", UNET),
    "guided-diffusion, resized": _denoiser("guided-diffusion", UNET | ONE, output=OutputSize(24, 20)),
    "guided-diffusion, conditional": _denoiser("guided-diffusion", CONDITIONAL, conditional=True),
    "edm": _denoiser("edm", SONG),
    "edm, conditional": _denoiser("edm", SONG | {"channel_mult": [1], "attn_resolutions": [16]}, conditional=True),
    "diffusers": _diffusers,
    "program": _program,
    "resnet20": _classifier("resnet20"),
    "resnet20, resized": _classifier("resnet20", image_size=SIZE),
    "wrn-10-1": _classifier("wrn-10-1"),
    "hf/vit": _huggingface("ViT"),
    "hf/beit": _huggingface("Beit", use_relative_position_bias=True, layer_scale_init_value=0.1),
    "detector": _detector,
}
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


def precisions_of(facts: EngineFacts) -> tuple[str, ...]:
    """The precisions that exports of this kind have."""
    return ("fp32",) if facts.role == "detector" else PRECISIONS


def lowered(source: Path, precision: str) -> Path:
    """The fp32 file `source` in `precision`, int8 as GPUs multiply it, calibrated on random images, beside it."""
    if precision == "fp32":
        return source
    facts = read_graph(source, role=None, sigma=None).facts
    draft, out = source.with_name(f"draft-{precision}.onnx"), source.with_name(f"{precision}.onnx")
    kept: dict[str, Any] = {}
    if precision in ("int8", "fp8"):
        kept = quantise(source, draft, precision, facts.role != "classifier", lambda: _batches(facts), symmetric=True)
    else:
        to_half(source, draft, precision)
    model = onnx.load(str(draft))
    changed = dataclasses.replace(facts, precision=precision, details={**facts.details, **kept})
    del model.metadata_props[:]
    model.metadata_props.append(onnx.StringStringEntryProto(key=METADATA_KEY, value=changed.to_json()))
    onnx.save(model, str(out))
    draft.unlink()
    return out


def _batches(facts: EngineFacts) -> Iterator[dict[str, NDArray[Any]]]:
    generator = np.random.default_rng(1)
    for _ in range(2):
        given: dict[str, NDArray[Any]] = {"images": generator.random((ROWS, *facts.input_shape), np.float32)}
        if facts.role == "conditional":
            given |= {"s": np.full(ROWS, 0.5, np.float32), "labels": np.zeros(ROWS, np.int64)}
        yield given
