"""Damaged files of every format that the package reads: each is read, or refused in one line.

    python tests/fuzz/fuzz.py [FORMAT …] --inputs 100000 --seed 0

Inputs are made from sound files: bytes are changed, cut and spliced, and where a format has a structure, values of it are replaced
by odd ones (JSON, tables of SQLite, pickles that would run code). An input fails that raises anything but the package's own errors,
takes longer than 10 seconds, takes more memory than four times what it holds and ROOM, or runs code; it is kept in --out.
Exit status 1 where one did. A picture holds what its header says, which Pillow limits to 179 million pixels.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import foreign
import numpy as np
from foreign import RAN
from inputs import DEEP, OF_A_CELL, Format, bytes_changed, json_changed, text_changed

import diffsmooth_trt as dst
from diffsmooth_trt import zoo
from diffsmooth_trt.attack.kept import kept_points
from diffsmooth_trt.bench.report import compare
from diffsmooth_trt.bench.result import BenchResult, Products, Row, Spread
from diffsmooth_trt.engine import EngineFacts
from diffsmooth_trt.engine.backends.tensorrt_check import read_checks
from diffsmooth_trt.engine.record import parse_record
from diffsmooth_trt.errors import DiffsmoothError
from diffsmooth_trt.files import parsed_json
from diffsmooth_trt.images import Image
from diffsmooth_trt.noise import Key
from diffsmooth_trt.ood.record import OodRecord
from diffsmooth_trt.ood.report import text_report, versions_of
from diffsmooth_trt.ood.store import OodStore
from diffsmooth_trt.ood.tasks import KIND as DRAWS
from diffsmooth_trt.ood.tasks import DrawsFile, Task
from diffsmooth_trt.report.tables import summarise, text_table
from diffsmooth_trt.runs.record import naming_damage
from diffsmooth_trt.runs.shard import shared_key

CHECKS = b'{"format": 1, "checks": [{"plan": "0", "gpu": "x", "driver": "1", "tensorrt": "10", "largest": 0.1}]}'
SECONDS = 10
MEMORY = 6 * 2**30  # of the whole process, libraries included
TIMES, ROOM = (
    4,
    64 * 2**20,
)  # what reading may take: so many times what the input holds, and what libraries keep for themselves
OLD = Path(__file__).resolve().parents[1] / "data" / "run-format-3.sql"  # a store of release 0.4


def lines_changed(rng: random.Random, data: bytes) -> bytes:
    """JSON lines with the values of one changed, one left out, or two exchanged."""
    lines = data.splitlines()
    at, kind = rng.randrange(len(lines)), rng.randrange(8)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    else:
        lines[at] = text_changed(rng, lines[at])
    return b"\n".join(lines) + b"\n"


def store_changed(rng: random.Random, data: bytes) -> bytes:
    """A run store with cells of its tables changed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.sqlite"
        path.write_bytes(data)
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            for _ in range(rng.choice((1, 1, 2, 5))):
                _cell_changed(rng, connection)
        except sqlite3.Error:
            pass  # a constraint: as it was
        finally:
            connection.close()
        return path.read_bytes()


def _cell_changed(rng: random.Random, connection: sqlite3.Connection) -> None:
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    table = rng.choice([*tables, "meta", "blocks", "results"])
    kind = rng.randrange(12)
    if kind == 0:
        connection.execute(f"DROP TABLE {table}")
        return
    if kind == 1:
        connection.execute(f"DELETE FROM {table} WHERE random() % 3 = 0")
        return
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    rows = connection.execute(f"SELECT * FROM {table}").fetchall()
    if not rows:
        return
    row, column = rng.choice(rows), rng.randrange(len(columns))
    where = " AND ".join(f"{name} IS ?" for name in columns)
    value: Any = row[column]
    try:
        held = json.loads(value)
        counts = columns[column] == "counts" and isinstance(held, dict) and rng.random() < 0.5
        value = votes_changed(rng, held) if counts else json.dumps(json_changed(rng, held), separators=(",", ":"))
        value = rng.choice((value,) * 50 + (DEEP,))
    except (TypeError, ValueError, RecursionError):
        value = rng.choice(OF_A_CELL)
    connection.execute(f"UPDATE {table} SET {columns[column]} = ? WHERE {where}", (value, *row))


def votes_changed(rng: random.Random, votes: dict[str, int]) -> str:
    """Votes by class with names and numbers that no run writes: another class, another way to write it, one class twice."""
    pairs = [(json.dumps(name), json.dumps(count)) for name, count in votes.items()]
    at = rng.randrange(len(pairs)) if pairs else 0
    name, count = pairs[at] if pairs else ('"0"', "1")
    kind = rng.randrange(6)
    if kind == 0:
        number = int(json.loads(name))
        name = json.dumps(
            rng.choice((f"0{number}", f"+{number}", f" {number}", f"{number}.0", f"-{number}", "", "9" * 5000))
        )
    elif kind == 1:
        name = json.dumps(str(rng.choice((10, 11, 999_999, 2**31, 2**63, 2**64))))
    elif kind == 2:
        count = rng.choice(("0", "-1", "1.0", "true", "null", "1e3", "NaN", str(2**63), str(2**64), "9" * 5000))
    elif kind == 3:
        pairs.insert(rng.randrange(len(pairs) + 1), (name, count))
    elif kind == 4:
        rng.shuffle(pairs)
        return "{" + rng.choice((",", ", ", " , ")).join(f"{a}:{b}" for a, b in pairs) + "}"
    else:
        pairs.append((json.dumps(str(rng.randrange(12))), str(rng.randrange(1000))))
        at = len(pairs) - 1
        name, count = pairs[at]
    pairs[at : at + 1] = [(name, count)]
    return "{" + ",".join(f"{a}:{b}" for a, b in pairs) + "}"


def made_runs(folder: Path) -> list[bytes]:
    """Sound run stores of several kinds."""
    found = []
    asked: dict[str, Any] = {
        "method": "rs",
        "sigma": 0.25,
        "engine": zoo.CLASSIFIER_DDS,
        "data": zoo.IMAGES,
        "max": 2,
        "n0": 5,
    }
    for number, how in enumerate(
        ({"n": 40}, {"n": 60, "radius": (0.1, 0.2), "family_wise": True}, {"n": 60, "tolerance": 0.1})
    ):
        path = folder / f"{number}.sqlite"
        dst.certify(**asked, **how, out=path, backend="onnxruntime").close()
        found.append(path.read_bytes())
    path = folder / "p.sqlite"
    del asked["n0"]
    dst.predict(**asked, n=40, out=path, backend="onnxruntime").close()
    old = folder / "old.sqlite"
    with contextlib.closing(sqlite3.connect(old)) as connection:
        connection.executescript(OLD.read_text(encoding="utf-8"))
    return [*found, path.read_bytes(), old.read_bytes()]


def made_ood(folder: Path) -> list[bytes]:
    """Sound files of `ood`."""
    from diffsmooth_trt.ood.config import OodConfig
    from diffsmooth_trt.ood.run import run

    found = []
    for kind, more in (("clean", {}), ("certified", {"sigma": 0.25, "n": 60})):
        config = OodConfig(
            classifier=zoo.CLASSIFIER_DDS, in_data=zoo.IMAGES, out_data=("generated:uniform",), out=folder / f"{kind}.jsonl", max=2,
            kind=kind, backend="onnxruntime", **more,
        )  # fmt: skip
        run(config).close()
        found.append(config.out.read_bytes())
    return found


def made_attack(folder: Path) -> bytes:
    """A sound file of `attack`, of which no votes were drawn."""
    from diffsmooth_trt.attack.file import AttackFile, Budget
    from diffsmooth_trt.attack.rule import Attacked, Point

    def point(epsilon: float, squared: int, selection: dict[int, int], votes: dict[int, int] | None) -> Point:
        return Point(epsilon=epsilon, squared=squared, sha256="0" * 64, selection=selection, votes=votes)

    with dst.open_run(folder / "0.sqlite") as store:
        record = store.record
    given: dict[str, Any] = {"sha256": "0" * 64, "distance": 0.0}
    broken = (point(0.1, 600, {3: 15, 1: 5}, None), point(0.2, 1200, {3: 5, 1: 15}, {1: 80}))
    silent = (point(0.1, 600, {0: 20}, None), point(0.2, 2600, {0: 10, 1: 10}, {0: 40, 1: 40}))
    images = [
        Attacked(index=0, label=3, predict=3, radius=0.15, clean=None, points=broken, **given),
        Attacked(index=1, label=0, predict=-1, radius=0.0, clean={0: 40, 1: 40}, points=silent, **given),
    ]
    made = AttackFile(
        path=folder / "a.json", run="0.sqlite", record=record, radii=(0.1, 0.2), n=80, alpha=0.01, key=Key.draw(), key_drawn=True,
        budget=Budget(steps=1, draws=1, restarts=1, select=20), versions={}, seconds={}, kept=None, images=images,
    )  # fmt: skip
    made.write()
    return made.path.read_bytes()


def made_transfers(folder: Path) -> list[bytes]:
    """Sound files of `transfer`, of which no pairs were drawn: of a fixed number of draws, and of a run that may stop early."""
    from diffsmooth_trt.statistics.sequential import looks
    from diffsmooth_trt.transfer.file import TransferFile, Transferred
    from diffsmooth_trt.transfer.pairs import Alone, Drawn, Pairs
    from diffsmooth_trt.transfer.rule import TransferRule
    from diffsmooth_trt.transfer.run import NOTHING

    found = []
    for name in ("0", "2"):
        with dst.open_run(folder / f"{name}.sqlite") as store:
            record = store.record
        rule, images = TransferRule(record, 30, 0.5), []
        ends = looks(record.stopping.n) if record.stopping.sequential else (record.stopping.n,)
        for index, share in enumerate((1.0, 0.6)):
            hits = tuple(int(share * end) for end in ends)
            alone, draws = rule.draws(hits, ends[-1])
            drawn: Drawn = Alone(draws - 1, 1) if alone else Pairs(draws - 3, 1, 1, 1)
            image = Transferred(
                index=index, label=3, sha256="0" * 64, distance=0.0, chosen=3, hits=hits, trials=ends[-1], pairs=drawn,
                outcome=NOTHING,
            )  # fmt: skip
            images.append(replace(image, outcome=rule.outcome(image.evidence)))
        made = TransferFile(
            path=folder / f"t{name}.json", run=f"{name}.sqlite", record=record, classifier=record.classifier, pairs=30, alpha=0.5,
            key=Key.draw(), key_drawn=False, files={}, versions={}, rows={}, images=images,
        )  # fmt: skip
        made.write()
        found.append(made.path.read_bytes())
    return found


def read_attack(path: Path) -> None:
    from diffsmooth_trt.attack.file import AttackFile
    from diffsmooth_trt.attack.report import text

    text(AttackFile.read(path))


def read_transfer(path: Path) -> None:
    from diffsmooth_trt.transfer.file import TransferFile
    from diffsmooth_trt.transfer.report import text

    text(TransferFile.read(path))


def made_bench() -> BenchResult:
    spread = Spread(100.0, 90.0, 110.0, 3)
    products = {"classifier": Products(precision="fp32", seconds=0.1, gflops=5.0, share=0.5)}
    row = Row(subject="steps", batch=64, auto=False, rate=spread, latency=spread, latency_p95=0.2, engines=products)
    versions = {"classifier": {"sha256": "0" * 64}}, {"cpu": "x", "threads": 2}
    return BenchResult(
        classifier=versions[0], machine=versions[1], rounds=3, rows=[row], matmul={"fp32": spread}, notes=["x"], seconds=1.0,
        others=0.1,
    )  # fmt: skip


def read_bench(path: Path) -> None:
    new = made_bench()
    compare(BenchResult.read(path), new, 0.05, path.name)


def draws() -> bytes:
    """The counts of an unfinished image, as a certified run of `ood` keeps them."""
    state = {
        "set": 0, "row": 0, "sha256": "0" * 64, "selected": True, "drawn": 100, "stop": 200, "left": [[150, 200]],
        "bins": [0, 7], "counts": [100, 50], "votes": [[100, 0], [150, 0]],
    }  # fmt: skip
    return json.dumps({"file": DRAWS, "run": hashlib.sha256(b"").hexdigest(), "images": [state]}).encode()


def read_draws(path: Path) -> None:
    image = Image(0, 0, np.zeros((8, 8, 3), np.uint8))
    for state in DrawsFile(path.with_suffix(""), b"").read().values():
        with naming_damage("the file holds values"):
            Task.of_state(image, state)


def points() -> bytes:
    """What an attack keeps of its points."""
    buffer = BytesIO()
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez_compressed(buffer, images=images, labels=np.arange(2), index=np.arange(2), epsilon=np.array([0.1, 0.2]))
    return buffer.getvalue()


def read_checks_of(path: Path) -> None:
    found = read_checks(path.with_name(path.name.removesuffix(".checks.json")))
    json.dumps(found)


def read_store(path: Path) -> None:
    with dst.open_run(path) as store:
        text_table([summarise(store)])
    dst.status(path)


def read_ood(path: Path) -> None:
    with OodStore.open(path) as store, naming_damage(f"{path} holds values"):
        text_report(store, versions_of(store, (0.0, 0.25)))


def facts() -> bytes:
    made = EngineFacts(
        role="denoiser", input_shape=(3, 8, 8), sigma=0.25, details={"external_data": {"name": "x", "sha256": "0"}}
    )
    return made.to_json().encode()


def ood_line(data: bytes) -> bytes:
    return data.splitlines()[0]


def formats(folder: Path, wanted: Sequence[str] = ()) -> dict[str, Format]:
    """All formats by name; see `foreign.formats`."""
    ood = made_ood(folder)
    found = [
        Format("store", ".sqlite", made_runs(folder), read_store, store_changed),
        Format("attack", ".json", [made_attack(folder)], read_attack, text_changed),
        Format("transfer", ".json", made_transfers(folder), read_transfer, text_changed),
        Format("ood", ".jsonl", ood, read_ood, lines_changed),
        Format(
            "ood-record",
            ".json",
            [ood_line(data) for data in ood],
            lambda path: _record(path),
            text_changed,
        ),
        Format("facts", ".json", [facts()], lambda path: EngineFacts.from_json(_text(path)), text_changed),
        Format("record", ".plan.json", [_plan_record()], _read_record, text_changed),
        Format("bench", ".json", [made_bench().to_json().encode()], read_bench, text_changed),
        Format("draws", ".draws", [draws()], read_draws, text_changed),
        Format("checks", ".checks.json", [CHECKS], read_checks_of, text_changed),
        Format("points", ".npz", [points()], kept_points),
        Format("key", ".txt", [b"5a" * 32, b"5a" * 32 + b"\n"], shared_key),
        *foreign.formats(folder, wanted),
    ]
    return {each.name: each for each in found}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _record(path: Path) -> None:
    with naming_damage("the line holds values"):
        try:
            value = parsed_json(path.read_bytes())
        except ValueError:
            return
        OodRecord.from_meta(value)


def _plan_record() -> bytes:
    from diffsmooth_trt.engine.record import Record

    facts = EngineFacts(role="classifier", input_shape=(3, 8, 8), classes=10)
    source, machine = {"name": "x.onnx", "sha256": "0" * 64}, {"gpu": "x", "tensorrt": "10.0"}
    made = Record(kind="plan", sha256="0" * 64, batch=4, facts=facts, source=source, machine=machine)
    return made.to_json().encode()


def _read_record(path: Path) -> None:
    target = path.with_name("engine.plan")
    target.write_bytes(b"")
    shutil.copy(path, target.with_name("engine.plan.json"))
    parse_record(target, "plan")


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """At most SECONDS for what is done within."""

    def late(*_: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def memory(name: str) -> int:
    """Bytes of this process: VmRSS, what it has, or VmHWM, what it had at most since `watched`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def watched(form: Format, path: Path) -> tuple[str | None, int]:
    """As `failure`, or that reading took too much memory; and the bytes that it took."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
    before = memory("VmRSS")
    said = failure(form, path)
    taken = memory("VmHWM") - before
    if said is None and taken > ROOM and taken > ROOM + TIMES * form.holds(path.read_bytes()):
        said = f"{taken >> 20} MiB taken"
    return said, taken


def failure(form: Format, path: Path) -> str | None:
    """Why reading the file fails as it must not; None where it is read or refused in one line."""
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form.read(path)
    except DiffsmoothError as error:
        said = error.message
        if "\n" in said.strip() or len(said) > 2000:
            return f"an error of {len(said)} characters or several lines"
    except BaseException as error:  # whatever it is
        return f"{type(error).__name__}: {str(error)[:300]}"
    if RAN.exists():
        RAN.unlink()
        return "code was run"
    return None


def fuzz(form: Format, inputs: int, seed: int, kept: Path) -> int:
    """How many of `inputs` inputs fail; the first ten of a kind are kept in `kept`."""
    rng, failed, kinds, most = random.Random(f"{form.name} {seed}"), 0, {}, 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"input{form.suffix}"
        for data in form.seeds:  # sound ones are read; what is imported on the way is
            path.write_bytes(data)
            form.read(path)
        for number in range(inputs):
            data = rng.choice(form.seeds)
            changed = (
                form.change(rng, data) if form.change is not None and rng.random() < 0.7 else bytes_changed(rng, data)
            )
            path.write_bytes(changed)
            (kept / f"{form.name}-last{form.suffix}").write_bytes(changed)  # what was read, should the process die
            said, taken = watched(form, path)
            most = max(most, taken)
            for log in Path(folder).glob("*-wal"):
                log.unlink()
            if said is None:
                continue
            failed += 1
            kind = said[:60]
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] <= 3:
                target = kept / f"{form.name}-{seed}-{number}{form.suffix}"
                target.write_bytes(changed)
                print(f"{form.name}, input {number}: {said} ({target.name})", flush=True)
    (kept / f"{form.name}-last{form.suffix}").unlink(missing_ok=True)
    took = f"{time.perf_counter() - start:.0f} s, at most {most / 2**20:.0f} MiB"
    print(f"{form.name}: {inputs} inputs in {took}, {failed} failed", flush=True)
    return failed


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("formats", nargs="*", metavar="FORMAT")
    p.add_argument("--inputs", type=int, default=1000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("build/fuzz"))
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        known = formats(Path(folder), a.formats)
        unknown = [name for name in a.formats if name not in known]
        if unknown:
            print(f"format {unknown[0]} is unknown: use {', '.join(known)}", file=sys.stderr)
            return 2
        return int(sum(fuzz(known[name], a.inputs, a.seed, a.out) for name in a.formats or known) > 0)


if __name__ == "__main__":
    sys.exit(main())
