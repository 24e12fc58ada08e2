"""Runs that are killed, starved and damaged: rows afterwards are those of an undisturbed run, or one line says what to do.

    python tests/faults/faults.py [FAULT …] --rounds 100 --seed 0

Each command runs in a process of its own that is forked here, so that instants are spread over its work and not over imports. After
a fault the same command goes on with --resume (merge and export start anew) until it is done. What is found is compared with the
undisturbed run; every message has to be one line and every exit status one that is documented. How much work a kill lost is the
time between the last batch that the file still knows and the kill. Exit status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import ctypes
import json
import os
import random
import resource
import select
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from diffsmooth_trt import cli, zoo
from diffsmooth_trt.certify import loop
from diffsmooth_trt.engine import METADATA_KEY, EngineFacts
from diffsmooth_trt.engine.backends import onnxruntime as backend
from diffsmooth_trt.ood import run as ood_run
from diffsmooth_trt.ood import store as ood_store
from diffsmooth_trt.report import progress as bars
from diffsmooth_trt.report import tables
from diffsmooth_trt.runs import merge as merging
from diffsmooth_trt.runs import run as running
from diffsmooth_trt.runs.part import begun
from diffsmooth_trt.transfer import run as transferring

IMPORTED = (backend, ood_run, running, merging, tables)  # before the fork: what a command would import on its way
codecs.lookup("ascii")  # likewise; another user may not be allowed to read Python's folder
KEY = "5a" * 32
TABLES = ("images", "blocks", "results", "decisions", "partial", "audit")
PAGE, WAL_HEAD, FRAME_HEAD = 4096, 32, 24
SHAPE = (3, 4, 4)
PARTIAL_SECONDS = 0.05  # in every second round: far more commits than a run has


@dataclass(frozen=True)
class Command:
    """A command by its arguments but --out; `goes_on` says whether it takes --resume."""

    name: str
    arguments: tuple[str, ...]
    suffix: str = ".sqlite"
    goes_on: bool = True

    def argv(self, out: Path, *, resume: bool = False) -> list[str]:
        return [*self.arguments, "--out", str(out), *(["--resume"] if resume and self.goes_on else [])]


@dataclass
class Ended:
    """How a process ended: its status (negative: by that signal), its lines of errors, and when it had drawn how much."""

    status: int
    errors: list[str]
    seconds: float
    drawn: list[tuple[float, int]] = field(default_factory=list)


def linear(path: Path, seed: int, *, facts: bool = True, role: str = "classifier", change: float = 0.0) -> Path:
    """A linear classifier of five classes, or a detector whose last weights are not positive, for images of SHAPE."""
    rng, size = np.random.default_rng(seed), int(np.prod(SHAPE))
    classes = 5 if role == "classifier" else 1
    weights = rng.normal(0, 0.5, (classes, size)) if role == "classifier" else -rng.random((1, size)) / size
    weights += change * rng.normal(0, 0.5, weights.shape)
    values = {"w": weights.astype(np.float32), "b": np.zeros(classes, np.float32)}
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", classes])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if facts:
        known = EngineFacts(role, SHAPE, classes=classes if role == "classifier" else None)
        helper.set_model_props(model, {METADATA_KEY: known.to_json()})
    onnx.save(model, path)
    return path


def images(path: Path, count: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    np.savez(path, images=rng.integers(0, 256, (count, *SHAPE[1:], 3), np.uint8), labels=rng.integers(0, 5, count))
    return path


def commands(folder: Path, n: int) -> dict[str, Command]:
    """All commands by name; each draws for about a second or two at n = 20,000."""
    engine = str(linear(folder / "classifier.onnx", 0))
    data, other = str(images(folder / "inside.npz", 6, 1)), str(images(folder / "outside.npz", 6, 2))
    how = ("--backend", "onnxruntime", "--threads", "1", "--batch", "256", "--key", KEY)
    asked = ("--method", "rs", "--engine", engine, "--data", data, "--sigma", "0.5", *how)
    shard = ("certify", *asked, "--n", str(n), "--shard")
    sets = ("--classifier", engine, "--in-data", data, "--out-data", other, "--sigma", "0.5", *how)
    found = [
        Command("certify", ("certify", *asked, "--n", str(n))),
        Command("radius", ("certify", *asked, "--n", str(4 * n), "--radius", "0.1", "0.4", "--family-wise")),
        Command("predict", ("predict", *asked, "--n", str(n))),
        Command("ood", ("ood", *sets, "--kind", "certified", "--tolerance", "0", "--n", str(n)), ".jsonl"),
        Command("merge", ("merge", *(str(folder / f"shard-{i}.sqlite") for i in (3, 1, 2))), goes_on=False),
        Command(
            "export", ("export", "classifier", "--onnx", str(plain(folder)), "--verify-samples", "64"), ".onnx", False
        ),
    ]
    of = folder / "attacked.sqlite"
    run(Command("certify", ("certify", *asked, "--n", "500", "--n0", "50")).argv(of))
    more = ("--threads", "1", "--key", KEY)
    effort = ("--radius", "0.2", "0.4", "--steps", "20", "--draws", "50", "--select", "500")
    near = str(linear(folder / "near.onnx", 0, change=1e-3))
    g = ("--engine", near, "--backend", "onnxruntime", "--batch", "256")
    found += [
        Command("attack", ("attack", str(of), *effort, "--n", "2000", *more), ".json"),
        Command("transfer", ("transfer", str(of), *g, "--n", str(n), *more), ".json"),
    ]
    for number in (1, 2, 3):
        run(Command("shard", (*shard, f"{number}/3")).argv(folder / f"shard-{number}.sqlite"))
    return {each.name: each for each in found}


def plain(folder: Path) -> Path:
    """The zoo's classifier as somebody's own: without the facts of an export."""
    model = onnx.load(zoo.CLASSIFIER_DDS)
    del model.metadata_props[:]
    onnx.save(model, folder / "own.onnx")
    return folder / "own.onnx"


def started(argv: Sequence[str], said: Path, before: Callable[[], object] | None) -> tuple[int, int]:
    """A process that runs a command, after `before`; and where it tells how much it has drawn."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    status = 70
    try:
        os.close(reading)
        for number, stream in ((1, os.devnull), (2, str(said))):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        total = [0]
        drawn = bars.ProgressBar.update

        def told(bar: Any, samples: int, images: int) -> None:
            total[0] += samples
            os.write(writing, struct.pack("dq", time.monotonic(), total[0]))
            drawn(bar, samples, images)

        bars.ProgressBar.update = told  # type: ignore[method-assign]
        if before is not None:
            before()
        status = cli.main(list(argv))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(argv: Sequence[str], before: Callable[[], object] | None = None, kill_after: float | None = None) -> Ended:
    """Run a command to its end, or kill it after so many seconds."""
    with tempfile.NamedTemporaryFile() as said:
        begun = time.monotonic()
        process, pipe = started(argv, Path(said.name), before)
        told = b""
        while True:
            left = None if kill_after is None else begun + kill_after - time.monotonic()
            if left is not None and left <= 0:
                os.kill(process, signal.SIGKILL)
                kill_after = None
            ready = ready_within(pipe, 0.2 if left is None else max(0.0, min(left, 0.2)))
            if ready:
                part = os.read(pipe, 1 << 16)
                if not part:
                    break
                told += part
        ended = time.monotonic()
        os.close(pipe)
        _, state = os.waitpid(process, 0)
        errors = Path(said.name).read_text(errors="replace").splitlines()
    drawn = [struct.unpack_from("dq", told, at) for at in range(0, len(told) - 15, 16)]
    return Ended(os.waitstatus_to_exitcode(state), errors, ended - begun, [(at - begun, total) for at, total in drawn])


def ready_within(pipe: int, seconds: float) -> bool:

    return bool(select.select([pipe], [], [], seconds)[0])


def rows(out: Path) -> Any:
    """What a finished file holds, but for what two runs of one configuration differ in: times, notes, the audit's choice."""
    if out.suffix == ".onnx":
        return out.read_bytes()
    if out.suffix == ".json":
        values = json.loads(out.read_bytes())
        return {name: value for name, value in values.items() if name not in ("versions", "files", "seconds")}
    if out.suffix == ".jsonl":
        lines = [json.loads(line) for line in out.read_bytes().splitlines()]
        first = {name: value for name, value in lines[0].items() if name not in ("versions", "files", "notes")}
        return first, sorted(json.dumps(line, sort_keys=True) for line in lines[1:] if "audit" not in line)
    with contextlib.closing(sqlite3.connect(out)) as connection:
        found: dict[str, Any] = {t: sorted(connection.execute(f"SELECT * FROM {t}").fetchall()) for t in TABLES}
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    return {
        **found,
        **{name: value for name, value in meta.items() if name not in ("audit", "notes", "evaluations", "files")},
    }


def held(out: Path) -> int:
    """How many samples a file knows after a kill; it is copied, so that looking at it mends nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for part in out.parent.glob(f"{out.name}*"):
            shutil.copy(part, folder)
        copy = Path(folder) / out.name
        if out.suffix == ".jsonl":
            lines = [
                json.loads(line) for line in copy.read_bytes().splitlines(keepends=True)[1:] if line.endswith(b"\n")
            ]
            done = {(line["set"], line["row"]): line["n"] for line in lines if "n" in line}
            draws = copy.with_name(f"{copy.name}.draws")
            states = json.loads(draws.read_bytes())["images"] if draws.exists() else []
            return sum(done.values()) + sum(sum(s["counts"]) for s in states if (s["set"], s["row"]) not in done)
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            query = "SELECT COALESCE(SUM(stop - start), 0) FROM {}"
            return sum(connection.execute(query.format(table)).fetchone()[0] for table in ("blocks", "partial"))


@dataclass
class Tally:
    """What a fault did, in all rounds."""

    rounds: int = 0
    faults: int = 0
    refused: int = 0  # in one line
    lost: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def line(self, name: str, seconds: float) -> str:
        lost = f", most work lost {self.lost:.2f} s" if self.lost else ""
        return (
            f"{name}: {self.rounds} runs, {self.faults} faults, {self.refused} answered in one line{lost}, "
            f"{len(self.wrong)} wrong, in {seconds:.0f} s"
        )


class Harness:
    """The commands, what each gives undisturbed, and how long that takes."""

    def __init__(self, folder: Path, names: Sequence[str], n: int, seed: int) -> None:
        self.folder, self.random, self.tally = folder, random.Random(seed), Tally()
        known = commands(folder, n)
        self.commands = [known[name] for name in names]
        self.whole: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        for each in self.commands:
            out = folder / f"whole-{each.name}{each.suffix}"
            ended = run(each.argv(out))
            if ended.status:
                raise SystemExit(f"{each.name} fails undisturbed: {ended.errors}")
            self.whole[each.name], self.seconds[each.name] = rows(out), ended.seconds

    @contextlib.contextmanager
    def round(self, command: Command) -> Iterator[Path]:
        """A new --out, in a folder of its own; what is there in the end is compared with the undisturbed run's."""
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            out = Path(own) / f"run{command.suffix}"
            yield out
            self.tally.rounds += 1
            try:
                same = rows(out) == self.whole[command.name]
            except (OSError, ValueError, LookupError, sqlite3.Error) as error:
                self.wrong(command, f"the file cannot be read ({error})")
            else:
                if not same:
                    self.wrong(command, "other rows than the undisturbed run's")

    def wrong(self, command: Command, said: str) -> None:
        self.tally.wrong.append(f"{command.name}: {said}")
        print(f"WRONG {command.name}: {said}", flush=True)

    def check(self, command: Command, ended: Ended, *, may: Sequence[int] = (0,)) -> None:
        """A documented status, and one line of errors unless it is 0."""
        if ended.status not in may:
            self.wrong(command, f"exit status {ended.status}: {' | '.join(ended.errors)[-400:]}")
        elif ended.status > 0:
            self.tally.refused += 1
            if len(ended.errors) != 1:
                self.wrong(command, f"{len(ended.errors)} lines of errors: {' | '.join(ended.errors)[-400:]}")

    def finish(self, command: Command, out: Path) -> None:
        """Go on to the end, as the command line says; a file that is whole already stays."""
        if out.exists() and not command.goes_on:
            return
        self.check(command, run(command.argv(out, resume=begun(out, True) is not None)))

    def often(self) -> Callable[[], None] | None:
        """In every second round, far more commits than a run makes by itself."""
        if self.tally.rounds % 2:
            return None

        def set_clocks() -> None:
            loop.COMMIT_SECONDS = ood_store.SYNC_SECONDS = PARTIAL_SECONDS

        return set_clocks

    # The faults

    def kill(self, command: Command, *, faults: int) -> int:
        """SIGKILL at instants spread over the run, up to `faults` times; the work lost is measured where commits come as always."""
        often, done = self.often(), 0
        with self.round(command) as out:
            for _ in range(min(faults, 4)):
                if out.exists() and not command.goes_on:
                    break
                counted = out.exists() and command.goes_on and command.suffix != ".json"
                before = held(out) if counted else 0
                ended = run(
                    command.argv(out, resume=begun(out, True) is not None),
                    often,
                    self.random.uniform(0, self.seconds[command.name]),
                )
                if ended.status == 0:
                    break
                done += 1
                if ended.status != -signal.SIGKILL:
                    self.wrong(command, f"exit status {ended.status}: {' | '.join(ended.errors)[-400:]}")
                elif often is None and ended.drawn and command.suffix != ".json":  # those lose what is in work
                    kept = held(out) - before if out.exists() else 0
                    safe = [at for at, total in ended.drawn if total <= kept]
                    self.tally.lost = max(self.tally.lost, ended.seconds - (safe[-1] if safe else ended.drawn[0][0]))
            self.finish(command, out)
        return done

    def limited(self, command: Command, kind: int, most: int) -> int:
        """A limit of the process, at random up to `most` (of memory, small ones as often as large ones), and then none."""
        # A file of errors is a file, too: a line has room in it.
        limit = (
            1000 + self.random.randrange(most) if kind == resource.RLIMIT_FSIZE else int(most ** self.random.random())
        )

        def limit_it() -> None:
            value = limit if kind == resource.RLIMIT_FSIZE else own_memory() + limit
            resource.setrlimit(kind, (value, resource.RLIM_INFINITY))

        with self.round(command) as out:
            self.check(command, run(command.argv(out), limit_it), may=(0, 1, 2))
            self.finish(command, out)
        return 1

    def size(self, command: Command) -> int:
        """No file may grow past a size, wherever that falls."""
        whole = (self.folder / f"whole-{command.name}{command.suffix}").stat().st_size
        return self.limited(command, resource.RLIMIT_FSIZE, 3 * whole // 2)

    def memory(self, command: Command) -> int:
        """Little memory beyond what the process has."""
        return self.limited(command, resource.RLIMIT_AS, 16 << 20)

    def full(self, command: Command) -> int:
        """A file system of a few pages that fills up; its files are copied to a larger one afterwards."""
        pages = self.random.randrange(4, 64)
        with self.round(command) as out, tempfile.TemporaryDirectory(dir=self.folder) as mount:
            small = Path(mount) / out.name

            def shrink() -> None:
                mounted(mount, pages * PAGE)
                real = cli.main

                def main(argv: Sequence[str]) -> int:
                    try:
                        return real(argv)
                    finally:
                        for part in Path(mount).iterdir():
                            shutil.copy(part, out.parent)

                cli.main = main  # type: ignore[assignment]

            self.check(command, run(command.argv(small), shrink), may=(0, 1, 2))
            self.finish(command, out)
        return 1

    def read_only(self, command: Command) -> int:
        """A run that was killed lies where its user may not write."""
        with self.round(command) as out:
            run(command.argv(out), self.often(), self.random.uniform(0.3, 1) * self.seconds[command.name])
            if out.exists() and command.goes_on:
                for path in (self.folder, out.parent):
                    path.chmod(0o755)
                for part in out.parent.iterdir():
                    part.chmod(0o644)
                if os.getuid() == 0:
                    self.check(command, run(command.argv(out, resume=True), lambda: os.setuid(65534)), may=(1, 2))
                else:
                    out.chmod(0o444), out.parent.chmod(0o555)
                    self.check(command, run(command.argv(out, resume=True)), may=(1, 2))
                    out.parent.chmod(0o755), out.chmod(0o644)
            self.finish(command, out)
        return 1

    def clock(self, command: Command) -> int:
        """The clock of the day jumps by up to a year whenever it is looked at."""
        rng = random.Random(self.random.random())

        def jump() -> None:
            real = time.time
            time.time = lambda: real() + rng.uniform(-3e7, 3e7)

        with self.round(command) as out:
            run(command.argv(out), jump, self.random.uniform(0, 1) * self.seconds[command.name])
            if not (out.exists() and not command.goes_on):
                self.check(command, run(command.argv(out, resume=begun(out, True) is not None), jump))
        return 1

    def writers(self, command: Command) -> int:
        """A second process goes on with the run while the first still writes."""
        with self.round(command) as out, tempfile.NamedTemporaryFile() as said:
            process, pipe = started(command.argv(out), Path(said.name), None)
            while not out.exists() and ready_within(pipe, 0.02) is False:
                pass
            second = run(command.argv(out, resume=True)) if out.exists() else None
            while os.read(pipe, 1 << 16):
                pass
            os.close(pipe)
            first = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            if second is not None:
                self.check(command, second, may=(0, 2))  # 0 where the first was done meanwhile
            if first:
                self.wrong(command, f"the first writer ended with {first}: {Path(said.name).read_text()[-300:]}")
            self.finish(command, out)
        return 1

    def torn(self, command: Command) -> int:
        """The end of what was written last is lost or garbled, as when the power fails: the log of a store, the last lines."""
        with self.round(command) as out:
            run(command.argv(out), self.often(), self.random.uniform(0.4, 1) * self.seconds[command.name])
            beside = {".sqlite": f"{out.name}-wal", ".jsonl": f"{out.name}.draws"}[command.suffix]
            for part in (out.with_name(beside), *([out] if command.suffix == ".jsonl" else [])):
                if part.exists() and part.stat().st_size:
                    self._tear(part)
            out.with_name(f"{out.name}-shm").unlink(missing_ok=True)
            if out.exists():
                ended = run(command.argv(out, resume=True))
                self.check(command, ended, may=(0, 2))
                if ended.status == 2 and "remove it" in ended.errors[0]:
                    out.with_name(beside).unlink()
                elif ended.status == 2:  # the first line of a file was not on disk yet: nothing was
                    out.unlink()
            self.finish(command, out)
        return 1

    def _tear(self, path: Path) -> None:
        data, kind = bytearray(path.read_bytes()), self.random.randrange(3)
        if path.suffix == ".jsonl":
            lines = data.splitlines(keepends=True)
            first = len(lines[0])  # the file appears whole with its first line
            path.write_bytes(bytes(data[: self.random.randrange(first, len(data) + 1)]))
            return
        frames = max(0, len(data) - WAL_HEAD) // (PAGE + FRAME_HEAD)
        edge = WAL_HEAD + self.random.randrange(frames + 1) * (PAGE + FRAME_HEAD)
        at = min(edge + self.random.choice((0, 0, 1, FRAME_HEAD, 512, PAGE)), len(data))
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at:] = bytes(len(data) - at)
        else:
            data[at : at + 512] = self.random.randbytes(min(512, len(data) - at))
        path.write_bytes(bytes(data))


def own_memory() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def mounted(folder: str, size: int) -> None:
    """Mount a file system of `size` bytes for this process alone; OSError where it may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_mounts = 0x10000000, 0x00020000
    user, group = os.getuid(), os.getgid()
    if libc.unshare(new_user | new_mounts):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", folder.encode(), b"tmpfs", 0, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount")


def may_mount() -> bool:
    """Whether this user may mount a file system of its own."""
    process = os.fork()
    if not process:
        with tempfile.TemporaryDirectory() as folder:
            try:
                mounted(folder, PAGE)
            except OSError:
                os._exit(1)
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


WHOLE = ("attack", "transfer")  # whose files are written at the end
STORES, RUNS = ("certify", "radius", "predict"), ("certify", "radius", "predict", "ood")
FAULTS: dict[str, tuple[str, ...]] = {
    "kill": (*RUNS, *WHOLE, "merge", "export"),
    "size": (*RUNS, *WHOLE, "merge"),
    "full": (*RUNS, *WHOLE, "merge"),
    "read_only": RUNS,
    "clock": (*RUNS, *WHOLE, "merge"),
    "writers": RUNS,
    "memory": RUNS,
    "torn": RUNS,
}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("faults", nargs="*", metavar="FAULT", help=f"default: {', '.join(FAULTS)}")
    p.add_argument("--rounds", type=int, default=100, help="faults of each kind")
    p.add_argument("--n", type=int, default=20_000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--without", nargs="*", default=[], metavar="COMMAND")
    a = p.parse_args()
    unknown = [name for name in a.faults if name not in FAULTS]
    if unknown:
        print(f"fault {unknown[0]} is unknown: use {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    asked = a.faults or list(FAULTS)
    names = dict.fromkeys(name for fault in asked for name in FAULTS[fault] if name not in a.without)
    wrong = 0
    if "export" in names:
        import diffsmooth_trt.exporting.onnx_classifier  # noqa: F401  (torch, before the fork)
    if "attack" in names:
        import diffsmooth_trt.attack.run as attacking

        attacking.TOGETHER = 2  # of the images that are kept as they are done
    transferring.TOGETHER = 2
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder), list(names), a.n, a.seed)
        known = {each.name: each for each in harness.commands}
        for fault in asked:
            if fault == "full" and not may_mount():
                print("full: this user may not mount a file system: left out", flush=True)
                continue
            harness.tally, start, at = Tally(), time.perf_counter(), asked.index(fault)  # few rounds meet all commands
            mine = [known[name] for name in FAULTS[fault] if name in known]
            while harness.tally.faults < a.rounds:
                command, left = mine[at % len(mine)], a.rounds - harness.tally.faults
                more = {"faults": left} if fault == "kill" else {}
                harness.tally.faults += getattr(harness, fault)(command, **more)
                at += 1
            wrong += len(harness.tally.wrong)
            print(harness.tally.line(fault, time.perf_counter() - start), flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
