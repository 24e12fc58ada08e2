"""report and demo."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ..errors import InputError
from .options import Commands, numbers
from .run import execute_run


def add(commands: Commands) -> None:
    """report and demo with their options."""
    text = "certify shipped CIFAR-10 images with the shipped engines"
    demo = commands.add("demo", text, "demo --images 20", _demo)
    demo.add_argument("--images", type=int, default=20, metavar="N", help="how many of the 100 (default: 20)")
    demo.add_argument("--n", type=int, default=1000, help="samples an image (default: 1000)")
    demo.add_argument("--html", type=Path, default=Path("demo.html"), metavar="FILE", help="default: demo.html")
    demo.add_argument("--figure", type=Path, default=Path("demo.png"), metavar="FILE", help="default: demo.png")
    example = "report run.sqlite --figure curve.png"
    report = commands.add("report", "tables and figures of run stores", example, _report)
    report.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run stores, files of `transfer`, or one file of `ood`"
    )
    report.add_argument(
        "--radii", type=numbers, metavar="R,R,…", help="default: the runs' preset radii, else 0,0.25,0.5,0.75,1"
    )
    report.add_argument(
        "--envelope",
        action="store_true",
        help="add a row with each image's best radius over finished runs of the same pixels; no certificate of one classifier",
    )
    report.add_argument("--tsv", type=Path, metavar="FILE", help="the papers' tab-separated file (one finished run)")
    report.add_argument("--html", type=Path, metavar="FILE", help="a single-file page")
    report.add_argument("--figure", type=Path, metavar="FILE", help="certified-accuracy curve: .png, .svg or .pdf")


def _report(arguments: argparse.Namespace) -> None:
    from ..files import check_outputs, write_atomically
    from ..ood.store import is_ood_file
    from ..report.figures import write_figure
    from ..report.html import page
    from ..report.tables import summarise, text_table
    from ..report.tsv import write_tsv
    from ..runs.store import open_run
    from ..transfer.file import is_transfer_file

    radii, enveloped = arguments.radii, arguments.envelope
    if any(is_transfer_file(path) for path in arguments.runs):
        _report_transfers(arguments)
        return
    if any(is_ood_file(path) for path in arguments.runs):
        _report_ood(arguments)
        return
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


def _report_transfers(arguments: argparse.Namespace) -> None:
    """The tables of files of `transfer`."""
    from ..files import check_outputs, write_atomically
    from ..transfer.file import TransferFile
    from ..transfer.report import text, tsv

    for option in ("html", "figure", "envelope"):
        if getattr(arguments, option):
            raise InputError(f"--{option} is for runs of certify: leave it out for files of `transfer`")
    if arguments.tsv and len(arguments.runs) != 1:
        raise InputError(f"--tsv takes one file, got {len(arguments.runs)}: call it once a file")
    check_outputs({"--tsv": arguments.tsv}, {f"run {path}": path for path in arguments.runs})
    found = [TransferFile.read(path) for path in arguments.runs]
    print("\n".join(text(each, arguments.radii) for each in found))
    if arguments.tsv:
        write_atomically(arguments.tsv, tsv(found[0]))


def _report_ood(arguments: argparse.Namespace) -> None:
    """The tables of an out-of-distribution run, and its figure."""
    from ..files import check_outputs
    from ..ood.config import RADII
    from ..ood.figures import write_figure
    from ..ood.report import text_report, versions_of
    from ..ood.store import OodStore
    from ..runs.record import naming_damage

    for option in ("tsv", "html", "envelope"):
        if getattr(arguments, option):
            raise InputError(f"--{option} is for runs of certify: leave it out for one of `ood`")
    if len(arguments.runs) != 1:
        raise InputError(f"a run of `ood` is reported alone, got {len(arguments.runs)} runs: call it once a run")
    check_outputs({"--figure": arguments.figure}, {"run": arguments.runs[0]})
    radii = arguments.radii or RADII
    if min(radii) < 0:
        raise InputError(f"--radii must be 0 or more, got {min(radii)}: ℓ2 radii in image units")
    with OodStore.open(arguments.runs[0]) as store, naming_damage(f"{store.path} holds values"):
        found = versions_of(store, sorted(set(radii)))
        print(text_report(store, found))
        if arguments.figure:
            write_figure(arguments.figure, store, found)


def _demo(arguments: argparse.Namespace) -> None:
    from .. import zoo
    from ..files import check_outputs

    check_outputs({"--html": arguments.html, "--figure": arguments.figure}, {})
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo.sqlite"
        given = {"command": "certify", "max": arguments.images, "n": arguments.n, "out": run, "data": zoo.IMAGES}
        execute_run({**given, "engine": zoo.DENOISER, "classifier": zoo.CLASSIFIER_DDS})
        _report(
            argparse.Namespace(
                runs=[run], radii=None, envelope=False, tsv=None, html=arguments.html, figure=arguments.figure
            )
        )
    print(f"wrote {arguments.html} and {arguments.figure}")
