"""Committed output: data files written aside, then one marker that makes all of them count in one atomic step.

``commits/STAGE/NAME.json`` names the Parquet files that hold the rows, with their byte sizes, the digests of their
footers and the counts. Readers trust markers only, so a file without one is a left-over of a killed process, and never
read. Every page has a checksum; the footer, which has none in Parquet, is checked against its digest.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import orjson
import pyarrow as pa
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


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file with a checksum on every page."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def _footer_digest(file: IO[bytes]) -> str:
    file.seek(-8, os.SEEK_END)
    size = int.from_bytes(file.read(4), "little")
    file.seek(-8 - size, os.SEEK_END)
    return hashlib.blake2b(file.read(), digest_size=8).hexdigest()


class CommitLog:
    """The commits of a run folder, by stage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def write(
        self, stage: str, name: str, tables: Mapping[str, tuple[str, pa.Table]], counts: Mapping[str, int],
        extra: Mapping[str, Any] | None = None,
    ) -> bool:
        """Commit tables ({role: (folder, table)}) under a name. False when that name is committed already."""
        if self.storage.exists(f"commits/{stage}/{name}.json"):
            return False
        files, sizes, footers = {}, {}, {}
        for role, (folder, table) in tables.items():
            if table.num_rows == 0:
                continue
            data = parquet_bytes(table)
            path = f"{folder}/{name}-{hashlib.blake2b(data, digest_size=4).hexdigest()}.parquet"
            self.storage.write(path, data)
            files[role], sizes[role], footers[role] = path, len(data), _footer_digest(io.BytesIO(data))
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
        names = self.storage.list(f"commits/{stage}", ".json")
        return [self.one(stage, name.removesuffix(".json")) for name in names]

    def remove(self, commit: Commit) -> None:
        """Take a commit back: its marker first, so that no reader meets a marker without files."""
        self.storage.remove(f"commits/{commit.stage}/{commit.name}.json")
        for path in commit.files.values():
            self.storage.remove(path)

    def table(self, commit: Commit, role: str = "rows", columns: Sequence[str] | None = None) -> pa.Table | None:
        """A commit's table, footer and page checksums verified; None when it holds no rows of that role.

        Raises:
            ResumeError: the file is missing, cut or damaged.
        """
        path = commit.files.get(role)
        if path is None:
            return None
        try:
            with self.storage.open(path) as file:
                if _footer_digest(file) != commit.footers[role]:
                    raise OSError("its footer is not the one committed")
                file.seek(0)
                return pq.read_table(file, columns=list(columns) if columns else None, page_checksum_verification=True)
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
