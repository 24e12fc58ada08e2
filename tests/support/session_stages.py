"""Stages that end in every way there is, for tests/test_gpu_session.py: `session_stages.py FOLDER` runs a session of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"))
from findings import Findings, Skipped
from stages import Place, Stage

NAME = Path(__file__).stem


def works(found: Findings, place: Place) -> None:
    found.put(answer=42, figure="42 answers")


def fails(found: Findings, place: Place) -> None:
    found.put(answer=1)
    raise ValueError("of a compiler\nwith more lines")


def hangs(found: Findings, place: Place) -> None:
    """With a child that does not end when it is asked to."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    found.put(child=child.pid)
    time.sleep(60)


def crashes(found: Findings, place: Place) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lacks(found: Findings, place: Place) -> None:
    raise Skipped("no such thing here")


def finds_a_fault(found: Findings, place: Place) -> None:
    found.status = "failed"
    found.put(why="3 of 4 are wrong")


def free_memory() -> float:
    return 1.5


def needs_more(found: Findings, place: Place) -> None:
    found.put(begun=True)


def last(found: Findings, place: Place) -> None:
    found.put(figure="reached")


def main() -> None:
    from session import Session, table

    folder = Path(sys.argv[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], str(Path(__file__).parent)])
    place = Place(folder / "files", folder, False, 1)
    place.folder.mkdir()
    session = Session(place, folder, time.monotonic() + 60)
    options: dict[str, dict[str, Any]] = {"hangs": {"seconds": 1.0}, "needs_more": {"memory": 2.0}}
    names = ("works", "fails", "hangs", "crashes", "lacks", "finds_a_fault", "needs_more", "last")
    session.run([Stage(name, NAME, **{"seconds": 20.0, **options.get(name, {})}) for name in names])
    session.end = time.monotonic()
    session.run([Stage("late", NAME, 20.0)])
    print(table(session.document))


if __name__ == "__main__":
    main()
