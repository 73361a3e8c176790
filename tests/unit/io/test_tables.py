import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignray.errors import RecordError
from alignray.io.fetch import FetchConfig
from alignray.io.sources import IngestConfig, SourceConfig, Split, list_splits
from alignray.io.tables import BLOCK_ROWS, read_blocks


def splits_of(path: Path, split_bytes: int | None = None) -> list[Split]:
    return list_splits(IngestConfig(sources=(SourceConfig(name="input", paths=(str(path),)),), split_bytes=split_bytes))


def test_blocks_of_ranges_hold_every_row_once_and_whole(tmp_path: Path) -> None:
    rows = [{"id": number, "text": f"text {number}" * 5, "more": {"deep": [number]}} for number in range(500)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=40)
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("a.parquet", "a.jsonl"):
        splits = splits_of(tmp_path / name, 3000)
        assert len(splits) > 3
        found: list[dict[str, object]] = []
        for split in splits:
            number = 0
            for block in read_blocks(split, FetchConfig()):
                assert list(block.rows) == list(range(number, number + len(block.rows))) and not block.bad
                number += len(block.rows)
                taken = block.take(range(len(block.rows)))
                found += taken.to_pylist() if isinstance(taken, pa.Table) else [json.loads(line) for line in taken.splitlines()]
        assert sorted(found, key=lambda row: int(str(row["id"]))) == rows


def test_blocks_are_bounded_and_columns_can_be_chosen(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"] * (2 * BLOCK_ROWS + 1), "more": [1] * (2 * BLOCK_ROWS + 1)}), tmp_path / "a.parquet")
    blocks = list(read_blocks(splits_of(tmp_path / "a.parquet")[0], FetchConfig(), columns=["text"]))
    assert [len(block.rows) for block in blocks] == [BLOCK_ROWS, BLOCK_ROWS, 1]
    with pytest.raises(KeyError):
        blocks[0].column("more")
    with pytest.raises(RecordError, match='no column "body"; there are: text, more'):
        list(read_blocks(splits_of(tmp_path / "a.parquet")[0], FetchConfig(), columns=["body"]))


def test_lines_that_cannot_be_read_are_named_beside_the_others(tmp_path: Path) -> None:
    lines = [b'{"text": "one"}\r', b"", b"nonsense", b"[1]", b'{"other": 2}', b'{"text": "\\ud800"}']
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(b"\n".join(lines))
    (block,) = read_blocks(splits_of(tmp_path / "a.jsonl.gz")[0], FetchConfig())
    assert list(block.rows) == [0, 4] and block.column("text") == ["one", None]
    assert block.take([0]) == b'{"text": "one"}\n'
    assert [(bad.row, bad.reason) for bad in block.bad] == [(2, "bad_row"), (3, "bad_row"), (5, "bad_row")]
    assert block.bad[0].raw == "nonsense"


def test_a_cut_file_is_told_and_what_came_before_is_kept(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(json.dumps({"text": f"line {number} {number * 7919}"}).encode() + b"\n" for number in range(20_000)))
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    blocks = list(read_blocks(splits_of(tmp_path / "a.jsonl.gz")[0], FetchConfig()))
    assert sum(len(block.rows) for block in blocks) > 1000
    assert [bad.reason for block in blocks for bad in block.bad] == ["bad_row", "truncated_file"]  # the torn line, and the tear
