"""Near-duplicate removal on Ray: sign, link, choose the keepers; the same result for any parts, order and number of workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alignray.dedup.clusters import DisjointSets
from alignray.dedup.config import MinHashConfig
from alignray.dedup.planting import measure, plant_pairs
from alignray.errors import ConfigError
from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.runtime import linking
from alignray.runtime.linking import Limits, Linking, Part
from alignray.runtime.signatures import NUM_SAMPLES, SIGNATURES, TextBatch, facts_of, signed
from alignray.runtime.stages import each

WORK_STAGES = ("exact", "planted", "keys", "pairs", "needed", "unique", "sketches", "links")
CLUSTERS = "clusters"
ONE = "000000"
"""Name of the only task of a stage."""
Prefer = Literal["best", "earlier"]


@dataclass(frozen=True)
class Clusters:
    """What a pass has found; which rows, is in the commits of ``stage``."""

    stage: str
    """A commit per part of this run's signature table that has a row in a cluster: row_id, row, keeper, cluster_size, kept, reason."""
    stats: dict[str, Any]


def find_clusters(
    root: str, config: MinHashConfig, *, work: str = "dedup", against: Sequence[str] = (), prefer: Prefer = "best", num_planted: int = 0,
    seed: int = 0, only: Mapping[str, npt.NDArray[np.int64]] | None = None, limits: Limits | None = None, run_each: Any = each,
) -> Clusters:
    """Clusters of near-duplicates in the signature table of a run folder, and the row of each that stays.

    The keeper has the best score, then the least id. Running it again goes on where it stopped.

    Args:
        work: prefix of the stages that it writes; ``WORK-clusters`` stays, the others are removed at the end.
        against: run folders whose signature tables are compared with too.
        prefer: "best": a row of an earlier run goes where a better one has come (stage WORK-retracted lists those);
            "earlier": rows of earlier runs stay.
        num_planted: pairs of known Jaccard similarity that are planted to measure recall, at most.
        only: the rows that count, as row numbers by split; None: all.
        limits: how much a task may hold.
        run_each: how the tasks of a stage are run, see ``each``.

    Raises:
        ConfigError: an earlier table cannot be compared with, or there are too many rows.
    """
    check_comparable(against, config)
    job = _numbered(root, config, work, against, only, limits or Limits())
    log = job.log
    stage = f"{work}-{CLUSTERS}-done"
    if ONE not in log.names(stage):
        run_each(root, job.stage("exact"), list(job.exact_ranges()), partial(linking.link_exact, job))
        if num_planted:
            run_each(root, job.stage("planted"), [ONE], partial(_plant, job, min(num_planted, NUM_SAMPLES), seed))
            job = _with_planted(job)
        _link(job, run_each)
        run_each(root, stage, [ONE], partial(_write_clusters, job, tuple(against), prefer))
    for name in WORK_STAGES:
        for commit in log.read(job.stage(name)):
            log.remove(commit)
    return Clusters(f"{work}-{CLUSTERS}", dict(log.one(stage, ONE).extra))


def _numbered(
    root: str, config: MinHashConfig, work: str, against: Sequence[str], only: Mapping[str, npt.NDArray[np.int64]] | None, limits: Limits
) -> Linking:
    parts: list[Part] = []
    struck: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    first = 0
    for place in (*against, root):
        commits = [commit for commit in CommitLog(Storage(place)).read(SIGNATURES) if "rows" in commit.files]
        for commit in commits:
            part = Part(place, SIGNATURES, commit.name, first, commit.counts["kept"], commit.counts["shingles"])
            if only is not None and place == root:
                wanted = only.get(commit.extra["split"], np.empty(0, np.int64))
                is_out = ~np.isin(part.read(["row"])["row"].to_numpy(), wanted)
                struck.append((first + np.flatnonzero(is_out)).astype(np.uint32))
            parts.append(part)
            first += part.num_rows
    if first > linking.MAX_ROWS - NUM_SAMPLES:
        raise ConfigError(f"{first:,} rows are too many for one pass; dedup parts of them first, and the results against each other")
    return Linking(root, work, config, tuple(parts), first, np.concatenate(struck), limits)


def check_comparable(against: Sequence[str], config: MinHashConfig) -> None:
    """Whether the signature tables of earlier runs can be compared with.

    Raises:
        ConfigError: a folder has none, or one of other settings.
    """
    for place in against:
        log = CommitLog(Storage(place))
        name = next(iter(log.names(SIGNATURES)), None)
        if name is None:
            raise ConfigError(f"against: {place} has no signature table; name the run folder of an earlier dedup or webr run")
        known, wanted = log.one(SIGNATURES, name).extra["minhash"], facts_of(config)
        if known != wanted:
            changes = ", ".join(f"{key} {known.get(key)} there, {value} here" for key, value in wanted.items() if known.get(key) != value)
            raise ConfigError(f"against: the signatures of {place} do not compare with this run's ({changes}); use its minhash settings")


def _plant(job: Linking, num_planted: int, seed: int, item: str) -> dict[str, int]:
    """Copies of known Jaccard similarity to some rows, as a part of the table that comes after all others."""
    found: list[pa.Table] = []
    for part in job.own_parts:
        if part.root != job.root:
            continue
        log = CommitLog(Storage(part.root))
        samples = log.table(log.one(part.stage, part.name), "samples")
        if samples is None:
            continue
        numbers = samples["place"].to_numpy().astype(np.uint32) + np.uint32(part.first)
        copies, _ = linking.copies_of(job, part.first, part.first + part.num_rows - 1)
        is_in = ~(np.isin(numbers, copies) | np.isin(numbers, job.struck))
        found.append(samples.append_column("number", pa.array(numbers)).filter(pa.array(is_in)))
        found = [pa.concat_tables(found).sort_by([("order", "ascending"), ("number", "ascending")]).slice(0, num_planted)]
    samples = found[0] if found else pa.table({"text": pa.array([], pa.string()), "number": pa.array([], pa.uint32())})
    pairs = plant_pairs(samples["text"].to_pylist(), job.config, seed=seed) if len(samples) else []
    texts = [pair.text for pair in pairs]
    batch = TextBatch(np.arange(len(texts)), texts, [f"planted/{place}" for place in range(len(texts))])
    table, _, _ = signed([batch], job.config)
    sources = samples["number"].to_numpy()[[pair.source for pair in pairs]] if pairs else np.empty(0, np.uint32)
    table = table.append_column("source", pa.array(sources))
    table = table.append_column("jaccard", pa.array([pair.jaccard for pair in pairs], pa.float64()))
    counts = {"kept": len(table), "shingles": len(table["shingles"].combine_chunks().flatten()) if len(table) else 0}
    job.log.write(job.stage("planted"), item, {"rows": (f"work/{job.stage('planted')}", table)}, counts)
    return {"planted": len(table)}


def _with_planted(job: Linking) -> Linking:
    commit = job.log.one(job.stage("planted"), ONE)
    if "rows" not in commit.files:
        return job
    part = Part(job.root, commit.stage, commit.name, job.num_own, commit.counts["kept"], commit.counts["shingles"])
    return replace(job, parts=(*job.parts, part))


def _link(job: Linking, run_each: Any) -> None:
    if not job.parts:
        return
    if job.is_small:
        run_each(job.root, job.stage("links"), [ONE], partial(linking.link_small, job))
        return
    run_each(job.root, job.stage("keys"), list(job.groups()), partial(linking.write_keys, job))
    run_each(job.root, job.stage("pairs"), list(job.key_ranges()), partial(linking.write_pairs, job))
    ranges = job.pair_ranges()
    run_each(job.root, job.stage("unique"), list(ranges), partial(linking.write_unique, job, ranges))
    if job.config.verify != "none":
        run_each(job.root, job.stage("sketches"), list(job.groups()), partial(linking.write_sketches, job, ranges))
    run_each(job.root, job.stage("links"), list(ranges), partial(linking.write_links, job))


# ---- from links to keepers: one task, 4 bytes a row and some 100 bytes a row that has a near-duplicate


def _write_clusters(job: Linking, against: tuple[str, ...], prefer: Prefer, item: str) -> dict[str, int]:
    roots, num_copies = _roots(job)
    rows = np.flatnonzero(roots != np.arange(len(roots), dtype=np.uint32)).astype(np.uint32)
    rows = np.union1d(rows, roots[rows])
    members = _members(job, rows, roots[rows])
    members = _with_keepers(members, is_earlier_first=prefer == "earlier")
    num_removed = {"exact_duplicate": 0, "near_duplicate": 0}
    for part in job.own_parts:
        start, stop = np.searchsorted(rows, [part.first, part.first + part.num_rows])
        if start == stop:
            continue
        table = members.slice(start, stop - start)
        if part.root == job.root:
            removed = table.filter(pc.invert(table["kept"]))
            for reason in num_removed:
                num_removed[reason] += pc.sum(pc.equal(removed["reason"], reason)).as_py() or 0
            mine = table.select(["row_id", "row", "keeper", "cluster_size", "kept", "reason"])
            job.log.write(f"{job.work}-{CLUSTERS}", part.name, {"rows": (CLUSTERS, mine)}, {"rows": len(mine)})
        elif prefer == "best":
            _retract(job, part, table)
    mine = members.filter(pc.equal(members["is_own"], True))
    stats = {
        **_stats(job), "exact_copies": num_copies, "removed": sum(num_removed.values()), **num_removed,
        "clusters": len(pc.unique(members["keeper_number"])), "largest_cluster": pc.max(members["cluster_size"]).as_py() or 0,
        "rows": sum(part.num_rows for part in job.own_parts if part.root == job.root), "against": list(against),
        "rows_earlier": sum(part.num_rows for part in job.own_parts if part.root != job.root),
        "clustered": len(mine),
    }
    job.log.write(f"{job.work}-{CLUSTERS}-done", item, {}, {"rows": len(rows)}, stats)
    return {"clusters": int(stats["clusters"])}


def _roots(job: Linking) -> tuple[npt.NDArray[np.uint32], int]:
    """The least row of each row's cluster [num_own], and the number of copies of a text."""
    sets = DisjointSets(job.num_own)
    copies, firsts = linking.copies_of(job, 0, linking.MAX_ROWS)
    sets.link(np.stack([copies, firsts], axis=1).astype(np.int64))
    for links in linking.forests(job):
        sets.link(links)
    return sets.roots(), len(copies)


def _members(job: Linking, rows: npt.NDArray[np.uint32], roots: npt.NDArray[np.uint32]) -> pa.Table:
    """What choosing a keeper needs of the rows (ascending) that are in a cluster."""
    tables: list[pa.Table] = []
    for part in job.own_parts:
        start, stop = np.searchsorted(rows, [part.first, part.first + part.num_rows])
        if start < stop:
            table = part.read(["row_id", "row", "score", "hash_high", "hash_low"])
            table = table.take(pa.array(rows[start:stop].astype(np.int64) - part.first))
            tables.append(table.append_column("root", pa.array(roots[start:stop])).append_column(
                "is_own", pa.array(np.full(stop - start, part.root == job.root))
            ))
    if not tables:
        columns = {"row_id": pa.string(), "row": pa.int64(), "score": pa.float64(), "hash_high": pa.uint64(), "hash_low": pa.uint64(),
                   "number": pa.uint32(), "root": pa.uint32(), "is_own": pa.bool_()}
        return pa.table({name: pa.array([], kind) for name, kind in columns.items()})
    return pa.concat_tables(tables)


def _with_keepers(members: pa.Table, *, is_earlier_first: bool) -> pa.Table:
    """The members with their keeper, cluster size, whether they stay, and why not."""
    score = pc.if_else(pc.is_nan(members["score"]), -np.inf, members["score"])
    rank = pc.and_(members["is_own"], is_earlier_first)
    keys = pa.table({"root": members["root"], "rank": pc.cast(rank, pa.int8()), "badness": pc.negate(score), "row_id": members["row_id"],
                     "number": members["number"]})
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]).to_numpy()
    roots = members["root"].to_numpy()[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = roots[1:] != roots[:-1]
    cluster = np.cumsum(is_first) - 1
    keeper = np.empty(len(order), np.int64)
    keeper[order] = order[is_first][cluster] if len(order) else order
    sizes = np.empty(len(order), np.int64)
    sizes[order] = np.bincount(cluster)[cluster] if len(order) else cluster
    places = pa.array(keeper)
    # rows of earlier runs stay as they were
    kept = (keeper == np.arange(len(order))) | (is_earlier_first & ~members["is_own"].to_numpy(zero_copy_only=False))
    is_same = pc.and_(*(pc.equal(members[name], members[name].take(places)) for name in ("hash_high", "hash_low")))
    reason = pc.if_else(pa.array(kept), "", pc.if_else(is_same, "exact_duplicate", "near_duplicate"))
    added = {"keeper": members["row_id"].take(places), "keeper_number": members["number"].take(places), "cluster_size": pa.array(sizes),
             "kept": pa.array(kept), "reason": reason}
    for name, column in added.items():
        members = members.append_column(name, column)
    return members


def _retract(job: Linking, part: Part, table: pa.Table) -> None:
    """Rows of an earlier run that it kept and that a better row has now replaced."""
    log = CommitLog(Storage(part.root))
    before = log.table(log.one(f"dedup-{CLUSTERS}", part.name)) if part.name in log.names(f"dedup-{CLUSTERS}") else None
    gone = before.filter(pc.invert(before["kept"]))["row"] if before is not None else pa.chunked_array([pa.array([], pa.int64())])
    lost = table.filter(pc.and_(pc.invert(table["kept"]), pc.invert(pc.is_in(table["row"], gone.combine_chunks()))))
    if len(lost):
        place = hashlib.blake2b(part.root.encode(), digest_size=4).hexdigest()
        lost = lost.select(["row_id", "row", "keeper"]).append_column("run", pa.array([part.root] * len(lost)))
        job.log.write(f"{job.work}-retracted", f"{place}-{part.name}", {"rows": ("retracted", lost)}, {"rows": len(lost)})


def _stats(job: Linking) -> dict[str, Any]:
    """Pairs, the split into bands, and what the planted pairs tell."""
    bands, rows = job.config.split()
    links, pairs = linking.counts_of(job, "links"), linking.counts_of(job, "pairs")
    stats = {
        "bands": bands, "rows_per_band": rows, "threshold": job.config.threshold, "verify": job.config.verify,
        "candidates": links.get("candidates", 0), "verified": links.get("verified", 0), "capped": pairs.get("capped", 0),
        "max_bucket": job.config.max_bucket, "quality": None,
    }
    planted = [part for part in job.parts if part.first >= job.num_own]
    if planted:
        table = planted[0].read(["source", "jaccard"])
        made = (table["source"].to_numpy().astype(np.uint64) << np.uint64(32)) | table["number"].to_numpy().astype(np.uint64)
        linked = [(pair[:, 0] << 32 | pair[:, 1]).astype(np.uint64) for pair in linking.forests(job, "planted")]
        is_found = np.isin(made, np.concatenate([np.empty(0, np.uint64), *linked]))
        stats["quality"] = asdict(measure(table["jaccard"].to_numpy(), is_found, threshold=job.config.threshold, recall=job.config.recall))
    return stats


def fates(root: str, clusters: Clusters, *, columns: Sequence[str] = ()) -> Iterator[tuple[str, pa.Table]]:
    """The rows in clusters, part by part of the signature table."""
    log = CommitLog(Storage(root))
    for commit, table in log.tables(clusters.stage, columns=list(columns) or None):
        yield commit.name, table
