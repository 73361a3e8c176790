"""Common Crawl index files: which records of the crawl's WARC files to fetch, and from where."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from alignray.config import Config
from alignray.io.fetch import FetchConfig, open_input
from alignray.io.frames import Damage
from alignray.io.gates import ISO_639_3
from alignray.io.rows import iter_lines

MAX_LINE_BYTES = 1 << 20
MAX_PROBLEMS = 1000
"""An index file with more unreadable lines than this is given up."""
GROUP_RECORDS, GROUP_BYTES = 500, 64 << 20
"""Records that one split fetches, at most, and their bytes."""
MAX_GAP, MAX_FETCH = 64 << 10, 8 << 20
"""Neighbours of one file no further apart than this are fetched in one request, up to so many bytes."""
COLUMNS = {
    "url": "url", "mime": "content_mime_detected", "status": "fetch_status", "languages": "content_languages",
    "digest": "content_digest", "filename": "warc_filename", "offset": "warc_record_offset", "length": "warc_record_length",
}
"""What a field is called in the columnar index."""
NEEDED = ("url", "filename", "offset", "length")


class IndexFilter(Config):
    """Which records of an index. Each list that is not empty has to have the record's value."""

    statuses: tuple[int, ...] = (200,)
    """HTTP statuses."""
    mimes: tuple[str, ...] = ("text/html", "application/xhtml+xml")
    """Media types as Common Crawl detected them."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the main language, as Common Crawl detected it (ISO 639-3 where there is no shorter code).
    Pages whose language it does not tell are left out, too."""
    hosts: tuple[str, ...] = ()
    """Hosts; each stands for its subdomains, too."""
    url_prefixes: tuple[str, ...] = ()
    """Beginnings of URLs."""


@dataclass(frozen=True)
class IndexProblem:
    """A line of an index file, or a part of one, that cannot be read."""

    number: int
    """Line or row from 1; 0 for damage of the file."""
    error: str
    raw: str = ""
    reason: str = "bad_index_line"


class Span(NamedTuple):
    """Where a record lies."""

    uri: str
    offset: int
    length: int
    digest: str
    """SHA-1 of the payload in base 32, or an empty string."""


def read_index(
    uri: str, base_url: str, chosen: IndexFilter, fetch: FetchConfig, *, limit: int | None = None,
) -> tuple[list[Span], tuple[IndexProblem, ...]]:
    """The chosen records of an index file, sorted by where they lie, each once; and what could not be read.

    Args:
        limit: most records, first ones of the file first.

    Raises:
        RecordError: the file cannot be opened.
    """
    base = base_url.rstrip("/") + "/"
    spans: dict[tuple[str, int], Span] = {}
    problems: list[IndexProblem] = []
    with open_input(uri, fetch) as raw:
        entries = _columnar_entries(raw) if uri.split("?")[0].lower().endswith((".parquet", ".pq")) else _cdx_entries(raw)
        for entry in entries:
            if limit is not None and len(spans) >= limit:
                break
            item = entry if isinstance(entry, IndexProblem) else _chosen_span(*entry, base, chosen)
            if isinstance(item, Span):
                spans.setdefault((item.uri, item.offset), item)
            elif item is not None and len(problems) < MAX_PROBLEMS:
                problems.append(item)
            elif item is not None:
                problems.append(IndexProblem(0, f"given up after {MAX_PROBLEMS} unreadable lines", reason="corrupt_file"))
                break
    return [spans[key] for key in sorted(spans)], tuple(problems)


def grouped(spans: Iterable[Span]) -> Iterator[tuple[Span, ...]]:
    """Neighbours in groups of bounded size."""
    group: list[Span] = []
    size = 0
    for span in spans:
        if group and (len(group) >= GROUP_RECORDS or size + span.length > GROUP_BYTES):
            yield tuple(group)
            group, size = [], 0
        group.append(span)
        size += span.length
    if group:
        yield tuple(group)


def coalesced(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """Spans of one file that are worth one request."""
    run: list[Span] = []
    for span in spans:
        if run and (
            span.uri != run[0].uri or not 0 <= span.offset - (run[-1].offset + run[-1].length) <= MAX_GAP
            or span.offset + span.length - run[0].offset > MAX_FETCH
        ):
            yield run
            run = []
        run.append(span)
    if run:
        yield run


_Entry = tuple[int, str, Mapping[str, Any]]
"""Line number, raw line, and the fields."""


def _cdx_entries(raw: BinaryIO) -> Iterator[_Entry | IndexProblem]:
    """Entries of lines "key timestamp {fields}"."""
    number = 0
    for line in iter_lines(raw, MAX_LINE_BYTES):
        if isinstance(line, Damage):
            yield IndexProblem(0, f"at byte {line.offset}: {line.error}", reason=line.reason)
            continue
        number += 1
        if line is None:
            yield IndexProblem(number, f"a line of more than {MAX_LINE_BYTES} bytes")
            continue
        if not line.strip():
            continue
        try:
            fields = orjson.loads(line.split(b" ", 2)[2])
        except (orjson.JSONDecodeError, IndexError) as err:
            yield IndexProblem(number, f"not \"key timestamp {{json}}\": {err}", line.decode("utf-8", "replace"))
            continue
        if isinstance(fields, dict):
            fields["mime"] = fields.get("mime-detected") or fields.get("mime")
            yield number, line.decode("utf-8", "replace"), fields
        else:
            yield IndexProblem(number, "the third part is no JSON object", line.decode("utf-8", "replace"))


def _columnar_entries(raw: BinaryIO) -> Iterator[_Entry | IndexProblem]:
    number = 0
    try:
        file = pq.ParquetFile(raw)
        present = set(file.schema_arrow.names)
        if missing := [COLUMNS[name] for name in NEEDED if COLUMNS[name] not in present]:
            yield IndexProblem(0, f"no column {', '.join(missing)}; there are: {', '.join(sorted(present))[:500]}", reason="missing_column")
            return
        names = {name: column for name, column in COLUMNS.items() if column in present}
        for batch in file.iter_batches(columns=list(names.values())):
            columns = [batch.column(column).to_pylist() for column in names.values()]
            for values in zip(*columns, strict=True):
                number += 1
                fields = dict(zip(names, values, strict=True))
                yield number, "", fields
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        yield IndexProblem(0, f"behind row {number}: {err}"[:500], reason="corrupt_file")


def _chosen_span(number: int, raw: str, fields: Mapping[str, Any], base: str, chosen: IndexFilter) -> Span | IndexProblem | None:
    """Where the record lies; None for one that is not chosen."""
    if not _is_chosen(fields, chosen):
        return None
    filename = str(fields.get("filename") or "")
    if not filename or filename.startswith("/") or "://" in filename or ".." in filename.split("/"):
        return IndexProblem(number, f'no file name below base_url: "{filename[:200]}"', raw or str(dict(fields)))
    try:
        offset, length = int(fields["offset"]), int(fields["length"])
    except (KeyError, TypeError, ValueError) as err:
        return IndexProblem(number, f"no offset and length ({type(err).__name__}: {err})", raw or str(dict(fields)))
    if offset < 0 or length <= 0:
        return IndexProblem(number, f"offset {offset}, length {length}", raw or str(dict(fields)))
    return Span(base + filename, offset, length, str(fields.get("digest") or "").removeprefix("sha1:"))


def _is_chosen(fields: Mapping[str, Any], chosen: IndexFilter) -> bool:
    if chosen.statuses and str(fields.get("status")) not in map(str, chosen.statuses):
        return False
    if chosen.mimes and str(fields.get("mime") or "").lower() not in chosen.mimes:
        return False
    if chosen.languages:
        code = str(fields.get("languages") or "").split(",")[0].strip()
        if not code or (ISO_639_3.get(code, code) not in chosen.languages and code not in chosen.languages):
            return False
    url = str(fields.get("url") or "")
    if chosen.url_prefixes and not url.startswith(chosen.url_prefixes):
        return False
    return not chosen.hosts or _is_on(url, chosen.hosts)


def _is_on(url: str, hosts: tuple[str, ...]) -> bool:
    try:
        host = (urllib.parse.urlsplit(url).hostname or "").lower()
    except ValueError:
        return False
    return any(host == wanted or host.endswith("." + wanted) for wanted in hosts)
