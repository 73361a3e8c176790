"""From the signature table to links between near-duplicates, by external sorting: every exchange goes through sorted runs on disk.

Rows are numbered through all parts of the table: those of earlier runs, this run's, and last the planted ones. Stages, each a task
per item and every task's memory bounded by the constants below:

1. exact: rows with the same text, by ranges of the text's hash; only the first of each goes on
2. keys: band keys of a group of parts, sorted into a run of (key, order, row)
3. pairs: a range of keys from all runs, sorted; rows that share a key, as sorted runs of pair codes
4. unique: a range of pairs from all runs, each once; and the rows that this range needs to be checked
5. sketches: shingles (or signatures) of a group of parts, sent where they are needed; each goes there once
6. links: pairs checked against the threshold; of those that pass, a forest

What moves is numbers, keys and, once, the hashed shingles of candidates: never text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic

from alignray.config import Config
from alignray.dedup.bands import BandRecords, band_keys, band_records, bucket_pairs, pair_rows
from alignray.dedup.clusters import DisjointSets, exact_copies
from alignray.dedup.config import MinHashConfig
from alignray.dedup.near_duplicates import verify_pairs
from alignray.io.commits import Commit, CommitLog
from alignray.io.storage import Storage
from alignray.runtime.signatures import matrix_of

RUN_ROWS = 1 << 14
"""Rows of a run that are read at once, at least."""
MAX_ROWS = (1 << 32) - 1
QUANTILES = 64

Numbers = npt.NDArray[np.uint32]
Ranges = dict[str, tuple[int, int]]
"""First and last value, by the name of the task."""


class Limits(Config):
    """What bounds the memory of a task. None of it changes a result."""

    group_rows: int = pydantic.Field(100_000, ge=1)
    """Rows whose signatures one task holds: 51 MB, a few times over."""
    group_shingles: int = pydantic.Field(1 << 24, ge=1)
    """Shingles that one task holds: 64 MB."""
    exact_rows: int = pydantic.Field(4_000_000, ge=1)
    """Rows of one range of text hashes: 112 MB."""
    range_records: int = pydantic.Field(4_000_000, ge=1)
    """Records of one range of keys: 80 MB, twice while they are sorted."""
    range_pairs: int = pydantic.Field(2_000_000, ge=1)
    """Pairs of one range: 16 MB."""
    range_shingles: int = pydantic.Field(1 << 25, ge=1)
    """Shingles, on average, of the rows of one range of pairs: 128 MB."""
    pairs_at_once: int = pydantic.Field(1 << 22, ge=1)
    """Pairs collected before they are written: 32 MB."""
    small_rows: int = pydantic.Field(50_000, ge=0)
    """A table of at most so many rows, and"""
    small_shingles: int = pydantic.Field(1 << 23, ge=0)
    """so many shingles, is linked in one task."""


@dataclass(frozen=True)
class Part:
    """A part of the signature table and the numbers of its rows."""

    root: str
    stage: str
    name: str
    first: int
    num_rows: int
    num_shingles: int

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns, with the number of each row."""
        log = CommitLog(Storage(self.root))
        table = log.table(log.one(self.stage, self.name), columns=columns)
        assert table is not None, "only parts with rows are numbered"
        return table.append_column("number", pa.array(np.arange(self.first, self.first + self.num_rows, dtype=np.uint32)))


@dataclass(frozen=True)
class Linking:
    """One pass over a numbered table: what every stage needs to know."""

    root: str
    work: str
    """Prefix of its stages' names."""
    config: MinHashConfig
    parts: tuple[Part, ...]
    num_own: int
    """Rows that are not planted."""
    struck: Numbers
    """Numbers, sorted, of rows that are left out: the second commits of one row."""
    limits: Limits

    def stage(self, name: str) -> str:
        return f"{self.work}-{name}"

    @property
    def log(self) -> CommitLog:
        return CommitLog(Storage(self.root))

    @property
    def own_parts(self) -> list[Part]:
        return [part for part in self.parts if part.first < self.num_own]

    @property
    def is_small(self) -> bool:
        num_shingles = sum(part.num_shingles for part in self.parts)
        return self.num_own <= self.limits.small_rows and num_shingles <= self.limits.small_shingles

    def groups(self) -> dict[str, list[Part]]:
        """Parts that one task holds together, by the task's name."""
        groups: list[list[Part]] = []
        num_rows = num_shingles = 0
        for part in self.parts:
            num_rows, num_shingles = num_rows + part.num_rows, num_shingles + part.num_shingles
            if not groups or num_rows > self.limits.group_rows or num_shingles > self.limits.group_shingles:
                groups.append([])
                num_rows, num_shingles = part.num_rows, part.num_shingles
            groups[-1].append(part)
        return {f"{index:06d}": group for index, group in enumerate(groups)}

    def exact_ranges(self) -> Ranges:
        return _hash_ranges(-(-self.num_own // self.limits.exact_rows))

    def key_ranges(self) -> Ranges:
        return _hash_ranges(-(-sum(part.num_rows for part in self.parts) * self.config.split()[0] // self.limits.range_records))

    def pair_ranges(self) -> Ranges:
        """Ranges of pair codes that hold about as many pairs each, by what the pairs stage has found."""
        commits = [commit for commit in self.log.read(self.stage("pairs")) if commit.extra.get("codes")]
        if not commits:
            return {}
        codes = np.concatenate([np.array(commit.extra["codes"], np.uint64) for commit in commits])
        weights = np.concatenate([np.full(len(c.extra["codes"]), c.counts["pairs"] / len(c.extra["codes"])) for c in commits])
        order = np.argsort(codes, kind="stable")
        seen = np.cumsum(weights[order])
        mean = sum(part.num_shingles for part in self.parts) / max(sum(part.num_rows for part in self.parts), 1)
        size = min(self.limits.range_pairs, max(int(self.limits.range_shingles / (2 * max(mean, 1))), 1))
        # a pair code's upper half is its lesser row: a range holds all pairs of a row
        ends = [int(codes[order[place]]) | 0xFFFFFFFF for place in np.searchsorted(seen, np.arange(size, seen[-1], size))]
        ends = [*dict.fromkeys([*ends, (1 << 64) - 1])]
        return {f"{index:06d}": span for index, span in enumerate(zip([0, *(end + 1 for end in ends[:-1])], ends, strict=True))}


def _hash_ranges(num: int) -> Ranges:
    num = max(num, 1)
    return {f"{index:06d}": ((index << 64) // num, ((index + 1) << 64) // num - 1) for index in range(num)}


def _span(commits: Sequence[Commit], log: CommitLog, column: str, span: tuple[int, int], columns: Sequence[str]) -> pa.Table:
    """Rows of all runs whose column lies in the span, ends included."""
    tables = [table for commit in commits if (table := log.span(commit, column, *span, columns=columns)) is not None]
    return pa.concat_tables(tables) if tables else pa.table({name: pa.array([], pa.uint64()) for name in columns})


# ---- 1: rows with the same text


def link_exact(job: Linking, item: str) -> dict[str, int]:
    """Copies of a text: (row, first), sorted by row."""
    first, last = job.exact_ranges()[item]
    columns = ["hash_high", "hash_low", "order"]
    found = [pa.table({name: pa.array([], pa.uint32() if name == "number" else pa.uint64()) for name in (*columns, "number")})]
    for part in job.own_parts:
        table = part.read(columns)
        high, numbers = table["hash_high"].to_numpy(), table["number"].to_numpy()
        is_in = (high >= first) & (high <= last) & ~np.isin(numbers, job.struck)
        found.append(table.filter(pa.array(is_in)))
    table = pa.concat_tables(found)
    copies, firsts = exact_copies(*(table[name].to_numpy() for name in (*columns, "number")))
    by_row = np.argsort(copies)
    rows = pa.table({"row": copies[by_row], "first": firsts[by_row]})
    job.log.write(job.stage("exact"), item, {"rows": (f"work/{job.stage('exact')}", rows)}, {"copies": len(copies)}, run_rows=RUN_ROWS)
    return {"copies": len(copies)}


def copies_of(job: Linking, first: int, last: int) -> tuple[Numbers, Numbers]:
    """Rows in a range of numbers that are copies of a text, sorted, and the first row that has it."""
    table = _span(job.log.read(job.stage("exact")), job.log, "row", (first, last), ["row", "first"])
    rows, firsts = table["row"].to_numpy().astype(np.uint32), table["first"].to_numpy().astype(np.uint32)
    by_row = np.argsort(rows)
    return rows[by_row], firsts[by_row]


# ---- 2 and 3: rows that share a band


def _keyed(job: Linking, parts: Sequence[Part]) -> BandRecords:
    """Band records of a group of parts, without copies."""
    tables = pa.concat_tables([part.read(["signature", "order"]) for part in parts])
    signed = matrix_of(tables["signature"], np.uint32, job.config.num_perm)
    numbers = tables["number"].to_numpy()
    copies, _ = copies_of(job, parts[0].first, parts[-1].first + parts[-1].num_rows - 1)
    stays = ~(np.isin(numbers, copies) | np.isin(numbers, job.struck))
    return band_records(band_keys(signed, *job.config.split())[stays], tables["order"].to_numpy()[stays], numbers[stays])


def _bucket_pairs(job: Linking, records: BandRecords) -> Iterator[tuple[npt.NDArray[np.uint64], int]]:
    return bucket_pairs(records, job.config.max_bucket, num_own=job.num_own, at_once=job.limits.pairs_at_once)


def write_keys(job: Linking, item: str) -> dict[str, int]:
    """A sorted run of the band records of a group of parts."""
    records = _keyed(job, job.groups()[item])
    table = pa.table({"key": records.keys, "order": records.orders, "row": records.rows})
    job.log.write(job.stage("keys"), item, {"rows": (f"work/{job.stage('keys')}", table)}, {"keys": len(table)}, run_rows=RUN_ROWS)
    return {"keys": len(table)}


def write_pairs(job: Linking, item: str) -> dict[str, int]:
    """Candidate pairs of a range of keys, in sorted runs."""
    log = job.log
    table = _span(log.read(job.stage("keys")), log, "key", job.key_ranges()[item], ["key", "order", "row"])
    keys = table["key"].to_numpy()
    by_key = np.argsort(keys)
    records = BandRecords(keys[by_key], table["order"].to_numpy()[by_key], table["row"].to_numpy().astype(np.uint32)[by_key])
    num_pairs = num_capped = 0
    for number, (codes, capped) in enumerate(_bucket_pairs(job, records)):
        if not len(codes):
            continue
        quantiles = codes[np.linspace(0, len(codes) - 1, min(QUANTILES, len(codes))).astype(np.int64)]
        log.write(
            job.stage("pairs"), f"{item}-{number:06d}", {"rows": (f"work/{job.stage('pairs')}", pa.table({"pair": codes}))},
            {"pairs": len(codes)}, {"codes": quantiles.tolist()}, run_rows=4 * RUN_ROWS,
        )
        num_pairs, num_capped = num_pairs + len(codes), num_capped + capped
    log.write(job.stage("pairs"), item, {}, {"pairs": num_pairs, "capped": num_capped})
    return {"pairs": num_pairs}


# ---- 4 to 6: pairs that reach the threshold


def write_unique(job: Linking, ranges: Ranges, item: str) -> dict[str, int]:
    """Each pair of a range once, and the rows that checking them needs."""
    log = job.log
    commits = [commit for commit in log.read(job.stage("pairs")) if "rows" in commit.files]
    table = _span(commits, log, "pair", ranges[item], ["pair"])
    codes = np.unique(table["pair"].to_numpy().astype(np.uint64))
    needed = pa.table({"row": np.unique(pair_rows(codes)).astype(np.uint32)})
    log.write(job.stage("needed"), item, {"rows": (f"work/{job.stage('needed')}", needed)}, {}, run_rows=RUN_ROWS)
    log.write(job.stage("unique"), item, {"rows": (f"work/{job.stage('unique')}", pa.table({"pair": codes}))}, {"pairs": len(codes)},
              run_rows=4 * RUN_ROWS)
    return {"candidates": len(codes)}


def write_sketches(job: Linking, ranges: Ranges, item: str) -> dict[str, int]:
    """What checking needs of a group of parts, sorted by the range of pairs that needs it."""
    parts, log = job.groups()[item], job.log
    column = _sketch(job.config)
    first, last = parts[0].first, parts[-1].first + parts[-1].num_rows - 1
    wanted: list[pa.Table] = []
    for index, name in enumerate(ranges):
        rows = log.span(log.one(job.stage("needed"), name), "row", first, last)
        if rows is not None and len(rows):
            wanted.append(rows.append_column("range", pa.array(np.full(len(rows), index, np.uint32))))
    contents: dict[str, tuple[str, pa.Table]] = {}
    if wanted:
        table = pa.concat_tables([part.read([column]) for part in parts])
        needs = pa.concat_tables(wanted)
        sketches = table[column].take(pa.array(needs["row"].to_numpy().astype(np.int64) - first))
        contents = {"rows": (f"work/{job.stage('sketches')}", needs.append_column(column, sketches))}
    log.write(job.stage("sketches"), item, contents, {}, run_rows=RUN_ROWS // 8)
    return {"sketches": sum(map(len, wanted))}


def _sketch(config: MinHashConfig) -> str:
    return "shingles" if config.verify == "exact" else "signature"


def write_links(job: Linking, item: str) -> dict[str, int]:
    """Pairs of a range that reach the threshold: a forest of them, and all those with a planted row."""
    log = job.log
    codes = _codes(log.table(log.one(job.stage("unique"), item)))
    index = int(item)
    tables = [
        table for commit in log.read(job.stage("sketches"))
        if (table := log.span(commit, "range", index, index)) is not None and len(table)
    ]
    return _commit_links(job, item, codes, pa.concat_tables(tables) if tables else None)


def _codes(table: pa.Table | None) -> npt.NDArray[np.uint64]:
    return table["pair"].to_numpy() if table is not None else np.empty(0, np.uint64)


def _commit_links(job: Linking, item: str, codes: npt.NDArray[np.uint64], sketches: pa.Table | None) -> dict[str, int]:
    """Check the pairs and commit those that pass; ``sketches`` holds "row", ascending, and what the check compares."""
    pairs = pair_rows(codes)
    if job.config.verify != "none" and sketches is not None:
        rows = sketches["row"].to_numpy()
        places = np.searchsorted(rows, pairs)
        flat, offsets, signed = np.empty(0, np.uint32), np.zeros(1, np.int64), np.empty((0, job.config.num_perm), np.uint32)
        if job.config.verify == "exact":
            flat, offsets = lists_of(sketches["shingles"])
        else:
            signed = matrix_of(sketches["signature"], np.uint32, job.config.num_perm)
        pairs = rows[verify_pairs(places, job.config, signed, flat, offsets)].astype(np.int64).reshape(-1, 2)
    is_own = pairs[:, 1] < job.num_own
    own, planted = pairs[is_own], pairs[~is_own]
    rows, places = np.unique(own, return_inverse=True)
    forest = own[DisjointSets(len(rows)).link(places.reshape(-1, 2).astype(np.int64))]
    contents = {
        "rows": (f"work/{job.stage('links')}", _pair_table(forest)), "planted": (f"work/{job.stage('links')}", _pair_table(planted)),
    }
    counts = {"candidates": int((pair_rows(codes)[:, 1] < job.num_own).sum()), "verified": len(own)}
    job.log.write(job.stage("links"), item, contents, counts)
    return counts


def _pair_table(pairs: npt.NDArray[np.int64]) -> pa.Table:
    return pa.table({"one": pairs[:, 0].astype(np.uint32), "other": pairs[:, 1].astype(np.uint32)})


def lists_of(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """All values of a list column end to end, and offsets [N + 1]."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    flats = [np.empty(0, np.uint32), *(chunk.flatten().to_numpy() for chunk in chunks)]
    sizes = [np.zeros(1, np.int64), *(np.diff(chunk.offsets.to_numpy()) for chunk in chunks)]
    return np.concatenate(flats), np.cumsum(np.concatenate(sizes))


# ---- the whole of it, for a table that fits into one task


def link_small(job: Linking, item: str) -> dict[str, int]:
    """Stages 2 to 6 in memory, with the same links."""
    records = _keyed(job, job.parts)
    found, num_capped = [np.empty(0, np.uint64)], 0
    for codes, capped in _bucket_pairs(job, records):
        found.append(codes)
        num_capped += capped
    codes = np.unique(np.concatenate(found))
    sketches = None
    if job.config.verify != "none" and len(codes):
        sketches = pa.concat_tables([part.read([_sketch(job.config)]) for part in job.parts]).rename_columns([_sketch(job.config), "row"])
    job.log.write(job.stage("pairs"), item, {}, {"pairs": len(codes), "capped": num_capped})
    return _commit_links(job, item, codes, sketches)


def forests(job: Linking, role: str = "rows") -> Iterator[npt.NDArray[np.int64]]:
    """Verified links [M, 2], batch after batch; with ``role`` "planted" those of planted rows."""
    for commit in job.log.read(job.stage("links")):
        table = job.log.table(commit, role)
        if table is not None:
            yield np.stack([table["one"].to_numpy(), table["other"].to_numpy()], axis=1).astype(np.int64)


def counts_of(job: Linking, stage: str) -> dict[str, Any]:
    """Numbers of a stage's commits, added up."""
    total: dict[str, int] = {}
    for commit in job.log.read(job.stage(stage)):
        for name, count in commit.counts.items():
            total[name] = total.get(name, 0) + count
    return total
