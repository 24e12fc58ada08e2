"""The JSON beside a compiled engine: what was built from what, and the hash without which nothing of it is loaded.

Plans and AOTInductor packages are executable code. Their record is written by the export that made them, and a file whose
SHA-256 is not the recorded one is refused before any library sees a byte of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MALFORMED, InputError, StoreError
from ..files import file_sha256, parsed_json
from .facts import EngineFacts
from .graph import agreed
from .rows import VERSION

FORMAT = 1
KINDS = {"plan": "a TensorRT plan", "pt2": "an AOTInductor package"}
HOW = {"plan": "`diffsmooth-trt export plan`", "pt2": "`diffsmooth-trt export … --out FILE.pt2`"}


def record_path(path: Path) -> Path:
    """Where the record of the engine file `path` is: beside it, under its name with .json after it."""
    return path.with_name(f"{path.name}.json")


@dataclass(frozen=True)
class Record:
    """What is known of a compiled engine file.

    `kind` is a key of KINDS, `sha256` that of the file, `batch` the rows of every batch, `source` the name and SHA-256 of
    what it was compiled from (with "weights": those of further files by name), `machine` what it was compiled on and
    runs on, `settings` what the compiler was told. `rows` is the proof that rows of the graph it was compiled from are
    independent (engine/rows): "version" of the rules, number of "rows" and "nodes", SHA-256 of the "graph"; None where there
    is none, as in records from before there were proofs.
    """

    kind: str
    sha256: str
    batch: int
    facts: EngineFacts
    source: Mapping[str, Any]
    machine: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Any] | None = None

    @property
    def independence(self) -> str:
        """Whether rows are "proved" independent, or "assumed" so. Only a proof by the present rules counts."""
        return "proved" if self.rows is not None and self.rows.get("version") == VERSION else "assumed"

    def to_json(self) -> str:
        """Indented JSON, keys sorted."""
        values = {name: getattr(self, name) for name in ("kind", "sha256", "batch", "source", "machine", "settings")}
        content = {"format": FORMAT, **values, "facts": json.loads(self.facts.to_json())}
        if self.rows is not None:
            content["rows"] = self.rows
        return json.dumps(content, sort_keys=True, indent=2) + "\n"


def parse_record(path: Path, kind: str) -> Record:
    """The record of the engine file `path`, which is not looked at; InputError where the record is missing or damaged."""
    name, made = path.name, HOW[kind]
    try:
        text = record_path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path} has no record {record_path(path).name} beside it: {KINDS[kind]} is executable code and is loaded "
            f"only with the record of its export; copy both, or make it with {made}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{record_path(path)} cannot be read ({error}): copy it again or export again") from None
    try:
        values = dict(parsed_json(text))
        if values.pop("format") != FORMAT or values["kind"] != kind:
            raise InputError(f"{record_path(path)} is not a record of {KINDS[kind]} of format {FORMAT}: export again")
        facts = EngineFacts.from_json(json.dumps(values.pop("facts")), name)
        record = Record(facts=facts, **values)
        if not all(isinstance(getattr(record, part), dict) for part in ("source", "machine", "settings")):
            raise TypeError("its parts are not objects")
        if type(record.batch) is not int or record.batch < 1:
            raise TypeError(f"batch {record.batch!r}")
        _check_rows(path, record)
    except MALFORMED as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{record_path(path)} is not a record of an export ({error}): export again") from None
    return record


def read_record(path: Path, kind: str) -> Record:
    """The record of the engine file `path`, which is hashed; raises InputError unless the two belong together."""
    record, sha256 = parse_record(path, kind), file_sha256(path)
    if sha256 != record.sha256:
        raise InputError(
            f"{path} is not the file its record was written for (SHA-256 {sha256[:12]}…, recorded "
            f"{str(record.sha256)[:12]}…) and was not loaded: copy both again, or make it again with {HOW[kind]}"
        )
    return record


def _check_rows(path: Path, record: Record) -> None:
    """InputError unless the record's proof, where it has one, is a proof, of the graph that the file was compiled from."""
    if record.rows is None:
        return
    if not isinstance(record.rows, dict):
        raise TypeError(f"rows {record.rows!r}")
    again = f"make it again with {HOW[record.kind]}"
    if "refused" in record.rows:
        raise InputError(
            f"{path} was compiled from a graph that is not proved to keep rows apart ({str(record.rows['refused'])[:200]}): "
            f"take that out of the network and {again}"
        )
    graph = record.source.get("sha256") if record.kind == "plan" else record.rows.get("graph")
    if record.rows.get("rows") != record.batch or not graph or record.rows.get("graph") != graph:
        raise InputError(f"the record of {path} has a proof of independent rows for another graph or batch: {again}")


def agreed_record(path: Path, kind: str, role: str | None, sigma: float | None, batch: int | None = None) -> Record:
    """`read_record`, its facts checked against the `role`, `sigma` (image units) and `batch` that the caller needs."""
    record = read_record(path, kind)
    record = dataclasses.replace(record, facts=agreed(path, record.facts, role, sigma))
    if batch not in (None, record.batch):
        made = "built" if kind == "plan" else "exported"
        raise InputError(
            f"engine {path.name} was {made} for batches of {record.batch}, the run asks for {batch}: --batch {record.batch}"
        )
    return record


def read_checked(path: Path, record: Record) -> bytes:
    """The content of `path`, hashed once more as it is handed out: nothing can be put in its place in between."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise InputError(f"{path} changed while it was being opened and was not loaded: copy it again")
    return content


@contextmanager
def draft_folder(out: Path) -> Iterator[Path]:
    """A fresh folder beside `out` for its drafts, gone afterwards; raises InputError where none can be made."""
    if out.is_dir() or not out.name:
        raise InputError(f"--out {out} is a folder: name a file in it")
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror or error}") from None
    with folder as name:
        yield Path(name)


def publish(draft: Path, record: Record, out: Path) -> None:
    """Move a finished draft to `out` and its record beside it, each whole or not at all; StoreError where that fails.

    Between the two moves, or if the second fails, the record is another file's: the pair is then refused, never run.
    """
    try:
        written = record_path(draft)
        written.write_text(record.to_json(), encoding="utf-8")
        for file in (draft, written):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        os.replace(draft, out)
        os.replace(written, record_path(out))
    except OSError as error:
        raise StoreError(
            f"{out} could not be written: {error.strerror or error}; free space and export again"
        ) from None
