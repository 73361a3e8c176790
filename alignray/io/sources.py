"""What to read: the ingest config, and the list of input files it stands for."""

from __future__ import annotations

import itertools
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic

from alignray.config import Config
from alignray.errors import RecordError
from alignray.io.extract import text_with_trafilatura
from alignray.io.fetch import FetchConfig, filesystem_of, is_http, local_path, open_input
from alignray.io.gates import GatesConfig
from alignray.io.optout import OptOutConfig
from alignray.seeding import row_id_of

log = logging.getLogger(__name__)

Format = Literal["warc", "wet", "parquet", "jsonl", "json"]
SUFFIX_FORMATS: dict[str, Format] = {
    ".warc": "warc", ".wat": "warc", ".arc": "warc", ".wet": "wet",
    ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
}
COMPRESSION_SUFFIXES = (".gz", ".zst", ".lz4")


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
    max_files: int | None = pydantic.Field(None, ge=1)
    """Only the first files, in listing order."""
    base_url: str = "https://data.commoncrawl.org/"
    """Where snapshots lie; s3://commoncrawl/ works inside AWS."""
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
        if not self.paths and self.snapshot is None:
            raise ValueError(f'source "{self.name}" has no input; give paths or a snapshot')
        return self


class IngestConfig(Config):
    """Everything between the input files and the documents."""

    sources: tuple[SourceConfig, ...] = pydantic.Field(min_length=1)
    """Where pages come from."""
    gates: GatesConfig = GatesConfig()
    """Which texts come in."""
    optout: OptOutConfig = OptOutConfig()
    """What to do with pages that opt out."""
    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """resiliparse is some 60 times as fast; trafilatura (extra "extract") is cleaner on articles."""
    main_content: bool = True
    """Leave out menus, headers and footers (resiliparse)."""
    max_record_bytes: int = pydantic.Field(10 << 20, ge=1 << 10)
    """Largest payload, stored or unpacked; larger ones are rejected."""
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
        if self.extractor == "trafilatura":
            text_with_trafilatura("<p></p>")
        return self


@dataclass(frozen=True)
class Split:
    """One input file: the unit of work, the same whatever reads it."""

    id: str
    """16 hex digits of URI and format."""
    source: str
    uri: str
    format: str
    num_bytes: int
    """Size as stored; 0 where it is not known without asking for each file (HTTP)."""


def list_splits(config: IngestConfig) -> list[Split]:
    """The input files in config order, patterns sorted, each file once (its first source keeps it).

    Raises:
        RecordError: a pattern matches nothing, a format cannot be told, or a listing cannot be read.
        ConfigError: a store's package is missing.
    """
    splits: list[Split] = []
    seen: set[str] = set()
    for source in config.sources:
        for uri, num_bytes, file_format in itertools.islice(_inputs(source, config.fetch), source.max_files):
            path = local_path(uri)
            identity = str(path.resolve()) if path is not None else uri
            if identity not in seen:
                seen.add(identity)
                splits.append(Split(row_id_of(uri, file_format)[:16], source.name, uri, file_format, num_bytes))
    return splits


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
                        f'source "{source.name}": cannot tell the format of {uri} by its suffix; set format to warc, wet, '
                        "parquet, jsonl or json"
                    )
                log.warning("source %s: %s is left out: unknown suffix", source.name, uri)
                continue
            known += 1
            yield uri, num_bytes, file_format
        if not known:
            raise RecordError(f'source "{source.name}": no file of {pattern} has a known suffix; set format')
    if source.snapshot is not None:
        for uri in _snapshot_files(source, fetch):
            yield uri, 0, source.snapshot_kind


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
            raise RecordError(f"{pattern}: a web server cannot list files; name each URL, or use snapshot")
        return [(pattern, 0)], True
    path = local_path(pattern)
    if path is None:
        return _remote_matches(pattern)
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
