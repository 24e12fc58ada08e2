"""Runs the stages of a session on a machine with a GPU, in order, each in its time box; see README.md beside this.

A stage is a process of its own: one that fails, hangs or takes its process with it costs its box and no more. Engine files that
later stages need are compiled beside the first ones, and held back while anything is timed. What is found is in $OUT/session.json
as soon as it is found; session.log and builds.log are what the processes print.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import stages

TICK = 0.1
LEFT = 3.0  # seconds in which nothing is begun any more
REHEARSED_BOX, BUILD_BOX = 60.0, 240.0


class Work:
    """A process under way: a stage, or the compilation of an engine file."""

    def __init__(self, context: Any, target: Any, what: Any, place: stages.Place, log: Path) -> None:
        self.name: str = what.name if isinstance(what, stages.Stage) else what
        self.events = place.folder / "events" / f"{self.name.replace(':', '-')}.jsonl"
        self.events.parent.mkdir(parents=True, exist_ok=True)
        self.events.unlink(missing_ok=True)
        self.begun, self.read = time.monotonic(), 0
        self.found: dict[str, Any] = {}
        self.process = context.Process(target=target, args=(what, place, str(self.events), str(log)))
        self.process.start()

    def look(self) -> bool:
        """Read what it has found since the last look; whether that was anything."""
        with contextlib.suppress(OSError):
            lines = self.events.read_text(encoding="utf-8").splitlines(keepends=True)
            new = [line for line in lines[self.read :] if line.endswith("\n")]
            for line in new:
                self.found.update(json.loads(line))
            self.read += len(new)
            return bool(new)
        return False

    def kill(self) -> None:
        """End it and all that it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)
            self.process.join(2)
        if self.process.is_alive():  # before it had a group of its own
            self.process.kill()
            self.process.join(2)

    def result(self, ended: str | None = None) -> dict[str, Any]:
        """Status, seconds, and why."""
        self.look()
        found = dict(self.found)
        why = found.pop("why", None)
        status = found.pop("status", None)
        if ended is not None:
            status, why = "stopped", ended
        elif status is None:
            code = self.process.exitcode
            status = "failed"
            why = why or (f"ended by signal {-code}" if code is not None and code < 0 else f"exit status {code}")
        seconds = round(time.monotonic() - self.begun, 1)
        return {"status": status, "seconds": seconds, **({"why": why} if why else {}), "found": found}


class Builds:
    """Engine files and CPU votes, made beside the stages, at most `most` at once."""

    def __init__(self, session: Session, names: Iterable[str], most: int) -> None:
        self.session, self.most = session, most
        self.waiting = list(names)
        self.running: list[Work] = []
        self.held = True

    def tick(self) -> None:
        """Take note of what has ended, and begin what there is room for."""
        for work in list(self.running):
            late = time.monotonic() - work.begun > BUILD_BOX
            if work.process.is_alive() and not late:
                continue
            if late:
                work.kill()
            self.running.remove(work)
            ended = f"killed after {BUILD_BOX:.0f} s, its time box" if late else None
            self.session.document["builds"][work.name] = work.result(ended)
            self.session.write()
        while self.waiting and not self.held and len(self.running) < self.most:
            name = self.waiting.pop(0)
            self.running.append(self.session.begin(stages.run_build, name, "builds.log"))

    def pending(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are not made yet."""
        open_ = {*self.waiting, *(work.name for work in self.running)}
        return [name for name in names if name in open_]

    def kill(self, why: str) -> None:
        """End them all."""
        for work in self.running:
            work.kill()
            self.session.document["builds"][work.name] = work.result(why)
        for name in self.waiting:
            self.session.document["builds"][name] = {"status": "not begun", "seconds": 0.0, "found": {}}
        self.running, self.waiting = [], []


class Session:
    """One call: its stages, its files in `out`, and the moment at which it has to be over."""

    def __init__(self, place: stages.Place, out: Path, end: float) -> None:
        self.place, self.out, self.end = place, out, end
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["preload"])
        self.document: dict[str, Any] = {"rehearsal": place.rehearse, "stages": {}, "builds": {}}

    def left(self) -> float:
        """Seconds until the end of the call."""
        return self.end - time.monotonic()

    def begin(self, target: Any, what: stages.Stage | str, log: str) -> Work:
        """Start a process for a stage, or for a build by its name."""
        return Work(self.context, target, what, self.place, self.out / log)

    def write(self) -> None:
        """Put down everything known."""
        draft = self.out / "session.draft"
        draft.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.out / "session.json")

    def run(self, chosen: list[stages.Stage]) -> None:
        """All stages in order."""
        builds = Builds(self, stages.in_order(chosen), self.place.builders)
        try:
            for stage in chosen:
                builds.held = stage.alone
                if self.left() < LEFT:
                    self.keep(
                        stage, {"status": "not begun", "seconds": 0.0, "why": "the call's time is over", "found": {}}
                    )
                else:
                    self.keep(stage, self.one(stage, builds))
        finally:
            builds.kill("the session was over")
            self.write()

    def one(self, stage: stages.Stage, builds: Builds) -> dict[str, Any]:
        """One stage: wait for its engine files, and if it times anything for quiet; then run it in its box."""
        box = min(REHEARSED_BOX if self.place.rehearse else stage.seconds, self.left() - 1)
        begun = time.monotonic()
        while True:
            needed = builds.pending(stage.builds)
            if needed:
                builds.held = False
                builds.waiting.sort(key=lambda name: name not in stage.builds)  # stable: its own first
            elif stage.alone:
                builds.held = True
                needed = [work.name for work in builds.running]
            builds.tick()
            if not needed:
                break
            waited = time.monotonic() - begun
            if waited > stage.patience or self.left() < max(LEFT, stage.least):
                if stage.alone:
                    builds.kill(f"not ready when {stage.name} had waited for {waited:.0f} s")
                break
            time.sleep(TICK)
        waited = time.monotonic() - begun
        box = min(box, self.left() - 1)
        work = self.begin(stages.run_stage, stage, "session.log")
        ended = None
        try:
            while work.process.is_alive():
                work.process.join(TICK)
                builds.tick()
                if work.look():
                    self.keep(stage, {"status": "running", "found": work.found}, show=False)
                if time.monotonic() - work.begun > box:
                    last = f"{list(work.found)[-1]} was found last" if work.found else "it had found nothing"
                    ended = f"killed after {box:.0f} s, its time box; {last}"
                    break
        finally:
            if work.process.is_alive():
                work.kill()
        return {**work.result(ended), **({"waited": round(waited, 1)} if waited > 1 else {})}

    def keep(self, stage: stages.Stage, result: dict[str, Any], *, show: bool = True) -> None:
        """Put a stage's result down."""
        self.document["stages"][stage.name] = result
        self.write()
        if show:
            print(line(stage.name, result), flush=True)


def line(name: str, result: dict[str, Any], width: int = 12) -> str:
    """A stage, its seconds and status, and the one figure or the reason."""
    said = result["found"].get("figure", "")
    text = "; ".join(str(part) for part in (said, result.get("why")) if part)
    return f"{name:{width}}{result['seconds']:>7.1f}  {result['status']:10}{' '.join(text.split())[:400]}"


def table(document: dict[str, Any]) -> str:
    """What came of it, a line a stage, and the builds that failed."""
    shown = dict(document["stages"])
    states = ("failed", "stopped")
    shown |= {name: result for name, result in document["builds"].items() if result["status"] in states}
    width = max(map(len, shown), default=0) + 2
    rows = [line(name, result, width) for name, result in shown.items()]
    return "\n".join([f"{'stage':{width}}{'seconds':>7}  {'status':10}".rstrip(), *rows])


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"{', '.join(stages.STAGES)}; default: all of them; or prepare"
    )
    p.add_argument("--rehearse", action="store_true", help="tiny, on the CPU, the kernels compiled for it")
    p.add_argument("--seconds", type=float, default=345.0, help="of the whole call (default 345)")
    p.add_argument("--started", type=float, default=None, help="when the call began, seconds since 1970")
    p.add_argument("--folder", type=Path, default=None, help="engine files (default build/gpu)")
    a = p.parse_args()
    here = Path(__file__).resolve().parent
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(here), str(here.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )  # the server that forks the stages has no other way to find them
    if a.stages == ["prepare"]:
        return stages.prepare(here.parents[1] / "build")
    unknown = [name for name in a.stages if name not in stages.STAGES]
    for name in unknown:
        print(f"stage {name!r} is unknown: left out; there are {', '.join(stages.STAGES)}")
    names = [name for name in dict.fromkeys(a.stages) if name not in unknown] or (
        [] if unknown else list(stages.STAGES)
    )
    spent = 0.0 if a.started is None else max(0.0, time.time() - a.started)
    folder = a.folder or here.parents[1] / "build" / "gpu" / ("rehearsal" if a.rehearse else "files")
    out = Path(os.environ.get("OUT") or here.parents[1] / "build" / "gpu" / "out")
    out.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    builders = 1 if a.rehearse else max(1, len(os.sched_getaffinity(0)) // 3)
    place = stages.Place(folder.resolve(), out.resolve(), a.rehearse, builders)
    if a.rehearse:
        os.environ["SESSION_REHEARSES"] = "1"
    # stages end at once, however many locks their libraries hold
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")  # of each compilation, several of which run at once
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(place.folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(place.folder / "triton"))
    session = Session(place, place.out, time.monotonic() + a.seconds - spent)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))
    try:
        session.run([stages.STAGES[name] for name in names])
    finally:
        print(table(session.document), flush=True)
    states = [result["status"] for result in session.document["stages"].values()]
    return 0 if states and all(state in ("done", "skipped") for state in states) else 1


if __name__ == "__main__":
    sys.exit(main())
