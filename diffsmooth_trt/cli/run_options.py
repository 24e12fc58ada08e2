"""The options of certify and predict, in groups: what most runs need, what each method takes, and the rest."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import Field
from functools import partial
from pathlib import Path
from typing import Any

from ..certify.stopping import CERTIFICATES
from ..engine import BACKEND_NAMES, PRECISIONS
from ..images import BAD_IMAGES, FILTERS, REFUSE
from ..methods import METHODS, owners
from ..methods.diffusion_classifier import integers
from ..ranges import flag
from ..runs.config import options
from .config_file import given_file, words
from .options import Parser

Add = Callable[..., argparse.Action]
DATA = (
    "parquet, image folder, .npz, CIFAR binary, WebDataset .tar, or saved by datasets; several files as 'DIR/*.parquet'"
)


def add_run_options(parser: Parser, command: str) -> None:
    """All of them; those of `command` certify alone are left out for predict."""
    certify = command == "certify"
    parser.usage = "%(prog)s --engine FILE --data PATH --out RUN.sqlite [OPTION ...]"  # the whole takes 17 lines
    parser.before = partial(_of_file, parser, command)
    _add_engines(parser.group("what votes"))
    _add_images(parser.group("on which images"), certify)
    _add_votes(parser.group("how often" if not certify else "how often, and when to stop"), certify)
    _add_place(parser.group("where, and into which file"))
    _add_methods(parser, certify)
    _add_rare(parser, certify)


def _of_file(parser: Parser, command: str, typed: Sequence[str]) -> list[str]:
    """The options in the file that `--config` names among those `typed`."""
    path = given_file(typed)
    if path is None or {"-h", "--help", "--help-all"} & set(typed):
        return []
    return words(parser, command, path)


def _add_engines(add: Add) -> None:
    text = "denoiser (dds, diffsmooth), classifier (rs) or conditional denoiser (dc, epndc, apndc): .onnx, .pt2, or a checkpoint"
    add("--engine", type=Path, required=True, metavar="FILE", help=text)
    add("--classifier", type=Path, metavar="FILE", help="classifier engine, .onnx or .pt2 (dds, diffsmooth)")
    add("--method", choices=METHODS, default="dds", metavar="NAME", help="%(choices)s (default: dds)")
    add("--sigma", type=float, help="noise level in [0, 1] image units; the denoiser's own where left out")


def _add_images(add: Add, certify: bool) -> None:
    add("--data", type=Path, required=True, metavar="PATH", help=DATA)
    add("--skip", type=int, default=1, metavar="K", help="take every K-th image")
    add("--max", type=int, metavar="N", help="take at most N images")
    add("--resize", type=int, metavar="N", help="scale the shorter side to N (8-bit pixels)")
    add("--crop", type=int, metavar="N", help="cut the central N×N pixels")
    if certify:
        text = "round float images to the 8-bit grid; the distance is recorded and taken off each radius"
    else:
        text = "round float images to the 8-bit grid; the answer is about the image as given, for which more votes are needed"
    add("--quantise", action="store_true", help=text)


def _add_votes(add: Add, certify: bool) -> None:
    if certify:
        add("--n0", type=int, default=100, help="samples that select the class (default: 100)")
    add("--n", type=int, default=100_000, help="samples of the estimate (default: 100000)")
    add("--alpha", type=float, default=0.001, help="failure probability an image (default: 0.001)")
    if certify:
        text = "stop when each ℓ2 radius is certified or refuted; --n is the most an image may take"
        add("--radius", type=float, nargs="+", metavar="R", help=text)
        text = "stop when more samples are unlikely to raise the radius by more than this share of it; --n is the most"
        add("--tolerance", type=float, metavar="X", help=text)


def _add_place(add: Add) -> None:
    add("--out", type=Path, required=True, metavar="RUN.sqlite", help="the run store to make")
    add("--resume", action="store_true", help="go on with --out")
    text = "options from a TOML file, or a run store: those of its run, but --out and key; what is typed wins"
    add("--config", type=Path, metavar="FILE", help=text)
    add("--tsv", type=Path, metavar="FILE", help="also write `idx label predict radius correct time`")
    text = "cpu (default), or cuda:0, … for an NVIDIA GPU; a worker on each: cuda:0,cuda:1, all (GPUs), or cpu,cpu (processes)"
    add("--device", default="cpu", help=text)
    text = "rows an engine call, part of the classifier (default: 64); auto: the fastest, by a short search"
    add("--batch", type=_batch, default=64, metavar="B|auto", help=text)
    add("--threads", type=int, metavar="N", help="CPU threads of the engines")


def _add_methods(parser: Parser, certify: bool) -> None:
    """Each method's own options, those that several share together."""
    groups: dict[tuple[str, ...], Add] = {}

    def of(names: list[str]) -> Add:
        if tuple(names) not in groups:
            groups[tuple(names)] = parser.group(f"--method {', '.join(names)}")
        return groups[tuple(names)]

    for option in options().values():
        add_option(of(owners(option.name)), option)
    text = "denoiser engine for --sigma, .onnx or .pt2: denoises in place of --engine without a class, as in the paper"
    of(owners("unconditional"))("--unconditional", type=Path, metavar="FILE", help=text)
    if certify:
        text = "lipschitz: no noise, conditional on the Lipschitz constant of the logits"
        able = [name for name, method in METHODS.items() if "lipschitz" in method.certificates]
        of(able)("--certificate", choices=CERTIFICATES, default="smoothing", help=text)
        text = "… that constant, in [-1, 1] units (default: the paper's formula)"
        of(able)("--lipschitz", type=float, metavar="L", help=text)


def _add_rare(parser: Parser, certify: bool) -> None:
    if certify:
        add = parser.group("all images together", rare=True)
        add("--family-wise", action="store_true", help="alpha is for all images together, not for each")
    add = parser.group("images", rare=True)
    text = "the filter of --resize: %(choices)s (default: bicubic)"
    add("--resize-mode", choices=FILTERS, default=FILTERS[0], metavar="NAME", help=text)
    add("--channels", type=int, metavar="C", help="read grey images with 1 or 3 equal channels")
    text = "images that cannot be used: refuse the run, or skip them and count them as not certified (default: refuse)"
    add("--bad-images", choices=BAD_IMAGES, default=REFUSE, help=text)
    text = "which class a name of the data set is: lines `name,class`, or JSON like id2label"
    add("--class-map", type=Path, metavar="FILE", help=text)
    add = parser.group("engines", rare=True)
    text = "%(choices)s; default: for .onnx openvino where installed, else onnxruntime; on a GPU onnxruntime, for .plan tensorrt"
    add("--backend", choices=BACKEND_NAMES, metavar="NAME", help=text)
    text = "of an fp32 file; default: bf16 where the CPU has it (OpenVINO), tf32 on a GPU, else fp32"
    add("--precision", choices=PRECISIONS, help=text)
    add_host_code(add)
    text = (
        "where networks that are no engine files are kept as such, by content (default: ~/.cache/diffsmooth-trt): a local Hugging "
        "Face or diffusers folder, a checkpoint, or NAME:CHECKPOINT, like torchvision/vit_b_16:net.pt, timm/convnext_base:net.pt"
    )
    add("--cache", type=Path, metavar="FOLDER", help=text)
    add = parser.group("key of the noise", rare=True)
    add("--key", metavar="HEX", help="256-bit noise key, 64 digits; drawn from the operating system where left out")
    add("--key-file", type=Path, metavar="FILE", help="… in a file, which the first run makes: for --shard")
    add = parser.group("several machines", rare=True)
    add("--shard", metavar="I/K", help="draw every K-th image only, from the I-th on; `merge` makes one run of all K")
    add("--ray", metavar="local|ADDRESS", help="let workers draw: Ray on this machine, or a cluster's address")
    add("--workers", type=int, metavar="N", help="… how many (default: one a GPU, or a CPU thread of --threads)")
    text = "stop in time, with all votes kept and exit status 3: --resume goes on"
    add("--stop-after", type=float, metavar="HOURS", help=text)


def add_host_code(add: Add) -> None:
    text = "load the host code that a version-compatible TensorRT plan holds"
    add("--allow-host-code", action="store_true", help=text)


def add_option(add: Add, option: Field[Any]) -> None:
    """A flag for a method's own option."""
    shown = {name: value for name, value in option.metadata.items() if name not in ("type", "help")}
    kind = option.metadata.get("type", type(option.default))
    if "choices" not in shown:
        shown["type"] = _several if kind is integers else kind
    add(flag(option.name), default=option.default, help=option.metadata["help"], **shown)


def _several(text: str) -> tuple[int, ...]:
    try:
        return integers(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {text!r}") from None


def _batch(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of rows or auto, got {text!r}") from None
