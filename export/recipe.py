"""What the recipes share: options and checkpoints or random weights of pairs, and errors of one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from diffsmooth_trt.errors import DiffsmoothError

Make = Callable[[Path], Path]


def parser(description: str) -> argparse.ArgumentParser:
    """Options of every recipe."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--denoiser", type=Path, metavar="FILE", help="the diffusion network's checkpoint")
    p.add_argument("--classifier", type=Path, metavar="PATH", help="the classifier's checkpoint")
    p.add_argument("--random-weights", action="store_true", help="of the published shapes, for what is not given")
    p.add_argument("--sigma", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    p.add_argument("--fp16-weights", action="store_true", help="store weights in half precision")
    p.add_argument("--out", type=Path, default=Path("engines"))
    return p


def checkpoints(
    p: argparse.ArgumentParser, a: argparse.Namespace, denoiser: Make, classifier: Make
) -> tuple[Path | None, Path | None]:
    """The paths of denoiser and classifier: those given, random ones where asked for, otherwise None for one of them."""
    if not (a.denoiser or a.classifier or a.random_weights):
        p.error("give --denoiser, --classifier or --random-weights")
    a.out.mkdir(parents=True, exist_ok=True)
    if not a.random_weights:
        return a.denoiser, a.classifier
    return a.denoiser or denoiser(a.out), a.classifier or classifier(a.out)


def run(main: Callable[[], None]) -> None:
    """`main` as a command: its errors are one line, and its exit status is the command line's."""
    try:
        main()
    except DiffsmoothError as error:
        print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"{Path(sys.argv[0]).name}: {error.strerror} ({error.filename}): choose another place", file=sys.stderr)
        sys.exit(1)
