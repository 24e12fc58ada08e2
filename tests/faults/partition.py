"""A Ray cluster of two machines whose network is cut in the middle of a run: rows afterwards are those of one process.

    python tests/faults/partition.py [--rounds 3] [--seed 0]

The machines are two network namespaces of this one, joined by a virtual cable (Linux; the user may need no rights, but namespaces
of users have to be allowed). The driver and Ray's head are in the first, a node with a worker in the second. At a random instant
of the run the cable is pulled, and plugged in again after a moment, after Ray gave the node up, or never. Afterwards the run has
to hold what one process writes, or to have ended in one line; then --resume has to finish it. Exit status 1 where it does not, 77
where there are no namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE, THERE, CABLE, PORT = "10.77.0.1", "10.77.0.2", "cable", 6399
INSIDE = "DIFFSMOOTH_INSIDE_NAMESPACE"
NO_NAMESPACES = 77
APART = ("unshare", "--user", "--map-root-user", "--net")  # what this user may do without rights
TABLES = ("images", "blocks", "results", "decisions", "partial")
PATIENCE = 2.0  # seconds after which a batch that all wait for goes to a second worker
# Ray gives a node up after about two seconds without an answer, not half a minute.
QUICK = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_AUTH_MODE": "disabled",  # nobody else is in there
}
PULLED = {"a moment": 0.5, "until the node is given up": 6.0, "for good": None}


def possible() -> str | None:
    """Why this user cannot have network namespaces; None where that works."""
    missing = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
    if missing:
        return f"{missing[0]} is not installed"
    made = ["ip", "link", "add", CABLE, "type", "veth", "peer", "name", f"{CABLE}2"]
    done = subprocess.run([*APART, *made], capture_output=True, text=True)
    return done.stderr.strip() or "unshare failed" if done.returncode else None


@contextlib.contextmanager
def second_machine() -> Iterator[list[str]]:
    """A namespace joined to this one; what runs a command in it. All that runs there ends with it."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    inside = ["nsenter", f"--target={holder.pid}", "--net"]
    try:
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            time.sleep(0.01)
        link("add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", str(holder.pid))
        for before, address in (((), HERE), (inside, THERE)):
            subprocess.run([*before, "ip", "address", "add", f"{address}/24", "dev", CABLE], check=True)
            for name in ("lo", CABLE):
                subprocess.run([*before, "ip", "link", "set", name, "up"], check=True)
        yield inside
    finally:
        subprocess.run(
            ["ip", "link", "delete", CABLE], stderr=subprocess.DEVNULL
        )  # now, not once the namespace is gone
        if os.getpid() == 1:  # of a namespace of processes of its own: whatever Ray left behind ends, too
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        holder.kill()
        holder.wait()


def link(*arguments: str) -> None:
    subprocess.run(["ip", "link", *arguments], check=True)


@contextlib.contextmanager
def cluster(folder: Path, inside: Sequence[str]) -> Iterator[None]:
    """Ray's head here and a node there, a processor each; both end with it."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    common = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    head = [
        *ray,
        "start",
        "--head",
        f"--node-ip-address={HERE}",
        f"--port={PORT}",
        "--include-dashboard=false",
        f"--temp-dir={folder}",
    ]
    node = [*inside, *ray, "start", f"--address={HERE}:{PORT}", f"--node-ip-address={THERE}"]
    started = []
    try:
        for number, command in enumerate((head, node)):
            log = (folder / f"{number}.log").open("w")
            begun = subprocess.Popen([*command, *common], stdout=log, stderr=log, start_new_session=True)
            started.append(begun)
            wait_for(folder / f"{number}.log", "runtime started", begun)
        yield
    finally:
        for process in reversed(started):
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(log: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if words in log.read_text(errors="replace"):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"Ray did not start: {log.read_text(errors='replace')[-2000:]}")


def rows(path: Path) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in TABLES}


class Pulling:
    """Progress that pulls the cable once so many samples were drawn, and plugs it in again `seconds` later (None: never)."""

    def __init__(self, at: int, seconds: float | None) -> None:
        self.at, self.seconds, self.drawn = at, seconds, 0
        self.timer: threading.Timer | None = None

    def start(self, images: int, finished: int, samples: int | None, drawn: int) -> None:
        """Nothing is drawn yet."""

    def update(self, samples: int, images: int) -> None:
        self.drawn += samples
        if self.drawn < self.at or self.at < 0:
            return
        self.at = -1
        link("set", CABLE, "down")
        if self.seconds is not None:
            self.timer = threading.Timer(self.seconds, link, ("set", CABLE, "up"))
            self.timer.start()


def round_of(asked: dict[str, Any], folder: Path, rng: random.Random, how: str) -> str | None:
    """A run whose cable is pulled; what is wrong with it, or None."""
    import diffsmooth_trt as dst
    from diffsmooth_trt.errors import DiffsmoothError

    out, samples = folder / "run.sqlite", asked["n"] * 6
    pulling, said, begun = Pulling(rng.randrange(samples // 10, samples // 2), PULLED[how]), "", time.monotonic()
    with second_machine() as inside, tempfile.TemporaryDirectory(prefix="ray") as own, cluster(Path(own), inside):
        try:
            dst.certify(**asked, out=out, ray=f"{HERE}:{PORT}", workers=2, progress=pulling).close()
        except DiffsmoothError as error:
            said = error.message
            dst.certify(**asked, out=out, resume=True).close()
        finally:
            if pulling.timer is not None:
                pulling.timer.join()
    seconds = time.monotonic() - begun
    with dst.open_run(out) as store:
        notes = "; ".join(store.record.notes)
    same = rows(out) == rows(folder / "one.sqlite")
    out.unlink()
    print(
        f"pulled {how}: {'the same rows' if same else 'OTHER ROWS'} in {seconds:.0f} s; {said or notes or 'nothing said'}",
        flush=True,
    )
    if pulling.at >= 0:
        return "the run was over before the cable was pulled"
    if not same:
        return "other rows than those of one process"
    return "an error of several lines" if "\n" in said else None


def inside_namespace(rounds: int, seed: int) -> int:
    """All rounds; how many went wrong."""
    import faults

    import diffsmooth_trt as dst
    from diffsmooth_trt.distributed import steps

    steps.PATIENCE = PATIENCE
    os.environ.update(QUICK)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    rng, wrong = random.Random(seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine, data = faults.linear(folder / "classifier.onnx", 0), faults.images(folder / "images.npz", 6, 1)
        asked: dict[str, Any] = {"method": "rs", "engine": engine, "data": data, "sigma": 0.5, "n": 40_000, "batch": 64}
        asked |= {"key": faults.KEY, "backend": "onnxruntime", "threads": 1}
        dst.certify(**asked, out=folder / "one.sqlite").close()
        for number in range(rounds):
            problem = round_of(asked, folder, rng, list(PULLED)[number % len(PULLED)])
            wrong += [problem] if problem else []
    print(f"partition: {rounds} runs, {len(wrong)} wrong {'; '.join(wrong)}", flush=True)
    return len(wrong)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    if os.environ.get(INSIDE):
        return int(inside_namespace(a.rounds, a.seed) > 0)
    why = possible()
    if why is not None:
        print(f"no network namespaces: {why}")
        return NO_NAMESPACES
    command = [*APART, "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, *sys.argv]
    return subprocess.run(command, env={**os.environ, INSIDE: "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
