"""Tiny WARC files, built by hand, and a shortcut to read them."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

from alignray.io.records import read_split
from alignray.io.sources import IngestConfig, list_splits
from alignray.schema import Rejected, WebDocument

PROSE = (
    "The kettle had been on the stove for an hour before anybody noticed that the water was gone. "
    "She laughed, took it off the flame and wrote a note to herself about timers and attention. "
    "In the evening they read the note aloud and agreed that it should hang above the sink for a year.\n\n"
)


def http(body: bytes, *headers: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    """An HTTP response; without a Content-Type among ``headers`` it is HTML in UTF-8."""
    if not any(header.lower().startswith("content-type") for header in headers):
        headers = ("Content-Type: text/html; charset=utf-8", *headers)
    return "\r\n".join((status, *headers, "", "")).encode("latin-1") + body


def html(text: str = PROSE, *, head: str = "") -> bytes:
    """A page with ``text`` as its paragraphs."""
    body = "".join(f"<p>{paragraph}</p>" for paragraph in text.split("\n\n") if paragraph)
    return f"<!DOCTYPE html><html><head><title>t</title>{head}</head><body><article>{body}</article></body></html>".encode()


def record(block: bytes, *, number: int = 0, kind: str = "response", **headers: str) -> bytes:
    """One WARC record; ``headers`` with underscores for dashes, an empty value leaves the header out."""
    content_type = {"response": "application/http; msgtype=response", "conversion": "text/plain"}.get(kind, "text/html")
    fields = {
        "WARC-Type": kind, "WARC-Record-ID": f"<urn:uuid:00000000-0000-0000-0000-{number:012}>",
        "WARC-Target-URI": f"https://example.org/{number}", "WARC-Date": "2024-05-01T12:00:00Z",
        "Content-Type": content_type, "Content-Length": str(len(block)),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"WARC/1.0\r\n{head}\r\n".encode() + block + b"\r\n\r\n"


def members(*records: bytes) -> bytes:
    """Records as a .warc.gz: one gzip member each."""
    return b"".join(gzip.compress(stored, mtime=0) for stored in records)


def config_for(path: Path | str, **settings: Any) -> IngestConfig:
    """Config of one file; settings of the source by ``source={...}``."""
    source = {"name": "test", "paths": (str(path),)} | settings.pop("source", {})
    return IngestConfig.model_validate({"sources": (source,), **settings})


def read(path: Path | str, **settings: Any) -> tuple[list[WebDocument], list[Rejected], Counter[str]]:
    """Documents, rejects and counts of one file, the accounting identity checked."""
    config = config_for(path, **settings)
    counts: Counter[str] = Counter()
    outcomes = [outcome for split in list_splits(config) for outcome in read_split(split, config, counts)]
    documents = [outcome for outcome in outcomes if isinstance(outcome, WebDocument)]
    rejects = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
    assert counts["records"] == len(documents) + len(rejects) - counts["damage"] + counts["not_pages"]
    assert counts["records"] == sum(count for name, count in counts.items() if name.startswith("records/"))
    return documents, rejects, counts


def read_bytes(stored: bytes, tmp_path: Path, name: str = "test.warc", **settings: Any) -> Any:
    """``read`` of a file with this content."""
    path = tmp_path / name
    path.write_bytes(stored)
    return read(path, **settings)
