from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignray.report.card import write_card
from alignray.report.html import write_report
from tests.runfolders import build_dedup_run


def parts_of_card(run_dir: Path) -> tuple[dict[str, Any], str]:
    _, front, body = write_card(run_dir).read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("as_json", [False, True])
def test_datasets_loads_the_rows_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    build_dedup_run(tmp_path / "run", as_json=as_json)
    write_card(tmp_path / "run")
    write_report(tmp_path / "run")
    loaded = datasets.load_dataset(str(tmp_path / "run"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train"}
    assert (loaded["train"].num_rows, loaded["train"].column_names) == (571, ["id", "text", "n"])


def test_rows_of_a_second_format_are_named_beside_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    build_dedup_run(tmp_path / "run")
    (tmp_path / "run" / "parts" / "4567-00000-aa.jsonl").write_text('{"other": 1}\n{"other": 2}\n')
    _, body = parts_of_card(tmp_path / "run")
    rows = datasets.load_dataset(str(tmp_path / "run"), split="train", cache_dir=str(tmp_path / "a"))
    assert rows.num_rows == 571
    assert 'load_dataset("json", data_files="path/to/this/folder/parts/*.jsonl", split="train")' in body
    files = f"{tmp_path}/run/parts/*.jsonl"
    assert datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / "b"))["other"][:] == [1, 2]


def test_the_card_tells_what_was_removed_why_and_how_surely(tmp_path: Path) -> None:
    front, body = parts_of_card(build_dedup_run(tmp_path))
    assert front["license"] == "other" and front["license_name"] == "text-belongs-to-its-sources"
    assert front["size_categories"] == ["n<1K"]
    for told in (
        "571 of 724 rows", "word 5-grams", "| near\\_duplicate | 101 |", "| empty\\_text | 1 |", "17 bands of 4 signature values",
        "297 were found", "The text belongs to its sources", "gsm8k 5", "**are still in the data**", "3 items are too short",
        "7 rows of earlier runs", "seed: 0",
    ):
        assert told in body, told
    assert "<script>" not in body and "<b>" not in body
    assert "commoncrawl" not in body.lower() + str(front).lower()


def test_cards_of_unfinished_and_of_bare_runs(tmp_path: Path) -> None:
    build_dedup_run(tmp_path / "a", num_clusters=0, status="running")
    assert "status is: running" in write_card(tmp_path / "a").read_text()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text(json.dumps({"method": "dedup", "funnel": ["x", {"rejected": {"a": None}}]}))
    front, body = parts_of_card(tmp_path / "b")
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "parts/*.parquet"}]
    assert "nothing can be said of what it finds" in body
