"""Near-duplicate removal, told once: rows -> signature table -> clusters -> kept rows -> report (thesis 4.2.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from alignray.dedup.decontaminate import BenchmarkIndex, build_index, find_hits
from alignray.errors import RecordError
from alignray.io.commits import CommitLog, Content
from alignray.io.fetch import FetchConfig, open_input
from alignray.io.frames import Damage
from alignray.io.rows import Columns, iter_json
from alignray.io.run_folder import RunFolder, now
from alignray.io.sources import IngestConfig, SourceConfig, Split, list_splits
from alignray.io.storage import Storage
from alignray.io.tables import RowBlock, read_blocks
from alignray.pipelines.dedup_config import DecontaminationConfig, DedupJobConfig, InputConfig, identity_of
from alignray.pipelines.inspect_run import rewrite_report
from alignray.pipelines.open_run import open_run, seconds_of
from alignray.pipelines.watch import Watch
from alignray.runtime.dedup import Clusters, check_comparable, find_clusters
from alignray.runtime.signatures import SIGNATURES, STEP, TextBatch, sign_stage
from alignray.runtime.stages import each
from alignray.schema import Rejected, table_of
from alignray.seeding import row_id_of

ROWS = "rows"
PART_ROWS, PART_BYTES = 50_000, 1 << 26
MAX_ITEM_BYTES = 1 << 26


@dataclass
class Outcome:
    """How a run ended, for the command line and for ``--json``."""

    status: str
    """done or empty."""
    rows: int
    kept: int
    rejected: dict[str, int]
    contaminated: dict[str, int]
    """Rows with an n-gram of a benchmark, by benchmark; they are in the data unless the action is drop."""
    retracted: int
    """Rows of earlier runs that a better row has replaced."""
    stats: dict[str, Any]
    report: str
    run_dir: str
    warnings: list[str] = field(default_factory=list)


def deduplicate(config: DedupJobConfig, *, new_run: bool = False, console: Console | None = None) -> Outcome:
    """Rows in, those rows out that are no near-duplicate of a better one. Run again on the same folder, it goes on.

    Raises:
        ConfigError, RecordError, ResumeError: before any work.
    """
    console = console or Console(stderr=True)
    splits = config.input.splits()
    check_comparable(config.against, config.minhash)
    index = _benchmarks(config.decontamination, config.input.fetch)
    identity = {"config": identity_of(config), "inputs": {split.shown: split.num_bytes for split in splits}}
    with open_run("dedup", config, identity, title="Dedup", new_run=new_run, console=console) as (folder, manifest, watch):
        sign(config, splits, index, folder, watch)
        with watch.stage("link", None):
            clusters = find_clusters(
                folder.root, config.minhash, against=config.against, prefer=config.prefer, num_planted=config.num_planted, seed=config.seed,
                limits=config.limits,
            )
        with watch.stage("write", None) as advance:
            work = partial(_write_kept, {split.id: split for split in splits}, config.input, folder.root, clusters.stage)
            each(folder.root, f"{ROWS}-done", [split.id for split in splits], work, on_item=lambda item: advance(item["rows"]))
    return _finish(config, folder, manifest, clusters, watch, index)


def sign(config: DedupJobConfig, splits: list[Split], index: BenchmarkIndex | None, folder: RunFolder, watch: Watch) -> None:
    """Every row's signature into the table; hits and rows without text beside it.

    Raises:
        RecordError: too many rows cannot be used, or none is left.
    """
    inspect = None if index is None else partial(_inspect, index, config.decontamination.action == "drop")
    with watch.stage("sign", None) as advance:
        sign_stage(
            splits, partial(_read, config.input, config.minhash.unit == "token_id"), config.minhash, root=folder.root, inspect=inspect,
            on_part=lambda item: advance(item["read"]),
        )
    counts = _counts(folder, SIGNATURES)
    total = counts["kept"] + counts["rejected"]
    if counts["rejected"] > config.max_reject_rate * total or not counts["kept"]:
        why = ", ".join(f"{reason} {count:,}" for reason, count in _by_reason(counts).items()) or "the input is empty"
        raise RecordError(f"{counts['rejected']:,} of {total:,} rows cannot be used ({why}); look into {folder.root}/rejects")


def _counts(folder: RunFolder, stage: str) -> Counter[str]:
    counts = Counter[str]()
    for commit in CommitLog(folder.storage).read(stage):
        counts.update(commit.counts)
    return counts


# ---- reading


def _read(config: InputConfig, is_tokens: bool, split: Split) -> Iterator[TextBatch]:
    names = [*dict.fromkeys([*config.text_columns, *(name for name in (config.id_column, config.score_column) if name)])]
    for block in read_blocks(split, config.fetch, columns=names):
        yield _batch(block, split, config, is_tokens)


def _batch(block: RowBlock, split: Split, config: InputConfig, is_tokens: bool) -> TextBatch:
    rejected = [
        Rejected(_place_id(split, bad.row), STEP, bad.reason, bad.raw[: Rejected.RAW_LIMIT], _evidence(split, bad.row, error=bad.note))
        for bad in block.bad
    ]
    num_read = len(block.rows) + len(block.bad)
    if not len(block.rows):
        return TextBatch(np.empty(0, np.int64), [], rejected=rejected, num_read=num_read)
    columns = [block.column(name) for name in config.text_columns]
    ids = block.column(config.id_column) if config.id_column else None
    scores = block.column(config.score_column) if config.score_column else None
    if not is_tokens and all(set(map(type, column)) == {str} for column in (*columns, *([ids] if ids else []))) and not scores:
        texts = columns[0] if len(columns) == 1 else ["\n".join(values) for values in zip(*columns, strict=True)]
        return TextBatch(np.asarray(block.rows, np.int64), texts, ids, None, rejected, num_read)
    is_text: Callable[[Any], bool] = _is_token_list if is_tokens else _is_text
    rows, kept_texts, kept_ids, kept_scores = [], [], [], []
    for place, row in enumerate(block.rows):
        values = [column[place] for column in columns]
        score = scores[place] if scores else None
        wrong = [name for name, value in zip(config.text_columns, values, strict=True) if not is_text(value)]
        problem = f'"{wrong[0]}" is {_kind(values[config.text_columns.index(wrong[0])])}' if wrong else ""
        if not problem and ids and not isinstance(ids[place], str | int):
            problem = f'id column "{config.id_column}" is {_kind(ids[place])}'
        if not problem and not isinstance(score, float | int | None):
            problem = f'score column "{config.score_column}" is {_kind(score)}'
        if problem:
            reason = "missing_column" if any(value is None for value in values) else "bad_row"
            raw = str(values)[: Rejected.RAW_LIMIT].encode("utf-8", "replace").decode()
            rejected.append(Rejected(_place_id(split, row), STEP, reason, raw, _evidence(split, row, error=problem)))
            continue
        rows.append(row)
        kept_texts.append(values[0] if len(values) == 1 else "\n".join(values))
        kept_ids.append(str(ids[place]) if ids else "")
        kept_scores.append(np.nan if score is None else float(score))
    return TextBatch(
        np.array(rows, np.int64), kept_texts, kept_ids if ids else None, np.array(kept_scores) if scores else None, rejected, num_read,
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(token, int) and token >= 0 for token in value)


def _kind(value: Any) -> str:
    if isinstance(value, bytes):
        return "no UTF-8 text"
    return "null" if value is None else f"of type {type(value).__name__}"


def _place_id(split: Split, row: int) -> str:
    return row_id_of(split.uri, str(split.start), str(row))


def _evidence(split: Split, row: int, **more: Any) -> str:
    return orjson.dumps({"file": split.shown, "from_byte": split.start, "row": row, **more}).decode()


# ---- benchmarks


def _benchmarks(config: DecontaminationConfig, fetch: FetchConfig) -> BenchmarkIndex | None:
    items: list[tuple[str, str, str]] = []
    for benchmark in config.benchmarks:
        known = len(items)
        source = SourceConfig(name=benchmark.name, paths=benchmark.paths, format="json")
        for split in list_splits(IngestConfig(sources=(source,), split_bytes=None, fetch=fetch)):
            for text_field in benchmark.text_fields:
                with open_input(split.uri, fetch) as raw:
                    for row in iter_json(raw, Columns(text_field, None, benchmark.id_field), max_bytes=MAX_ITEM_BYTES):
                        if isinstance(row, Damage):
                            raise RecordError(f"benchmark {benchmark.name}: {split.shown}: {row.error}")
                        if row.problem is None:
                            items.append((benchmark.name, row.id or f"{Path(split.uri).name}:{row.number}", row.text))
        if len(items) == known:
            paths, fields = ", ".join(benchmark.paths), ", ".join(benchmark.text_fields)
            raise RecordError(f"benchmark {benchmark.name}: no item of {paths} has text in {fields}; check text_fields")
    return build_index(items, n=config.n, min_words=config.min_words) if items else None


def _inspect(index: BenchmarkIndex, is_dropped: bool, batch: TextBatch) -> tuple[npt.NDArray[np.bool_], pa.Table, list[Rejected]]:
    hits = find_hits(index, batch.texts)
    ids = batch.ids or [""] * len(batch.texts)
    table = pa.table({
        "row_id": pa.array([ids[hit.row] for hit in hits], pa.string()),
        "row": pa.array([int(batch.rows[hit.row]) for hit in hits], pa.int64()),
        "benchmark": pa.array([hit.benchmark for hit in hits], pa.string()), "item": pa.array([hit.item for hit in hits], pa.string()),
        "matched": pa.array([hit.matched for hit in hits], pa.string()), "num_grams": pa.array([hit.num_grams for hit in hits], pa.int64()),
        "share": pa.array([hit.share for hit in hits], pa.float64()),
    })
    stays = np.ones(len(batch.texts), np.bool_)
    rejected: list[Rejected] = []
    if is_dropped:
        first = {hit.row: hit for hit in reversed(hits)}
        stays[list(first)] = False
        rejected = [
            Rejected(
                ids[row] or row_id_of(batch.texts[row]), STEP, "contaminated", batch.texts[row][: Rejected.RAW_LIMIT],
                orjson.dumps({"benchmark": hit.benchmark, "item": hit.item, "matched": hit.matched}).decode(),
            )
            for row, hit in sorted(first.items())
        ]
    return stays, table, rejected


# ---- writing


def _write_kept(splits: dict[str, Split], config: InputConfig, root: str, clusters: str, item: str) -> dict[str, int]:
    """The rows of a split that stay, as they came, and a reject for each that goes."""
    log = CommitLog(Storage(root))
    stays, removed = _verdicts(log, item, clusters)
    writer = _Writer(log, item)
    gone = removed["row"].to_numpy()
    for block in read_blocks(splits[item], config.fetch):
        rows = np.asarray(block.rows, np.int64)
        places = np.flatnonzero(np.isin(rows, stays))
        if len(places):
            writer.add(block.take(places.tolist()), len(places))
        if len(rows):
            start, stop = np.searchsorted(gone, [rows[0], rows[-1] + 1])
            if start < stop:
                writer.reject(_removed(block, rows, removed.slice(start, stop - start), splits[item], config))
    return writer.finish()


def _verdicts(log: CommitLog, split_id: str, clusters: str) -> tuple[npt.NDArray[np.int64], pa.Table]:
    """Row numbers of a split that stay, and its rows that go, by row."""
    known, lost = set(log.names(clusters)), []
    stays = [np.empty(0, np.int64)]
    for name in log.names(SIGNATURES):
        if name.rpartition("-")[0] != split_id:
            continue
        table = log.table(log.one(SIGNATURES, name), columns=["row"])
        rows = table["row"].to_numpy() if table is not None else stays[0]
        if name in known:
            found = log.table(log.one(clusters, name))
            assert found is not None, "clusters are committed for parts that have some"
            lost.append(found.filter(pc.invert(found["kept"])))
            rows = np.setdiff1d(rows, lost[-1]["row"].to_numpy())
        stays.append(rows)
    empty = pa.table({"row": pa.array([], pa.int64())})
    return np.concatenate(stays), pa.concat_tables(lost).sort_by("row") if lost else empty


def _removed(block: RowBlock, rows: npt.NDArray[np.int64], removed: pa.Table, split: Split, config: InputConfig) -> list[Rejected]:
    places = np.searchsorted(rows, removed["row"].to_numpy())
    columns = [block.column(name) for name in config.text_columns]
    return [
        Rejected(
            lost["row_id"], STEP, lost["reason"], "\n".join(str(column[place]) for column in columns)[: Rejected.RAW_LIMIT],
            _evidence(split, lost["row"], keeper=lost["keeper"], cluster_size=lost["cluster_size"]),
        )
        for place, lost in zip(places, removed.to_pylist(), strict=True)
    ]


class _Writer:
    """Collects rows of one split and commits them when they are many."""

    def __init__(self, log: CommitLog, split_id: str) -> None:
        self._log, self._split_id = log, split_id
        self._pieces: list[Content] = []
        self._rejected: list[Rejected] = []
        self._number = self._num_rows = self._num_bytes = 0
        self._told = Counter({"rows": 0, "kept": 0})

    def add(self, piece: Content, num_rows: int) -> None:
        self._pieces.append(piece)
        self._num_rows += num_rows
        self._num_bytes += piece.nbytes if isinstance(piece, pa.Table) else len(piece)
        self._told["kept"] += num_rows
        self._commit_if_many()

    def reject(self, rejected: Sequence[Rejected]) -> None:
        self._rejected += rejected
        self._commit_if_many()

    def finish(self) -> dict[str, int]:
        self._commit()
        self._told["rows"] = self._told["kept"]
        self._log.write(f"{ROWS}-done", self._split_id, {}, self._told)
        return self._told

    def _commit_if_many(self) -> None:
        if self._num_rows >= PART_ROWS or self._num_bytes >= PART_BYTES or len(self._rejected) >= PART_ROWS:
            self._commit()

    def _commit(self) -> None:
        if not self._pieces and not self._rejected:
            return
        counts = Counter({"kept": self._num_rows, "rejected": len(self._rejected)})
        counts.update(f"rejected/{reject.step}/{reject.reason}" for reject in self._rejected)
        contents: dict[str, tuple[str, Content]] = {"rejects": ("rejects", table_of(Rejected, self._rejected))}
        if self._pieces:
            is_table = isinstance(self._pieces[0], pa.Table)
            contents[ROWS] = ("parts", pa.concat_tables(self._pieces) if is_table else b"".join(self._pieces))
        self._told.update({name: count for name, count in counts.items() if name.startswith("rejected/")})
        self._log.write(ROWS, f"{self._split_id}-{self._number:05d}", contents, counts, {"split": self._split_id})
        self._pieces, self._rejected = [], []
        self._number, self._num_rows, self._num_bytes = self._number + 1, 0, 0


# ---- the end


def _finish(
    config: DedupJobConfig, folder: RunFolder, manifest: dict[str, Any], clusters: Clusters, watch: Watch, index: BenchmarkIndex | None
) -> Outcome:
    signed, written = _counts(folder, SIGNATURES), _counts(folder, ROWS)
    reasons = {f"{STEP}/{reason}": count for counts in (signed, written) for reason, count in _by_reason(counts).items()}
    total = signed["kept"] + signed["rejected"]
    log = CommitLog(folder.storage)
    log.sweep(("parts", "rejects"))
    contaminated = Counter[str]()
    for _, table in log.tables(SIGNATURES, "hits", ["row", "benchmark"]):
        for pair in table.group_by(["row", "benchmark"]).aggregate([]).to_pylist():
            contaminated[pair["benchmark"]] += 1
    retracted = sum(commit.counts["rows"] for commit in log.read("dedup-retracted"))
    warnings = warnings_of(clusters.stats, index)
    status = "done" if written["kept"] else "empty"
    manifest.update({
        "status": status, "finished": now(), "message": "; ".join(warnings),
        "seconds": seconds_of(manifest, watch),
        "funnel": [
            {"stage": "read", "in": total, "kept": signed["kept"], "rejected": _by_reason(signed)},
            {"stage": "dedup", "in": signed["kept"], "kept": written["kept"], "rejected": _by_reason(written)},
        ],
        "dedup": clusters.stats, "contaminated": dict(contaminated), "retracted": retracted,
        "decontamination": index and {"items": index.num_items, "too_short": index.num_too_short, "n": config.decontamination.n},
        "result": {"rows": written["kept"]},
    })
    folder.write_manifest(manifest)
    return Outcome(
        status, total, written["kept"], reasons, dict(contaminated), retracted, clusters.stats, rewrite_report(folder.root),
        folder.root, warnings,
    )


def _by_reason(counts: Counter[str]) -> dict[str, int]:
    return {name.removeprefix(f"rejected/{STEP}/"): count for name, count in counts.items() if name.startswith("rejected/")}


def warnings_of(stats: dict[str, Any], index: BenchmarkIndex | None = None) -> list[str]:
    """What a user must know before trusting the result."""
    found: list[str] = []
    quality = stats.get("quality")
    if quality and quality["is_missed"]:
        cure = "" if stats["verify"] == "exact" else f'; minhash.verify "{stats["verify"]}" judges close pairs by chance, "exact" does not'
        if stats["capped"]:
            cure += f"; {stats['capped']:,} buckets of more than {stats['max_bucket']} rows were capped, raise minhash.max_bucket"
        interval = f"95 % interval {quality['recall_low']:.3f} to {quality['recall_high']:.3f}"
        found.append(
            f"measured recall at Jaccard {stats['threshold']:g} is {quality['recall']:.3f} ({interval}), "
            f"below the {quality['wanted_recall']:g} wished for{cure}"
        )
    if index is not None and index.num_too_short:
        found.append(f"{index.num_too_short:,} benchmark items are too short to be looked for")
    return found
