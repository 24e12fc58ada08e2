"""merge and status."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Commands


def add(commands: Commands) -> None:
    """merge and status with their options."""
    text = "make of the shards of a run the store that one machine would have written"
    merge = commands.add("merge", text, "merge shard-1.sqlite shard-2.sqlite shard-3.sqlite --out run.sqlite", _merge)
    merge.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run stores of `certify --shard`, in any order"
    )
    merge.add_argument("--out", type=Path, required=True, metavar="RUN.sqlite", help="the run store to make")
    text = "shards may be missing: the merged run lacks their images, and certify --resume draws them"
    merge.add_argument("--unfinished", action="store_true", help=text)
    text = "say how far runs are, also while they are written: images, rate, time left"
    status = commands.add("status", text, "status run.sqlite", _status)
    status.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run stores")
    status.add_argument("--json", action="store_true", help="a line of JSON a run")


def _merge(arguments: argparse.Namespace) -> None:
    from ..report.tables import summarise, text_table
    from ..runs.merge import merge

    with merge(arguments.runs, arguments.out, unfinished=arguments.unfinished) as store:
        done, asked = store.finished(), len(store.record.asked)
        if done:
            print(text_table([summarise(store)]))
        if done < asked:
            print(f"{arguments.out} is not finished: {done} of {asked} images; `certify --resume` goes on with it")


def _status(arguments: argparse.Namespace) -> None:
    from ..runs.status import status

    for run in arguments.runs:
        state = status(run)
        print(state.to_json() if arguments.json else "\n".join(state.lines()))
