"""Near-duplicate removal over committed parts: signatures in Ray tasks, band keys and ids (never text) on the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alignray.dedup.bands import band_keys, candidate_pairs
from alignray.dedup.clusters import connected_components, rank_ids, representatives
from alignray.dedup.config import MinHashConfig
from alignray.dedup.near_duplicates import DedupStats, verify_pairs
from alignray.dedup.shingles import shingle_hashes
from alignray.dedup.signatures import signatures
from alignray.runtime.stages import scan


@dataclass(frozen=True)
class Index:
    """Every kept row of a stage, sorted by id: where it stands and what is known of it."""

    ids: list[str]
    parts: list[str]
    rows: npt.NDArray[np.int64]
    columns: dict[str, list[Any]]

    def by_part(self, positions: Iterable[int] | None = None) -> dict[str, list[int]]:
        """Row numbers of the given positions (all by default), by part."""
        found: dict[str, list[int]] = {}
        for position in range(len(self.ids)) if positions is None else positions:
            found.setdefault(self.parts[position], []).append(int(self.rows[position]))
        return found


def index_of(root: str, stage: str, columns: dict[str, Callable[[pa.Table], pa.Array]], *, read: list[str]) -> Index:
    """Index of a stage with the given columns, computed in tasks. A row committed twice counts once.

    Args:
        columns: name to function of the part's table.
        read: columns of the part that the functions need.
    """

    def describe(part: str, table: pa.Table, _facts: None) -> pa.Table:
        return pa.table({
            "row_id": table["row_id"], "part": pa.array([part] * len(table), pa.string()),
            "row": pa.array(range(len(table)), pa.int64()), **{name: function(table) for name, function in columns.items()},
        })

    tables = list(scan(root, stage, describe, columns=sorted({"row_id", *read})))
    if not tables:
        return Index([], [], np.empty(0, np.int64), {name: [] for name in columns})
    table = pa.concat_tables(tables).sort_by([("row_id", "ascending"), ("part", "ascending"), ("row", "ascending")])
    ids = table["row_id"].to_pylist()
    first = [position for position, row_id in enumerate(ids) if position == 0 or row_id != ids[position - 1]]
    table = table.take(first)
    return Index(
        table["row_id"].to_pylist(), table["part"].to_pylist(), table["row"].to_numpy(),
        {name: table[name].to_pylist() for name in columns},
    )


@dataclass(frozen=True)
class NearDuplicates:
    """Which rows stay. ``keeper`` is the id of each row's cluster keeper, its own where it stays."""

    ids: list[str]
    keep: npt.NDArray[np.bool_]
    keeper: list[str]
    cluster_size: npt.NDArray[np.int64]
    stats: dict[str, Any]


def drop_near_duplicates(
    root: str, stage: str, texts: Callable[[pa.Table], list[str]], config: MinHashConfig, *, read: list[str],
    rows: dict[str, list[int]],
) -> NearDuplicates:
    """Near-duplicates among rows of a stage; the same for any parts, order and number of workers.

    Args:
        rows: which rows, by part; no id may come twice.
        texts: the text of each row of a part's table, made of the columns in ``read``.
    """
    bands, rows_per_band = config.split()

    def sign(_part: str, table: pa.Table, _facts: None) -> pa.Table:
        flat, offsets = shingle_hashes(texts(table), config)
        signed = signatures(flat, offsets, config.num_perm, config.seed)
        keys = band_keys(signed, bands, rows_per_band)
        return pa.table({
            "row_id": table["row_id"], "keys": _binary(keys), "signature": _binary(signed), "num_shingles": np.diff(offsets),
        })

    tables = list(scan(root, stage, sign, columns=sorted({"row_id", *read}), rows=rows))
    if not tables:
        return NearDuplicates([], np.empty(0, bool), [], np.empty(0, np.int64), {})
    table = pa.concat_tables(tables).sort_by("row_id")
    ids = table["row_id"].to_pylist()
    keys = _matrix(table["keys"], np.uint64, bands)
    candidates, capped = candidate_pairs(keys, rank_ids(ids), config.max_bucket)
    flat, offsets = np.empty(0, np.uint64), np.zeros(len(ids) + 1, np.int64)
    if config.verify == "exact" and len(candidates):
        flat, offsets = _shingles_of(root, stage, ids, np.unique(candidates), texts, config, read, rows)
    signed = _matrix(table["signature"], np.uint32, config.num_perm)
    verified = verify_pairs(candidates, config, signed, flat, offsets)
    chosen = representatives(connected_components(len(ids), verified), ids)
    stats = DedupStats(
        candidates=len(candidates), verified=len(verified), capped=capped, bands=bands, rows=rows_per_band,
        num_empty=int((table["num_shingles"].to_numpy() == 0).sum()),
    )
    return NearDuplicates(ids, chosen.keep, [ids[row] for row in chosen.keeper], chosen.cluster_size, asdict(stats))


def _shingles_of(
    root: str, stage: str, ids: list[str], wanted: npt.NDArray[np.int64], texts: Callable[[pa.Table], list[str]],
    config: MinHashConfig, read: list[str], rows: dict[str, list[int]],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Shingles of the candidate rows only, laid out for all rows (the others hold none)."""
    wanted_ids = pa.array([ids[row] for row in wanted])

    def shingle(_part: str, table: pa.Table, _facts: None) -> pa.Table:
        table = table.filter(pc.is_in(table["row_id"], wanted_ids))
        flat, offsets = shingle_hashes(texts(table), config)
        return pa.table({"row_id": table["row_id"], "shingles": pa.LargeListArray.from_arrays(offsets, flat)})

    found = {
        row["row_id"]: row["shingles"] for table in scan(root, stage, shingle, columns=sorted({"row_id", *read}), rows=rows)
        for row in table.to_pylist()
    }
    lengths = np.zeros(len(ids), np.int64)
    for row in wanted:
        lengths[row] = len(found[ids[row]])
    flat = np.concatenate([np.asarray(found[ids[row]], np.uint64) for row in wanted]) if len(wanted) else np.empty(0, np.uint64)
    return flat, np.concatenate([[0], np.cumsum(lengths)])


def _binary(matrix: npt.NDArray[Any]) -> pa.Array:
    width = matrix.shape[1] * matrix.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(matrix), [None, pa.py_buffer(np.ascontiguousarray(matrix))])


def _matrix(column: pa.ChunkedArray, dtype: type, width: int) -> npt.NDArray[Any]:
    return np.frombuffer(b"".join(column.to_pylist()), dtype=dtype).reshape(len(column), width)
