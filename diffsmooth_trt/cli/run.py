"""certify, predict and verify."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..ranges import flag
from ..runs.config import RunConfig, names, slots
from .options import Commands
from .progress import add_shown
from .run_options import add_host_code, add_run_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..report.tables import Summary
    from ..runs.verify import Verification

OOD_FILES = ("detector", "in-data", "out-data")


def add(commands: Commands) -> None:
    """certify, predict and verify with their options."""
    for name, text in (
        ("certify", "certify images: the radius within which the smoothed classifier's answer cannot change"),
        ("predict", "predict with the smoothed classifier, abstaining where the vote is too close"),
    ):
        example = f"{name} --engine denoiser.onnx --classifier classifier.onnx --data images.parquet --n 1000 --out run.sqlite"
        parser = commands.add(name, text, example, _run)
        add_shown(parser)
        add_run_options(parser, name)
    example = "verify run.sqlite --fraction 0.01"
    verify = commands.add("verify", "draw votes of a run again and compare them", example, _verify)
    verify.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a run store or a file of `ood`, finished or not, or one of `transfer` or of `attack`",
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
    text = "points of a file of `attack`; default: the path that it records"
    verify.add_argument("--images", type=Path, metavar="FILE.npz", help=text)
    text = "the run may lack images still: note which, and verify what is there; else that is a mismatch (status 1)"
    verify.add_argument("--unfinished", action="store_true", help=text)
    add_host_code(verify.add_argument)
    add_shown(verify)
    verify.add_argument("--device", metavar="DEVICE", help="cpu, or cuda:0; default: the kind that the run was on")
    verify.add_argument("--threads", type=int, metavar="N", help="CPU threads of the engines")
    verify.add_argument(
        "--blocks-seed", type=int, metavar="N", help="repeat an earlier choice of blocks; random otherwise"
    )


def execute_run(given: dict[str, Any], arguments: argparse.Namespace) -> Summary:
    """Make the run of a configuration, and show how far it is as `arguments` say."""
    from ..api import run, with_engines
    from ..report.tables import summarise
    from .progress import shown

    config = RunConfig(**given)
    with shown(arguments, config.stopping.command) as progress:
        usual = os.environ.get("XDG_CACHE_HOME")
        place = None if not usual else Path(usual) / "diffsmooth-trt"
        config = with_engines(config, getattr(arguments, "cache", None), usual=place, say=say)
        with run(config, progress) as store:
            return summarise(store)


def say(line: str) -> None:
    print(f"diffsmooth-trt: {line}", file=sys.stderr)


def _run(arguments: argparse.Namespace) -> None:
    from ..report.tables import text_table
    from .progress import of_run, tell

    known = ("command", *names())
    given = {name: value for name, value in vars(arguments).items() if name in known and value is not None}
    summary = execute_run(given, arguments)
    tell(arguments, arguments.command, text_table([summary]), of_run(summary))


FOREIGN = {  # options of `verify` that files of other commands have no use for
    "transfer": ("detector", "in_data", "out_data", "images", "unfinished", "allow_host_code"),
    "attack": ("detector", "in_data", "out_data", "unconditional", "unfinished", "allow_host_code"),
}


def _verify_file(arguments: argparse.Namespace, kind: str, check: Callable[..., Verification], **more: Any) -> int:
    """Verify a file that another command made of a run."""
    import secrets

    from .progress import of_verification, shown, tell

    for name in FOREIGN[kind]:
        if getattr(arguments, name):
            raise InputError(f"{flag(name)} is not for files of {kind}: leave it out")
    given = {name: getattr(arguments, name) for name in (*slots(), "data")}
    seed = secrets.randbits(32) if arguments.blocks_seed is None else arguments.blocks_seed
    how = {name: getattr(arguments, name) for name in ("fraction", "device", "threads")}
    with shown(arguments, "verify") as progress:
        done = check(arguments.run, given=given, seed=seed, progress=progress, **how, **more)
    tell(arguments, "verify", "\n".join(done.lines()), of_verification(done))
    return 0 if done.agrees else 1


def _verify(arguments: argparse.Namespace) -> int:
    from ..attack.file import is_attack_file
    from ..transfer.file import is_transfer_file

    if is_transfer_file(arguments.run):
        from ..transfer.verify import verify as of_transfer

        return _verify_file(arguments, "transfer", of_transfer)
    if is_attack_file(arguments.run):
        from ..attack.verify import verify as of_attack

        return _verify_file(arguments, "attack", of_attack, kept=arguments.images)
    return _verify_run(arguments)


def _verify_run(arguments: argparse.Namespace) -> int:
    from ..api import verify
    from ..ood.store import is_ood_file
    from .progress import of_verification, shown, tell

    every = ["fraction", "engine", "classifier", "device", "threads", "blocks_seed", "unfinished"]
    if arguments.images:
        raise InputError(f"--images is for files of `attack`, {arguments.run} is another: leave it out")
    of_ood, others = [name.replace("-", "_") for name in OOD_FILES], ["unconditional", "data", "allow_host_code"]
    own, foreign = (of_ood, others) if is_ood_file(arguments.run) else (others, of_ood)
    for name in foreign:
        if getattr(arguments, name):
            kind = "of `ood`" if foreign is of_ood else "of certify or predict"
            raise InputError(f"{flag(name)} is for runs {kind}, {arguments.run} is another: leave it out")
    options = {name: getattr(arguments, name) for name in (*every, *own)}
    check: Callable[..., Verification] = verify
    if own is of_ood:
        from ..ood.verify import verify as check
    with shown(arguments, "verify") as progress:
        done = check(arguments.run, progress=progress, **options)
    tell(arguments, "verify", "\n".join(done.lines()), of_verification(done))
    return 0 if done.agrees else 1
