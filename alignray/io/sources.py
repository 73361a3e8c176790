"""What to read: the ingest config, and the list of input files it stands for."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import pydantic

from alignray.config import Config, without_secrets
from alignray.errors import RecordError
from alignray.io.crawl_index import IndexFilter, IndexProblem, Span, grouped, read_index
from alignray.io.extract import text_with_trafilatura
from alignray.io.fetch import FetchConfig, filesystem_of, http_size, is_http, local_path, open_input
from alignray.io.gates import GatesConfig
from alignray.io.optout import OptOutConfig
from alignray.seeding import row_id_of
from alignray.untrusted import storable

log = logging.getLogger(__name__)

Format = Literal["warc", "wet", "parquet", "jsonl", "json"]
SUFFIX_FORMATS: dict[str, Format] = {
    ".warc": "warc", ".wat": "warc", ".arc": "warc", ".wet": "wet",
    ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
}
COMPRESSION_SUFFIXES = (".gz", ".zst", ".lz4")
LINE_CHUNK = 1 << 20


class SourceConfig(Config):
    """One place that pages come from."""

    name: str = pydantic.Field(min_length=1)
    """How counts, rejects and rows call it."""
    weight: float = pydantic.Field(1.0, gt=0)
    """Its share in the mix, relative to the other sources' weights."""
    paths: tuple[str, ...] = ()
    """Files, globs (``**`` too), directories or URLs (https://, s3://, file://); relative ones from the working directory."""
    snapshot: str | None = pydantic.Field(None, pattern=r"^CC-[A-Z]+-[0-9]{4}(-[0-9]{2,4}){0,2}$")
    """A Common Crawl snapshot such as CC-MAIN-2024-22, instead of or besides paths."""
    snapshot_kind: Literal["warc", "wet"] = "warc"
    """Pages with their HTML (and opt-out headers), or Common Crawl's own plain text without either."""
    index: tuple[str, ...] = ()
    """Common Crawl index files (cdx-*.gz, or Parquet of the columnar index), instead of or besides paths: only the records
    they name, as far as index_filter chooses them, are fetched from base_url, not the files around them."""
    index_filter: IndexFilter = IndexFilter()
    """Which records of the index files."""
    max_records: int | None = pydantic.Field(None, ge=1)
    """Only the first chosen records of the index files, in their order."""
    max_files: int | None = pydantic.Field(None, ge=1)
    """Only the first files of paths and snapshot, in listing order."""
    base_url: str = "https://data.commoncrawl.org/"
    """Where snapshots and the files named by an index lie; s3://commoncrawl/ works inside AWS, a folder for a mirror."""
    ask_sizes: bool = False
    """Ask the server for the size of each HTTP input when the run starts, so that large ones are read in ranges, by several
    tasks. One request a file; without it each is one task."""
    format: Literal["auto", "warc", "wet", "parquet", "jsonl", "json"] = "auto"
    """auto: by suffix, .gz, .zst and .lz4 aside. Compression is always told by content."""
    text_column: str = "text"
    """Parquet and JSON: where the text is."""
    url_column: str | None = None
    """Parquet and JSON: where the URL is; default "url" if there is one."""
    id_column: str | None = None
    """Parquet and JSON: where a record id is, if anywhere."""

    @pydantic.model_validator(mode="after")
    def _has_input(self) -> SourceConfig:
        if not self.paths and not self.index and self.snapshot is None:
            raise ValueError(f'source "{self.name}" has no input; give paths, a snapshot or index files')
        return self


class IngestConfig(Config):
    """Everything between the input files and the documents."""

    sources: tuple[SourceConfig, ...] = pydantic.Field(min_length=1)
    """Where pages come from."""
    gates: GatesConfig = GatesConfig()
    """Which texts come in."""
    optout: OptOutConfig = OptOutConfig()
    """What to do with pages that opt out."""
    extractor: Literal["resiliparse", "trafilatura", "two_tier"] = "resiliparse"
    """resiliparse is many times as fast; trafilatura (extra "extract") is cleaner on articles; two_tier asks trafilatura
    only about pages on which resiliparse's text looks wrong (``bench/extraction.py`` measures all three)."""
    main_content: bool = True
    """Leave out menus, headers and footers (resiliparse)."""
    max_record_bytes: int = pydantic.Field(10 << 20, ge=1 << 10)
    """Largest payload, stored or unpacked; larger ones are rejected."""
    split_bytes: int | None = pydantic.Field(128 << 20, ge=1)
    """Files longer than this are read in ranges of at most as many bytes, each by a task of its own: WARC and WET (gzip by
    record, or not compressed), Parquet (by row group), JSON lines (not compressed, on a local disk; their lines are counted
    when the run starts). null: each file is one task."""
    fetch: FetchConfig = FetchConfig()
    """How HTTP inputs are read."""

    @pydantic.field_validator("sources")
    @classmethod
    def _unique(cls, sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        names = [source.name for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {', '.join(twice)}; give each its own name")
        return sources

    @pydantic.model_validator(mode="after")
    def _extractor_is_there(self) -> IngestConfig:
        if self.extractor == "two_tier" and not self.main_content:
            raise ValueError("extractor = two_tier judges the main content; set main_content to true, or extractor to resiliparse")
        if self.extractor != "resiliparse":
            text_with_trafilatura("<p></p>")
        return self


@dataclass(frozen=True)
class Split:
    """One input file, a range of one, or records that an index names: the unit of work, the same whatever reads it."""

    id: str
    """16 hex digits of URI and format, of the range where it is one, and of the records where they are named."""
    source: str
    uri: str
    """The input file; the index file where records are named."""
    format: str
    num_bytes: int
    """Size of the file as stored; 0 where it is not known without asking for each file (HTTP)."""
    start: int = 0
    """Where the range begins. What begins in it belongs to it: records, lines, row groups."""
    end: int | None = None
    """Where it ends; None: with the file."""
    rows_before: int = 0
    """JSON lines: lines before the range."""
    spans: tuple[Span, ...] = ()
    """Format "index": the records to fetch."""
    problems: tuple[IndexProblem, ...] = ()
    """Format "index": what could not be read of the index file."""

    @property
    def shown(self) -> str:
        """The input file as rows, rejects and messages name it."""
        return without_secrets(self.uri)

    @property
    def size(self) -> int:
        """Bytes of it as stored: of the range, of the named records; 0 where that is not known."""
        if self.format == "index":
            return sum(span.length for span in self.spans)
        return max((self.end if self.end is not None else self.num_bytes) - self.start, 0)


def list_splits(config: IngestConfig) -> list[Split]:
    """The input in config order, patterns sorted, each file once (its first source keeps it), large files in ranges.

    Raises:
        RecordError: a pattern matches nothing, a format cannot be told, a file's name is no text, or a listing or an index cannot be read.
        ConfigError: a store's package is missing.
    """
    splits: list[Split] = []
    seen: set[str] = set()
    for source in config.sources:
        for uri, num_bytes, file_format in itertools.islice(_inputs(source, config.fetch), source.max_files):
            if storable(uri) != uri:
                raise RecordError(f'source "{source.name}": the file name {uri!r} is not UTF-8 and cannot stand in a row; rename the file')
            path = local_path(uri)
            identity = str(path.resolve()) if path is not None else uri
            if identity not in seen:
                seen.add(identity)
                splits += _ranges(Split(row_id_of(uri, file_format)[:16], source.name, uri, file_format, num_bytes), config.split_bytes)
        splits += _index_splits(source, config)
    return splits


def _ranges(split: Split, split_bytes: int | None) -> list[Split]:
    """The file in ranges of equal size, of at most ``split_bytes``; as it is, where it is short or cannot be split."""
    if split_bytes is None or split.num_bytes <= split_bytes or not _is_splittable(split):
        return [split]
    number = -(-split.num_bytes // split_bytes)
    bounds = [split.num_bytes * n // number for n in range(number)]
    rows_before = [0] * number
    if split.format == "jsonl":
        bounds, rows_before = _at_lines(split.uri, bounds)
    ends: list[int | None] = [*bounds[1:], None]
    return [
        dataclasses.replace(
            split, id=row_id_of(split.uri, split.format, str(start), str(end))[:16], start=start, end=end, rows_before=rows,
        )
        for start, end, rows in zip(bounds, ends, rows_before, strict=True) if start != end
    ]


def _is_splittable(split: Split) -> bool:
    """By name; a file that turns out to be zstd or LZ4, or compressed JSON lines, is read whole by its first range."""
    name = split.uri.split("?")[0].lower() if is_http(split.uri) else split.uri.lower()
    if split.format == "jsonl":
        return local_path(split.uri) is not None and not name.endswith(COMPRESSION_SUFFIXES)
    return split.format == "parquet" or (split.format in ("warc", "wet") and not name.endswith((".zst", ".lz4")))


def _at_lines(uri: str, bounds: list[int]) -> tuple[list[int], list[int]]:
    """The bounds moved on to where a line begins, and the lines before each."""
    path = local_path(uri)
    assert path is not None, "only local JSON lines are split"
    starts, lines_before, num_lines, offset = [0], [0], 0, 0
    with path.open("rb") as file:
        for bound in bounds[1:]:
            while offset < bound and (data := file.read(min(LINE_CHUNK, bound - offset))):
                num_lines += data.count(b"\n")
                offset += len(data)
            file.seek(offset - 1)
            rest = 0 if file.read(1) == b"\n" else _to_line_end(file)
            num_lines, offset = num_lines + bool(rest), offset + rest
            starts.append(offset)
            lines_before.append(num_lines)
    return starts, lines_before


def _to_line_end(file: BinaryIO) -> int:
    """Bytes up to the end of the line, which is passed over without being held."""
    passed = 0
    while piece := file.readline(LINE_CHUNK):
        passed += len(piece)
        if piece.endswith(b"\n"):
            break
    return passed


def _index_splits(source: SourceConfig, config: IngestConfig) -> Iterator[Split]:
    """Splits of the records that a source's index files name; one of its own for what could not be read of a file."""
    left = source.max_records
    for pattern in source.index:
        files, _ = _matches(pattern)
        if not files:
            raise RecordError(f'source "{source.name}": index {pattern} matches no file; check the path')
        for uri, num_bytes in files:
            if left == 0:
                return
            spans, problems = read_index(uri, source.base_url, source.index_filter, config.fetch, limit=left)
            log.info("source %s: %d records chosen by %s", source.name, len(spans), uri)
            left = left - len(spans) if left is not None else None
            for group in grouped(spans):
                split_id = row_id_of(uri, "index", *(f"{span.uri} {span.offset} {span.length}" for span in group))[:16]
                yield Split(split_id, source.name, uri, "index", num_bytes, spans=group)
            if problems:
                split_id = row_id_of(uri, "index", *(str(problem.number) for problem in problems))[:16]
                yield Split(split_id, source.name, uri, "index", num_bytes, problems=problems)


def format_of(uri: str) -> Format | None:
    """The format that a name's suffixes tell, or None."""
    name = uri.split("?")[0].lower() if is_http(uri) else uri.lower()
    for suffix in COMPRESSION_SUFFIXES:
        name = name.removesuffix(suffix)
    return SUFFIX_FORMATS.get(Path(name).suffix)


def _inputs(source: SourceConfig, fetch: FetchConfig) -> Iterator[tuple[str, int, Format]]:
    for pattern in source.paths:
        files, is_named = _matches(pattern)
        if not files:
            raise RecordError(f'source "{source.name}": {pattern} matches no file; check the path')
        known = 0
        for uri, num_bytes in files:
            file_format = format_of(uri) if source.format == "auto" else source.format
            if file_format is None:
                if is_named:
                    raise RecordError(
                        f'source "{source.name}": cannot tell the format of {without_secrets(uri)} by its suffix; set format to warc, wet, '
                        "parquet, jsonl or json"
                    )
                log.warning("source %s: %s is left out: unknown suffix", source.name, without_secrets(uri))
                continue
            known += 1
            yield uri, http_size(uri, fetch) if source.ask_sizes and is_http(uri) else num_bytes, file_format
        if not known:
            raise RecordError(f'source "{source.name}": no file of {pattern} has a known suffix; set format')
    if source.snapshot is not None:
        for uri in _snapshot_files(source, fetch):
            yield uri, http_size(uri, fetch) if source.ask_sizes and is_http(uri) else 0, source.snapshot_kind


def _snapshot_files(source: SourceConfig, fetch: FetchConfig) -> list[str]:
    base = source.base_url.rstrip("/") + "/"
    listing = f"{base}crawl-data/{source.snapshot}/{source.snapshot_kind}.paths.gz"
    with open_input(listing, fetch) as stream:
        stored = stream.read()
    try:
        paths = zlib.decompress(stored, wbits=31).decode().split()
    except (zlib.error, UnicodeDecodeError) as err:
        raise RecordError(f"{listing}: not a gzip listing of paths ({err}); check snapshot and base_url") from err
    if not paths:
        raise RecordError(f"{listing}: the listing is empty; check snapshot and base_url")
    return [base + path for path in paths]


def _matches(pattern: str) -> tuple[list[tuple[str, int]], bool]:
    """Files behind one entry of ``paths`` with their sizes; and whether the entry named a single file."""
    if is_http(pattern):
        if "*" in pattern:
            raise RecordError(f"{without_secrets(pattern)}: a web server cannot list files; name each URL, or use snapshot")
        return [(pattern, 0)], True
    path = local_path(pattern)
    if path is None:
        return _remote_matches(pattern)
    try:
        return _local_matches(pattern, path)
    except (OSError, ValueError) as err:
        raise RecordError(f"{pattern}: cannot be listed ({err}); check the path and its permissions") from err


def _local_matches(pattern: str, path: Path) -> tuple[list[tuple[str, int]], bool]:
    if path.is_file():
        return [(pattern, path.stat().st_size)], True
    if path.is_dir():
        found = [child for child in path.rglob("*") if not any(part.startswith(".") for part in child.relative_to(path).parts)]
    else:
        fixed = Path(path.anchor)
        found = list(fixed.glob(str(path.relative_to(path.anchor)))) if path.name else []
    is_url = pattern.startswith("file://")
    files = sorted(child for child in found if child.is_file())
    return [(child.resolve().as_uri() if is_url else str(child), child.stat().st_size) for child in files], False


def _remote_matches(pattern: str) -> tuple[list[tuple[str, int]], bool]:
    filesystem, inside = filesystem_of(pattern)
    try:
        if filesystem.isfile(inside):
            return [(pattern, int(filesystem.size(inside) or 0))], True
        details = filesystem.find(inside, detail=True) if filesystem.isdir(inside) else filesystem.glob(inside, detail=True)
    except OSError as err:
        raise RecordError(f"{pattern}: cannot be listed ({err}); check the address and the credentials") from err
    files = [(name, info) for name, info in details.items() if info.get("type") == "file"]
    return sorted((filesystem.unstrip_protocol(name), int(info.get("size") or 0)) for name, info in files), False
