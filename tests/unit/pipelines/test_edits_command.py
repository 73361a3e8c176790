"""``alignray edits``: a memory filled, asked, corrected and emptied from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignray.cli import app

ROOT = Path(__file__).parents[3]
EDITS = str(ROOT / "samples" / "edits.jsonl")


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["edits", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def found(*arguments: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return value


@pytest.fixture
def memory(tmp_path: Path) -> str:
    path = str(tmp_path / "memory")
    assert found("add", path, EDITS, "--form", "zsre_mend", "--embedder", "hash") == {"added": 12, "live": 12}
    return path


def test_a_file_of_edits_is_found_by_questions_about_them(memory: str) -> None:
    near = found("find", memory, "What is Otto's Bakery known for?")
    assert near["edits"][0]["fact"] == "What is Otto's Bakery known for? plum cake" and len(near["edits"]) == 3
    assert near["prompt"].startswith("[Updated Information] 1. What is Otto's Bakery known for? plum cake\n2. ")
    assert near["prompt"].endswith("[Query] What is Otto's Bakery known for?")


def test_a_newer_edit_of_the_same_fact_takes_its_place_and_a_deleted_one_is_not_found(memory: str) -> None:
    fact = ("--subject", "the Green Bridge", "--prompt", "What is the Green Bridge made of?")
    newer = found("add", memory, *fact, "--target", "glass")
    assert (newer["outcome"], newer["live"]) == ("superseded", 12) and newer["note"]
    question = "What is the Green Bridge made of?"
    assert [one["fact"] for one in found("find", memory, question, "--top-k", "1")["edits"]] == [f"{question} glass"]
    assert [one["fact"] for one in found("find", memory, question, "--top-k", "1", "--as-of", "12")["edits"]] == [f"{question} steel"]
    assert found("rm", memory, newer["edit_id"])["live"] == 11
    assert question not in found("find", memory, question, "--top-k", "1")["edits"][0]["fact"]
    listed = found("list", memory, "--ended")["edits"]
    ended = [(one["target"], one["deleted"], one["superseded_by"]) for one in listed if one["subject"] == "the Green Bridge"]
    assert ended == [("steel", False, newer["edit_id"]), ("glass", True, None)]


def test_the_same_file_again_changes_nothing(memory: str) -> None:
    assert found("add", memory, EDITS, "--form", "zsre_mend") == {"unchanged": 12, "live": 12}


@pytest.mark.parametrize(("arguments", "message"), [
    (("list", "{}/none"), "there is none"),
    (("add", "{}/memory", "--embedder", "other", "--subject", "a", "--prompt", "b", "--target", "c"), "made with embedder = 'hash'"),
    (("add", "{}/memory", "--subject", "a"), "prompt is empty"),
    (("add", "{}/memory", EDITS, "--subject", "a"), "not both"),
    (("add", "{}/memory", EDITS, "--form", "pdf"), "no form of edit files"),
    (("rm", "{}/memory", "f00"), "no edit 'f00'"),
])
def test_what_cannot_be_done_says_why(memory: str, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in run(*(argument.replace("{}", str(tmp_path)) for argument in arguments), code=2)
