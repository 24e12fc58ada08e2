"""Encoded images in tables, in the Hugging Face image layout (`img` or `image` = {bytes, path}, `label`): parquet files, or a
folder that `datasets` saved (`save_to_disk`: Arrow streams).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import MALFORMED, InputError
from ..files import parsed_json
from .base import EncodedSource, reading, some

IMAGES = ("img", "image")
LABELS = ("label", "fine_label", "labels")
BATCH = 256
BUFFER = 1 << 16  # bytes that are read at once: without one, all of a group of rows, which may be the whole file
STATE, INFO = "state.json", "dataset_info.json"


class _Part(Protocol):
    """A file of a table."""

    path: Path
    kind: str
    schema: pa.Schema
    rows: int

    def batches(self, columns: list[str], rows: range) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of those columns that hold all `rows` of the file, each with its first row."""


class _Parquet:
    kind = "a readable parquet file"

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path, self.kind):
            self.file = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
            self.schema, self.rows = self.file.schema_arrow, int(self.file.metadata.num_rows)
        if self.rows < 0:
            raise InputError(f"{path} says that it has {self.rows} rows: it is damaged, write it again")

    def batches(self, columns: list[str], rows: range) -> Iterator[tuple[int, pa.RecordBatch]]:
        first = 0
        for group in range(self.file.metadata.num_row_groups):
            count = self.file.metadata.row_group(group).num_rows
            if _within(rows, first, first + count):
                at = first
                for batch in self.file.iter_batches(BATCH, row_groups=[group], columns=columns):
                    yield at, batch
                    at += len(batch)
            first += count


class _Arrow:
    kind = "a readable Arrow stream"

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path, self.kind):
            with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
                self.schema = stream.schema
                self.rows = sum(len(batch) for batch in stream)

    def batches(self, columns: list[str], rows: range) -> Iterator[tuple[int, pa.RecordBatch]]:
        with pa.memory_map(str(self.path)) as file, pa.ipc.open_stream(file) as stream:
            first = 0
            for batch in stream:
                if _within(rows, first, first + len(batch)):
                    chosen = batch.select([column.split(".")[0] for column in columns])
                    for column in columns:  # offsets of a damaged file would end the process
                        head, *part = column.split(".")
                        cells = chosen.column(head)
                        cells.validate()
                        (cells.field(part[0]) if part else cells).validate(full=True)
                    yield first, chosen
                first += len(batch)


def _within(rows: range, start: int, stop: int) -> range:
    """Those of `rows` from `start` to before `stop`."""
    low = max(0, -(-(start - rows.start) // rows.step))
    high = max(0, -(-(stop - rows.start) // rows.step))
    return rows[low:high]


class TableSource(EncodedSource):
    """Encoded images in one or several files of one table; one record batch is in memory at a time.

    A label column of texts has the ranks of its texts as labels. Without a label column, or where every label is −1, as in
    published test sets, rows have none.
    """

    def __init__(self, path: Path, parts: Sequence[_Part], features: dict[str, Any] | None = None) -> None:
        self.path, self.parts, self.files = path, parts, [part.path for part in parts]
        self.starts = [0, *accumulate(part.rows for part in parts)]
        schema = parts[0].schema
        for part in parts[1:]:
            if part.schema.names != schema.names or part.schema.types != schema.types:
                raise InputError(
                    f"{part.path} has other columns than {parts[0].path}: give files of one table, as 'test-*.parquet'"
                )
        self.features = features if features is not None else _features(schema)
        self.image_column = self._column(schema, IMAGES, "Image")
        self.label_column = self._column(schema, LABELS, "ClassLabel")
        if self.image_column is None:
            raise InputError(
                f"{path} has columns {', '.join(schema.names)}: expected 'img' or 'image' with encoded bytes, and 'label'"
            )
        self._check_images(schema.field(self.image_column).type)
        self._know_labels(schema)

    def _column(self, schema: pa.Schema, usual: Sequence[str], kind: str) -> str | None:
        """The column of one of the usual names, else the only one that is declared to be of that kind."""
        of_kind = [
            name
            for name, said in self.features.items()
            if isinstance(said, dict) and said.get("_type") == kind and schema.names.count(name) == 1
        ]
        columns = [name for name in usual if schema.names.count(name) == 1] or (of_kind if len(of_kind) == 1 else [])
        return columns[0] if columns else None

    def _check_images(self, kind: pa.DataType) -> None:
        self.bytes_column = str(self.image_column)
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, self.bytes_column = kind.field("bytes").type, f"{self.image_column}.bytes"
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(
                f"{self.path} column '{self.image_column}' is {kind}, expected encoded bytes: use the Hugging Face image layout"
            )

    def _know_labels(self, schema: pa.Schema) -> None:
        self.numbers: dict[str, int] | None = None
        if self.label_column is None:
            return
        kind = schema.field(self.label_column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            texts = sorted({cell for _, cell in self._cells(range(len(self)), self.label_column) if cell is not None})
            self.names, self.ranked = tuple(texts), True
            self.numbers = {name: number for number, name in enumerate(texts)}
        elif not pa.types.is_integer(kind):
            raise InputError(
                f"{self.path} column '{self.label_column}' is {kind}, expected integers: store class numbers or names"
            )
        else:
            said = self.features.get(self.label_column)
            names = said.get("names") if isinstance(said, dict) else None
            if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
                self.names = tuple(names)

    @cached_property
    def labelled(self) -> bool:  # type: ignore[override]
        """Whether a row has a label that is not −1."""
        if self.label_column is None:
            return False
        return self.names is not None or any(cell != -1 for _, cell in self._cells(range(len(self)), self.label_column))

    def __len__(self) -> int:
        return self.starts[-1]

    def encoded(self, rows: range) -> Iterator[tuple[int, int, bytes | Path | InputError, str]]:
        columns = [self.bytes_column, *([self.label_column] if self.label_column is not None else [])]
        for first, wanted, batch in self._batches(rows, columns):
            cells = batch.column(str(self.image_column))
            if pa.types.is_struct(cells.type):
                cells = cells.flatten()[cells.type.get_field_index("bytes")]
            labels = None if self.label_column is None else batch.column(self.label_column).to_pylist()
            for row in wanted:
                name, data = f"{self.path} row {row}", cells[row - first].as_py()
                label = -1 if labels is None else self._label(labels[row - first], row)
                if isinstance(data, bytes):
                    yield row, label, data, name
                else:
                    said = f"{name} holds no image bytes: expected the Hugging Face image layout"
                    yield row, label, InputError(said), name

    def labels(self, rows: range) -> Iterator[int]:
        if self.label_column is None:
            yield from (-1 for _ in rows)
            return
        for row, cell in self._cells(rows, self.label_column):
            yield self._label(cell, row)

    def _cells(self, rows: range, column: str) -> Iterator[tuple[int, Any]]:
        for first, wanted, batch in self._batches(rows, [column]):
            cells = batch.column(column).to_pylist()
            yield from ((row, cells[row - first]) for row in wanted)

    def _batches(self, rows: range, columns: list[str]) -> Iterator[tuple[int, range, pa.RecordBatch]]:
        """Batches with their first row, and those of `rows` that are in each; first rows and rows count over all files."""
        for start, part in zip(self.starts, self.parts, strict=False):
            here = _within(rows, start, start + part.rows)
            if not here:
                continue
            own = range(here.start - start, here.stop - start, here.step)
            with reading(part.path, part.kind):
                for first, batch in part.batches(columns, own):
                    wanted = _within(rows, start + first, start + first + len(batch))
                    if wanted:
                        yield start + first, wanted, batch

    def _label(self, cell: Any, row: int) -> int:
        if cell is None:
            raise InputError(f"{self.path} row {row} has no label: expected a class number, remove the row")
        return int(cell) if self.numbers is None else self.numbers[cell]


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets` wrote of the columns; nothing where it wrote nothing that can be read."""
    try:
        features = parsed_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except MALFORMED:
        return {}
    return features if isinstance(features, dict) else {}


def open_parquet(path: Path, files: Sequence[Path]) -> TableSource:
    """The table of parquet files."""
    return TableSource(path, [_Parquet(file) for file in files])


def open_saved(path: Path) -> TableSource:
    """A folder that `Dataset.save_to_disk` made. Raises InputError for one of several splits, or with a choice of rows."""
    if not (path / STATE).is_file():
        with reading(path, "a saved data set"):
            splits = parsed_json((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise InputError(
            f"{path} holds the splits {some(splits)}, expected one data set: give {path / str(splits[-1])}"
        )
    with reading(path / STATE, "the state of a saved data set"):
        state = parsed_json((path / STATE).read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        chosen = bool(state.get("_indices_data_files"))
    if chosen:
        raise InputError(f"{path} was saved with a choice of rows: save it again after flatten_indices()")
    features = None
    if (path / INFO).is_file():
        with reading(path / INFO, "a description of a saved data set"):
            features = parsed_json((path / INFO).read_text(encoding="utf-8")).get("features")
    return TableSource(path, [_Arrow(path / name) for name in names], features)
