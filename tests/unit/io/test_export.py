from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from alignray.errors import ConfigError, RecordError
from alignray.io import export as export_module
from alignray.io.export import FORMATS, export, read_export, split_request
from alignray.schema import Conversation, InstructionRow, Message
from tests.runfolders import build_run, make_rows, write_parts

LAYOUT_KEPT = [name for name in FORMATS if name != "alpaca"]


def out_of(folder: Path, format: str, suffix: str = ".jsonl") -> Path:
    """What to export to: openrlhf makes a folder."""
    return folder / ("out" if format == "openrlhf" else f"out{suffix}")


@pytest.fixture(scope="module")
def rows() -> list[InstructionRow]:
    return make_rows(90)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, rows: list[InstructionRow]) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    write_parts(run_dir, rows)
    return run_dir


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("format", LAYOUT_KEPT)
def test_what_is_written_reads_back_as_the_same_conversations(
    run_dir: Path, tmp_path: Path, rows: list[InstructionRow], format: str, suffix: str
) -> None:
    path = out_of(tmp_path, format, suffix)
    assert export(run_dir, format, path) == 90
    assert list(read_export(path, format)) == [Conversation(row.messages) for row in rows]


def test_alpaca_takes_request_and_page_apart(run_dir: Path, tmp_path: Path, rows: list[InstructionRow]) -> None:
    path = tmp_path / "out.jsonl"
    export(run_dir, "alpaca", path)
    items = [json.loads(line) for line in path.open()]
    assert {row.layout for row in rows} == {"doc_first", "request_first", "request_only"}
    for row, item, back in zip(rows, items, read_export(path, "alpaca"), strict=True):
        assert item["instruction"] == row.instruction
        assert item["output"] == row.messages[1].content
        turn = row.messages[0].content
        joined = {"doc_first": f"{item['input']}\n\n{item['instruction']}", "request_only": item["instruction"]}
        assert joined.get(row.layout, f"{item['instruction']}\n\n{item['input']}") == turn
        if row.layout != "doc_first":
            assert back == Conversation(row.messages)


@pytest.mark.parametrize("layout", ["doc_first", "request_first"])
def test_a_request_that_the_page_repeats_is_still_taken_apart_exactly(layout: str) -> None:
    request = "Sum it up.\n\nBriefly."
    text = f"{request}\n\nmore\n\n{request}\n\n"
    turn = f"{text}\n\n{request}" if layout == "doc_first" else f"{request}\n\n{text}"
    messages = (Message("user", turn), Message("assistant", "x"))
    row = replace(make_rows(1)[0], instruction=request, layout=layout, messages=messages)
    assert split_request(row) == (request, text)
    with pytest.raises(RecordError, match="layout"):
        split_request(replace(row, instruction="Something else."))


@pytest.mark.parametrize("format", FORMATS)
def test_datasets_reads_every_format(run_dir: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    path = out_of(tmp_path, format)
    export(run_dir, format, path)
    if path.is_dir():
        path /= "train.jsonl"
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 90
    columns = {
        "openai": ["messages"], "trl": ["messages"], "trl-prompt-completion": ["prompt", "completion"],
        "sharegpt": ["conversations"], "llamafactory": ["conversations"], "alpaca": ["instruction", "input", "output"],
        "openrlhf": ["messages"],
    }
    assert loaded.column_names == columns[format]
    assert all(all(value is not None for value in row.values()) for row in loaded)


def test_a_json_array_loads_too(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    export(run_dir, "alpaca", path)
    assert len(json.loads(path.read_text())) == 90


def test_llamafactory_is_registered_beside_what_is_there(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"identity": {"file_name": "identity.json"}}')
    export(run_dir, "llamafactory", tmp_path / "my rows.json")
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["identity"] == {"file_name": "identity.json"}
    entry = info["my_rows"]
    assert (entry["file_name"], entry["formatting"]) == ("my rows.json", "sharegpt")
    assert entry["columns"] == {"messages": "conversations"}
    turns = json.loads((tmp_path / "my rows.json").read_text())[0][entry["columns"]["messages"]]
    assert [turn[entry["tags"]["role_tag"]] for turn in turns] == [entry["tags"]["user_tag"], entry["tags"]["assistant_tag"]]
    assert all(entry["tags"]["content_tag"] in turn for turn in turns)
    (tmp_path / "dataset_info.json").write_text("[1")
    with pytest.raises(RecordError, match="mend or remove"):
        export(run_dir, "llamafactory", tmp_path / "other.json")


def test_system_and_further_turns(tmp_path: Path) -> None:
    turns = (Message("system", "Be brief."), Message("user", "Hi\u2028there \U0001f600"), Message("assistant", "Yes?"),
             Message("user", "Tea?"), Message("assistant", "No."))
    row = replace(make_rows(3, hostile=False)[2], messages=turns, layout="request_only")
    write_parts(tmp_path, [row])
    for format in LAYOUT_KEPT:
        path = out_of(tmp_path, format)
        export(tmp_path, format, path)
        assert list(read_export(path, format)) == [Conversation(turns)]
    with pytest.raises(RecordError, match="got system, user, assistant"):
        export(tmp_path, "alpaca", tmp_path / "alpaca.jsonl")
    assert not (tmp_path / "alpaca.jsonl").exists()


def test_a_failed_export_leaves_the_old_file(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def fail(row: object) -> dict[str, object]:
        raise RecordError("no")

    broken = export_module.FORMATS["openai"]._replace(write=fail)
    monkeypatch.setattr(export_module, "FORMATS", {"openai": broken})
    with pytest.raises(RecordError):
        export(run_dir, "openai", path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_wrong_formats_and_empty_runs_say_the_way_out(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='did you mean "sharegpt"'):
        export(run_dir, "share-gpt", tmp_path / "x")
    with pytest.raises(ConfigError, match="choose from openai"):
        list(read_export(tmp_path / "x", "xml"))
    with pytest.raises(RecordError, match="no part files"):
        export(tmp_path, "openai", tmp_path / "x")
    build_run(tmp_path / "empty", num_rows=0, with_analysis=False)
    with pytest.raises(RecordError, match=r"no part files|no row"):
        export(tmp_path / "empty", "openai", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_file_of_another_format_is_refused(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, "openai", tmp_path / "out.jsonl")
    with pytest.raises(RecordError, match="record 1 is not sharegpt"):
        list(read_export(tmp_path / "out.jsonl", "sharegpt"))
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(RecordError, match=r"bad\.jsonl:1: not a JSON line"):
        list(read_export(tmp_path / "bad.jsonl", "openai"))


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_rows(3, hostile=False)[2]
    row = replace(base, messages=(Message("user", "q"), Message("assistant", "x" * 20_000)))
    write_parts(tmp_path, [row] * 600, num_parts=2)
    monkeypatch.setattr(export_module, "BATCH_ROWS", 20)
    tracemalloc.start()
    assert export(tmp_path, "openai", tmp_path / "out.jsonl") == 600
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out.jsonl").stat().st_size > 12_000_000
    assert peak < 3_000_000
