"""Checkpoints → engine files: `export_denoiser`, `export_classifier` and `export_detector`. Needs the `export` extra (PyTorch,
ONNX).

What they share:

Files map `[B, 3, H, W]` to images or logits; B is dynamic unless `batch` is given; H = W = `image_size`, by default the
network's own. With `store_fp16` weights are rounded to half precision once, stored so and computed with as float32. Before
anything appears at `out`, ONNX Runtime's outputs are compared with the network's on noisy images. InputError is raised for
unusable arguments and files and for outputs that differ by more than the tolerance, StoreError where writing fails.

`precision` is that of the graph: "fp16" and "bf16" keep normalisations, softmax and the final step in fp32; "int8" and
"fp8" are static and calibrated on images of `calibration_data` with the very noise; int8 has the form that `quantise_for` "cpu"
(the default) or "gpu" multiplies, and TensorRT takes the latter alone. Inputs and outputs are float32.
The finished file is then compared, in each backend here that runs it, with the source on `verify_samples` noisy
images of `verify_data` (by default, for 32×32, the zoo's 100 images with several noises each), or fewer where the
network is too large (`verification.BUDGET`). What is found stands in the facts as `details["verification"]`; NaN is
refused, and so is a mean difference that only a broken graph has.

An `out` that ends in .pt2 becomes an AOTInductor package with its record beside it instead: compiled on this machine
for `device` ("cpu", "cuda:N") and `batch`, which it needs, in `precision` fp32, fp16 or bf16; `autotune` measures
which kernels are fastest. It is compared with the network as above.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.record import record_path
from ..errors import InputError
from ..files import check_outputs
from ..noise import check_noise_level
from .writers.onnx_half import PRECISIONS, VERIFY_SAMPLES, Request
from .writers.report import ExportReport

if TYPE_CHECKING:
    from .writers.onnx import Writer

__all__ = [
    "PRECISIONS",
    "ExportReport",
    "export_classifier",
    "export_denoiser",
    "export_detector",
    "export_onnx_classifier",
    "export_parameters",
]

PACKAGE_PRECISIONS = ("fp32", "fp16", "bf16")
_NEEDED = ("torch", "onnx", "onnxscript", "onnxruntime")

Source = str | PathLike[str]


def _is_package(out: Source) -> bool:
    return Path(out).suffix == ".pt2"


def _check(
    request: Request,
    batch: int | None,
    out: Source,
    inputs: Mapping[str, Source | None],
    device: str = "cpu",
    store_fp16: bool = False,
) -> None:
    """Refuse what cannot be, and what would replace one of `inputs` (by option), before anything is loaded."""
    path, package = Path(out), _is_package(out)
    outputs: dict[str, Path | None] = {"--out": path, "the record of --out": record_path(path) if package else None}
    check_outputs(outputs, {name: None if given is None else Path(given) for name, given in inputs.items()})
    if path.suffix not in (".onnx", ".pt2"):
        raise InputError(
            f"--out {out} ends neither in .onnx nor in .pt2, which is how engines tell their kind: name it FILE.onnx or FILE.pt2"
        )
    if package and request.precision not in PACKAGE_PRECISIONS:
        known = ", ".join(PACKAGE_PRECISIONS)
        raise InputError(f"--precision {request.precision!r} is not available for .pt2 exports: use one of {known}")
    if package and store_fp16:
        raise InputError("--fp16-weights is for .onnx files: leave it out, or take --precision fp16 for .pt2")
    request.check(store_fp16, tools=not package)
    if device != "cpu" and not package:
        raise InputError(f"--device {device} is for .pt2 packages, an ONNX file runs anywhere: leave it out")
    if batch is not None and batch < 1:
        raise InputError(f"--batch must be at least 1, got {batch}")
    if batch is None and package:
        raise InputError("--batch is missing: a .pt2 package is compiled for one batch size, the one certify runs with")
    check_installed()


def check_installed() -> None:
    """Raise InputError unless the packages that exports need are there."""
    for package in _NEEDED:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            raise InputError(
                f'exporting needs {package}, which is not installed: pip install "diffsmooth-trt[cpu,export]"'
            )


def _writer(out: Source, request: Request, device: str, autotune: bool) -> dict[str, Writer]:
    """What makes the file, as an argument: AOTInductor for .pt2."""
    if not _is_package(out):
        from .writers.onnx import write_checked

        return {"write": partial(write_checked, request=request)}
    from .writers.package import PackageSettings, package_writer

    return {"write": package_writer(PackageSettings(request.precision, device, autotune), request)}


def _check_level(sigma: float | None, conditional: bool, fractional: bool, unclamped: bool) -> None:
    """Refuse what is no noise level of a denoiser, and a level beside `conditional`, which takes them all."""
    if conditional and unclamped:
        raise InputError("--unclamped is what --conditional always is: leave it out")
    if conditional and sigma is not None:
        raise InputError(f"--conditional takes every noise level, got --sigma {sigma}: leave one of them out")
    if conditional and fractional:
        raise InputError("--fractional-timestep is what --conditional always does: leave it out")
    if not conditional:
        if sigma is None:
            raise InputError("--sigma is missing: give the noise level in [0, 1] image units, or --conditional")
        check_noise_level("sigma", sigma)


def _check_program(unused: Mapping[str, object], sigma: float | None, fractional: bool) -> float:
    """The noise level of a program; InputError for options, those in `unused` among them, that say what it is by itself."""
    for name, given in unused.items():
        if given:
            raise InputError(f"{name} does not apply to --family program, which is exported as it is: leave it out")
    if sigma is None or fractional:
        raise InputError("--family program needs --sigma, the noise level that the program removes, and that alone")
    return sigma


def export_denoiser(
    family: str,
    checkpoint: Source,
    config: Source | Mapping[str, object] | None,
    sigma: float | None,
    out: Source,
    *,
    conditional: bool = False,
    batch: int | None = None,
    store_fp16: bool = False,
    precision: str = "fp32",
    image_size: int | None = None,
    fractional_timestep: bool = False,
    unclamped: bool = False,
    trust_program: bool = False,
    device: str = "cpu",
    autotune: bool = True,
    resize_to: int | None = None,
    crop: int | None = None,
    resize_mode: str | None = None,
    antialias: bool | None = None,
    calibration_data: Source | None = None,
    verify_data: Source | None = None,
    verify_classifier: Source | None = None,
    verify_samples: int = VERIFY_SAMPLES,
    quantise_for: str | None = None,
    checkpoint_key: str | None = None,
) -> ExportReport:
    """Fold a diffusion network at noise `sigma` (image units) into a one-shot denoiser of images in [0, 1] units.

    With `conditional` (and `sigma` None) write D(x; s, y) for diffusion classifiers instead, from a network with labels:
    images `[B, 3, H, W]` in [-1, 1] units plus noise, noise levels `s` `[B]` in the same units and `labels` int64 `[B]`
    (0…classes−1, or the null class that follows them where the network has one) → images, not clamped.

    `family` is improved-diffusion, guided-diffusion, edm, diffusers, or program for a denoiser of your own: what
    `torch.export.save` wrote (code: only with `trust_program`). `config` is a JSON file of the family's options, one of their
    mappings, or a built-in name, None that named like the checkpoint; a diffusers `checkpoint` is a folder with its own.
    `checkpoint_key` says which weights of a checkpoint with several are meant: by default averaged ones (sources/containers.py).
    The step is that of the papers' first timestep with a noise-to-signal ratio of at least 2·sigma, or of the fractional one
    with that very ratio (`fractional_timestep`); EDM networks take the noise level itself. `unclamped` leaves values outside of
    [0, 1] as they are: so the published code of apndc denoises.

    With `resize_to` (pixels a side; `resize_mode` of `graph/resize.py`, `antialias`) and `crop` (the centre) images leave
    at the classifier's size: what a method adds to them is added after the resize. With `verify_classifier` (by default, for
    32×32, the zoo's) labels are compared too. The module says the rest, and what is raised.
    """
    request = Request(precision, calibration_data, verify_data, verify_classifier, None, verify_samples, quantise_for)
    files = {"--checkpoint": checkpoint, "--config": None if isinstance(config, Mapping) else config}
    _check(request, batch, out, files | request.paths(), device, store_fp16)
    _check_level(sigma, conditional, fractional_timestep, unclamped)
    from .graph.output_size import OutputSize

    size = OutputSize(resize_to, crop, resize_mode or "bicubic", antialias is not False)
    writer: dict[str, Any] = _writer(out, request, device, autotune)
    if family == "program":
        from .program import program_file

        unused = {"--config": config, "--image-size": image_size, "--fp16-weights": store_fp16}
        unused |= {"--unclamped": unclamped, "--checkpoint-key": checkpoint_key}
        sigma = _check_program(unused, sigma, fractional_timestep)
        return program_file(checkpoint, sigma, out, batch, size, trust_program, **writer)
    from .denoiser import denoiser_file

    form: dict[str, Any] = {"batch": batch, "store_fp16": store_fp16, "image_size": image_size, "output": size}
    form |= {"clamp": not unclamped, "key": checkpoint_key}
    return denoiser_file(family, checkpoint, config, sigma, out, fractional=fractional_timestep, **form, **writer)


def export_classifier(
    arch: str,
    checkpoint: Source,
    out: Source,
    *,
    image_size: int | None = None,
    input_size: int | None = None,
    resize_to: int | None = None,
    resize_mode: str | None = None,
    antialias: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch: int | None = None,
    store_fp16: bool = False,
    precision: str = "fp32",
    device: str = "cpu",
    autotune: bool = True,
    calibration_data: Source | None = None,
    verify_data: Source | None = None,
    verify_denoiser: Source | None = None,
    verify_samples: int = VERIFY_SAMPLES,
    quantise_for: str | None = None,
    checkpoint_key: str | None = None,
) -> ExportReport:
    """Write a classifier of images `[B, 3, image_size, image_size]` in [0, 1] units with its preprocessing as ONNX.

    `arch` is a built-in name (`nets/classifiers.py`), "hf" for a local Hugging Face folder as `checkpoint`, "timm/NAME" or
    "torchvision/NAME"; `checkpoint_key` as in `export_denoiser`.
    The graph resizes images to `resize_to` pixels a side (`resize_mode` of `graph/resize.py`, `antialias`), crops the
    centre of `input_size`, normalises by `mean` and `std` (three numbers each, [0, 1] units) and returns logits
    `[B, classes]`. What is None comes from the folder's preprocessor_config.json, timm's pretrained_cfg, the transform of
    torchvision's weights or the architecture's published training; `input_size` alone means no crop; images of `input_size`
    are not resized. `image_size` is by default 32 for CIFAR architectures and `input_size` for others. The rest is as in
    `export_denoiser`.

    Labels that are compared are the classifier's own. Images to calibrate on and to compare have noise σ = 0.25, or with
    `verify_denoiser` the noise that it is for, and pass through it: then they are what a classifier behind it sees.
    """
    request = Request(precision, calibration_data, verify_data, None, verify_denoiser, verify_samples, quantise_for)
    _check(request, batch, out, {"--checkpoint": checkpoint} | request.paths(), device, store_fp16)
    from .classifier import classifier_file
    from .graph.preprocessing import Overrides

    overrides = Overrides(image_size, input_size, resize_to, resize_mode, antialias, mean, std)
    writer = _writer(out, request, device, autotune)
    return classifier_file(arch, checkpoint, out, overrides, batch, store_fp16, key=checkpoint_key, **writer)


def export_onnx_classifier(
    onnx: Source,
    out: Source,
    *,
    image_size: int | None = None,
    input_size: int | None = None,
    resize_to: int | None = None,
    resize_mode: str | None = None,
    antialias: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch: int | None = None,
    precision: str = "fp32",
    calibration_data: Source | None = None,
    verify_data: Source | None = None,
    verify_denoiser: Source | None = None,
    verify_samples: int = VERIFY_SAMPLES,
    quantise_for: str | None = None,
) -> ExportReport:
    """Put the preprocessing of `export_classifier` in front of the user's own classifier, an ONNX file.

    It takes float32 `[B, 3, input_size, input_size]` and returns `[B, classes]`; `input_size` may be left out where the
    file says it. Without `mean` and `std` images go in as they are, in [0, 1]. Opsets older than the exporter's are
    converted. Precisions and verification are as in `export_classifier`, with the file as it came for a source; one that
    is not fp32 keeps its precision. Raises InputError for files of other shapes, dynamically quantised ones, those whose
    weights lie outside their folder, and those that no longer answer as before.
    """
    if _is_package(out):
        raise InputError(f"--onnx makes an .onnx file, got --out {out}: name it FILE.onnx")
    request = Request(precision, calibration_data, verify_data, None, verify_denoiser, verify_samples, quantise_for)
    _check(request, batch, out, {"--onnx": onnx} | request.paths())
    from .graph.preprocessing import Overrides
    from .onnx_classifier import onnx_classifier_file

    overrides = Overrides(image_size, input_size, resize_to, resize_mode, antialias, mean, std)
    return onnx_classifier_file(onnx, out, overrides, batch, request)


def export_detector(
    checkpoint: Source,
    out: Source,
    *,
    image_size: int = 32,
    batch: int | None = None,
    store_fp16: bool = False,
    checkpoint_key: str | None = None,
) -> ExportReport:
    """Write the detector CNN of a joint model (Meinke et al. 2022) as ONNX: images in [0, 1] units → d `[B, 1]`.

    `checkpoint` holds the detector, or a joint model with it under `detector.`; widths are read from it. The stored last layer w
    becomes −exp(w). The rest is as in `export_denoiser`.
    """
    if _is_package(out):
        raise InputError(
            f"--out {out} is a .pt2 package: interval bounds read a detector's ONNX graph, name an .onnx file"
        )
    _check(Request(), batch, out, {"--checkpoint": checkpoint})
    from .detector import detector_file

    return detector_file(checkpoint, out, image_size, batch, store_fp16, key=checkpoint_key)


def export_parameters(checkpoint: Source, out: Source) -> dict[str, int]:
    """Write the parameters in a checkpoint that holds code to `out` (.pt), without running any of it; see sources/inert.py.

    Returns the number of tensors under each key. What `out` holds is read like any other checkpoint. Raises InputError for files
    that are no pickles, and where there are no parameters that can be told without the code.
    """
    check_installed()
    from .sources.inert import extract_parameters

    return extract_parameters(checkpoint, out)
