"""A run folder's files, on a local disk or any fsspec object store, behind the few operations that can be made atomic."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec

from alignray.errors import ConfigError


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

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        return Path(self.path(relative)).exists() if self.is_local else bool(self._fs.exists(self.path(relative)))

    def read(self, relative: str) -> bytes:
        """Whole content of a file."""
        if self.is_local:
            return Path(self.path(relative)).read_bytes()
        self._fs.invalidate_cache()
        return bytes(self._fs.cat_file(self.path(relative)))

    def open(self, relative: str) -> IO[bytes]:
        """The file, open for reading bytes."""
        return Path(self.path(relative)).open("rb") if self.is_local else self._fs.open(self.path(relative), "rb")

    def write(self, relative: str, data: bytes, *, exclusive: bool = False) -> bool:
        """Make the whole file visible in one step. False, nothing written, when ``exclusive`` and it exists already."""
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
        if self.is_local:
            directory = Path(self.path(folder))
            names = [entry.name for entry in directory.iterdir() if entry.is_file()] if directory.is_dir() else []
        else:
            self._fs.invalidate_cache()
            found = self._fs.ls(self.path(folder), detail=True) if self._fs.exists(self.path(folder)) else []
            names = [PurePosixPath(entry["name"]).name for entry in found if entry["type"] == "file"]
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def size(self, relative: str) -> int:
        """Bytes in a file."""
        return Path(self.path(relative)).stat().st_size if self.is_local else int(self._fs.size(self.path(relative)))

    def remove(self, relative: str) -> None:
        """Delete a file; nothing happens when it is not there."""
        if self.is_local:
            Path(self.path(relative)).unlink(missing_ok=True)
        elif self._fs.exists(self.path(relative)):
            self._fs.rm_file(self.path(relative))

    def lines(self, relative: str) -> Iterator[bytes]:
        """Complete lines of a file, without their newline; a last line that was cut off is left out."""
        with self.open(relative) as file:
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
        """Add newline-terminated lines."""
        with self._lock:
            if not self._storage.is_local:
                while not self._storage.write(f"{self._base}-{self._segment:06d}.jsonl", lines, exclusive=True):
                    self._segment += 1
                self._segment += 1
                return
            if self._descriptor is None:
                path = Path(self._storage.path(f"{self._base}.jsonl"))
                path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                size = os.fstat(self._descriptor).st_size
                if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                    lines = b"\n" + lines
            view = memoryview(lines)
            while view:
                view = view[os.write(self._descriptor, view):]

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
