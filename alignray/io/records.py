"""One split to documents and rejects: every record of it becomes one or the other, or is counted as pageless."""

from __future__ import annotations

import base64
import codecs
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import BinaryIO

import orjson

from alignray.config import without_secrets
from alignray.io.crawl_index import MAX_FETCH, Span, coalesced
from alignray.io.extract import decode, kind_of, metas_of, parse_html, text_by_tiers, text_of, text_with_trafilatura
from alignray.io.fetch import open_input, read_bytes
from alignray.io.frames import Damage
from alignray.io.gates import gate
from alignray.io.httpmessage import HttpMessage, body_of, parse_response
from alignray.io.optout import META_WORDS, OptOut, find_optout, is_turned_away, relevant_headers
from alignray.io.reasons import PageError
from alignray.io.rows import Columns, Row, iter_json, iter_json_lines, iter_parquet
from alignray.io.sources import IngestConfig, Split
from alignray.io.warc import PAGELESS, StoredRecord, iter_warc
from alignray.schema import Rejected, WebDocument
from alignray.seeding import row_id_of, row_id_of_json

STEP = "ingest"
PAGE_STATUSES = frozenset({200, 203})
HTTP_HEAD_ROOM = 1 << 16
WARC_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d(\.\d{1,9})?)?)?Z)?)?)?")
WEB_SCHEMES = ("http:", "https:", "ftp:", "file:")


def read_split(split: Split, config: IngestConfig, counts: Counter[str]) -> Iterator[WebDocument | Rejected]:
    """Documents and rejects of one file, or of a range of one, in its order. Nothing in the file makes it raise.

    Ranges that cover a file give together what the file gives (``iter_warc`` names the exceptions under damage), but for one
    thing: a row id that comes twice in the file is a "duplicate_record" only where both stand in one range. Pages that come
    twice in different ranges are found with those of different files, later.

    Args:
        counts: grows by "records" and "records/<type>" for everything read, "not_pages" for records that carry no page
            by type, and "damage" for rejects that stand for a part of the file and not for a record. So at the end
            records = documents + rejects - damage + not_pages.

    Raises:
        RecordError: the file cannot be opened, or its server stopped answering.
    """
    seen: dict[str, tuple[int, int]] = {}
    for offset, outcome in _outcomes(split, config, counts):
        if isinstance(outcome, Damage):
            counts["damage"] += 1
            yield _reject_damage(outcome, split)
            continue
        number, first_offset = seen.setdefault(outcome.row_id, (counts["records"], offset))
        yield outcome if number == counts["records"] else _reject_duplicate(outcome, split, offset, number, first_offset)


def _outcomes(split: Split, config: IngestConfig, counts: Counter[str]) -> Iterator[_Outcome]:
    if split.format == "index":
        yield from _read_named(split, config, counts)
        return
    read = _read_pages if split.format in ("warc", "wet") else _read_rows
    with open_input(split.uri, config.fetch, start=split.start, end=split.end) as raw:
        yield from read(raw, split, config, counts)


_Outcome = tuple[int, WebDocument | Rejected | Damage]
"""With the offset in the file."""


def _reject_damage(damage: Damage, split: Split) -> Rejected:
    evidence = {"file": split.shown, "offset": damage.offset, "error": damage.error}
    return Rejected(row_id_of(split.uri, damage.reason, str(damage.offset)), STEP, damage.reason, detail=_json(evidence))


def _reject_duplicate(again: WebDocument | Rejected, split: Split, offset: int, number: int, first_offset: int) -> Rejected:
    raw = again.raw if isinstance(again, Rejected) else again.text[: Rejected.RAW_LIMIT]
    evidence = {"file": split.shown, "offset": offset, "first_offset": first_offset, "first_record": number}
    return Rejected(again.row_id, STEP, "duplicate_record", raw, _json(evidence))


# ---- WARC


@dataclass
class _Page:
    """What is known of a page so far; a problem later on finds it here."""

    payload: bytes
    extractor: str
    optout: OptOut = field(default_factory=OptOut)


def _read_pages(raw: BinaryIO, split: Split, config: IngestConfig, counts: Counter[str]) -> Iterator[_Outcome]:
    max_block_bytes = config.max_record_bytes + HTTP_HEAD_ROOM
    for record in iter_warc(raw, max_block_bytes=max_block_bytes, start=split.start, end=split.end):
        if isinstance(record, Damage):
            yield record.offset, record
            continue
        counts["records"] += 1
        counts[f"records/{record.kind}"] += 1
        if record.kind in PAGELESS:
            counts["not_pages"] += 1
        else:
            yield record.offset, _page_outcome(record, split, config)


def _page_outcome(record: StoredRecord, split: Split, config: IngestConfig) -> WebDocument | Rejected:
    first_tier = "resiliparse" if config.extractor == "two_tier" else config.extractor
    page, gated, problem = _Page(record.block, first_tier), None, PageError("no_text")
    url = _header(record, "WARC-Target-URI").strip("<>")
    try:
        text = _text(record, url, page, config)
        # only Common Crawl's WET files have a verdict on the text itself
        declared = _header(record, "WARC-Identified-Content-Language") if record.kind == "conversion" else ""
        gated = gate(text, config.gates, declared_languages=declared)
    except PageError as err:
        problem = err
    record_id, digest = _header(record, "WARC-Record-ID"), _header(record, "WARC-Payload-Digest") or _sha1(page.payload)
    row_id = row_id_of(record_id or url, digest)
    if gated is None:
        evidence = {"file": split.shown, "offset": record.offset, "url": url, "record_id": record_id, "note": problem.note}
        if page.optout.evidence:
            evidence["optout"] = page.optout.evidence
        # a page that opted out leaves no copy
        raw = "" if problem.reason == "optout" else _lenient(page.payload)
        return Rejected(row_id, STEP, problem.reason, raw, _json(evidence))
    date = _header(record, "WARC-Date")
    is_extracted = record.kind != "conversion"
    return WebDocument(
        row_id, gated.text, split.source, url, split.shown, record.offset, record_id, digest,
        date if WARC_DATE.fullmatch(date) else "", gated.language, gated.num_tokens, gated.truncated,
        page.extractor if is_extracted else "", page.optout.evidence,
    )


def _text(record: StoredRecord, url: str, page: _Page, config: IngestConfig) -> str:
    """Readable text of a record; ``page`` keeps how far it came.

    Raises:
        PageError: any reason but those of the gates.
    """
    if record.length > config.max_record_bytes + HTTP_HEAD_ROOM:
        raise PageError("payload_too_large", f"{record.length} bytes")
    if not record.is_whole:
        raise PageError("truncated_record", f"{len(record.block)} of {record.length} bytes")
    if record.kind == "revisit":
        raise PageError("revisit", _header(record, "WARC-Refers-To") or _header(record, "WARC-Refers-To-Target-URI"))
    content_type = _header(record, "Content-Type")
    if record.kind == "conversion":
        return decode(record.block, "charset=utf-8")
    if record.kind not in ("response", "resource"):
        raise PageError("bad_record", f"type {record.kind}")
    message = HttpMessage(200, {"content-type": [content_type]}, record.block)
    if record.kind == "response" and (content_type.startswith("application/http") or record.block.startswith(b"HTTP/")):
        if not record.block:
            raise PageError("empty_payload")
        message = parse_response(record.block)
        page.payload = message.body
        if message.status not in PAGE_STATUSES:
            raise PageError("http_status", str(message.status))
        page.payload = body_of(message, max_bytes=config.max_record_bytes)
    elif url and not url.lower().startswith(WEB_SCHEMES):
        raise PageError("not_html", f"a {url[:40]} resource")
    return _page_text(message, page, config)


def _page_text(message: HttpMessage, page: _Page, config: IngestConfig) -> str:
    if not page.payload.strip():
        raise PageError("empty_payload")
    content_type = message.first("content-type")
    kind = kind_of(content_type, page.payload)
    signals = relevant_headers(message.headers) if config.optout.policy != "ignore" else []
    text = decode(page.payload, content_type)
    tree = parse_html(text) if kind == "html" else None
    if config.optout.policy != "ignore":
        page.optout = find_optout(signals, metas_of(tree, text, words=META_WORDS) if tree is not None else ())
        if is_turned_away(page.optout, config.optout):
            raise PageError("optout", ", ".join(sorted(page.optout.signals)))
    if tree is None:
        return text
    if config.extractor == "two_tier":
        page.extractor, found = text_by_tiers(tree, text)
        return found
    return text_with_trafilatura(text) if config.extractor == "trafilatura" else text_of(tree, main_content=config.main_content)


def _header(record: StoredRecord, name: str) -> str:
    return (record.headers.get(name) or "").strip()


def _sha1(payload: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(payload).digest()).decode()


def _lenient(payload: bytes) -> str:
    """The beginning of a payload, as UTF-8 or else byte by byte; replacing errors would cost more than a page's text."""
    beginning = payload[: Rejected.RAW_LIMIT]
    try:
        return codecs.utf_8_decode(beginning, "strict", False)[0]
    except UnicodeDecodeError:
        return beginning.decode("latin-1")


def _json(evidence: Mapping[str, object]) -> str:
    """Evidence without its empty values."""
    return orjson.dumps({key: value for key, value in evidence.items() if value != ""}).decode()


# ---- records that an index names


def _read_named(split: Split, config: IngestConfig, counts: Counter[str]) -> Iterator[_Outcome]:
    for problem in split.problems:
        if problem.reason != "bad_index_line":
            yield problem.number, Damage(problem.reason, problem.number, problem.error)
            continue
        counts["records"] += 1
        counts["records/index_line"] += 1
        evidence = {"file": split.shown, "offset": problem.number, "note": problem.error}
        row_id = row_id_of(split.uri, problem.reason, str(problem.number))
        yield problem.number, Rejected(row_id, STEP, problem.reason, problem.raw[: Rejected.RAW_LIMIT], _json(evidence))
    max_bytes = config.max_record_bytes + HTTP_HEAD_ROOM
    for run in coalesced(split.spans):
        start, end = run[0].offset, run[-1].offset + run[-1].length
        is_too_large = end - start > max(max_bytes, MAX_FETCH)
        stored = b"" if is_too_large else read_bytes(run[0].uri, start, end, config.fetch)
        for span in run:
            counts["records"] += 1
            if is_too_large:
                counts["records/index_entry"] += 1
                yield span.offset, _reject_span(span, "payload_too_large", f"{span.length} bytes")
            else:
                yield span.offset, _named_outcome(stored[span.offset - start :][: span.length], span, split, config, counts)


def _named_outcome(stored: bytes, span: Span, split: Split, config: IngestConfig, counts: Counter[str]) -> WebDocument | Rejected:
    record = next(iter_warc(BytesIO(stored), max_block_bytes=config.max_record_bytes + HTTP_HEAD_ROOM), None)
    if not isinstance(record, StoredRecord):
        counts["records/index_entry"] += 1
        return _reject_span(span, "index_mismatch", record.error if record is not None else f"{len(stored)} bytes and no record")
    counts[f"records/{record.kind}"] += 1
    if record.kind in PAGELESS:
        return _reject_span(span, "index_mismatch", f"a {record.kind} record")
    digest = _header(record, "WARC-Payload-Digest").removeprefix("sha1:")
    if record.is_whole and span.digest and digest and digest != span.digest:
        return _reject_span(span, "index_mismatch", f"payload digest {digest}, not {span.digest}")
    return _page_outcome(replace(record, offset=span.offset), replace(split, uri=span.uri, spans=()), config)


def _reject_span(span: Span, reason: str, note: str) -> Rejected:
    evidence = {"file": without_secrets(span.uri), "offset": span.offset, "length": span.length, "note": note}
    return Rejected(row_id_of(span.uri, reason, str(span.offset)), STEP, reason, detail=_json(evidence))


# ---- Parquet and JSON


def _read_rows(raw: BinaryIO, split: Split, config: IngestConfig, counts: Counter[str]) -> Iterator[_Outcome]:
    source = next(source for source in config.sources if source.name == split.source)
    columns = Columns(source.text_column, source.url_column, source.id_column)
    if split.format == "parquet":
        rows = iter_parquet(raw, columns, start=split.start, end=split.end)
    elif split.format == "json":
        rows = iter_json(raw, columns, max_bytes=config.max_record_bytes)
    else:
        rows = iter_json_lines(
            raw, columns, max_bytes=config.max_record_bytes, start=split.start, end=split.end, rows_before=split.rows_before,
        )
    for row in rows:
        if isinstance(row, Damage):
            yield row.offset, row
            continue
        counts["records"] += 1
        counts["records/row"] += 1
        yield row.number, _row_outcome(row, split, config)


def _row_outcome(row: Row, split: Split, config: IngestConfig) -> WebDocument | Rejected:
    has_key = row.text or row.url or row.id
    row_id = row_id_of_json({"text": row.text, "url": row.url, "id": row.id} if has_key else [split.uri, row.number])
    gated, problem = None, row.problem
    if problem is None:
        try:
            if len(row.text) > config.max_record_bytes:
                raise PageError("payload_too_large", f"{len(row.text)} characters")
            gated = gate(row.text, config.gates)
        except PageError as err:
            problem = err
    if gated is None:
        note = problem.note if problem else ""
        evidence = {"file": split.shown, "offset": row.number, "url": row.url, "record_id": row.id, "note": note}
        reason = problem.reason if problem else "no_text"
        return Rejected(row_id, STEP, reason, row.text[: Rejected.RAW_LIMIT], _json(evidence))
    return WebDocument(
        row_id, gated.text, split.source, row.url, split.shown, row.number, row.id, _sha1(row.text.encode()),
        language=gated.language, num_tokens=gated.num_tokens, truncated=gated.truncated,
    )
