"""bench: how fast a classifier votes here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine import BACKEND_NAMES, PRECISIONS
from ..engine.choice import AUTO
from ..methods import METHODS
from ..ranges import flag
from ..runs.config import options, slots
from .options import Commands
from .run_options import add_host_code, add_option

if TYPE_CHECKING:
    from ..bench.report import Comparison
    from ..bench.result import BenchResult

EAGER = ("checkpoint", "family", "config", "classifier_checkpoint", "arch")
ENGINES = ("backend", "precision", "device", "threads", "allow_host_code")


def add(commands: Commands) -> None:
    """bench with its options."""
    text = "time a classifier at several batch sizes: samples a second, latency, and what the time goes into"
    example = "bench --engine denoiser.onnx --classifier classifier.onnx --json bench.json"
    parser = commands.add("bench", text, example, _bench)
    add = parser.add_argument
    add("--engine", type=Path, required=True, metavar="FILE", help="as for certify")
    for slot in slots()[1:]:
        add(flag(slot), type=Path, metavar="FILE", help="as for certify")
    add("--method", choices=METHODS, default="dds", help="default: dds")
    add("--sigma", type=float, help="noise level in [0, 1] image units; the denoiser's own where left out")
    for option in options().values():
        add_option(add, option)
    text = "rows an engine call; auto: what certify --batch auto takes (default: 1,8,64,256,auto, or what the files are made for)"
    add("--batches", type=_batches, metavar="B,B,…", help=text)
    add(
        "--rounds",
        type=int,
        default=7,
        metavar="N",
        help="turns of each batch size, of which the median counts (default: 7)",
    )
    add("--seconds", type=float, default=0.3, metavar="S", help="of a turn; at least one step (default: 0.3)")
    add("--backend", choices=BACKEND_NAMES, help="as for certify")
    add("--precision", choices=PRECISIONS, help="as for certify")
    add("--device", default="cpu", help="cpu (default), or cuda:0, cuda:1, … for an NVIDIA GPU")
    add("--threads", type=int, metavar="N", help="CPU threads of the engines")
    add_host_code(add)
    text = "also time eager fp32 PyTorch, as the papers' code does it, on the checkpoint that the denoiser was exported from"
    add("--checkpoint", type=Path, metavar="FILE", help=text)
    add("--family", help="… its family, as for export denoiser")
    add("--config", metavar="NAME|FILE", help="… and its configuration")
    add("--classifier-checkpoint", type=Path, metavar="FILE", help="… the checkpoint of the classifier")
    add("--arch", metavar="NAME", help="… and its architecture, as for export classifier")
    add("--json", type=Path, metavar="FILE", help="everything that was measured, as JSON")
    add("--compare", type=Path, metavar="OLD.json", help="an earlier --json; exit status 1 where a rate is lower now")
    add("--margin", type=float, default=0.1, metavar="X", help="… by more than this share (default: 0.1)")


def _batches(text: str) -> tuple[int | str, ...]:
    try:
        return tuple(part if part == AUTO else int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers of rows or auto, separated by commas, got {text!r}"
        ) from None


def _bench(arguments: argparse.Namespace) -> int:
    from ..bench.config import BenchConfig
    from ..bench.measure import measure
    from ..bench.report import check_margin, text
    from ..bench.result import BenchResult
    from ..files import check_outputs, write_atomically
    from ..report.progress import Bar

    names = ("method", "sigma", *slots(), *options(), *ENGINES, *EAGER, "batches", "rounds", "seconds")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    config = BenchConfig.given(**given)
    check_margin(arguments.margin)
    inputs = {f"--{slot}": path for slot, path in config.files.items()}
    for name in ("compare", "checkpoint", "classifier_checkpoint", "config"):
        if (path := getattr(arguments, name)) is not None:
            inputs[flag(name)] = Path(path)
    check_outputs({"--json": arguments.json}, inputs)
    old = None if arguments.compare is None else BenchResult.read(arguments.compare)
    with Bar(bar_format="bench: {desc} ({elapsed})", disable=None, leave=False) as bar:
        result = measure(config, bar.set_description_str)
    comparison = None if old is None else _compared(old, result, arguments)
    print(text(result))
    if arguments.json is not None:
        write_atomically(arguments.json, result.to_json())
    if comparison is not None:
        print("\n".join(comparison.lines))
    return 1 if comparison is not None and comparison.slower else 0


def _compared(old: BenchResult, result: BenchResult, arguments: argparse.Namespace) -> Comparison:
    from ..bench.report import compare

    return compare(old, result, arguments.margin, str(arguments.compare))
