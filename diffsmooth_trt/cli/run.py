"""certify, predict and verify."""

from __future__ import annotations

import argparse
from dataclasses import Field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..certify.stopping import CERTIFICATES
from ..engine import BACKEND_NAMES, PRECISIONS
from ..errors import InputError
from ..images import BAD_IMAGES, REFUSE
from ..methods import METHODS
from ..methods.diffusion_classifier import integers
from ..runs.config import RunConfig, names, options, slots
from .options import Commands

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..report.tables import Summary
    from ..runs.verify import Verification

DATA = (
    "parquet, image folder, .npz, CIFAR binary, WebDataset .tar, or saved by datasets; several files as 'DIR/*.parquet'"
)
OOD_FILES = ("detector", "in-data", "out-data")


def add(commands: Commands) -> None:
    """certify, predict and verify with their options."""
    for name, text in (
        ("certify", "certify images: the radius within which the smoothed classifier's answer cannot change"),
        ("predict", "predict with the smoothed classifier, abstaining where the vote is too close"),
    ):
        example = f"{name} --engine denoiser.onnx --classifier classifier.onnx --data images.parquet --n 1000 --out run.sqlite"
        _add_run_options(commands.add(name, text, example, _run), name)
    example = "verify run.sqlite --fraction 0.01"
    verify = commands.add("verify", "draw votes of a run again and compare them", example, _verify)
    verify.add_argument(
        "run", type=Path, metavar="RUN", help="a run store or a file of `ood`, finished or not, or one of `transfer`"
    )
    verify.add_argument(
        "--fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="share of blocks (of `ood`: images) to draw again, at least 30 of them; 1 for all (default: 0.01)",
    )
    for name in ("engine", "classifier", "unconditional", "data", *OOD_FILES):
        what = (
            f"of a run of `ood`{', all sets in their order' if name == 'out-data' else ''}; "
            if name in OOD_FILES
            else ""
        )
        text, nargs = f"{what}default: the path that the run records", "+" if name == "out-data" else None
        verify.add_argument(f"--{name}", type=Path, nargs=nargs, metavar="PATH", help=text)
    text = "the run may lack images still: note which, and verify what is there; else that is a mismatch (status 1)"
    verify.add_argument("--unfinished", action="store_true", help=text)
    add_host_code(verify)
    verify.add_argument("--device", metavar="DEVICE", help="cpu, or cuda:0; default: the kind that the run was on")
    verify.add_argument("--threads", type=int, metavar="N", help="CPU threads of the engines")
    verify.add_argument(
        "--blocks-seed", type=int, metavar="N", help="repeat an earlier choice of blocks; random otherwise"
    )


def add_host_code(parser: argparse.ArgumentParser) -> None:
    text = "load the host code that a version-compatible TensorRT plan holds"
    parser.add_argument("--allow-host-code", action="store_true", help=text)


def add_option(parser: argparse.ArgumentParser, option: Field[Any]) -> None:
    """A flag for a method's own option."""
    shown = {name: value for name, value in option.metadata.items() if name not in ("type", "help")}
    kind = option.metadata.get("type", type(option.default))
    if "choices" not in shown:
        shown["type"] = _several if kind is integers else kind
    parser.add_argument(flag(option.name), default=option.default, help=option.metadata["help"], **shown)


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


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


def _add_run_options(parser: argparse.ArgumentParser, command: str) -> None:
    add = parser.add_argument
    add(
        "--engine",
        type=Path,
        required=True,
        metavar="FILE",
        help="denoiser (dds, diffsmooth), classifier (rs) or conditional denoiser (dc, epndc, apndc), .onnx or .pt2",
    )
    add("--classifier", type=Path, metavar="FILE", help="classifier engine, .onnx or .pt2 (dds, diffsmooth)")
    text = "denoiser engine for --sigma, .onnx or .pt2 (apndc: denoises in place of --engine without a class, as in the paper)"
    add("--unconditional", type=Path, metavar="FILE", help=text)
    add("--method", choices=METHODS, default="dds", help="default: dds")
    add("--sigma", type=float, help="noise level in [0, 1] image units; the denoiser's own where left out")
    add("--data", type=Path, required=True, metavar="PATH", help=DATA)
    add("--skip", type=int, default=1, metavar="K", help="take every K-th image")
    add("--max", type=int, metavar="N", help="take at most N images")
    add("--resize", type=int, metavar="N", help="scale the shorter side to N (bicubic, 8-bit)")
    add("--crop", type=int, metavar="N", help="cut the central N×N pixels")
    add("--channels", type=int, metavar="C", help="read grey images with 1 or 3 equal channels")
    text = "images that cannot be used: refuse the run, or skip them and count them as not certified (default: refuse)"
    add("--bad-images", choices=BAD_IMAGES, default=REFUSE, help=text)
    text = "which class a name of the data set is: lines `name,class`, or JSON like id2label"
    add("--class-map", type=Path, metavar="FILE", help=text)
    if command == "certify":
        text = "round float images to the 8-bit grid; the distance is recorded and taken off each radius"
    else:
        text = "round float images to the 8-bit grid; the answer is about the image as given, for which more votes are needed"
    add("--quantise", action="store_true", help=text)
    if command == "certify":
        add("--n0", type=int, default=100, help="samples that select the class (default: 100)")
    add("--n", type=int, default=100_000, help="samples of the estimate (default: 100000)")
    if command == "certify":
        text = "stop when each ℓ2 radius is certified or refuted; --n is the most an image may take"
        add("--radius", type=float, nargs="+", metavar="R", help=text)
        text = "stop when more samples are unlikely to raise the radius by more than this share of it; --n is the most"
        add("--tolerance", type=float, metavar="X", help=text)
        text = "lipschitz: no noise, conditional on the Lipschitz constant of the logits (dc only)"
        add("--certificate", choices=CERTIFICATES, default="smoothing", help=text)
        add(
            "--lipschitz",
            type=float,
            metavar="L",
            help="… that constant, in [-1, 1] units (default: the published formula)",
        )
        add("--family-wise", action="store_true", help="alpha is for all images together, not for each")
    add("--alpha", type=float, default=0.001, help="failure probability an image (default: 0.001)")
    for option in options().values():
        add_option(parser, option)
    text = "rows an engine call, part of the classifier (default: 64); auto: the fastest, by a short search"
    add("--batch", type=_batch, default=64, metavar="B|auto", help=text)
    text = "default: for .onnx openvino where installed, else onnxruntime; on a GPU onnxruntime, for .plan tensorrt"
    add("--backend", choices=BACKEND_NAMES, help=text)
    text = "of an fp32 file; default: bf16 where the CPU has it (OpenVINO), tf32 on a GPU, else fp32"
    add("--precision", choices=PRECISIONS, help=text)
    text = "cpu (default), or cuda:0, … for an NVIDIA GPU; a worker on each: cuda:0,cuda:1, all (GPUs), or cpu,cpu (processes)"
    add("--device", default="cpu", help=text)
    add("--threads", type=int, metavar="N", help="CPU threads of the engines")
    add_host_code(parser)
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Under which key, whereto, and by whom a run is drawn."""
    add = parser.add_argument
    add("--key", metavar="HEX", help="256-bit noise key, 64 digits; drawn from the operating system where left out")
    add("--key-file", type=Path, metavar="FILE", help="… in a file, which the first run makes: for --shard")
    add("--out", type=Path, required=True, metavar="RUN.sqlite", help="the run store to make")
    add("--resume", action="store_true", help="go on with --out")
    add("--shard", metavar="I/K", help="draw every K-th image only, from the I-th on; `merge` makes one run of all K")
    add("--ray", metavar="local|ADDRESS", help="let workers draw: Ray on this machine, or a cluster's address")
    add("--workers", type=int, metavar="N", help="… how many (default: one a GPU, or a CPU thread of --threads)")
    text = "stop in time, with all votes kept and exit status 3: --resume goes on"
    add("--stop-after", type=float, metavar="HOURS", help=text)
    add("--tsv", type=Path, metavar="FILE", help="also write `idx label predict radius correct time`")


def execute_run(given: dict[str, Any]) -> Summary:
    from ..api import run
    from ..report.progress import ProgressBar
    from ..report.tables import summarise

    config = RunConfig(**given)
    with ProgressBar(config.stopping.command) as progress, run(config, progress) as store:
        return summarise(store)


def _run(arguments: argparse.Namespace) -> None:
    from ..report.tables import text_table

    known = ("command", *names())
    given = {name: value for name, value in vars(arguments).items() if name in known and value is not None}
    print(text_table([execute_run(given)]))


def _verify_transfer(arguments: argparse.Namespace) -> int:
    """Verify a file of `transfer`."""
    import secrets

    from ..report.progress import ProgressBar
    from ..transfer.verify import verify

    for name in ("detector", "in_data", "out_data", "unfinished", "allow_host_code"):
        if getattr(arguments, name):
            raise InputError(f"--{name.replace('_', '-')} is not for files of transfer: leave it out")
    given = {name: getattr(arguments, name) for name in (*slots(), "data")}
    seed = secrets.randbits(32) if arguments.blocks_seed is None else arguments.blocks_seed
    how = {name: getattr(arguments, name) for name in ("fraction", "device", "threads")}
    with ProgressBar("verify") as progress:
        done = verify(arguments.run, given=given, seed=seed, progress=progress, **how)
    print("\n".join(done.lines()))
    return 0 if done.agrees else 1


def _verify(arguments: argparse.Namespace) -> int:
    from ..transfer.file import is_transfer_file

    return _verify_transfer(arguments) if is_transfer_file(arguments.run) else _verify_run(arguments)


def _verify_run(arguments: argparse.Namespace) -> int:
    from ..api import verify
    from ..ood.store import is_ood_file
    from ..report.progress import ProgressBar

    every = ["fraction", "engine", "classifier", "device", "threads", "blocks_seed", "unfinished"]
    of_ood, others = [name.replace("-", "_") for name in OOD_FILES], ["unconditional", "data", "allow_host_code"]
    own, foreign = (of_ood, others) if is_ood_file(arguments.run) else (others, of_ood)
    for name in foreign:
        if getattr(arguments, name):
            kind = "of `ood`" if foreign is of_ood else "of certify or predict"
            raise InputError(f"--{name.replace('_', '-')} is for runs {kind}, {arguments.run} is another: leave it out")
    options = {name: getattr(arguments, name) for name in (*every, *own)}
    check: Callable[..., Verification] = verify
    if own is of_ood:
        from ..ood.verify import verify as check
    with ProgressBar("verify") as progress:
        done = check(arguments.run, progress=progress, **options)
    print("\n".join(done.lines()))
    return 0 if done.agrees else 1
