"""The stages that every method is made of, on Ray Data: read and commit, ask and commit, scan, write.

Each stage is a dataset whose rows go into committed parts; what comes back to the driver is one small row per part.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import ray
from ray.data import Dataset

from alignray.errors import AlignrayError
from alignray.io.commits import CommitLog, name_of
from alignray.io.storage import Storage
from alignray.runtime.metrics import Meter
from alignray.schema import Rejected, arrow_schema, records_of, table_of

FLUSH_ROWS, FLUSH_CHARS = 2000, 32 << 20
"""What a reading task holds, at most, before it commits a part."""
MAX_READ_TASKS = 1000
READ_ROWS, READ_TASKS = 1000, 16
"""Rows that one task reads at most (each task costs Ray some 20 ms), and tasks there are at least."""

OnPart = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class RowRef:
    """Where committed rows stand: a part and row numbers in it."""

    stage: str
    commit: str
    rows: npt.NDArray[np.int64]


def read_stage(
    splits: Sequence[Any], read: Callable[[Any, Counter[str]], Iterator[Any]], record: type, *, root: str, stage: str,
    on_part: OnPart, num_cpus: float = 1, num_gpus: float = 0,
) -> None:
    """Read every split in a task of its own and commit its records and rejects in bounded parts.

    Args:
        splits: picklable, each with an ``id``; one whose last part is committed is skipped.
        read: yields ``record`` or Rejected, and counts what it sees in the counter it is given.
        num_cpus, num_gpus: what each task takes.
    """
    done = {commit.extra["split"] for commit in CommitLog(Storage(root)).read(stage) if commit.extra["last"]}
    pending = [split for split in splits if split.id not in done]
    if not pending:
        return

    def ingest(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for split in batch["item"]:
            yield from _read_split(split, read, record, CommitLog(Storage(root)), stage)

    ingest.__name__ = f"read {stage}"
    dataset = ray.data.from_items(pending, override_num_blocks=len(pending))
    dataset = dataset.map_batches(ingest, batch_size=1, num_cpus=num_cpus, num_gpus=num_gpus or None)
    _run(dataset, on_part, root=root, stage=stage)


def _read_split(
    split: Any, read: Callable[[Any, Counter[str]], Iterator[Any]], record: type, log: CommitLog, stage: str,
) -> Iterator[dict[str, Any]]:
    seen: Counter[str] = Counter()
    told: Counter[str] = Counter()
    kept: list[Any] = []
    rejected: list[Rejected] = []
    number = num_chars = 0

    def commit(*, last: bool) -> dict[str, Any]:
        nonlocal told
        counts = Counter(seen) - told
        told = Counter(seen)
        counts.update({"kept": len(kept), "rejected": len(rejected)})
        counts.update(f"rejected/{reject.step}/{reject.reason}" for reject in rejected)
        tables = {"rows": (f"stages/{stage}", table_of(record, kept)), "rejects": ("rejects", table_of(Rejected, rejected))}
        name = f"{split.id}-{number:05d}"
        log.write(stage, name, tables, counts, {"split": split.id, "last": last})
        return {"part": [name], "kept": [len(kept)], "rejected": [len(rejected)], "counts": [_reasons(counts)]}

    for item in read(split, seen):
        (rejected if isinstance(item, Rejected) else kept).append(item)
        num_chars += sum(len(value) for value in vars(item).values() if isinstance(value, str))
        if len(kept) + len(rejected) >= FLUSH_ROWS or num_chars >= FLUSH_CHARS:
            yield commit(last=False)
            kept, rejected, number, num_chars = [], [], number + 1, 0
    yield commit(last=True)


def committed_ids(root: str, stage: str) -> pa.Array:
    """Ids of all rows of a stage that need not be done again, kept and rejected."""
    log = CommitLog(Storage(root))
    chunks = [
        table["row_id"].cast(pa.large_string()).combine_chunks() for role in ("rows", "rejects")
        for _, table in log.tables(stage, role, ["row_id"])
    ]
    return pa.concat_arrays(chunks).unique() if chunks else pa.array([], pa.large_string())


def rows_at(refs: Sequence[RowRef], function: Callable[[pa.Table], pa.Table], *, root: str, block_rows: int) -> Dataset:
    """``function`` of the committed rows referred to, in blocks of at least ``block_rows`` where a part has as many."""
    num_rows = sum(len(ref.rows) for ref in refs)
    size = max(block_rows, min(READ_ROWS, num_rows // READ_TASKS))
    items = [
        {"stage": ref.stage, "commit": ref.commit, "rows": ref.rows[start : start + size].tobytes()}
        for ref in refs for start in range(0, len(ref.rows), size)
    ]

    def read_rows(batch: pa.Table) -> Iterator[pa.Table]:
        log = CommitLog(Storage(root))
        for item in batch.to_pylist():
            table = log.table(log.one(item["stage"], item["commit"]))
            assert table is not None, "only parts with rows are referred to"
            yield function(_rows_of(table, item["rows"]))

    read_rows.__name__ = f"read {refs[0].stage}"
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_READ_TASKS))
    return dataset.map_batches(read_rows, batch_size=1, batch_format="pyarrow", num_cpus=0.25)


def _rows_of(table: pa.Table, rows: bytes) -> pa.Table:
    """Rows of a table by their numbers, which are int64 as they lie in memory: no Python object for each on the driver."""
    return table.take(pa.array(np.frombuffer(rows, np.int64)))


def commit_outcomes(outcomes: Dataset, record: type, *, root: str, stage: str, part_rows: int, on_part: OnPart) -> None:
    """Write ``ask``'s outcomes into committed parts of about ``part_rows`` rows, kept and rejected in one step."""

    def commit(batch: pa.Table) -> dict[str, Any]:
        kept = _unnest(batch, "kept", arrow_schema(record))
        rejected = _unnest(batch, "rejected", arrow_schema(Rejected))
        counts = Counter({"kept": len(kept), "rejected": len(rejected)})
        steps, reasons = rejected["step"].to_pylist(), rejected["reason"].to_pylist()
        counts.update(f"rejected/{step}/{reason}" for step, reason in zip(steps, reasons, strict=True))
        name = name_of(batch["row_id"].to_pylist())
        CommitLog(Storage(root)).write(stage, name, {"rows": (f"stages/{stage}", kept), "rejects": ("rejects", rejected)}, counts)
        return {"part": [name], "kept": [len(kept)], "rejected": [len(rejected)], "counts": [_reasons(counts)]}

    commit.__name__ = f"commit {stage}"
    _run(outcomes.map_batches(commit, batch_size=part_rows, batch_format="pyarrow", num_cpus=0.25), on_part, root=root, stage=stage)


def _reasons(counts: Mapping[str, int]) -> str:
    """Rows kept and rejected by reason, as JSON: what the driver tells as metrics."""
    return orjson.dumps({name: count for name, count in counts.items() if name == "kept" or name.startswith("rejected/")}).decode()


def _unnest(batch: pa.Table, column: str, schema: pa.Schema) -> pa.Table:
    rows = batch.filter(batch[column].is_valid())[column]
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(chunk) for chunk in rows.chunks if len(chunk)], schema=schema)


def scan(
    root: str, stage: str, function: Callable[[str, pa.Table, Any], pa.Table], *, columns: Sequence[str] | None = None,
    rows: Mapping[str, npt.NDArray[np.int64]] | None = None, facts: dict[str, Any] | None = None, name: str = "",
) -> Iterator[pa.Table]:
    """``function`` over every committed part of a stage, one task each; its tables as they come, in no fixed order.

    Args:
        function: takes the part's name, its table and its facts.
        rows: only these parts, and of each only these row numbers.
        facts: a JSON value for each part, sent to its task alone.
        name: what Ray's dashboard shows for it.
    """
    names = [commit.name for commit in CommitLog(Storage(root)).read(stage) if "rows" in commit.files]
    if rows is not None:
        names = [name for name in names if name in rows]
    if not names:
        return

    def run(batch: pa.Table) -> Iterator[pa.Table]:
        log = CommitLog(Storage(root))
        item: dict[str, Any]
        for item in batch.to_pylist():
            table = log.table(log.one(stage, item["commit"]), columns=columns)
            assert table is not None, "only parts with rows are listed"
            yield function(item["commit"], _rows_of(table, item["rows"]) if item["rows"] else table, orjson.loads(item["facts"]))

    items = [
        {"commit": name, "rows": b"" if rows is None else rows[name].tobytes(), "facts": orjson.dumps(facts[name] if facts else None)}
        for name in names
    ]
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_READ_TASKS))
    run.__name__ = name or f"scan {stage}"
    dataset = dataset.map_batches(run, batch_size=1, batch_format="pyarrow")
    dataset.set_name(stage)
    with our_errors():
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


def each(root: str, stage: str, items: Sequence[str], work: Callable[[str], dict[str, int]], *, on_item: OnPart | None = None) -> None:
    """Do ``work`` for every item in a task of its own, except for those that a commit of the stage is named after.

    Args:
        work: commits what it makes, last of all under the item's name; returns numbers for ``on_item``.
    """
    done = set(CommitLog(Storage(root)).names(stage))
    pending = [item for item in items if item not in done]
    if not pending:
        return

    def run(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for item in batch["item"]:
            counts = work(str(item))
            numbers = {name: [count] for name, count in counts.items() if not name.startswith("rejected/")}
            yield numbers | {"item": [item], "counts": [_reasons(counts)]}

    stage = stage.removesuffix("-done")
    run.__name__ = stage
    dataset = ray.data.from_items(pending, override_num_blocks=len(pending)).map_batches(run, batch_size=1, num_cpus=1)
    _run(dataset, on_item or (lambda _: None), root=root, stage=stage)


def _run(dataset: Dataset, on_part: OnPart, *, root: str, stage: str) -> None:
    dataset.set_name(stage)
    meter = Meter(root)
    with our_errors():
        for row in dataset.iter_rows():
            meter.rows(stage, orjson.loads(row["counts"]))
            on_part(row)


@contextlib.contextmanager
def our_errors() -> Iterator[None]:
    """An error of ours that a task raised comes out as itself, not as the wrapping of Ray Data."""
    try:
        yield
    except Exception as err:
        cause: BaseException | None = err
        while cause is not None:
            inner = getattr(cause, "cause", None)
            if isinstance(inner, AlignrayError):
                raise type(inner)(*map(_without_advice, inner.args)) from err
            if isinstance(cause, AlignrayError):
                raise type(cause)(*map(_without_advice, cause.args)) from err
            cause = inner or cause.__cause__
        raise


def _without_advice(argument: Any) -> Any:
    """The argument of an error without what Ray Data writes behind it: how to configure retries."""
    return argument.partition("\nFailed to apply UDF transform")[0] if isinstance(argument, str) else argument


def over(before: type, function: Callable[[Any], Any], after: type) -> Callable[[pa.Table], pa.Table]:
    """``function`` from record to record, as a function of tables."""

    def apply(table: pa.Table) -> pa.Table:
        records: Iterable[Any] = records_of(before, table)
        return table_of(after, [function(record) for record in records])

    return apply


def write_stage(
    root: str, stage: str, into: str, function: Callable[[Any, Any], Any], before: type, after: type, *, folder: str,
    rows: Mapping[str, npt.NDArray[np.int64]], facts: dict[str, list[Any]], clear: bool = True,
) -> None:
    """Rows of a stage into finished rows and rejects, part by part, replacing what an earlier session wrote.

    Args:
        function: a ``before`` record and its fact to an ``after`` record or a Rejected.
        rows: which rows of which parts.
        facts: a JSON value for each of those rows.
        clear: False adds to what is there, where rows of several stages become those of one.
    """
    log = CommitLog(Storage(root))
    for commit in log.read(into) if clear else ():
        log.remove(commit)

    def write(part: str, table: pa.Table, known: list[Any]) -> pa.Table:
        records: Iterable[Any] = records_of(before, table)
        results = [function(record, fact) for record, fact in zip(records, known, strict=True)]
        kept = [result for result in results if not isinstance(result, Rejected)]
        rejected = [result for result in results if isinstance(result, Rejected)]
        counts = Counter({"kept": len(kept), "rejected": len(rejected)})
        counts.update(f"rejected/{reject.step}/{reject.reason}" for reject in rejected)
        tables = {"rows": (folder, table_of(after, kept)), "rejects": ("rejects", table_of(Rejected, rejected))}
        CommitLog(Storage(root)).write(into, part if clear else f"{stage}-{part}", tables, counts)
        return pa.table({"counts": [_reasons(counts)]})

    meter = Meter(root)
    for table in scan(root, stage, write, rows=rows, facts=facts, name=f"write {into}"):
        for counts in table["counts"].to_pylist():
            meter.rows(into, orjson.loads(counts))
