"""transfer: certificates for another engine of a certified network."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine import BACKEND_NAMES, PRECISIONS
from ..ranges import flag
from ..runs.config import slots
from .options import Commands
from .progress import add_shown
from .run_options import add_host_code

OWN = slots()


def add(commands: Commands) -> None:
    """transfer with its options."""
    text = (
        "certificates for another engine of the same network, from a run's votes and a few draws that both engines see"
    )
    example = "transfer run.sqlite --engine denoiser-int8.onnx --classifier classifier-int8.onnx --out int8.json"
    parser = commands.add("transfer", text, example, _transfer)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run store of certify")
    for name in OWN:
        text = "the other engine in place of the run's --engine" if name == "engine" else f"… of its --{name}"
        add(f"--{name}", type=Path, metavar="FILE", help=f"{text}; the run's own where left out")
    text = "paired draws an image, or 2N of the other engine alone where they prove more (default: a tenth of the run's draws)"
    add("--n", type=int, metavar="N", help=text)
    add("--alpha", type=float, help="failure probability, split between votes and pairs (default: the run's)")
    add("--batch", type=int, default=64, metavar="B", help="rows an engine call of the other engines (default: 64)")
    add("--backend", choices=BACKEND_NAMES, help="of the other engines, as for certify")
    add("--precision", choices=PRECISIONS, help="… likewise")
    add("--device", default="cpu", help="… cpu (default), or cuda:0, cuda:1, … for an NVIDIA GPU")
    add("--threads", type=int, metavar="N", help="CPU threads of the engines")
    add_host_code(add)
    for name in (*OWN, "data"):
        option = "--data" if name == "data" else f"--from-{name}"
        add(
            option,
            dest=f"from_{name}",
            type=Path,
            metavar="PATH",
            help=f"the run's --{name}; default: the path that it records",
        )
    add(
        "--key",
        metavar="HEX",
        help="256-bit key of the pairs, 64 digits; drawn from the operating system where left out",
    )
    add("--out", type=Path, required=True, metavar="FILE.json", help="the file to make; report and verify read it")
    add("--resume", action="store_true", help="go on with what a transfer that ended early keeps in FILE.json.part")
    add("--tsv", type=Path, metavar="FILE", help="also write `idx label predict radius correct time`")
    add_shown(parser, json=False)


def _inputs(arguments: argparse.Namespace) -> dict[str, Path]:
    """Every file that is read: those given, and those that the run records."""
    from ..runs.store import open_run

    with open_run(arguments.run) as store:
        recorded = {f"the run's --{name}": path for name, path in store.files.items() if path is not None}
    inputs = {"RUN": arguments.run}
    for option, path in recorded.items():
        inputs |= {option: Path(path), f"{option} beside it": arguments.run.parent / path}
    for option in (*OWN, *(f"from_{name}" for name in (*OWN, "data"))):
        if (path := getattr(arguments, option)) is not None:
            inputs["--data" if option == "from_data" else flag(option)] = path
    return inputs


def _transfer(arguments: argparse.Namespace) -> None:
    from ..engine.choice import EngineChoice
    from ..files import check_outputs, write_atomically
    from ..noise import Key
    from ..transfer.report import text, tsv
    from ..transfer.run import TransferConfig, transfer
    from .progress import shown

    chosen = ("batch", "backend", "precision", "device", "threads", "allow_host_code")
    check_outputs({"--out": arguments.out, "--tsv": arguments.tsv}, _inputs(arguments))
    own = {name: path for name in (*OWN, "data") if (path := getattr(arguments, f"from_{name}")) is not None}
    config = TransferConfig(
        run=arguments.run,
        out=arguments.out,
        files={name: path for name in OWN if (path := getattr(arguments, name)) is not None},
        engines=EngineChoice(**{name: getattr(arguments, name) for name in chosen}),
        pairs=arguments.n,
        alpha=arguments.alpha,
        key=None if arguments.key is None else Key.parse(arguments.key),
        given=own,
        resume=arguments.resume,
    )
    with shown(arguments, "transfer") as progress:
        made = transfer(config, progress)
    print(text(made))
    if arguments.tsv is not None:
        write_atomically(arguments.tsv, tsv(made))
