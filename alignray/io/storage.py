"""A run folder's files, on a local disk or any fsspec object store, behind the few operations that can be made atomic.

A disk that is full and a store that does not answer are a StorageError; a file that is not there stays a FileNotFoundError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow.fs as pafs

from alignray.errors import ConfigError, StorageError

_STORE_CLIENTS = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs"})
"""Libraries under fsspec whose own errors can come through it."""


def is_storage_failure(err: BaseException) -> bool:
    """Whether disk or store failed, as opposed to a file that is missing, there already, or damaged (no errno, EINVAL)."""
    if isinstance(err, FileNotFoundError | FileExistsError):
        return False
    if isinstance(err, OSError):
        return err.errno not in (None, errno.EINVAL) or isinstance(err, TimeoutError | PermissionError | ConnectionError)
    return type(err).__module__.partition(".")[0] in _STORE_CLIENTS


class Storage:
    """Files under one root. Paths are relative, with forward slashes.

    On a local disk a file is written aside, synced and linked into place; an object store's put is atomic by itself.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") or "/"
        protocol, separator, _ = self.root.partition("://")
        self.is_local = not separator or protocol == "file"
        if self.is_local:
            self.root = str(Path(self.root.removeprefix("file://")).absolute())
        else:
            try:
                self._fs: Any = fsspec.core.url_to_fs(self.root)[0]
            except (ImportError, ValueError) as err:
                raise ConfigError(f"run folder {root!r}: {err}; for s3:// install alignray[s3]") from err

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.root,)

    def path(self, relative: str) -> str:
        """Full path or URL of a file; of the root itself for ""."""
        return f"{self.root}/{relative}" if relative else self.root

    def arrow(self, relative: str = "") -> tuple[pafs.FileSystem, str]:
        """The same place for pyarrow: a filesystem, and the path in it."""
        if self.is_local:
            return pafs.LocalFileSystem(), self.path(relative)
        return pafs.PyFileSystem(pafs.FSSpecHandler(self._fs)), self.path(relative).partition("://")[2]

    @contextlib.contextmanager
    def failures_told(self, doing: str, relative: str) -> Iterator[None]:
        """A failure of disk or store comes out as a StorageError that names the run folder.

        Args:
            doing: "write", "read", for the message.
        """
        try:
            yield
        except Exception as err:
            if not is_storage_failure(err):
                raise
            why = getattr(err, "strerror", None) or str(err) or type(err).__name__
            hint = "make room on that disk" if getattr(err, "errno", None) in (errno.ENOSPC, errno.EDQUOT) else "see to it"
            what = f"cannot {doing} {relative or 'it'}"
            raise StorageError(f"run folder {self.root}: {what} ({why}); {hint}") from err

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        with self.failures_told("look for", relative):
            return Path(self.path(relative)).exists() if self.is_local else bool(self._fs.exists(self.path(relative)))

    def read(self, relative: str) -> bytes:
        """Whole content of a file."""
        with self.failures_told("read", relative):
            if self.is_local:
                return Path(self.path(relative)).read_bytes()
            self._fs.invalidate_cache()
            return bytes(self._fs.cat_file(self.path(relative)))

    def open(self, relative: str) -> IO[bytes]:
        """The file, open for reading bytes."""
        with self.failures_told("read", relative):
            return Path(self.path(relative)).open("rb") if self.is_local else self._fs.open(self.path(relative), "rb")

    def write(self, relative: str, data: bytes, *, exclusive: bool = False) -> bool:
        """Make the whole file visible in one step. False, nothing written, when ``exclusive`` and it exists already."""
        with self.failures_told("write", relative):
            if self.is_local:
                return self._write_local(Path(self.path(relative)), data, exclusive=exclusive)
            if exclusive and self.exists(relative):
                return False
            options = {"mode": "create"} if exclusive and self.root.startswith("s3://") else {}
            try:
                self._fs.pipe_file(self.path(relative), data, **options)
            except FileExistsError:
                return False
            return True

    def _write_local(self, target: Path, data: bytes, *, exclusive: bool) -> bool:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if exclusive:
                try:
                    os.link(aside, target)
                except FileExistsError:
                    return False
            else:
                aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        return True

    def list(self, folder: str, suffix: str = "") -> list[str]:
        """Names (not paths) of the files in a folder, sorted; hidden ones, which are still being written, left out."""
        names = [name for name, is_file in self._entries(folder) if is_file]
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def folders(self, folder: str) -> Sequence[str]:
        """Names of the folders in a folder, sorted."""
        return sorted(name for name, is_file in self._entries(folder) if not is_file)

    def _entries(self, folder: str) -> Sequence[tuple[str, bool]]:
        """Name and whether it is a file, of everything in a folder; nothing where there is no such folder."""
        with self.failures_told("list", folder):
            if self.is_local:
                directory = Path(self.path(folder))
                return [(entry.name, entry.is_file()) for entry in directory.iterdir()] if directory.is_dir() else []
            self._fs.invalidate_cache()
            found = self._fs.ls(self.path(folder), detail=True) if self._fs.exists(self.path(folder)) else []
            return [(PurePosixPath(entry["name"]).name, entry["type"] == "file") for entry in found]

    def size(self, relative: str) -> int:
        """Bytes in a file."""
        with self.failures_told("look for", relative):
            return Path(self.path(relative)).stat().st_size if self.is_local else int(self._fs.size(self.path(relative)))

    def remove(self, relative: str) -> None:
        """Delete a file; nothing happens when it is not there."""
        with self.failures_told("delete", relative):
            if self.is_local:
                Path(self.path(relative)).unlink(missing_ok=True)
            elif self._fs.exists(self.path(relative)):
                self._fs.rm_file(self.path(relative))

    def lines(self, relative: str) -> Iterator[bytes]:
        """Complete lines of a file, without their newline; a last line that was cut off is left out."""
        with self.failures_told("read", relative), self.open(relative) as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]


class Appender:
    """An append-only file of lines; ``append`` returns once the lines survive the death of this process.

    Locally every call is one write to one file; a line that a killed writer left unfinished is closed first. An object
    store cannot append, so lines go to numbered segments, each put whole and never over another; callers there should
    hand over many lines at a time.
    """

    def __init__(self, storage: Storage, folder: str, name: str) -> None:
        self._storage, self._base = storage, f"{folder}/{name}" if folder else name
        self._lock = threading.Lock()
        self._segment = 0
        self._descriptor: int | None = None

    def append(self, lines: bytes) -> None:
        """Add newline-terminated lines.

        Raises:
            StorageError: the disk is full or the store fails; on a local disk nothing of the lines stays.
        """
        with self._lock:
            if not self._storage.is_local:
                self._append_segment(lines)
                return
            if self._descriptor is None:
                path = Path(self._storage.path(f"{self._base}.jsonl"))
                with self._storage.failures_told("write", f"{self._base}.jsonl"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                    size = os.fstat(self._descriptor).st_size
                    if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                        lines = b"\n" + lines
            size, view = os.fstat(self._descriptor).st_size, memoryview(lines)
            with self._storage.failures_told("write", f"{self._base}.jsonl"):
                try:
                    while view:
                        view = view[os.write(self._descriptor, view):]
                except OSError:
                    os.ftruncate(self._descriptor, size)  # half a line would swallow the next one
                    raise

    def _append_segment(self, lines: bytes) -> None:
        while True:
            path = f"{self._base}-{self._segment:06d}.jsonl"
            self._segment += 1
            if self._storage.write(path, lines, exclusive=True):
                return
            # a put whose answer got lost is sent again by the client, and then meets itself
            if self._storage.read(path) == lines:
                return

    def sync(self) -> None:
        """Make the lines survive a power cut too."""
        with self._lock:
            if self._descriptor is not None:
                os.fsync(self._descriptor)

    def close(self) -> None:
        """Sync and let go of the file."""
        self.sync()
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
