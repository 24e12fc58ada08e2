"""The command line: arguments → one configuration → one call each."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .config import CERTIFICATES, RunConfig, field_names
from .engine import BACKENDS, PRECISIONS
from .errors import DiffsmoothError, InputError
from .methods import METHODS
from .methods.ndc import SIFTS, WEIGHTS, Settings

if TYPE_CHECKING:
    from .report.tables import Summary


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors; options are never guessed from a prefix."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from None


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {text!r}") from None


def _add_run_options(parser: argparse.ArgumentParser, command: str) -> None:
    add = parser.add_argument
    add(
        "--engine",
        type=Path,
        required=True,
        metavar="FILE",
        help="denoiser (dds, diffsmooth), classifier (rs) or conditional denoiser (dc, epndc, apndc), .onnx",
    )
    add("--classifier", type=Path, metavar="FILE", help="classifier engine, .onnx (dds, diffsmooth)")
    add("--method", choices=METHODS, default="dds", help="default: dds")
    add("--sigma", type=float, help="noise level in [0, 1] image units; the denoiser's own where left out")
    add("--data", type=Path, required=True, metavar="PATH", help="parquet, image folder, .npz or CIFAR binary")
    add("--skip", type=int, default=1, metavar="K", help="take every K-th image")
    add("--max", type=int, metavar="N", help="take at most N images")
    add("--resize", type=int, metavar="N", help="scale the shorter side to N (bicubic, 8-bit)")
    add("--crop", type=int, metavar="N", help="cut the central N×N pixels")
    add("--quantise", action="store_true", help="round float images to the 8-bit grid instead of refusing them")
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
    add("--local-sigma", type=float, default=0.12, help="DiffSmooth: local noise in image units (default: 0.12)")
    add("--m", type=int, default=5, help="DiffSmooth: local noises a sample (default: 5)")
    add(
        "--local-noise",
        choices=("fixed", "fresh"),
        default="fixed",
        help="the classifier's own noise: the same or new a sample",
    )
    add("--classifier-seed", type=int, default=0, metavar="N", help="public seed of the classifier's own noise")
    add(
        "--steps",
        type=int,
        default=Settings.steps,
        metavar="N",
        help="dc, epndc, apndc: noise levels (default: %(default)s)",
    )
    add(
        "--s-max",
        type=float,
        default=Settings.s_max,
        metavar="S",
        help="… the highest, in [-1, 1] units (default: %(default)s)",
    )
    add(
        "--weights",
        choices=WEIGHTS,
        default=Settings.weights,
        help="… of the levels; published: as the published code has them",
    )
    add("--drop-steps", type=int, metavar="N", help="epndc: leave out the first levels (default: 5 of 126)")
    add(
        "--sift",
        choices=SIFTS,
        default=Settings.sift,
        help="… drop classes early: the published rule, or by the terms' spread",
    )
    add(
        "--sift-margin",
        type=float,
        default=Settings.sift_margin,
        metavar="Z",
        help="… how far behind is too far (spread; default: %(default)s)",
    )
    add("--classes", type=_integers, metavar="Y,Y,…", help="… choose among these only (default: all)")
    add("--batch", type=int, default=64, metavar="B", help="rows an engine call; part of the classifier (default: 64)")
    add("--backend", choices=tuple(BACKENDS), help="default: openvino where installed, else onnxruntime")
    add("--precision", choices=PRECISIONS, help="default: bf16 where the CPU has it (OpenVINO), else fp32")
    add("--device", default="cpu", help="default: cpu")
    add("--threads", type=int, metavar="N", help="CPU threads of the engines")
    add("--key", metavar="HEX", help="128-bit noise key; drawn from the operating system where left out")
    add("--out", type=Path, required=True, metavar="RUN.sqlite", help="the run store to make")
    add("--resume", action="store_true", help="go on with --out")
    add("--tsv", type=Path, metavar="FILE", help="also write `idx label predict radius correct time`")


def _parser() -> Parser:
    parser = Parser(
        prog="diffsmooth-trt",
        description="Certified robustness of image classifiers by randomized smoothing through diffusion denoisers.",
    )
    parser.add_argument("--version", action="version", version=version("diffsmooth-trt"))
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser, metavar="COMMAND")

    def command(name: str, help: str, example: str) -> Parser:
        made: Parser = commands.add_parser(
            name, help=help, description=help, epilog=f"example:\n  diffsmooth-trt {example}"
        )
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return made

    demo = command("demo", "certify shipped CIFAR-10 images with the shipped engines", "demo --images 20")
    demo.add_argument("--images", type=int, default=20, metavar="N", help="how many of the 100 (default: 20)")
    demo.add_argument("--n", type=int, default=1000, help="samples an image (default: 1000)")
    demo.add_argument("--html", type=Path, default=Path("demo.html"), metavar="FILE", help="default: demo.html")
    demo.add_argument("--figure", type=Path, default=Path("demo.png"), metavar="FILE", help="default: demo.png")
    for name, text in (
        ("certify", "certify images: the radius within which the smoothed classifier's answer cannot change"),
        ("predict", "predict with the smoothed classifier, abstaining where the vote is too close"),
    ):
        example = f"{name} --engine denoiser.onnx --classifier classifier.onnx --data images.parquet --n 1000 --out run.sqlite"
        _add_run_options(command(name, text, example), name)
    report = command("report", "tables and figures of run stores", "report run.sqlite --figure curve.png")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run stores")
    report.add_argument(
        "--radii", type=_numbers, metavar="R,R,…", help="default: the runs' preset radii, else 0,0.25,0.5,0.75,1"
    )
    report.add_argument("--envelope", action="store_true", help="add a row with each image's best radius over the runs")
    report.add_argument("--tsv", type=Path, metavar="FILE", help="the papers' tab-separated file (one run)")
    report.add_argument("--html", type=Path, metavar="FILE", help="a single-file page")
    report.add_argument("--figure", type=Path, metavar="FILE", help="certified-accuracy curve: .png, .svg or .pdf")
    verify = command("verify", "draw votes of a run again and compare them", "verify run.sqlite --fraction 0.01")
    verify.add_argument("run", type=Path, metavar="RUN", help="a run store, finished or not")
    verify.add_argument(
        "--fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="share of blocks to draw again; 1 for all (default: 0.01)",
    )
    for name in ("engine", "classifier", "data"):
        verify.add_argument(f"--{name}", type=Path, metavar="PATH", help="default: the path that the run records")
    verify.add_argument("--threads", type=int, metavar="N", help="CPU threads of the engines")
    verify.add_argument(
        "--blocks-seed", type=int, metavar="N", help="repeat an earlier choice of blocks; random otherwise"
    )
    _add_export(command)
    return parser


def _add_export(command: Any) -> None:
    export = command("export", "checkpoints to engine files", "export denoiser --help")
    kinds = export.add_subparsers(dest="kind", required=True, parser_class=Parser, metavar="KIND")
    example = (
        "example:\n  diffsmooth-trt export denoiser --family improved-diffusion --checkpoint cifar10_uncond_50M_500K.pt "
        "--config cifar10_uncond_50M_500K --sigma 0.25 --out denoiser.onnx"
    )
    text = "fold the one-shot denoising step of a diffusion network into one ONNX file"
    denoiser = kinds.add_parser("denoiser", help=text, description=text, epilog=example)
    denoiser.add_argument("--family", required=True, help="improved-diffusion or guided-diffusion")
    denoiser.add_argument("--sigma", type=float, help="noise level in [0, 1] image units to fold the step for")
    denoiser.add_argument(
        "--conditional",
        action="store_true",
        help="instead of --sigma: noise level and class as inputs, for diffusion classifiers",
    )
    denoiser.add_argument(
        "--config", metavar="NAME|FILE", help="a published configuration's name, or JSON of the family's options"
    )
    denoiser.add_argument(
        "--image-size", type=int, metavar="N", help="run the network on N×N images (default: its own size)"
    )
    example = (
        "example:\n  diffsmooth-trt export classifier --arch resnet20 --checkpoint resnet20.th --out classifier.onnx"
    )
    text = "a classifier with its resize and normalisation as one ONNX file"
    classifier = kinds.add_parser("classifier", help=text, description=text, epilog=example)
    classifier.add_argument("--arch", required=True, help="resnet20…110 or cifar_resnet20…110")
    classifier.add_argument(
        "--image-size", type=int, default=32, metavar="N", help="size of the incoming images (default: 32)"
    )
    classifier.add_argument(
        "--input-size", type=int, metavar="N", help="resize to N×N inside the graph (bicubic, antialiased)"
    )
    classifier.add_argument("--mean", type=_numbers, metavar="R,G,B", help="default: the architecture's")
    classifier.add_argument("--std", type=_numbers, metavar="R,G,B", help="default: the architecture's")
    for made in (denoiser, classifier):
        made.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a state dict (.pt, .th)")
        made.add_argument("--out", type=Path, required=True, metavar="FILE.onnx", help="the engine file to write")
        made.add_argument("--precision", default="fp32", help="default: fp32")
        made.add_argument("--batch", type=int, metavar="B", help="fix the batch size (default: dynamic)")
        made.add_argument(
            "--fp16-weights", action="store_true", help="store the weights in half the bytes, compute as before"
        )
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _execute(given: dict[str, Any]) -> Summary:
    from .api import run
    from .report.progress import ProgressBar
    from .report.tables import summarise

    config = RunConfig(**given)
    with ProgressBar(config.command) as progress, run(config, progress) as store:
        return summarise(store)


def _run(arguments: argparse.Namespace) -> None:
    from .report.tables import text_table

    print(text_table([_execute({name: value for name, value in vars(arguments).items() if name in field_names()})]))


def _report(arguments: argparse.Namespace) -> None:
    from .certify.store import open_run
    from .files import check_outputs, write_atomically
    from .report.figures import write_figure
    from .report.html import page
    from .report.tables import summarise, text_table
    from .report.tsv import write_tsv

    radii, enveloped = arguments.radii, arguments.envelope
    if arguments.tsv and len(arguments.runs) != 1:
        raise InputError(f"--tsv takes one run, got {len(arguments.runs)}: call it once a run")
    outputs = {"--tsv": arguments.tsv, "--html": arguments.html, "--figure": arguments.figure}
    check_outputs(outputs, {f"run {path}": path for path in arguments.runs})
    summaries = []
    for path in arguments.runs:
        with open_run(path) as store:
            summaries.append(summarise(store))
            if arguments.tsv:
                write_tsv(arguments.tsv, store)
    text = text_table(summaries, radii, enveloped=enveloped)
    if arguments.html:
        write_atomically(arguments.html, page(summaries, radii, enveloped=enveloped))
    if arguments.figure:
        write_figure(arguments.figure, summaries)
    print(text)


def _verify(arguments: argparse.Namespace) -> int:
    from .api import verify
    from .report.progress import ProgressBar

    names = ("fraction", "engine", "classifier", "data", "threads", "blocks_seed")
    with ProgressBar("verify") as progress:
        done = verify(arguments.run, progress=progress, **{name: getattr(arguments, name) for name in names})
    print("\n".join(done.lines()))
    return 0 if done.agrees else 1


def _demo(arguments: argparse.Namespace) -> None:
    from . import zoo
    from .files import check_outputs

    check_outputs({"--html": arguments.html, "--figure": arguments.figure}, {})
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo.sqlite"
        given = {"command": "certify", "max": arguments.images, "n": arguments.n, "out": run, "data": zoo.IMAGES}
        _execute({**given, "engine": zoo.DENOISER, "classifier": zoo.CLASSIFIER_DDS})
        _report(
            argparse.Namespace(
                runs=[run], radii=None, envelope=False, tsv=None, html=arguments.html, figure=arguments.figure
            )
        )
    print(f"wrote {arguments.html} and {arguments.figure}")


def _export(arguments: argparse.Namespace) -> None:
    from .exporting import export_classifier, export_denoiser

    common = {
        "checkpoint": arguments.checkpoint,
        "out": arguments.out,
        "precision": arguments.precision,
        "batch": arguments.batch,
        "image_size": arguments.image_size,
        "store_fp16": arguments.fp16_weights,
    }
    if arguments.kind == "denoiser":
        report = export_denoiser(
            family=arguments.family,
            config=arguments.config,
            sigma=arguments.sigma,
            conditional=arguments.conditional,
            **common,
        )
    else:
        report = export_classifier(
            arch=arguments.arch,
            input_size=arguments.input_size,
            mean=arguments.mean,
            std=arguments.std,
            **common,
        )
    print(f"wrote {report.path}: maximum difference from the torch source {report.max_difference:.2g}")


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "certify": _run,
    "predict": _run,
    "report": _report,
    "verify": _verify,
    "demo": _demo,
    "export": _export,
}


class _Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP, ended as orderly as Ctrl-C."""


def _stop(number: int, _frame: object) -> NoReturn:
    raise _Stopped(number)


def _fail(message: str, status: int) -> int:
    print(f"diffsmooth-trt: {' '.join(message.split())}", file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 the run failed, 2 bad arguments or input)."""
    debug = "--debug" in (argv if argv is not None else sys.argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks σ shows ? for it
    previous = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    out: Path | None = None
    try:
        arguments = _parser().parse_args(argv)
        out = getattr(arguments, "out", None)
        status = COMMANDS[arguments.command](arguments) or 0
        sys.stdout.flush()
        return status
    except DiffsmoothError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        kept = out is not None and out.suffix != ".onnx" and out.exists()
        return _fail(f"interrupted; {out} keeps what was done, go on with --resume" if kept else "interrupted", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it exits
        return 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        return _fail(f"{error.strerror} ({error.filename or 'standard output'}): free space or choose another place", 1)
    except MemoryError:
        return _fail("out of memory: choose a smaller --batch", 1)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
