"""Official files of benchmarks: every form gives rows, and what is no such file says what it is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from alignray.errors import RecordError
from alignray.io.benchmark_files import read_rows
from alignray.io.fetch import FetchConfig

FETCH = FetchConfig()
ROWS = [{"key": 1, "prompt": "a\u2028b"}, {"key": 2, "prompt": "c"}]


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.json.gz", "x.jsonl.gz"])
def test_json_and_json_lines_give_the_same_rows(tmp_path: Path, name: str) -> None:
    text = json.dumps(ROWS) if ".json." in f"{name}." else "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_rows(str(tmp_path / name), FETCH) == ROWS


def test_one_object_csv_and_text_are_rows_too(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"examples": [1]}')
    (tmp_path / "t.csv").write_text('task,prompt\nx,"two\nlines"\n')
    (tmp_path / "p.txt").write_text("Q: 1?\n")
    assert read_rows(str(tmp_path / "one.json"), FETCH) == [{"examples": [1]}]
    assert read_rows(str(tmp_path / "t.csv"), FETCH) == [{"task": "x", "prompt": "two\nlines"}]
    assert read_rows(str(tmp_path / "p.txt"), FETCH) == [{"text": "Q: 1?\n"}]


@pytest.mark.parametrize(("name", "data", "says"), [
    ("a.parquet", b"", "ends in .json, .jsonl, .csv or .txt"),
    ("a.json", b"[1, 2]", "row 0 is int, not an object"),
    ("a.jsonl", b"{}\n{", "not JSONL"),
    ("a.json.gz", b"no gzip", "cannot be read"),
    ("a.csv", b"x,y\n1,2,3\n", "row 0 has 3 cells, the header 2"),
    ("a.csv", b"Which?,0,0,1,2,A\n", "two columns have one name"),
    ("a.csv", b"x\n" + b"y" * 200_000, "not CSV"),
    ("a.txt", b"\xff\xfe\x00", "not UTF-8 (byte 0)"),
])
def test_what_is_no_such_file_says_so(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RecordError, match="a.(parquet|json|csv|txt)") as caught:
        read_rows(str(tmp_path / name), FETCH)
    assert says in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(RecordError, match="/no/such.json"):
        read_rows("/no/such.json", FETCH)
