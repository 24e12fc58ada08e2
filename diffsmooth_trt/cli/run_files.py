"""What `report` writes of one run besides tables and figures: the file that repeats it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from ..ranges import flag

FILES = ("config", "model_card")


def add_run_files(parser: argparse.ArgumentParser) -> None:
    """Their options."""
    text = "options that repeat the run, in TOML, for certify or predict --config (one run); without its key"
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help=text)
    text = "a model card in Markdown, with the front matter that model hubs read (one run of certify)"
    parser.add_argument("--model-card", type=Path, metavar="FILE.md", help=text)


def write_run_files(arguments: argparse.Namespace) -> None:
    """Write those that are asked for; InputError where there are several runs, or where a file is in the way."""
    from ..files import check_outputs, write_atomically
    from ..report.model_card import model_card
    from ..report.tables import summarise
    from ..runs.reopen import repeating
    from ..runs.store import open_run
    from .config_file import written

    asked = {flag(name): path for name in FILES if (path := getattr(arguments, name)) is not None}
    if not asked:
        return
    if len(arguments.runs) != 1:
        raise InputError(f"{next(iter(asked))} takes one run, got {len(arguments.runs)}: call it once a run")
    (run,) = arguments.runs
    others = {f"--{name}": getattr(arguments, name) for name in ("tsv", "html", "figure")}
    check_outputs({**others, **asked}, {f"run {run}": run})
    with open_run(run) as store:
        if arguments.config is not None:
            write_atomically(arguments.config, written(repeating(store), run))
        if arguments.model_card is not None:
            write_atomically(arguments.model_card, model_card(summarise(store), arguments.radii))
