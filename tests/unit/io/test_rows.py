"""Parquet and JSON inputs."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignray.seeding import row_id_of_json
from tests.warcs import PROSE, read, read_bytes

LINES = [{"text": PROSE + str(n), "url": f"https://example.org/{n}", "key": n} for n in range(3)]
JSONL = b"".join(json.dumps(line).encode() + b"\n" for line in LINES)


@pytest.mark.parametrize("name, stored", [
    ("a.jsonl", JSONL), ("a.jsonl", JSONL.replace(b"\n", b"\r\n\r\n")), ("a.jsonl", JSONL.rstrip()), ("a.ndjson", JSONL),
    ("a.jsonl.gz", gzip.compress(JSONL)), ("a.jsonl.gz", gzip.compress(JSONL[:500]) + gzip.compress(JSONL[500:])),
    ("a.json", JSONL), ("a.json", json.dumps(LINES, indent=1).encode()),
    ("a.json.gz", gzip.compress(json.dumps(LINES).encode())),
])
def test_the_same_rows_from_every_kind_of_json(name, stored, tmp_path):
    documents, rejects, counts = read_bytes(stored, tmp_path, name=name, source={"id_column": "key"})
    assert [(d.text, d.url, d.record_id) for d in documents] == [(x["text"], x["url"], str(x["key"])) for x in LINES]
    assert counts["records/row"] == 3 and not rejects
    expected = {"text": LINES[0]["text"], "url": "https://example.org/0", "id": "0"}
    assert documents[0].row_id == row_id_of_json(expected)


def test_parquet_rows_and_their_columns(tmp_path):
    table = pa.table({"body": [line["text"] for line in LINES] + [None], "link": ["u"] * 4, "n": pa.array(range(4))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    source = {"text_column": "body", "url_column": "link", "id_column": "n"}
    documents, rejects, counts = read(tmp_path / "a.parquet", source=source)
    assert [(d.text, d.url, d.record_id, d.offset) for d in documents] == [
        (line["text"], "u", str(n), n + 1) for n, line in enumerate(LINES)
    ]
    assert [reject.reason for reject in rejects] == ["no_text"] and counts["records"] == 4


def test_a_missing_column_names_those_there_are(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    _, (reject,), counts = read(tmp_path / "a.parquet")
    assert reject.reason == "missing_column" and "there are: body" in reject.detail and counts["damage"] == 1
    _, rejects, counts = read_bytes(b'{"body": "x"}\n{"body": "y"}\n', tmp_path, name="a.jsonl")
    assert [reject.reason for reject in rejects] == ["missing_column"] * 2 and counts["damage"] == 0


def test_bad_lines_are_rejected_one_by_one(tmp_path):
    lines = [b'{"text": ', b"[1, 2]", b'"text"', b'{"text": null}', b'{"text": 7}', b'{"text": ["a"]}', b'{"text": "\\ud800"}',
             b'{"text": ""}', b"\xff\xfe", b"", b'{"text": "short"}', json.dumps(LINES[0]).encode()]
    documents, rejects, counts = read_bytes(b"\n".join(lines), tmp_path, name="a.jsonl")
    assert [reject.reason for reject in rejects] == [
        "bad_row", "bad_row", "bad_row", "no_text", "bad_row", "bad_row", "bad_row", "no_text", "bad_row", "too_short",
    ]
    assert [json.loads(reject.detail)["offset"] for reject in rejects] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert documents[0].offset == 12 and counts["records"] == 11


def test_the_same_row_twice_is_a_duplicate(tmp_path):
    _, (reject,), _ = read_bytes(JSONL + JSONL.split(b"\n")[1], tmp_path, name="a.jsonl")
    assert reject.reason == "duplicate_record" and json.loads(reject.detail)["first_offset"] == 2


def test_a_line_without_end_is_not_held_in_memory(tmp_path):
    stored = JSONL + b'{"text": "' + b"x" * 3_000_000 + b'"}\n' + JSONL.replace(b"PROSE", b"")
    documents, rejects, _ = read_bytes(stored, tmp_path, name="a.jsonl", max_record_bytes=1 << 20)
    assert len(documents) == 3
    assert [reject.reason for reject in rejects] == ["payload_too_large"] + ["duplicate_record"] * 3


def test_strings_that_are_no_utf8_are_rejected_alone(tmp_path):
    binary = pa.array([LINES[0]["text"].encode(), b"caf\xe9 " * 60, LINES[1]["text"].encode()])
    table = pa.table({"text": pa.StringArray.from_buffers(3, *binary.buffers()[1:3])})
    pq.write_table(table, tmp_path / "a.parquet")
    documents, rejects, _ = read(tmp_path / "a.parquet")
    assert len(documents) == 2 and [reject.reason for reject in rejects] == ["bad_encoding"]


@pytest.mark.parametrize("cut", [10, 200, -20])
def test_cut_files_end_in_one_damage(cut, tmp_path):
    pq.write_table(pa.table({"text": [line["text"] for line in LINES]}), tmp_path / "whole.parquet")
    stored = (tmp_path / "whole.parquet").read_bytes()
    _, rejects, counts = read_bytes(stored[:cut], tmp_path, name="a.parquet")
    assert [reject.reason for reject in rejects] == ["corrupt_file"] and counts["damage"] == 1
    text = b"".join(json.dumps({"text": PROSE + str(n) * 50}).encode() + b"\n" for n in range(500))
    documents, rejects, counts = read_bytes(gzip.compress(text)[:cut], tmp_path, name="a.jsonl.gz")
    assert counts["damage"] == 1 and rejects[-1].reason == "truncated_file"
    assert cut != -20 or len(documents) > 300


def test_a_json_file_that_is_none(tmp_path):
    _, (reject,), counts = read_bytes(b"<html>", tmp_path, name="a.json")
    assert reject.reason == "corrupt_file" and counts == {"damage": 1}
