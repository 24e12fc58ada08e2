"""report and demo."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..ranges import flag
from .options import Commands, numbers
from .progress import add_shown
from .run import execute_run
from .run_files import FILES, add_run_files, write_run_files

KINDS = ("csv", "json", "parquet", "latex", "markdown")
OF_RUNS = (
    "data",
    "noisy",
    "format",
    "table",
    "rows",
)  # options of `report` that files of other commands have no use for


def add(commands: Commands) -> None:
    """report and demo with their options."""
    text = "certify shipped CIFAR-10 images with the shipped engines"
    demo = commands.add("demo", text, "demo --images 20", _demo)
    demo.add_argument("--images", type=int, default=20, metavar="N", help="how many of the 100 (default: 20)")
    demo.add_argument("--n", type=int, default=1000, help="samples an image (default: 1000)")
    demo.add_argument("--html", type=Path, default=Path("demo.html"), metavar="FILE", help="default: demo.html")
    demo.add_argument("--figure", type=Path, default=Path("demo.png"), metavar="FILE", help="default: demo.png")
    add_shown(demo, json=False)
    example = "report run.sqlite --figure curve.png"
    report = commands.add("report", "tables and figures of run stores", example, _report)
    report.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run stores, files of `transfer` or of `attack`, or one file of `ood`",
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
    report.add_argument(
        "--html", type=Path, metavar="FILE", help="a single-file page with curves, pictures and paired differences"
    )
    report.add_argument("--data", type=Path, metavar="PATH", help="… where the runs' images lie now, for its pictures")
    report.add_argument(
        "--noisy", type=int, metavar="N", help="… how many images it shows noisy and denoised (default: 12)"
    )
    report.add_argument("--figure", type=Path, metavar="FILE", help="certified-accuracy curve: .png, .svg or .pdf")
    text = "print the table as csv, json, parquet, latex or markdown"
    report.add_argument("--format", choices=KINDS, metavar="FORMAT", help=text)
    report.add_argument("--table", type=Path, metavar="FILE", help="… into a file, whose suffix may say the format")
    text = "… with a row a run or a row an image (default: runs)"
    report.add_argument("--rows", choices=("runs", "images"), metavar="runs|images", help=text)
    add_run_files(report)


def _report(arguments: argparse.Namespace) -> None:
    from ..attack.file import is_attack_file
    from ..ood.store import is_ood_file
    from ..transfer.file import is_transfer_file

    kinds = {"transfer": is_transfer_file, "attack": is_attack_file, "ood": is_ood_file}
    found = {path: next((kind for kind, of in kinds.items() if of(path)), "certify") for path in arguments.runs}
    made_by = {kind for path, kind in found.items() if path.exists()}
    if len(made_by) > 1:
        named = ", ".join(f"{path} of `{kind}`" for path, kind in found.items())
        raise InputError(f"files of one command are reported together, got {named}: call it once for each command")
    reports = {"transfer": _report_transfers, "attack": _report_attacks, "ood": _report_ood, "certify": _report_runs}
    reports[next(iter(made_by), "certify")](arguments)


def _report_runs(arguments: argparse.Namespace, names: tuple[str, ...] | None = None) -> None:
    """The tables of runs of certify and predict, their files and their page; `names` are those of classes where no run has any."""
    from ..files import write_atomically
    from ..report.figures import write_figure
    from ..report.formats import table
    from ..report.gallery import look
    from ..report.html import page
    from ..report.narrow import fitted_table
    from ..report.tables import summarise
    from ..report.tsv import write_tsv
    from ..runs.store import open_run

    radii, enveloped = arguments.radii, arguments.envelope
    kind = _check(arguments)
    write_run_files(arguments)
    summaries, seen = [], []
    for path in arguments.runs:
        with open_run(path) as store:
            summaries.append(summarise(store))
            if arguments.tsv:
                write_tsv(arguments.tsv, store)
            if arguments.html:
                extra = look(store, summaries[-1], arguments.data, arguments.noisy)
                seen.append(extra if extra.names or not names else replace(extra, names=names))
    text = fitted_table(summaries, radii, width=_columns(), enveloped=enveloped)
    if kind:
        rows = table(summaries, radii, kind=kind, rows=arguments.rows or "runs", enveloped=enveloped)
        if arguments.table:
            write_atomically(arguments.table, rows)
        else:
            text = rows.decode().rstrip("\n")
    if arguments.html:
        write_atomically(arguments.html, page(summaries, radii, seen, enveloped=enveloped))
    if arguments.figure:
        write_figure(arguments.figure, summaries)
    print(text)
    for path, each in zip(arguments.runs, seen, strict=False):
        for said in each.notes:
            print(f"{arguments.html}: {path}: {said}", file=sys.stderr)


def _columns() -> int | None:
    """Those of the terminal; None where the table goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _check(arguments: argparse.Namespace) -> str | None:
    """The format of the table that is asked for, if one is; InputError for options that do not go together."""
    from ..files import check_outputs
    from ..report.formats import kind_of

    if arguments.tsv and len(arguments.runs) != 1:
        raise InputError(f"--tsv takes one run, got {len(arguments.runs)}: call it once a run")
    for option in ("data", "noisy"):
        if getattr(arguments, option) is not None and not arguments.html:
            raise InputError(f"--{option} is for the page: pass --html FILE, or leave it out")
    if arguments.noisy is not None and arguments.noisy < 0:
        raise InputError(f"--noisy must be 0 or more, got {arguments.noisy}: 0 shows no noisy images")
    outputs = {f"--{name}": getattr(arguments, name) for name in ("tsv", "html", "figure", "table")}
    check_outputs(outputs, {f"run {path}": path for path in arguments.runs})
    if not (arguments.format or arguments.table):
        if arguments.rows:
            raise InputError("--rows is for tables: pass --format or --table, or leave it out")
        return None
    kind = kind_of(arguments.table, arguments.format)
    if kind == "parquet" and not arguments.table:
        raise InputError("--format parquet is no text: give --table FILE for it")
    return kind


def _refuse(arguments: argparse.Namespace, options: tuple[str, ...], what: str) -> None:
    for option in options:
        if getattr(arguments, option) not in (None, False):
            raise InputError(f"{flag(option)} is for runs of certify: leave it out for {what}")


def _report_transfers(arguments: argparse.Namespace) -> None:
    """The tables of files of `transfer`, and their page."""
    from ..files import check_outputs, write_atomically
    from ..transfer.file import TransferFile
    from ..transfer.page import page
    from ..transfer.report import text, tsv

    _refuse(arguments, ("figure", "envelope", *OF_RUNS, *FILES), "files of `transfer`")
    if arguments.tsv and len(arguments.runs) != 1:
        raise InputError(f"--tsv takes one file, got {len(arguments.runs)}: call it once a file")
    outputs = {"--tsv": arguments.tsv, "--html": arguments.html}
    check_outputs(outputs, {f"run {path}": path for path in arguments.runs})
    transfers = [TransferFile.read(path) for path in arguments.runs]
    said = "\n".join(text(each, arguments.radii) for each in transfers)
    if arguments.tsv:
        write_atomically(arguments.tsv, tsv(transfers[0]))
    if arguments.html:
        write_atomically(arguments.html, page(transfers, arguments.radii))
    print(said)


def _report_attacks(arguments: argparse.Namespace) -> None:
    """The tables of files of `attack`, their curves and their page."""
    from ..attack.file import AttackFile
    from ..attack.page import page
    from ..attack.report import text, write_figure
    from ..files import check_outputs, write_atomically

    _refuse(arguments, ("tsv", "envelope", "radii", *OF_RUNS, *FILES), "files of `attack`")
    outputs = {"--figure": arguments.figure, "--html": arguments.html}
    check_outputs(outputs, {f"run {path}": path for path in arguments.runs})
    attacks = [AttackFile.read(path) for path in arguments.runs]
    if arguments.figure:
        write_figure(arguments.figure, attacks)
    if arguments.html:
        write_atomically(arguments.html, page(attacks))
    print("\n".join(map(text, attacks)))


def _report_ood(arguments: argparse.Namespace) -> None:
    """The tables of an out-of-distribution run, its figure and its page."""
    from ..files import check_outputs, write_atomically
    from ..ood.config import RADII
    from ..ood.figures import write_figure
    from ..ood.page import page
    from ..ood.report import text_report, versions_of
    from ..ood.store import OodStore
    from ..runs.record import naming_damage

    _refuse(arguments, ("tsv", "envelope", *OF_RUNS, *FILES), "one of `ood`")
    if len(arguments.runs) != 1:
        raise InputError(f"a run of `ood` is reported alone, got {len(arguments.runs)} runs: call it once a run")
    check_outputs({"--figure": arguments.figure, "--html": arguments.html}, {"run": arguments.runs[0]})
    radii = arguments.radii or RADII
    if min(radii) < 0:
        raise InputError(f"--radii must be 0 or more, got {min(radii)}: ℓ2 radii in image units")
    with OodStore.open(arguments.runs[0]) as store, naming_damage(f"{store.path} holds values"):
        versions = versions_of(store, sorted(set(radii)))
        print(text_report(store, versions))
        if arguments.figure:
            write_figure(arguments.figure, store, versions)
        if arguments.html:
            write_atomically(arguments.html, page(store, versions))


def _demo(arguments: argparse.Namespace) -> None:
    from .. import zoo
    from ..files import check_outputs

    check_outputs({"--html": arguments.html, "--figure": arguments.figure}, {})
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo.sqlite"
        given = {"command": "certify", "max": arguments.images, "n": arguments.n, "out": run, "data": zoo.IMAGES}
        execute_run({**given, "engine": zoo.DENOISER, "classifier": zoo.CLASSIFIER_DDS}, arguments)
        shown = {
            "runs": [run],
            "html": arguments.html,
            "figure": arguments.figure,
            "noisy": arguments.images,
            "envelope": False,
        }
        lacking = dict.fromkeys(("radii", "tsv", "data", "format", "table", "rows", *FILES))
        _report_runs(argparse.Namespace(**shown, **lacking), zoo.CLASSES)
    print(f"wrote {arguments.html} and {arguments.figure}")
