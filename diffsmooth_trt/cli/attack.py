"""attack: how far above its certificates a run's classifier can be broken."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from .options import Commands
from .progress import add_shown

OWN = ("engine", "classifier", "data")


def add(commands: Commands) -> None:
    """attack with its options."""
    text = "attack a run's smoothed classifier: accuracy under attack beside the certified one, and contradictions"
    example = "attack run.sqlite --radius 0.25 0.5 --out attack.json"
    parser = commands.add("attack", text, example, _attack)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run store of certify, of rs, dds or diffsmooth over .onnx engines")
    add("--radius", type=float, nargs="+", default=[0.25, 0.5], metavar="R", help="ℓ2 radii (default: 0.25 0.5)")
    add("--max", type=int, metavar="N", help="attack the first N images that have a result")
    add("--steps", type=int, default=10, help="gradients an ascent (default: 10)")
    add("--draws", type=int, default=8, metavar="N", help="draws that a gradient is averaged over (default: 8)")
    text = "ascents a radius, the first from where the radius before ended, the others from random points (default: 2)"
    add("--restarts", type=int, default=2, metavar="N", help=text)
    add("--select", type=int, default=100, metavar="N", help="draws that judge each point found (default: 100)")
    text = "draws of an answer, where those speak for another class; more than the run's (default: twice the run's)"
    add("--n", type=int, metavar="N", help=text)
    add("--alpha", type=float, help="failure probability of an image's answers together (default: the run's)")
    add("--threads", type=int, metavar="N", help="CPU threads of the engines, and of the gradients")
    for name in OWN:
        add(f"--{name}", type=Path, metavar="PATH", help=f"the run's --{name}; default: the path that it records")
    add(
        "--key",
        metavar="HEX",
        help="256-bit key of the attack, 64 digits; drawn from the operating system where left out",
    )
    add("--out", type=Path, required=True, metavar="FILE.json", help="the file to make; report reads it")
    add("--resume", action="store_true", help="go on with what an attack that ended early keeps in FILE.json.part")
    add("--images", type=Path, metavar="FILE.npz", help="also keep the points found, as a data set that --data takes")
    add_shown(parser, json=False)


def _attack(arguments: argparse.Namespace) -> int:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise InputError(f"attack needs gradients, which are torch's ({error}): pip install torch") from error
    from ..attack.report import text
    from ..attack.run import AttackConfig, attack
    from ..noise import Key
    from .progress import shown

    config = AttackConfig(
        run=arguments.run,
        out=arguments.out,
        kept=arguments.images,
        resume=arguments.resume,
        radii=tuple(arguments.radius),
        key=None if arguments.key is None else Key.parse(arguments.key),
        given={name: path for name in OWN if (path := getattr(arguments, name)) is not None},
        **{
            name: getattr(arguments, name)
            for name in ("max", "steps", "draws", "restarts", "select", "n", "alpha", "threads")
        },
    )
    with shown(arguments, "attack") as progress:
        made = attack(config, progress)
    print(text(made))
    if made.contradicted:
        print(f"  evidence: {config.evidence}, a data set for `predict --data`, and the votes in {config.out}")
    return int(bool(made.contradicted))
