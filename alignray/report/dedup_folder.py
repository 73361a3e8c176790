"""What a dedup run folder holds beside rows and rejects: its clusters and its hits. Read piece by piece, never whole."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from alignray.report.run_folder import RunFolder, batches
from alignray.schema import Rejected, records_of


@dataclass(frozen=True)
class Cluster:
    """Rows that were found to be near-duplicates; ``size`` counts the keeper too, and rows of earlier runs."""

    keeper: str
    size: int
    removed: tuple[Rejected, ...]
    """Some of them, least ids first; those that are no copies of the keeper come first."""


@dataclass(frozen=True)
class Hit:
    """A row that shares words with an item of a benchmark."""

    row_id: str
    row: int
    item: str
    matched: str
    share: float


def cluster_sizes(run: RunFolder) -> Counter[int]:
    """How many clusters have how many rows. Only those whose keeper is a row of this run, each counted once."""
    sizes = Counter[int]()
    for batch in batches(run.tables("clusters"), ["cluster_size", "kept"]):
        for item in pc.value_counts(batch.filter(batch.column("kept")).column("cluster_size")).to_pylist():
            sizes[item["values"]] += item["counts"]
    return sizes


def largest_clusters(run: RunFolder, count: int, *, examples: int) -> list[Cluster]:
    """The largest clusters with some of their removed rows; equal sizes by the keeper's id."""
    largest: set[tuple[int, str]] = set()
    for batch in batches(run.tables("clusters"), ["keeper", "cluster_size", "kept"]):
        lost = pa.Table.from_batches([batch.filter(pc.invert(batch.column("kept")))])
        found = lost.group_by(["keeper", "cluster_size"]).aggregate([]).to_pylist()
        largest = set(heapq.nsmallest(count, largest | {(-item["cluster_size"], item["keeper"]) for item in found}))
    chosen = _removed_ids(run, {keeper for _, keeper in largest}, examples)
    rejects = _rejects(run, {(keeper, row_id) for keeper, ids in chosen.items() for row_id in ids})
    return [
        Cluster(keeper, -size, tuple(rejects[keeper, row_id] for row_id in chosen[keeper] if (keeper, row_id) in rejects))
        for size, keeper in sorted(largest)
    ]


def _removed_ids(run: RunFolder, keepers: set[str], count: int) -> dict[str, list[str]]:
    """Up to ``count`` ids of removed rows by keeper. Copies can share their keeper's id, which is then named once."""
    chosen: dict[str, set[tuple[bool, str]]] = {keeper: set() for keeper in keepers}
    wanted = pa.array(sorted(keepers), pa.string())
    for batch in batches(run.tables("clusters"), ["row_id", "keeper", "kept", "reason"]):
        is_wanted = pc.and_(pc.invert(batch.column("kept")), pc.is_in(batch.column("keeper"), value_set=wanted))
        for item in batch.filter(is_wanted).to_pylist():
            chosen[item["keeper"]].add((item["reason"] == "exact_duplicate", item["row_id"]))
        chosen = {keeper: set(heapq.nsmallest(count, found)) for keeper, found in chosen.items()}
    return {keeper: [row_id for _, row_id in sorted(found)] for keeper, found in chosen.items()}


def _rejects(run: RunFolder, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Rejected]:
    """Rejects by the ids of their keeper and their own; the first of each in the files' order."""
    found: dict[tuple[str, str], Rejected] = {}
    row_ids = pa.array(sorted({row_id for _, row_id in wanted}), pa.string())
    for batch in batches(run.reject_paths(), None):
        if len(found) == len(wanted):
            break
        near = batch.filter(pc.is_in(batch.column("row_id"), value_set=row_ids))
        for reject in records_of(Rejected, pa.Table.from_batches([near])) if near.num_rows else ():
            key = (str(place_of(reject).get("keeper")), reject.row_id)
            if key in wanted:
                found.setdefault(key, reject)
    return found


def place_of(reject: Rejected) -> Mapping[str, Any]:
    """What a reject's detail says (file, row, keeper), or nothing."""
    try:
        value = orjson.loads(reject.detail)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def worst_hits(run: RunFolder, count: int) -> dict[str, list[Hit]]:
    """By benchmark, the rows that share most of an item."""
    worst: dict[str, list[tuple[float, str, int, str, str]]] = {}
    for batch in batches(run.tables("hits"), ["row_id", "row", "benchmark", "item", "matched", "share"]):
        for item in batch.to_pylist():
            found = worst.setdefault(item["benchmark"], [])
            found.append((-item["share"], item["row_id"], item["row"], item["item"], item["matched"]))
        worst = {benchmark: heapq.nsmallest(count, found) for benchmark, found in worst.items()}
    return {
        benchmark: [Hit(row_id, row, item, matched, -badness) for badness, row_id, row, item, matched in found]
        for benchmark, found in worst.items()
    }
