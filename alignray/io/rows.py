"""Parquet and JSON files as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from alignray.io.frames import Damage, decoded
from alignray.io.reasons import PageError

BATCH_ROWS = 1024


@dataclass(frozen=True)
class Columns:
    """Where a row's fields are."""

    text: str
    url: str | None
    id: str | None

    def names(self) -> list[str]:
        """Columns worth reading; "url" is one even when nobody named it."""
        return [name for name in dict.fromkeys((self.text, self.url or "url", self.id)) if name]


@dataclass(frozen=True)
class Row:
    """One row; ``problem`` says why it has no text to use."""

    number: int
    """Row or line in the file, from 1."""
    text: str = ""
    url: str = ""
    id: str = ""
    problem: PageError | None = None


def iter_parquet(raw: BinaryIO, columns: Columns, *, start: int = 0, end: int | None = None) -> Iterator[Row | Damage]:
    """Rows of a Parquet file; a ``Damage`` where it cannot be read (on).

    Args:
        start, end: a range of bytes; of the row groups those that begin in it. What is wrong with the whole file is told by
            the range from 0, and rows behind a damaged row group are given where another range has them.
    """
    number = 0
    try:
        file = pq.ParquetFile(raw)
        present = set(file.schema_arrow.names)
        if columns.text not in present:
            if not start:
                yield Damage("missing_column", 0, f'no column "{columns.text}"; there are: {", ".join(sorted(present))[:500]}')
            return
        names = [name for name in columns.names() if name in present]
        groups, number = row_groups(file.metadata, start, end)
    except (pa.ArrowException, OSError) as err:
        if not start:
            yield Damage("corrupt_file", 0, f"behind row 0: {err}"[:500])
        return
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=names, row_groups=groups) if groups else ():
            for values in zip(*(values_of(batch.column(name)) for name in names), strict=True):
                number += 1
                yield _row(number, dict(zip(names, values, strict=True)), columns)
    except (pa.ArrowException, OSError) as err:
        yield Damage("corrupt_file", number, f"behind row {number}: {err}"[:500])


def row_groups(metadata: Any, start: int, end: int | None) -> tuple[list[int], int]:
    """The row groups that begin in a range of bytes, one after another, and the rows before the first."""
    groups: list[int] = []
    num_before = begin = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        offsets = [
            chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            for chunk in map(group.column, range(group.num_columns))
        ]
        begin = max(begin, min(offsets, default=0))  # never falling, so that a range has neighbours
        if start <= begin and (end is None or begin < end):
            groups.append(number)
        elif begin < start:
            num_before += group.num_rows
    return groups, num_before


def values_of(column: Any) -> list[Any]:
    """Python values; strings that are no UTF-8 stay bytes, and a list or a struct with such a string in it becomes empty bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        pass
    try:
        return [_lenient(value) for value in column.cast(pa.large_binary()).to_pylist()]
    except pa.ArrowException:
        return [_lenient_scalar(value) for value in column]


def _lenient_scalar(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return b""


def _lenient(value: bytes | None) -> str | bytes | None:
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return value


def iter_json_lines(
    raw: BinaryIO, columns: Columns, *, max_bytes: int, start: int = 0, end: int | None = None, rows_before: int = 0,
) -> Iterator[Row | Damage]:
    """Rows of a JSON lines file, one object a line; blank lines are none.

    Args:
        start, end: a range of bytes whose bounds are beginnings of lines. A compressed file is read whole by the range from 0.
        rows_before: lines before the range.
    """
    number = rows_before
    for line in iter_lines(raw, 2 * max_bytes, start=start, end=end):
        if isinstance(line, Damage):
            yield line
            continue
        number += 1
        if line is None:
            yield Row(number, problem=PageError("payload_too_large", f"a line of more than {2 * max_bytes} bytes"))
        elif line.strip():
            try:
                yield _row(number, orjson.loads(line), columns)
            except orjson.JSONDecodeError as err:
                yield Row(number, text=line.decode("utf-8", "replace"), problem=PageError("bad_row", str(err)))


def iter_json(raw: BinaryIO, columns: Columns, *, max_bytes: int) -> Iterator[Row | Damage]:
    """Rows of a JSON file: a list of objects, one object, or (as many .json files are) JSON lines. It is read whole."""
    pieces: list[bytes] = []
    for item in decoded(raw):
        if isinstance(item, Damage):
            yield item
            return
        pieces.append(item.data)
    try:
        content = orjson.loads(b"".join(pieces))
    except orjson.JSONDecodeError as err:
        first_line = b"".join(pieces).lstrip().split(b"\n", 1)[0]
        try:
            is_lines = isinstance(orjson.loads(first_line), dict)
        except orjson.JSONDecodeError:
            is_lines = False
        if is_lines:
            yield from iter_json_lines(raw, columns, max_bytes=max_bytes)
        else:
            yield Damage("corrupt_file", 0, f"not JSON: {err}")
        return
    for number, value in enumerate(content if isinstance(content, list) else [content], start=1):
        yield _row(number, value, columns)


def _row(number: int, value: Any, columns: Columns) -> Row:
    if not isinstance(value, Mapping):
        return Row(number, text=str(value), problem=PageError("bad_row", f"a {type(value).__name__}, not an object"))
    url, row_id = _plain(value.get(columns.url or "url")), _plain(value.get(columns.id)) if columns.id else ""
    if columns.text not in value:
        names = ", ".join(sorted(map(str, value)))[:500]
        return Row(number, "", url, row_id, PageError("missing_column", f'no "{columns.text}"; there are: {names}'))
    text = value[columns.text]
    if isinstance(text, bytes):
        lenient = text.decode("utf-8", "replace")
        return Row(number, lenient, url, row_id, PageError("bad_encoding", "the text is not UTF-8"))
    if text is None:
        return Row(number, "", url, row_id, PageError("no_text", "null"))
    if not isinstance(text, str):
        return Row(number, str(text), url, row_id, PageError("bad_row", f"the text is a {type(text).__name__}"))
    return Row(number, text, url, row_id)


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def iter_lines(raw: BinaryIO, max_bytes: int, *, start: int = 0, end: int | None = None) -> Iterator[bytes | Damage | None]:
    """Lines of a stored file, or of a range of one; None for one that is too long, which is passed over without being held."""
    parts: list[bytes] = []
    size = 0
    for item in decoded(raw, start=start, end=end):
        if isinstance(item, Damage):
            if size:
                yield None if size > max_bytes else b"".join(parts)
            parts, size = [], 0
            yield item
            continue
        *whole, rest = item.data.split(b"\n")
        for last in whole:
            size += len(last)
            yield None if size > max_bytes else b"".join((*parts, last))
            parts, size = [], 0
        size += len(rest)
        parts = [*parts, rest] if size <= max_bytes else []
    if size:
        yield None if size > max_bytes else b"".join(parts)


