"""Parquet and JSON lines as blocks of whole rows, for work that hands every row on as it came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from alignray.errors import RecordError
from alignray.io.fetch import FetchConfig, open_input
from alignray.io.frames import Damage
from alignray.io.rows import iter_lines, row_groups, values_of
from alignray.io.sources import Split

BLOCK_ROWS, BLOCK_BYTES = 8192, 1 << 23
MAX_LINE_BYTES = 1 << 26
FORMATS = ("parquet", "jsonl")


@dataclass(frozen=True)
class BadRow:
    """A row, or a stretch of a file, that cannot be read."""

    row: int
    """Its number in the split."""
    reason: str
    raw: str = ""
    note: str = ""


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a split, in order."""

    rows: Sequence[int]
    """Their numbers in the split, from 0."""
    content: pa.Table | list[bytes]
    """The rows as they came: a table, or lines without their newline."""
    objects: list[dict[str, Any]] = field(default_factory=list)
    """The parsed lines."""
    bad: list[BadRow] = field(default_factory=list)

    def column(self, name: str) -> list[Any]:
        """Values of a column; None where a row has none, bytes where it has a string that is no UTF-8.

        Raises:
            KeyError: a table without that column.
        """
        if isinstance(self.content, pa.Table):
            return values_of(self.content[name])
        return [value.get(name) for value in self.objects]

    def take(self, places: Sequence[int]) -> pa.Table | bytes:
        """Some of the rows, by place in the block: a table, or lines."""
        if isinstance(self.content, pa.Table):
            return self.content.take(pa.array(places, pa.int64()))
        return b"".join(self.content[place] + b"\n" for place in places)


def read_blocks(split: Split, fetch: FetchConfig, *, columns: Sequence[str] | None = None) -> Iterator[RowBlock]:
    """Rows of a split, a bounded block at a time; rows that cannot be read are listed beside the others.

    Args:
        columns: of a Parquet file, only these; one that is missing is an error.

    Raises:
        RecordError: the file cannot be opened or lacks a column.
    """
    with open_input(split.uri, fetch) as raw:
        yield from _parquet_blocks(raw, split, columns) if split.format == "parquet" else _line_blocks(raw, split)


def _parquet_blocks(raw: BinaryIO, split: Split, columns: Sequence[str] | None) -> Iterator[RowBlock]:
    number = 0
    try:
        file = pq.ParquetFile(raw)
        present = file.schema_arrow.names
        if missing := [name for name in columns or () if name not in present]:
            raise RecordError(f'{split.shown}: no column "{missing[0]}"; there are: {", ".join(present)[:500]}')
        groups, _ = row_groups(file.metadata, split.start, split.end)
        for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=columns, row_groups=groups) if groups else ():
            yield RowBlock(range(number, number + len(batch)), pa.Table.from_batches([batch]))
            number += len(batch)
    except (pa.ArrowException, OSError) as err:
        yield RowBlock([], pa.table({}), bad=[BadRow(number, "corrupt_file", note=str(err)[:500])])


def _line_blocks(raw: BinaryIO, split: Split) -> Iterator[RowBlock]:
    rows: list[int] = []
    lines: list[bytes] = []
    objects: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    size = 0
    for number, line in enumerate(iter_lines(raw, MAX_LINE_BYTES, start=split.start, end=split.end)):
        if isinstance(line, Damage):
            bad.append(BadRow(number, line.reason, note=line.error))
        elif line is None:
            bad.append(BadRow(number, "payload_too_large", note=f"a line of more than {MAX_LINE_BYTES} bytes"))
        elif line.strip():
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as err:
                bad.append(BadRow(number, "bad_row", line.decode("utf-8", "replace"), str(err)))
                continue
            if not isinstance(value, dict):
                bad.append(BadRow(number, "bad_row", line.decode("utf-8", "replace"), "not an object"))
                continue
            rows.append(number)
            lines.append(line.rstrip(b"\r"))
            objects.append(value)
            size += len(line)
        if len(rows) + len(bad) >= BLOCK_ROWS or size >= BLOCK_BYTES:
            yield RowBlock(rows, lines, objects, bad)
            rows, lines, objects, bad, size = [], [], [], [], 0
    if rows or bad:
        yield RowBlock(rows, lines, objects, bad)
