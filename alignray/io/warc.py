"""WARC files as records, every one of them: those of all types, cut ones, and what damage left of the rest."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from fastwarc.warc import ArchiveIterator

from alignray.io.frames import FRAME_MAGICS, Damage, RecordStream, frame_damage, magic_of
from alignray.io.reasons import is_panic

PAGELESS = frozenset({"warcinfo", "request", "metadata"})
"""Record types that carry no page: counted, never documents."""
MAX_DAMAGES = 1000
"""A file with more damaged places than this is given up."""
HEADER_LIMIT = 1 << 15
GAP_LIMIT = 1 << 12


@dataclass(frozen=True)
class StoredRecord:
    """One WARC record."""

    kind: str
    """WARC-Type in lower case; "unknown" where it is missing or not in the standard."""
    headers: Any
    """Its WARC headers: a mapping with a case-blind ``get``."""
    block: bytes
    """Content; empty for pageless types, cut at the cap plus one byte for oversized ones."""
    length: int
    """Content-Length as understood."""
    offset: int
    """In the file as stored; of the compressed frame, if compressed."""
    is_whole: bool


class _FrameFile:
    """A zstd or LZ4 file, handed to the reader as it is: there is no going on behind damage in these."""

    def __init__(self, raw: BinaryIO) -> None:
        self.read, self.seek, self.tell = raw.read, raw.seek, raw.tell

    def close(self) -> None:
        """The stored file belongs to the caller."""


def iter_warc(raw: BinaryIO, *, max_block_bytes: int, start: int = 0, end: int | None = None) -> Iterator[StoredRecord | Damage]:
    """Records of a WARC file (plain, gzip, zstd, LZ4) in order, a ``Damage`` where something could not be read.

    Damage inside gzip ends with the next intact member, a stretch that is no record with the next record header.

    Args:
        start, end: a range of the stored bytes. It has the records whose gzip member, or header where nothing is
            compressed, begins in it, and the damage met from the first of them to the beginning of the next range. So
            ranges that cover a file give together what the file gives, with these exceptions: a damaged record whose
            length runs over records of the next range hides or shows further *damaged* records; an archived WARC file,
            stored as it is inside a record, may have its own records read where a range begins inside it; and the cap
            on damaged places holds for each range. zstd and LZ4 are read by the range from 0, whole.
    """
    if magic_of(raw).startswith(FRAME_MAGICS):
        if not start:
            yield from _framed_records(raw, max_block_bytes)
        return
    source = RecordStream(raw, start, end)
    for num_damages in range(MAX_DAMAGES + 1):
        damage = yield from _until_damage(source, max_block_bytes)
        if damage is None:
            return
        if num_damages == MAX_DAMAGES:
            yield Damage("corrupt_file", damage.offset, f"given up after {MAX_DAMAGES} damaged places")
            return
        yield damage
        if damage.reason == "unsupported_format":
            return


def _framed_records(raw: BinaryIO, max_block_bytes: int) -> Iterator[StoredRecord | Damage]:
    reader = ArchiveIterator(_FrameFile(raw), parse_http=False, quirks_mode=True)
    stored = None
    try:
        while (record := _next(reader)) is not None:
            stored = _stored(record, record.stream_pos, max_block_bytes)
            yield stored
    except OSError as err:
        yield frame_damage(stored.offset if stored else 0, err)
        return
    if stored is not None and not stored.is_whole:
        yield Damage("truncated_file", stored.offset, "the file ends inside a record")


def _until_damage(source: RecordStream, max_block_bytes: int) -> Generator[StoredRecord, None, Damage | None]:
    """Records up to the next damage, which is returned; None at the end of the file or range. The source then stands behind the damage.

    The reader passes over what is no record without a word, so every gap between records is looked at.
    """
    start = end = source.tell()  # of the last record, or of the stretch: where it begins, where it should end
    offset, stored, error = source.stored_offset(start), None, ""
    reader = ArchiveIterator(source, parse_http=False, quirks_mode=True, stream_detect=False)
    try:
        while (record := _next(reader)) is not None:
            if _is_gap(source, end, record.stream_pos):
                error = "bytes between two records that belong to none"
                break
            start = record.stream_pos
            offset = source.stored_offset(start)
            if source.is_beyond(offset, start):
                return None
            end = start + _header_length(source, start) + record.content_length
            stored = _stored(record, offset, max_block_bytes)
            yield stored
    except OSError as err:
        error = str(err)
    if (damage := source.take_damage()) is not None:
        return None if source.is_beyond(damage.offset) else damage
    if stored is not None and not stored.is_whole and not error and end >= source.tell():
        source.resync(start + 1)  # to a record that a wrong length swallowed
        return Damage("truncated_file", offset, "the file ends inside a record")
    if not error and _is_gap(source, end, source.tell()):
        error = "bytes behind the last record that belong to none"
    if not error:
        return None
    if stored is None and source.slice(start, start + 9) == b"filedesc:":
        return Damage("unsupported_format", offset, "an ARC file; convert it with warcio recompress")
    source.resync(start + 1)
    return source.take_damage() or Damage("corrupt_file", offset, error)


def _next(reader: Any) -> Any:
    """The next record, or None.

    Raises:
        OSError: also where the reader itself breaks.
    """
    try:
        return next(reader, None)
    except BaseException as err:
        if is_panic(err):
            raise OSError(f"the WARC reader gave up: {err}") from err
        raise


def _is_gap(source: RecordStream, start: int, stop: int) -> bool:
    """True where more than blank lines stands between two positions."""
    return stop - start > 4 and bool(source.slice(start, min(stop, start + GAP_LIMIT)).strip())


def _header_length(source: RecordStream, start: int) -> int:
    """Length of the WARC header at ``start`` with its blank line, CRLF or LF."""
    for limit in (1 << 11, HEADER_LIMIT):
        head = source.slice(start, start + limit)
        end = head.find(b"\r\n\r\n")
        bare_end = head.find(b"\n\n", 0, end if end >= 0 else None)
        if bare_end >= 0 or end >= 0:
            return bare_end + 2 if bare_end >= 0 else end + 4
    return len(head)


def _stored(record: Any, offset: int, max_block_bytes: int) -> StoredRecord:
    kind, length = str(record.record_type), record.content_length
    if kind in PAGELESS or length > max_block_bytes:
        block = b"" if kind in PAGELESS else record.reader.read(1 << 14)
        num_read = len(block) + record.reader.consume()
    else:
        block = record.reader.read()
        num_read = len(block)
    # quirks mode reads a missing or unreadable length as 0
    has_length = length > 0 or (record.headers.get("Content-Length") or "").strip() == "0"
    return StoredRecord(kind, record.headers, block, length, offset, is_whole=has_length and num_read == length)
