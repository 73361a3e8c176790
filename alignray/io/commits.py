"""Committed output: data files written aside, then one marker that makes all of them count in one atomic step.

``commits/STAGE/NAME.json`` names the Parquet files that hold the rows, with their byte sizes, the digests of their
footers and the counts. Readers trust markers only, so a file without one is a left-over of a killed process, and never
read. Every page has a checksum; the footer, which has none in Parquet, is checked against its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from alignray.errors import ResumeError
from alignray.io.storage import Storage


@dataclass(frozen=True)
class Commit:
    """What one marker says."""

    stage: str
    name: str
    files: Mapping[str, str]
    """Role of the file in the commit ("rows", "rejects") to its path in the run folder."""
    bytes: Mapping[str, int]
    footers: Mapping[str, str]
    counts: Mapping[str, int]
    extra: Mapping[str, Any] = field(default_factory=dict)


def name_of(row_ids: Iterable[str]) -> str:
    """Name of a part that holds exactly these rows, whatever their order."""
    digest = hashlib.blake2b(digest_size=8)
    for row_id in sorted(row_ids):
        digest.update(row_id.encode())
    return digest.hexdigest()


Content: TypeAlias = "pa.Table | bytes"
"""Rows of a commit: a table, written as Parquet, or complete JSON lines, written as they are."""


def parquet_bytes(table: pa.Table, *, run_rows: int | None = None) -> bytes:
    """The table as a Parquet file with a checksum on every page.

    Args:
        run_rows: rows per row group of a sorted run, which holds numbers that do not compress; None for ordinary rows.
    """
    sink = pa.BufferOutputStream()
    how: dict[str, Any] = {"compression": "zstd"}
    if run_rows is not None:
        how = {"compression": "none", "use_dictionary": False, "row_group_size": run_rows}
    pq.write_table(table, sink, write_page_checksum=True, **how)
    return sink.getvalue().to_pybytes()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _footer_digest(file: IO[bytes]) -> str:
    file.seek(-8, os.SEEK_END)
    size = int.from_bytes(file.read(4), "little")
    file.seek(-8 - size, os.SEEK_END)
    return _digest(file.read())


class CommitLog:
    """The commits of a run folder, by stage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def write(
        self, stage: str, name: str, contents: Mapping[str, tuple[str, Content]], counts: Mapping[str, int],
        extra: Mapping[str, Any] | None = None, *, run_rows: int | None = None,
    ) -> bool:
        """Commit contents ({role: (folder, rows)}) under a name. False when that name is committed already."""
        if self.storage.exists(f"commits/{stage}/{name}.json"):
            return False
        files, sizes, footers = {}, {}, {}
        for role, (folder, content) in contents.items():
            if not len(content):
                continue
            is_table = isinstance(content, pa.Table)
            data = parquet_bytes(content, run_rows=run_rows) if is_table else content
            path = f"{folder}/{name}-{hashlib.blake2b(data, digest_size=4).hexdigest()}.{'parquet' if is_table else 'jsonl'}"
            self.storage.write(path, data)
            files[role], sizes[role] = path, len(data)
            footers[role] = _footer_digest(io.BytesIO(data)) if is_table else _digest(data)
        marker = {"files": files, "bytes": sizes, "footers": footers, "counts": dict(counts), "extra": dict(extra or {})}
        won = self.storage.write(f"commits/{stage}/{name}.json", orjson.dumps(marker), exclusive=True)
        if not won:
            kept = set(self.one(stage, name).files.values())
            for path in set(files.values()) - kept:
                self.storage.remove(path)
        return won

    def one(self, stage: str, name: str) -> Commit:
        """One commit by name."""
        path = f"commits/{stage}/{name}.json"
        try:
            marker = orjson.loads(self.storage.read(path))
            return Commit(
                stage, name, marker["files"], marker["bytes"], marker["footers"], marker["counts"], marker["extra"],
            )
        except (orjson.JSONDecodeError, KeyError, TypeError) as err:
            where = self.storage.path(path)
            raise ResumeError(f"{where}: not a commit marker ({err}); restore it or start over with --new-run") from err

    def read(self, stage: str) -> list[Commit]:
        """All commits of a stage, by name."""
        return [self.one(stage, name) for name in self.names(stage)]

    def names(self, stage: str) -> list[str]:
        """Names of all commits of a stage, sorted."""
        return [name.removesuffix(".json") for name in self.storage.list(f"commits/{stage}", ".json")]

    def remove(self, commit: Commit) -> None:
        """Take a commit back: its marker first, so that no reader meets a marker without files."""
        self.storage.remove(f"commits/{commit.stage}/{commit.name}.json")
        for path in commit.files.values():
            self.storage.remove(path)

    def sweep(self, folders: Iterable[str]) -> None:
        """Delete the files in these folders that no marker names, left by killed writers. Only while nobody writes."""
        named = {
            path for stage in self.storage.folders("commits") for commit in self.read(stage) for path in commit.files.values()
        }
        for folder in folders:
            for name in self.storage.list(folder):
                if f"{folder}/{name}" not in named:
                    self.storage.remove(f"{folder}/{name}")

    def table(self, commit: Commit, role: str = "rows", columns: Sequence[str] | None = None) -> pa.Table | None:
        """A commit's table, footer and page checksums verified; None when it holds no rows of that role.

        Raises:
            ResumeError: the file is missing, cut or damaged.
            StorageError: disk or store does not give it.
        """
        if role not in commit.files:
            return None
        with self._opened(commit, role) as file:
            if commit.files[role].endswith(".jsonl"):
                table = pa_json.read_json(file)
                return table.select(list(columns)) if columns else table
            return pq.read_table(file, columns=list(columns) if columns else None, page_checksum_verification=True)

    def span(self, commit: Commit, column: str, first: int, last: int, *, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Rows of a commit that is sorted by a column of whole numbers, from value ``first`` to value ``last`` inclusive.

        Only the row groups that may hold them are read. None when the commit holds no rows.

        Raises:
            ResumeError: the file is missing, cut or damaged.
        """
        if "rows" not in commit.files:
            return None
        with self._opened(commit, "rows") as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
            at = file.schema_arrow.get_field_index(column)
            groups = []
            for number in range(file.metadata.num_row_groups):
                statistics = file.metadata.row_group(number).column(at).statistics
                if statistics.min <= last and statistics.max >= first:
                    groups.append(number)
            names = None if columns is None else [*dict.fromkeys((column, *columns))]
            table = file.read_row_groups(groups, columns=names)
            values = table[column].to_numpy()
            start, stop = np.searchsorted(values, first, "left"), np.searchsorted(values, last, "right")
            return table.slice(start, stop - start)

    @contextlib.contextmanager
    def _opened(self, commit: Commit, role: str) -> Iterator[IO[bytes]]:
        """The file, its footer checked; what is wrong with it is a ResumeError, what is wrong with disk or store a StorageError."""
        path = commit.files[role]
        try:
            with self.storage.failures_told("read", path), self.storage.open(path) as file:
                found = _footer_digest(file) if path.endswith(".parquet") else _digest(file.read())
                if found != commit.footers[role]:
                    raise OSError("it is not the one committed")
                file.seek(0)
                yield file
        except (OSError, pa.ArrowInvalid) as err:
            raise ResumeError(
                f"{self.storage.path(path)}: committed file is missing or damaged ({err}); restore it, or delete "
                f"commits/{commit.stage}/{commit.name}.json to make its rows again"
            ) from err

    def tables(self, stage: str, role: str = "rows", columns: Sequence[str] | None = None) -> Iterator[tuple[Commit, pa.Table]]:
        """Every table of a stage, one at a time."""
        for commit in self.read(stage):
            table = self.table(commit, role, columns)
            if table is not None:
                yield commit, table
