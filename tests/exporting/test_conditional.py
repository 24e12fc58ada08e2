"""Conditional exports answer as the plain network at every noise level and label; what cannot be exported is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
onnx = pytest.importorskip("onnx", reason="exports need onnx")
pytest.importorskip("onnxscript", reason="exports need onnxscript")

from diffsmooth_trt.cli import main  # noqa: E402
from diffsmooth_trt.engine import open_engine  # noqa: E402
from diffsmooth_trt.errors import InputError  # noqa: E402
from diffsmooth_trt.exporting import export_denoiser  # noqa: E402
from diffsmooth_trt.exporting.checks.inputs import ConditionalCheck  # noqa: E402
from diffsmooth_trt.exporting.sources.checkpoints import load_into, load_state  # noqa: E402
from diffsmooth_trt.exporting.sources.families import RowTimestep  # noqa: E402
from diffsmooth_trt.exporting.writers import onnx as onnx_writer  # noqa: E402
from diffsmooth_trt.nets.options import DenoiserOptions, parse_options  # noqa: E402
from diffsmooth_trt.nets.unet import timestep_embedding  # noqa: E402
from diffsmooth_trt.schedule import Schedule  # noqa: E402

Maker = Callable[[Path, str, dict[str, Any]], tuple[Any, Any]]
SMALL: dict[str, Any] = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
    "learn_sigma": True,
    "class_cond": True,
}
COSINE = {"diffusion_steps": 4000, "noise_schedule": "cosine"}
NULL = {"num_classes": 5, "null_class": 4}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "improved": ("improved-diffusion", {**SMALL, **COSINE, "num_classes": 4}),
    "improved-null-unscaled": ("improved-diffusion", {**SMALL, **NULL, "use_scale_shift_norm": False}),
    "guided": ("guided-diffusion", {**SMALL, "num_classes": 4, "resblock_updown": True, "num_head_channels": 32}),
    "guided-null-order": ("guided-diffusion", {**SMALL, **COSINE, **NULL, "use_new_attention_order": True}),
}


def noisy(rows: int, labels: int, size: int = 16) -> tuple[Any, Any, Any]:
    """Rows at noise levels over the whole range, below the first ratio and above 3 too."""
    rng = np.random.default_rng(6)
    s = np.geomspace(1e-5, 10, rows).astype(np.float32)
    x = rng.uniform(-1, 1, (rows, 3, size, size)) + s[:, None, None, None] * rng.normal(size=(rows, 3, size, size))
    return x.astype(np.float32), s, rng.permutation(np.arange(rows) % labels)


def plain(options: DenoiserOptions, net: Any, x: Any, s: Any, labels: Any) -> Any:
    """D(x; s, y) in float64 around the untouched network."""
    schedule = options.schedule
    t = np.interp(s, schedule.ratios, np.arange(schedule.steps)) * (1000 / schedule.steps if schedule.rescale else 1)
    level = torch.from_numpy(s).double()[:, None, None, None]
    with torch.no_grad():
        eps = net(torch.from_numpy(x) / (1 + level**2).sqrt().float(), torch.from_numpy(t), torch.from_numpy(labels))
    return (torch.from_numpy(x) - level * eps[:, :3]).numpy()


def assert_as(got: Any, want: Any, s: Any) -> None:
    """Differences of D grow with the noise level, which multiplies those of ε."""
    assert np.abs((got - want) / (1 + s[:, None, None, None])).max() <= 2e-5


@pytest.fixture(scope="module")
def improved(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Maker) -> Path:
    """A folder with checkpoint and exported file of the first network."""
    folder = tmp_path_factory.mktemp("improved")
    family, given = NETWORKS["improved"]
    random_checkpoint(folder / "net.pt", family, given)
    export_denoiser(family, folder / "net.pt", given, None, folder / "d.onnx", conditional=True)
    return folder


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_files_answer_as_the_network(backend: str, improved: Path) -> None:
    pytest.importorskip(backend)
    options = parse_options(*NETWORKS["improved"])
    net = options.network()
    load_into(net, load_state(improved / "net.pt"))
    for rows in (5, 24):
        x, s, labels = noisy(rows, 4)
        with open_engine(
            improved / "d.onnx", batch=rows, role="conditional", backend=backend, precision="fp32"
        ) as engine:
            assert_as(engine.denoise(x, s, labels), plain(options, net.eval(), x, s, labels), s)


@pytest.mark.parametrize("name", ["improved-null-unscaled", "guided"])
def test_other_networks(name: str, tmp_path: Path, random_checkpoint: Maker) -> None:
    family, given = NETWORKS[name]
    options, net = random_checkpoint(tmp_path / "net.pt", family, given)
    out = tmp_path / "d.onnx"
    report = export_denoiser(family, tmp_path / "net.pt", given, None, out, conditional=True)
    assert report.max_difference <= 2e-5
    facts = report.facts
    assert (facts.role, facts.classes, facts.sigma, facts.timestep) == ("conditional", 4, None, None)
    assert (facts.value_range, facts.null_class) == ((-1.0, 1.0), given.get("null_class"))
    assert facts.details["ratios"] == [options.schedule.ratios[0], options.schedule.ratios[-1]]
    assert facts.details["options"]["num_classes"] == given["num_classes"]
    x, s, labels = noisy(24, given["num_classes"])
    with open_engine(out, batch=24, role="conditional", backend="onnxruntime") as engine:
        assert_as(engine.denoise(x, s, labels), plain(options, net.eval(), x, s, labels), s)


def test_graph_is_portable_and_lean(improved: Path) -> None:
    family, given = NETWORKS["improved"]
    data = (improved / "d.onnx").read_bytes()
    export_denoiser(family, improved / "net.pt", given, None, improved / "again.onnx", conditional=True)
    assert (improved / "again.onnx").read_bytes() == data
    assert b".py" not in data and str(improved).encode() not in data
    model = onnx.load(improved / "d.onnx")
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["images", "s", "labels"]
    operators = {node.op_type for node in model.graph.node}
    assert not {"GroupNormalization", "InstanceNormalization", "Dropout", "RandomNormal", "If", "Loop"} & operators
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == last.input[1]]
    assert weight.dims[0] == 3


def test_half_storage_at_another_size_and_a_fixed_batch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], random_checkpoint: Maker
) -> None:
    family, given = NETWORKS["guided-null-order"]
    _, net = random_checkpoint(tmp_path / "net.pt", family, given)
    out = tmp_path / "d.onnx"
    report = export_denoiser(
        family, tmp_path / "net.pt", given, None, out, conditional=True, store_fp16=True, batch=3, image_size=24
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert report.facts.details["stored"] == "fp16"
    assert report.bytes < 0.6 * (tmp_path / "net.pt").stat().st_size
    for parameter in net.parameters():
        parameter.data = parameter.half().float()
    x, s, labels = noisy(3, 5, 24)
    want = plain(parse_options(family, given), net.eval(), x, s, labels)
    with open_engine(out, batch=3, role="conditional", backend="onnxruntime") as engine:
        assert_as(engine.denoise(x, s, labels), want, s)


@pytest.mark.parametrize(
    "schedule", [Schedule("linear", 1000), Schedule("cosine", 4000, True), Schedule("linear", 250)]
)
def test_timesteps_in_the_graph(schedule: Schedule) -> None:
    """Within 2e-4 of a timestep at any float32 noise level, and exactly the first and last one outside the schedule."""
    s = np.concatenate([np.geomspace(1e-6, 500, 5000), schedule.ratios]).astype(np.float32)
    with torch.no_grad():
        got = RowTimestep(schedule)(torch.from_numpy(s)).numpy() / schedule.embedded(1)
    want = schedule.fractional_timestep(s.astype(np.float64))
    np.testing.assert_allclose(got, want, atol=2e-4, rtol=2e-7)
    assert (got[s < np.float32(schedule.ratios[0])] == 0).all()
    assert (got[s > np.float32(schedule.ratios[-1])] == schedule.steps - 1).all()


def test_the_timestep_keeps_float32_where_the_rest_is_bf16(improved: Path) -> None:
    ov = pytest.importorskip("openvino")
    from diffsmooth_trt.engine.backends.openvino import split_at_noise_levels

    schedule = parse_options(*NETWORKS["improved"]).schedule
    core, settings = ov.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    x, s, labels = noisy(9, 4)
    whole = core.compile_model(core.read_model(improved / "d.onnx"), "CPU", settings)((x, s, labels))[0]
    parts = split_at_noise_levels(core.read_model(improved / "d.onnx"))
    front, rest = (core.compile_model(part, "CPU", settings) for part in parts)
    values = list(front([s]).values())
    (embedding,) = [value for value in values if value.ndim == 2]
    times = schedule.fractional_timestep(s.astype(np.float64)) * schedule.embedded(1)
    np.testing.assert_allclose(embedding, timestep_embedding(torch.from_numpy(times), 32).numpy(), atol=5e-4)
    np.testing.assert_allclose(rest((x, labels, *values))[0], whole, rtol=1e-5, atol=1e-5)


def test_inputs_of_the_check_cover_levels_and_labels() -> None:
    check = ConditionalCheck(torch.nn.Identity(), (3, 4, 4), 3.0, 11)
    for first, second in zip(check.batches(64), check.batches(64), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    kept = [[given[: check.rows] for given in batch] for batch in check.batches(2)]
    s, labels = (np.concatenate([batch[place] for batch in kept]) for place in (1, 2))
    assert s.dtype == np.float32 and 1e-4 <= s.min() < 1e-3 and 2 < s.max() <= 3
    assert labels.dtype == np.int64 and labels[0] == 10 and set(labels) <= set(range(11))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.25}, "conditional takes every noise level, got sigma 0.25: leave one of them out"),
        ({"conditional": False}, "sigma is missing: give the noise level in .* or conditional"),
        (
            {"config": {**SMALL, "class_cond": False}},
            "conditional needs a network trained with labels, this one has none: set class_cond true .* sigma",
        ),
        ({"config": {**SMALL, "num_classes": 5, "null_class": 0}}, "null_class 0 stands between the classes"),
        ({"config": {**SMALL, "num_classes": 2, "null_class": 1}}, "needs at least two classes, this network has 1"),
        (
            {"config": {**SMALL, "num_classes": 6}},
            r"of another shape \(label_emb.weight \[4, 128\] instead of \[6, 128\]",
        ),
        ({"image_size": 17}, "image size 17 does not fit this network"),
    ],
)
def test_refusals(tmp_path: Path, random_checkpoint: Maker, changes: dict[str, Any], message: str) -> None:
    family, given = NETWORKS["improved"]
    random_checkpoint(tmp_path / "net.pt", family, given)
    arguments = {
        "family": family,
        "checkpoint": tmp_path / "net.pt",
        "config": given,
        "sigma": None,
        "conditional": True,
    }
    with pytest.raises(InputError, match=message) as caught:
        export_denoiser(**{**arguments, "out": tmp_path / "d.onnx", **changes})
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_a_file_that_reads_other_labels_never_appears(
    improved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(improved / "net.pt")
    torch.save({**state, "label_emb.weight": state["label_emb.weight"].roll(1, 0)}, tmp_path / "net.pt")
    monkeypatch.setattr(onnx_writer, "trace", lambda *_: onnx_writer.ir.load(improved / "d.onnx"))
    family, given = NETWORKS["improved"]
    with pytest.raises(InputError, match="differs from its source"):
        export_denoiser(family, tmp_path / "net.pt", given, None, tmp_path / "d.onnx", conditional=True)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(tmp_path / "absent.pt")
    words = ["export", "denoiser", "--family", "guided-diffusion", "--config", "zoo", "--checkpoint", checkpoint]
    for more, message in (
        ([], "--sigma is missing"),
        (["--sigma", "0.5", "--conditional"], "--conditional takes every noise level"),
        (["--conditional"], "no such file"),
    ):
        assert main([*words, "--out", str(tmp_path / "d.onnx"), *more]) == 2
        assert message in capsys.readouterr().err
