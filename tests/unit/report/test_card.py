from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from alignray.errors import RecordError
from alignray.report.card import write_card
from alignray.report.html import write_report
from alignray.report.markdown import escape_markdown
from alignray.report.webr_card import COLUMNS
from alignray.schema import InstructionRow, arrow_schema
from tests.runfolders import build_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = build_run(tmp_path_factory.mktemp("run"))
    write_card(run_dir)
    write_report(run_dir)
    return run_dir


def front_matter(run_dir: Path) -> dict[str, object]:
    _, front, _ = (run_dir / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front)


def test_datasets_loads_the_rows_and_nothing_else(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(run_dir), cache_dir=str(tmp_path / "a"))
    assert set(loaded) == {"train"}
    assert loaded["train"].num_rows == 240
    assert loaded["train"].column_names == list(arrow_schema(InstructionRow).names)
    parts = f"{run_dir}/parts/*.parquet"
    files = datasets.load_dataset("parquet", data_files=parts, cache_dir=str(tmp_path / "b"), split="train")
    assert files["row_id"] == loaded["train"]["row_id"]


def test_the_front_matter_says_size_language_and_what_to_load(run_dir: Path) -> None:
    front = front_matter(run_dir)
    assert front["size_categories"] == ["n<1K"]
    assert front["language"] == ["en"]
    assert front["license"] == "other"
    assert front["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "parts/*.parquet"}]}]


def test_the_card_tells_the_run(run_dir: Path) -> None:
    text = (run_dir / "README.md").read_text(encoding="utf-8")
    for told in ("240 instruction and response pairs", "near\\_duplicate 27", "preset: thesis", "small-model-1",
                 "policy: respect", "terms of use", "0123456789abcdef", "seed: 7"):
        assert told in text
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body and "<b>" not in body


def test_every_column_is_explained() -> None:
    assert list(COLUMNS) == list(arrow_schema(InstructionRow).names)


def test_cards_of_unfinished_and_of_bare_runs(tmp_path: Path) -> None:
    build_run(tmp_path / "a", num_rows=0, status="running", with_analysis=False)
    assert "status is: running" in write_card(tmp_path / "a").read_text()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("{}")
    write_card(tmp_path / "b")
    assert "language" not in front_matter(tmp_path / "b")
    with pytest.raises(RecordError):
        write_card(tmp_path)


def test_markdown_of_strangers_is_defused() -> None:
    assert escape_markdown("a\n# b\x00") == "a \\# b"
    assert escape_markdown("[x](http://e.example) |`") == "\\[x\\]\\(http:&#8203;//e.example\\) \\|\\`"
    assert escape_markdown("<img>&lt;") == "&lt;img&gt;&amp;lt;"
    assert len(escape_markdown("x" * 1000)) == 303
