"""The program `diffsmooth-trt`, beside the package: its import takes a second, and Ctrl-C ends that in a line too."""

from __future__ import annotations

import os
import signal
from types import FrameType


def _interrupted(number: int, frame: FrameType | None) -> None:
    # Not by an exception: libraries that are being imported may catch it, or die of it with a page of their own.
    os.write(2, b"diffsmooth-trt: interrupted\n")
    os._exit(1)


def main() -> int:
    """Run the command line; returns its exit status."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # which a shell's background jobs do
        signal.signal(signal.SIGINT, _interrupted)
    from diffsmooth_trt.cli import main as run

    status = run()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(status))  # all is done and said
    return status


if __name__ == "__main__":
    raise SystemExit(main())
