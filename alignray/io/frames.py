"""Stored bytes to decoded bytes, past damage: gzip members, zstd and LZ4 frames, or nothing at all.

gzip is taken apart here and not by the WARC reader, which stops at the first damaged member and does not notice one
that is cut short. Decoding costs a few percent of what text extraction does.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from fastwarc import stream_io

CHUNK = 1 << 16
GZIP_CHUNK = 1 << 14
"""Smaller, as what is left of it is copied at the end of every member."""
HISTORY = 1 << 24
"""Decoded bytes kept for going back to the header that a wrong Content-Length swallowed."""
PEEK = 1 << 12
"""Stored bytes of a gzip member by which its beginning is judged: always as many, so that all judge alike."""
GZIP_MAGIC = b"\x1f\x8b\x08"
FRAME_MAGICS = (b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x5d\x2a\x4d\x18")
"""zstd, LZ4, and the skippable frame that holds a zstd dictionary."""
RECORD_START = re.compile(rb"(?:\A|\n)(WARC/[01]\.\d{1,2}\r?\n[A-Za-z])")
RECORD_LINE = re.compile(rb"\n(WARC/[01]\.\d{1,2}\r?\n[A-Za-z])")
"""The same, in the middle of a file."""


@dataclass(frozen=True)
class Damage:
    """A part of a file that cannot be read."""

    reason: str
    """"truncated_file", "corrupt_file" or "unsupported_format"."""
    offset: int
    """Where it begins in the file as stored."""
    error: str


@dataclass(frozen=True)
class Chunk:
    """Some decoded bytes."""

    stored: int
    """Offset in the file as stored: of the gzip member, or of the first byte where nothing is compressed."""
    data: bytes
    opens_next: bool = False
    """True for a mark without data in front of the gzip member with which the next range of the file begins."""


def magic_of(raw: BinaryIO) -> bytes:
    """The first bytes of a stream, which then stands at its beginning again."""
    raw.seek(0)
    magic = raw.read(16)
    raw.seek(0)
    return magic


def decoded(raw: BinaryIO, *, resync: bytes | None = None, start: int = 0, end: int | None = None) -> Iterator[Chunk | Damage]:
    """Decoded content of a stored file, with a ``Damage`` in the place of what cannot be decoded.

    Args:
        resync: how a gzip member must begin for reading to go on with it behind damage; None ends at the first damage.
        start, end: a range, cut exactly where nothing is compressed; else the range from 0 has everything.
    """
    magic = magic_of(raw)
    is_compressed = is_gzip(raw, resync) or magic.startswith(FRAME_MAGICS)
    if is_compressed and start:
        return iter(())
    if not is_compressed:
        return _plain_chunks(raw, start, end)
    return _frame_chunks(raw, magic) if magic.startswith(FRAME_MAGICS) else _gzip_chunks(raw, resync, 0, None)


def is_gzip(raw: BinaryIO, resync: bytes | None) -> bool:
    """True for gzip, also where the file begins with damage and the first member comes later."""
    magic = magic_of(raw)
    if magic.startswith(GZIP_MAGIC[:2]) or magic == GZIP_MAGIC[:1]:  # the second: all that is left of a file cut there
        return True
    if resync is None or magic.startswith((resync, *FRAME_MAGICS)):
        return False
    is_behind_damage = _next_member(raw, 0, resync) is not None
    raw.seek(0)
    return is_behind_damage


def _plain_chunks(raw: BinaryIO, offset: int, end: int | None = None) -> Iterator[Chunk]:
    raw.seek(offset)
    while data := raw.read(CHUNK if end is None else min(CHUNK, end - offset)):
        yield Chunk(offset, data)
        offset += len(data)


def _frame_chunks(raw: BinaryIO, magic: bytes) -> Iterator[Chunk | Damage]:
    reader = stream_io.Lz4Reader(raw) if magic.startswith(FRAME_MAGICS[1]) else stream_io.ZstdReader(raw)
    while True:
        try:
            data = reader.read(CHUNK)
        except OSError as err:
            yield frame_damage(reader.frame_start_position() or 0, err)
            return
        if not data:
            return
        yield Chunk(reader.frame_start_position() or 0, data)


def frame_damage(offset: int, err: OSError) -> Damage:
    """What an error of the zstd or LZ4 decoder says about the file."""
    is_cut = "incomplete" in str(err) or "fill whole buffer" in str(err)
    return Damage("truncated_file" if is_cut else "corrupt_file", offset, str(err))


def _gzip_chunks(raw: BinaryIO, resync: bytes | None, start: int, end: int | None) -> Iterator[Chunk | Damage]:
    """Content from the first member at or behind ``start`` on, which is looked for unless ``start`` is 0.

    It does not stop at ``end``: where the next range begins there is a mark, and further content follows. Behind
    damage, though, reading goes on only with a member that begins before ``end``: the others are found by their range.
    """
    member: int | None = start
    if start and resync is not None:
        member = _next_member(raw, start, resync, end)
    while member is not None:
        damage = yield from _members(raw, member, resync, end)
        if damage is None:
            return
        yield damage
        member = _next_member(raw, damage.offset + 1, resync, end) if resync is not None else None


def _members(
    raw: BinaryIO, start: int, resync: bytes | None, range_end: int | None,
) -> Generator[Chunk, None, Damage | None]:
    """Content of the members from ``start`` on; returns the damage that ended it, or None at the end of the file."""
    raw.seek(start)
    buffer, end = b"", start  # end: offset behind the last byte read
    while True:
        buffer = buffer.lstrip(b"\0")  # zero padding between members, as tapes and block stores leave it
        if len(buffer) < len(GZIP_MAGIC):
            more = raw.read(GZIP_CHUNK)
            end += len(more)
            buffer += more
            if not more and not buffer:
                return None
            if more:
                continue
        member = end - len(buffer)
        if not buffer.startswith(GZIP_MAGIC):
            is_cut = GZIP_MAGIC.startswith(buffer)
            reason, error = ("truncated_file", "cut gzip header") if is_cut else ("corrupt_file", "no gzip member here")
            return Damage(reason, member, error)
        if range_end is not None and resync is not None and member >= range_end:
            if len(buffer) < PEEK:
                more = raw.read(PEEK - len(buffer))
                end += len(more)
                buffer += more
            if _begins_with(buffer[:PEEK], resync):
                yield Chunk(member, b"", opens_next=True)
        decoder = zlib.decompressobj(wbits=31)
        try:
            while not decoder.eof:
                if not buffer:
                    buffer = raw.read(GZIP_CHUNK)
                    end += len(buffer)
                    if not buffer:
                        return Damage("truncated_file", member, "the file ends inside a gzip member")
                data = decoder.decompress(buffer, CHUNK)
                buffer = decoder.unconsumed_tail
                if data:
                    yield Chunk(member, data)
        except zlib.error as err:
            return Damage("corrupt_file", member, str(err))
        buffer = decoder.unused_data


def _next_member(raw: BinaryIO, offset: int, resync: bytes, limit: int | None = None) -> int | None:
    """Offset of the first gzip member at or behind ``offset``, before ``limit``, whose content begins with ``resync``."""
    raw.seek(offset)
    window, base = b"", offset
    while limit is None or base < limit:
        data = raw.read(CHUNK)
        window += data
        position = window.find(GZIP_MAGIC)
        while position >= 0 and (limit is None or base + position < limit):
            stored = window[position : position + PEEK]
            if len(stored) < PEEK:
                stored += raw.read(PEEK - len(stored))
                raw.seek(base + len(window))
            if _begins_with(stored, resync):
                return base + position
            position = window.find(GZIP_MAGIC, position + 1)
        if not data:
            return None
        kept = window[-(len(GZIP_MAGIC) - 1) :]
        base, window = base + len(window) - len(kept), kept
    return None


def _next_header(raw: BinaryIO, offset: int, limit: int | None) -> int | None:
    """Offset of the first WARC header at or behind ``offset``, before ``limit``, in a file that is not compressed."""
    base = max(offset - 1, 0)
    raw.seek(base)
    window = b""
    while (limit is None or base < limit) and (data := raw.read(CHUNK)):
        window += data
        if found := RECORD_LINE.search(window):
            position = base + found.start(1)
            return position if limit is None or position < limit else None
        kept = window[-64:]
        base, window = base + len(window) - len(kept), kept
    return None


def _begins_with(stored: bytes, resync: bytes) -> bool:
    try:
        return zlib.decompressobj(wbits=31).decompress(stored, len(resync)) == resync
    except zlib.error:
        return False


class RecordStream:
    """Decoded bytes as the file object a WARC reader wants. It seems to end at damage; then ``take_damage`` says what.

    A stream of the range from ``start`` to ``end`` begins with the first member, or header where nothing is compressed,
    in that range. It goes on behind ``end``, so that the last record is read as in the whole file; ``is_beyond`` tells
    what belongs to the next range.
    """

    def __init__(self, raw: BinaryIO, start: int = 0, end: int | None = None) -> None:
        self._is_plain = not is_gzip(raw, b"WARC/")
        self._end = end
        self._next_range: int | None = None
        self._chunks: Iterator[Chunk | Damage]
        if self._is_plain:
            first = _next_header(raw, start, end) if start else 0
            self._chunks = _plain_chunks(raw, first) if first is not None else iter(())
        else:
            self._chunks = _gzip_chunks(raw, b"WARC/", start, end)
        self._ahead: deque[tuple[int, Chunk]] = deque()
        self._behind: deque[tuple[int, Chunk]] = deque()
        self._position = 0
        self._num_behind = 0
        self._damage: Damage | None = None

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` decoded bytes; none at the end and at damage."""
        if not self._ahead and not self._pull():
            return b""
        position, chunk = self._ahead.popleft()
        if 0 <= size < len(chunk.data):
            chunk, rest = self._parted(chunk, size)
            self._ahead.appendleft((position + size, rest))
        self._behind.append((position, chunk))
        self._position = position + len(chunk.data)
        self._num_behind += len(chunk.data)
        while self._num_behind > HISTORY:
            self._num_behind -= len(self._behind.popleft()[1].data)
        return chunk.data

    def tell(self) -> int:
        """Decoded bytes handed out."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Refused: the way back is ``resync``."""
        raise OSError("a record stream cannot seek")

    def close(self) -> None:
        """The stored file belongs to the caller."""

    def take_damage(self) -> Damage | None:
        """The damage that ended the stream, once; the next read goes on behind it."""
        damage, self._damage = self._damage, None
        return damage

    def is_beyond(self, offset: int, position: int | None = None) -> bool:
        """True for what the next range reads.

        Args:
            offset: in the file as stored, of a record or damage.
            position: of the record's header; None for damage.
        """
        if not self._is_plain:
            return self._next_range is not None and offset >= self._next_range
        # a header that the next range would not find is still read here
        return (
            self._end is not None and offset >= self._end
            and position is not None and RECORD_START.match(self.slice(position, position + 64)) is not None
        )

    def stored_offset(self, position: int) -> int:
        """Where in the stored file the decoded byte at ``position`` is (its gzip member, if compressed)."""
        for start, chunk in reversed(self._behind):
            if start <= position:
                return chunk.stored + (position - start if self._is_plain else 0)
        return self._behind[0][1].stored if self._behind else 0

    def slice(self, start: int, stop: int) -> bytes:
        """Decoded bytes from ``start`` to ``stop``, as far as they have been handed out and are kept."""
        pieces: deque[bytes] = deque()
        for position, chunk in reversed(self._behind):
            if position < stop and position + len(chunk.data) > start:
                pieces.appendleft(chunk.data[max(0, start - position) : stop - position])
            if position <= start:
                break
        return b"".join(pieces)

    def resync(self, after: int) -> bool:
        """Go to the first thing that looks like a record header at or behind decoded byte ``after``."""
        self._rewind(after)
        window = b""
        while data := self.read(CHUNK):
            window = window[-64:] + data
            if found := RECORD_START.search(window):
                self._rewind(self._position - len(window) + found.start(1))
                return True
        return False

    def _pull(self) -> bool:
        item = next(self._chunks, None) if self._damage is None else None
        while isinstance(item, Chunk) and item.opens_next:
            if self._next_range is None:
                self._next_range = item.stored
            item = next(self._chunks, None)
        if isinstance(item, Damage):
            self._damage = item
        elif item is not None:
            self._ahead.append((self._position, item))
        return bool(self._ahead)

    def _parted(self, chunk: Chunk, size: int) -> tuple[Chunk, Chunk]:
        step = size if self._is_plain else 0
        return Chunk(chunk.stored, chunk.data[:size]), Chunk(chunk.stored + step, chunk.data[size:])

    def _rewind(self, position: int) -> None:
        while self._behind and self._position > position:
            start, chunk = self._behind.pop()
            self._num_behind -= len(chunk.data)
            if start < position:
                kept, chunk = self._parted(chunk, position - start)
                self._behind.append((start, kept))
                self._num_behind += len(kept.data)
                start = position
            self._ahead.appendleft((start, chunk))
            self._position = start
