"""Official files of benchmarks as rows: JSON, JSON lines, CSV and text, each as it is or gzipped; at most some MB each."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from typing import Any

import orjson

from alignray.errors import RecordError
from alignray.io.fetch import FetchConfig, open_input

MAX_BYTES = 1 << 28
"""Of one file, unpacked."""


def read_rows(uri: str, fetch: FetchConfig) -> list[dict[str, Any]]:
    """All rows of a file.

    A JSON file is a list of objects, or one object (such as BIG-Bench Hard's, with "examples" inside), which is one row;
    a text file is one row {"text": ...}.

    Raises:
        RecordError: the file is not there, is no such file, or is longer than MAX_BYTES.
    """
    name = uri.removesuffix(".gz").rpartition("/")[2]
    suffix = name.rpartition(".")[2].lower()
    if suffix not in ("json", "jsonl", "csv", "txt"):
        raise RecordError(
            f"{uri}: a benchmark's file ends in .json, .jsonl, .csv or .txt (and .gz), not in .{suffix}; rename or convert it"
        )
    text = _text(uri, fetch)
    if suffix == "txt":
        return [{"text": text}]
    if suffix == "csv":
        return _table(text, uri)
    try:
        if suffix == "json":
            value = orjson.loads(text)
            rows = value if isinstance(value, list) else [value]
        else:
            rows = [orjson.loads(line) for line in text.split("\n") if line.strip()]
    except orjson.JSONDecodeError as err:
        raise RecordError(f"{uri}: not {suffix.upper()}: {err}") from err
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RecordError(f"{uri}: row {number} is {type(row).__name__}, not an object; a benchmark's rows are objects")
    return rows


def _table(text: str, uri: str) -> list[dict[str, Any]]:
    try:
        header, *lines = list(csv.reader(io.StringIO(text))) or [[]]
    except csv.Error as err:
        raise RecordError(f"{uri}: not CSV: {err}") from err
    if len(set(header)) < len(header):
        raise RecordError(f"{uri}: two columns have one name ({', '.join(header):.200}); if the file has no header line, put one above it")
    for number, line in enumerate(lines):
        if line and len(line) != len(header):
            raise RecordError(f"{uri}: row {number} has {len(line)} cells, the header {len(header)}; quote cells that hold commas")
    return [dict(zip(header, line, strict=True)) for line in lines if line]


def _text(uri: str, fetch: FetchConfig) -> str:
    try:
        with open_input(uri, fetch) as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if uri.endswith(".gz") else raw
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise RecordError(f"{uri}: cannot be read: {err}") from err
    if len(data) > MAX_BYTES:
        raise RecordError(f"{uri}: more than {MAX_BYTES >> 20} MiB; a benchmark's file is smaller, is it the right one?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise RecordError(f"{uri}: not UTF-8 (byte {err.start})") from err
