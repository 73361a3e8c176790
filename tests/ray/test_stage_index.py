"""The index of a stage, read in tasks."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.runtime.index import index_of
from alignray.runtime.stages import committed_ids, scan
from alignray.schema import Rejected, table_of


def test_rows_come_by_id_and_one_that_was_committed_twice_counts_where_it_stands_first(local_ray: None, tmp_path: Path) -> None:
    log = CommitLog(Storage(str(tmp_path)))
    # written in this order, so that order of writing and order of names differ
    for name, ids in {"b": ["3", "1"], "c": ["2", "1", "9"], "a": ["7", "3"]}.items():
        rows = pa.table({"row_id": ids, "kind": [f"kind {row_id}" for row_id in ids]})
        rejects = table_of(Rejected, [Rejected(f"{name}-bad", "step", "reason")])
        log.write("stage", name, {"rows": ("stages/stage", rows), "rejects": ("rejects", rejects)}, {"kept": len(ids), "rejected": 1})
    index = index_of(str(tmp_path), "stage", {"kind": lambda table: table["kind"]}, read=["kind"])
    assert list(zip(index.ids, index.parts, index.rows.tolist(), index.columns["kind"], strict=True)) == [
        ("1", "b", 1, "kind 1"), ("2", "c", 0, "kind 2"), ("3", "a", 1, "kind 3"), ("7", "a", 0, "kind 7"), ("9", "c", 2, "kind 9"),
    ]
    assert sorted(committed_ids(str(tmp_path), "stage").to_pylist()) == ["1", "2", "3", "7", "9", "a-bad", "b-bad", "c-bad"]

    def ids_of(part: str, table: pa.Table, _fact: None) -> pa.Table:
        return pa.table({"part": [part] * len(table), "row_id": table["row_id"]})

    positions = index.without(pa.array(["2"], pa.large_string()))
    read = pa.concat_tables(scan(str(tmp_path), "stage", ids_of, rows=index.by_part(positions))).to_pylist()
    assert sorted((row["part"], row["row_id"]) for row in read) == [("a", "3"), ("a", "7"), ("b", "1"), ("c", "9")]


def test_a_stage_without_rows_has_an_empty_index(local_ray: None, tmp_path: Path) -> None:
    index = index_of(str(tmp_path), "stage", {"kind": lambda table: table["kind"]}, read=["kind"])
    assert len(index) == 0 and index.by_part() == {} and list(index.columns["kind"]) == []
    assert len(committed_ids(str(tmp_path), "stage")) == 0
