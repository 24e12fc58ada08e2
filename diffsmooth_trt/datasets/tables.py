"""Encoded images in parquet files, in the Hugging Face image layout (`img` or `image` = {bytes, path}, `label`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from ..grid import Pixels
from .base import Image, Source, reading
from .decoding import decode


class ParquetSource(Source):
    """Encoded images in a parquet file; one record batch is in memory at a time."""

    BATCH = 256
    KIND = "a readable parquet file"

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, [path]
        with reading(path, self.KIND):
            self.file = pq.ParquetFile(path)
            schema = self.file.schema_arrow
        columns = [name for name in ("img", "image") if schema.names.count(name) == 1]
        labels = [name for name in ("label", "fine_label", "labels") if schema.names.count(name) == 1]
        if not columns or not labels:
            raise InputError(
                f"{path} has columns {', '.join(schema.names)}: expected 'img' or 'image' with encoded bytes, and 'label'"
            )
        self.image_column, self.label_column = columns[0], labels[0]
        kind = schema.field(self.label_column).type
        if not pa.types.is_integer(kind):
            raise InputError(f"{path} column '{self.label_column}' is {kind}, expected integers: store class numbers")
        kind, self.bytes_column = schema.field(self.image_column).type, self.image_column
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, self.bytes_column = kind.field("bytes").type, f"{self.image_column}.bytes"
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(
                f"{path} column '{self.image_column}' is {kind}, expected encoded bytes: use the Hugging Face image layout"
            )

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    def read(self, rows: range) -> Iterator[Image]:
        for row, record in self._records(rows, [self.bytes_column, self.label_column]):
            yield Image(row, self._label(record, row), self._decode(record[self.image_column], row))

    def labels(self, rows: range) -> Iterator[int]:
        for row, record in self._records(rows, [self.label_column]):
            yield self._label(record, row)

    def _records(self, rows: range, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        row, wanted = 0, iter(rows)
        target = next(wanted, None)
        with reading(self.path, self.KIND):
            for batch in self.file.iter_batches(self.BATCH, columns=columns):
                while target is not None and target < row + len(batch):
                    yield target, batch.slice(target - row, 1).to_pylist()[0]
                    target = next(wanted, None)
                row += len(batch)
                if target is None:
                    return

    def _label(self, record: dict[str, Any], row: int) -> int:
        label = record[self.label_column]
        if label is None:
            raise InputError(f"{self.path} row {row} has no label: expected a class number, remove the row")
        return int(label)

    def _decode(self, cell: Any, row: int) -> Pixels:
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise InputError(f"{self.path} row {row} holds no image bytes: expected the Hugging Face image layout")
        return decode(data, f"{self.path} row {row}")
