"""reproduce: a published table made again."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..ranges import flag
from ..reproduce.tables import TABLES
from .options import Commands
from .progress import add_shown

OPTIONS = ("n0", "n", "max", "batch", "backend", "device", "precision", "threads", "key")


def add(commands: Commands) -> None:
    """reproduce and its options."""
    example = "reproduce dds-cifar10 --models checkpoints --data cifar10-test.parquet --out dds-cifar10"
    text = "make a published table again: paper | ours | difference against its sampling error"
    parser = commands.add("reproduce", text, example, _reproduce)
    add = parser.add_argument
    add("name", metavar="NAME", help=", ".join(TABLES))
    add(
        "--models",
        type=Path,
        metavar="DIR",
        help="the published checkpoints; what is missing is named, and where it is published",
    )
    add("--random-weights", action="store_true", help="instead of --models: random weights of the published shapes")
    add(
        "--zoo",
        action="store_true",
        help="instead of --models: the zoo's engines, and its images unless --data is given",
    )
    add("--data", type=Path, metavar="PATH", help="the paper's data set")
    add("--out-data", nargs="+", default=(), metavar="PATH", help="distro: the out-of-distribution sets")
    add("--sigma", type=float, nargs="+", default=(), metavar="S", help="only the rows of these noise levels")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of engines and runs; a run that is there is gone on with",
    )
    add("--resume", action="store_true", help="go on with what --out holds: so it does without this option too")
    add("--estimate", action="store_true", help="say how long it takes here, and stop")
    changed = "not the paper's"
    add("--n0", type=int, help=f"{changed} number of samples that select the class")
    add("--n", type=int, help=f"{changed} number of samples of the estimate")
    add("--max", type=int, metavar="N", help=f"at most N images, {changed}")
    add("--batch", type=int, metavar="B", help="rows an engine call (default: 64)")
    add("--backend", help="as in certify")
    add("--precision", help="as in certify")
    add("--device", help="cpu (default), or cuda:0, cuda:1, …")
    add("--threads", type=int, metavar="N", help="CPU threads of the engines")
    add("--key", metavar="HEX", help="256-bit noise key, 64 digits; drawn from the operating system where left out")
    add_shown(parser, json=False)


def _reproduce(arguments: argparse.Namespace) -> None:
    from ..errors import InputError
    from ..reproduce import reproduce
    from .progress import shown

    ways = [name for name in ("models", "random_weights", "zoo") if getattr(arguments, name)]
    if len(ways) > 1:
        first, second = (flag(name) for name in ways[:2])
        raise InputError(f"{second} stands for {first}: give one of them")
    networks = {"random_weights": "random", "zoo": "zoo"}.get(ways[0] if ways else "", "published")
    names = ("models", "data", "out_data", "sigma", "out", "estimate")
    given = {name: getattr(arguments, name) for name in names}
    changed = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    with shown(arguments, "reproduce") as progress:
        result = reproduce(arguments.name, networks=networks, progress=progress, **given, **changed)
    if result is not None:
        print(result.text())
