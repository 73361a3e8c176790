"""The event log and the vectors beside it: appended to by one process, followed by many.

``events.jsonl`` has a line per event: 8 hex digits, a blank, JSON. The digits are a CRC-32 over the line and, as its start value,
the digits of the line before, so a line that was changed, lost or swapped is seen. ``vectors.f32`` holds the keys, row by row;
an add names its row and the CRC-32 of it. Vectors are synced before the events that name them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignray.engine.embedders import Vectors
from alignray.errors import StorageError

_CHUNK = 1 << 23
_ROOM = 4096
"""Rows by which the vector file is longer than it has to be, at least."""


class Place(NamedTuple):
    """A point between two lines of the log."""

    offset: int
    chain: int
    """Checksum of the line before; 0 at the start."""


class Line(NamedTuple):
    """One whole line."""

    offset: int
    length: int
    payload: bytes
    after: Place


class Damaged(Exception):
    """A terminated line whose checksum is wrong."""

    def __init__(self, place: Place, why: str) -> None:
        super().__init__(place, why)
        self.place, self.why = place, why


def sealed(payload: bytes, chain: int) -> tuple[bytes, int]:
    """A payload as a line, and the chain after it."""
    chain = zlib.crc32(payload, chain)
    return b"%08x %b\n" % (chain, payload), chain


def read_lines(path: Path, start: Place) -> Iterator[Line]:
    """Terminated lines from a place on; what follows the last newline is left alone.

    Raises:
        Damaged: at the first line that does not continue the chain.
    """
    offset, chain = start
    rest = b""
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                payload = line[9:]
                found = zlib.crc32(payload, chain)
                if line[:9] != b"%08x " % found:
                    raise Damaged(Place(offset, chain), f"reads {line[:40]!r}")
                chain = found
                after = Place(offset + len(line) + 1, chain)
                yield Line(offset, len(line) + 1, payload, after)
                offset = after.offset


def payload_at(descriptor: int, offset: int, length: int) -> bytes:
    """The payload of a line that is known to be there."""
    return os.pread(descriptor, length, offset)[9:-1]


def map_vectors(path: Path, rows: int, dimensions: int) -> Vectors:
    """A vector file [all that it has room for, dimensions], read from the disk as it is touched.

    Raises:
        StorageError: the file is shorter than that.
    """
    if not rows:
        return np.zeros((0, dimensions), dtype=np.float32)
    with path.open("rb") as file:
        if (room := os.fstat(file.fileno()).st_size // (dimensions * 4)) < rows:
            raise StorageError(f"{path}: holds {room} of {rows} vectors; embed anew with alignray.memory.rebuild")
        mapped = mmap.mmap(file.fileno(), room * dimensions * 4, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype=np.float32).reshape(room, dimensions)


def vector_crc(vector: Vectors) -> int:
    """CRC-32 of a row."""
    return zlib.crc32(np.ascontiguousarray(vector).data)


class Writer:
    """Appends groups of events; ``commit`` returns once they are on the disk."""

    def __init__(self, log: Path, vectors: Path, place: Place, rows: int, dimensions: int, *, fsync: bool) -> None:
        """Starts at a place; whatever the files hold behind it is cut off."""
        self._row_bytes, self._fsync, self._broken = dimensions * 4, fsync, ""
        self.place, self.rows = place, rows
        self._path = log
        self._log = os.open(log, os.O_RDWR | os.O_CREAT, 0o644)
        self._vectors = os.open(vectors, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._log, place.offset)
        os.ftruncate(self._vectors, rows * self._row_bytes)
        self._room = 0
        self._make_room(rows)

    def _make_room(self, rows: int) -> None:
        """Lengthen the vector file ahead of its rows (a hole, no disk space), so that it is mapped anew rarely: a new mapping has to
        fault in its pages again."""
        if rows >= self._room:
            self._room = rows + max(_ROOM, rows // 2)
            os.ftruncate(self._vectors, self._room * self._row_bytes)

    def commit(self, payloads: Sequence[bytes], vectors: Vectors) -> list[tuple[int, int]]:
        """Offset and length of each event's line.

        Raises:
            StorageError: the disk is full or failed. Nothing of the group stays; after a failed sync nothing more is taken.
        """
        if self._broken:
            raise StorageError(f"{self._path}: takes no more edits since {self._broken}; see to the disk and open the memory anew")
        lines, places = [], []
        offset, chain = self.place
        for payload in payloads:
            line, chain = sealed(payload, chain)
            places.append((offset, len(line)))
            lines.append(line)
            offset += len(line)
        try:
            self._make_room(self.rows + len(vectors))
            _write(self._vectors, np.ascontiguousarray(vectors).tobytes(), self.rows * self._row_bytes)
            self._sync(self._vectors if len(vectors) else None)
            _write(self._log, b"".join(lines), self.place.offset)
            self._sync(self._log)
        except BaseException as err:
            self._take_back(err)
            if not isinstance(err, OSError):
                self.stop(f"a write was interrupted ({type(err).__name__})")
                raise
            raise StorageError(f"{self._path}: cannot write {len(payloads)} event(s) ({err.strerror}); make room on that disk") from err
        self.place, self.rows = Place(offset, chain), self.rows + len(vectors)
        return places

    def _sync(self, descriptor: int | None) -> None:
        if descriptor is None or not self._fsync:
            return
        try:
            os.fdatasync(descriptor)
        except OSError as err:
            # the kernel may have dropped the pages: a second sync that succeeds would prove nothing
            self.stop(f"a sync failed ({err.strerror})")
            raise

    def stop(self, why: str) -> None:
        """Take nothing more: what is in memory may not be what is on the disk."""
        self._broken = self._broken or why

    def _take_back(self, cause: BaseException) -> None:
        try:
            os.ftruncate(self._log, self.place.offset)  # vectors that no event names are written over
        except OSError:
            self.stop(f"a write failed and could not be taken back ({cause})")

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._log)
        os.close(self._vectors)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class WriterLock:
    """The right to write to a memory; goes with its process, however that ends."""

    def __init__(self, folder: Path) -> None:
        """Takes it.

        Raises:
            StorageError: somebody has it.
        """
        self._descriptor = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            holder = os.pread(self._descriptor, 32, 0).decode().strip() or "unknown"
            os.close(self._descriptor)
            raise StorageError(
                f"edit memory {folder}: process {holder} writes to it; stop that one, or open with writable=False to read and follow"
            ) from err
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it back."""
        os.close(self._descriptor)
