"""The command line: arguments → one configuration → one call each."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from ..engine import ENGINE_SUFFIXES
from ..errors import DiffsmoothError, Stopped
from ..runs.part import part_of
from . import attack, bench, completion, doctor, export, ood, report, reproduce, run, shards, soft_predict, transfer
from .options import Commands, Parser


def _parser() -> Parser:
    parser = Parser(
        prog="diffsmooth-trt",
        description="Certified robustness of image classifiers by randomized smoothing through diffusion denoisers.",
    )
    parser.add_argument("--version", action="version", version=version("diffsmooth-trt"))
    commands = Commands(parser)
    for group in (report, run, soft_predict, transfer, attack, shards, ood, export, reproduce, bench, doctor):
        group.add(commands)
    completion.add(commands, _parser)
    return parser


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # the last is what schedulers warn with


class _Stopped(KeyboardInterrupt):
    """One of SIGNALS, ended as orderly as Ctrl-C."""


@contextmanager
def _stopping() -> Iterator[list[float]]:
    """The first of SIGNALS raises _Stopped meanwhile and leaves its time in what this yields; a later Ctrl-C does not wait for
    what is being put in order.
    """
    stopped: list[float] = []

    def stop(number: int, _frame: object) -> None:
        now = time.monotonic()
        if not stopped:
            stopped.append(now)
            raise _Stopped(number)
        if number == signal.SIGINT and now > stopped[0] + 1:  # `timeout` and shells send the first one twice
            os.write(2, b"diffsmooth-trt: interrupted twice, ended at once\n")
            os._exit(1)

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as a shell's background jobs do
    previous = {number: signal.signal(number, stop) for number in SIGNALS if not (ignored and number == signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _fail(message: str, status: int) -> int:
    print(f"diffsmooth-trt: {' '.join(message.split())}", file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 the run failed, 2 bad arguments or input, 3 it was stopped by a signal
    or in time and keeps what was done.
    """
    debug = "--debug" in (argv if argv is not None else sys.argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks σ shows ? for it
    with _stopping() as stopped:
        if debug:
            from ..engine.logs import show

            show()
        return _run(argv, debug, stopped)


def _execute(arguments: argparse.Namespace, stopped: Sequence[float]) -> int:
    try:
        return arguments.execute(arguments) or 0
    except Exception as error:
        cause: BaseException | None = error
        while stopped and cause:
            if isinstance(cause, ImportError):  # compiled libraries make one of a stop that comes meanwhile
                raise KeyboardInterrupt from error
            cause = cause.__cause__ or cause.__context__
        raise


def _run(argv: Sequence[str] | None, debug: bool, stopped: Sequence[float]) -> int:
    out: Path | None = None
    try:
        arguments = _parser().parse_args(argv)
        out = getattr(arguments, "out", None)
        status = _execute(arguments, stopped)
        sys.stdout.flush()
        return status
    except DiffsmoothError as error:
        if debug:
            traceback.print_exc()
        return _fail(error.message, error.exit_code)
    except KeyboardInterrupt:
        files = () if out is None or out.suffix in ENGINE_SUFFIXES else (part_of(out), out)
        kept = next((file for file in files if file.exists()), None)
        if kept is None:
            return _fail("interrupted", 1)
        return _fail(f"interrupted; {kept} keeps what was done, go on with --resume", Stopped.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it exits
        return 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        return _fail(f"{error.strerror} ({error.filename or 'standard output'}): free space or choose another place", 1)
    except MemoryError:
        return _fail("out of memory: choose a smaller --batch", 1)
