"""LTE's training data: quotas met exactly, every query with and without its edit, neighbours beside it, nothing of the test part."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignray.errors import RecordError
from alignray.io.preferences import example_of
from alignray.methods.lte.render import render_prompt
from alignray.pipelines.lte import Outcome, build_examples
from alignray.pipelines.lte_config import LTEJobConfig
from alignray.schema import SftExample
from tests.ray.conftest import ROOT
from tests.ray.run_files import journal_of, rows_of

EDITS = str(ROOT / "samples" / "edits.jsonl")
COUNTERFACT = str(ROOT / "samples" / "edits_counterfact.jsonl")
PLAIN = str(ROOT / "samples" / "benchmarks" / "instructions.jsonl")
ZSRE = {"form": "zsre_mend", "paths": [EDITS]}
Build = Callable[..., Outcome]


@pytest.fixture(scope="module")
def build(local_ray: None) -> Build:
    def run(run_dir: Path, **changes: Any) -> Outcome:
        data: dict[str, Any] = {
            "run_dir": str(run_dir), "embedder": "hash",
            "input": {"edits": [ZSRE, {"form": "counterfact", "paths": [COUNTERFACT]}], "plain": [PLAIN]},
            "lte": {
                "quotas": {"table": {"zsre": {"in_scope": 8, "out_of_scope": 8}, "counterfact": {"in_scope": 3, "out_of_scope": 3}}},
                "scopes": {"verify": False},
            },
            "engines": {"fake": {"kind": "scripted"}}, "roles": {"default": {"engine": "fake", "max_new_tokens": 300}},
        }
        return build_examples(LTEJobConfig.model_validate(data | changes), console=Console(quiet=True))

    return run


@pytest.fixture(scope="module")
def built(build: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    run = tmp_path_factory.mktemp("lte") / "run"
    return run, build(run)


def test_every_cell_is_filled_exactly_and_every_query_stands_there_twice(built: tuple[Path, Outcome]) -> None:
    run, outcome = built
    rows = rows_of(run)
    assert outcome.status == "done" and outcome.rows == len(rows) == 2 * (8 + 8 + 3 + 3)
    cells = Counter(
        (row["source"], "out_of_scope" if row["kind"] == "out_of_scope" else "in_scope", row["with_prompt"]) for row in rows)
    assert cells == {
        (source, scope, with_prompt): num for source, num in (("zsre", 8), ("counterfact", 3))
        for scope in ("in_scope", "out_of_scope") for with_prompt in (True, False)
    }
    assert not any(cell["short"] for cell in outcome.data["cells"])
    pairs = Counter(row["pair_id"] for row in rows)
    assert set(pairs.values()) == {2}
    manifest = json.loads((run / "manifest.json").read_text())
    for stage in manifest["funnel"]:
        assert stage["in"] == stage["kept"] + sum(stage["rejected"].values()), stage


def test_the_edit_stands_among_its_neighbours_and_the_answer_follows_it(built: tuple[Path, Outcome]) -> None:
    run, outcome = built
    edits = {json.loads(line)["src"]: json.loads(line) for line in Path(EDITS).read_text().splitlines()}
    for row in rows_of(run):
        prompt, answer = (turn["content"] for turn in row["messages"])
        assert answer == row["answer"]
        if not row["with_prompt"]:
            assert prompt == row["query"] and not row["facts"] and row["style"] == "bare"
            continue
        assert prompt == render_prompt(row["facts"], row["query"])
        assert row["edit_id"] in row["places"] and len(row["facts"]) == len(row["places"]) <= 3
        assert set(row["places"]) == {row["edit_id"], *row["retrieved"]}
        if row["source"] == "zsre" and row["kind"] == "in_scope":
            edit = next(edit for edit in edits.values() if row["query"] in (edit["src"], edit["rephrase"]))
            assert answer == edit["alt"]
        if row["source"] == "zsre" and row["kind"] == "out_of_scope":
            twin = next(one for one in rows_of(run) if one["pair_id"] == row["pair_id"] and not one["with_prompt"])
            assert twin["answer"] == answer
    shown = outcome.data["shown"]
    assert sum(shown[style] for style in ("exact_only", "exact_and_1", "exact_and_2") if style in shown) == 22


def test_the_rows_are_examples_to_train_on(built: tuple[Path, Outcome]) -> None:
    for row in rows_of(built[0]):
        example = example_of(row)
        assert isinstance(example, SftExample) and example.messages[-1].content == row["answer"]


def test_running_it_again_asks_nobody_and_gives_the_same_rows(built: tuple[Path, Outcome], build: Build) -> None:
    run, outcome = built
    rows, calls = rows_of(run), len(journal_of(run))
    again = build(run)
    assert rows_of(run) == rows and len(journal_of(run)) == calls
    assert (again.rows, again.data) == (outcome.rows, outcome.data)


def test_without_a_model_there_are_the_pairs_that_the_files_have_in_full(build: Build, tmp_path: Path) -> None:
    outcome = build(tmp_path / "run", engines={}, roles={})
    assert outcome.usage["calls"] == 0 and outcome.rows and outcome.data["notes"]["needs_a_model"]
    short = {(cell["group"], cell["scope"]): cell["found"] for cell in outcome.data["cells"] if cell["short"]}
    assert short[("counterfact", "in_scope")] == 0


def test_what_is_tested_on_is_not_trained_on(build: Build, tmp_path: Path) -> None:
    test_part = tmp_path / "test.jsonl"
    test_part.write_text("".join(line + "\n" for line in Path(EDITS).read_text().splitlines()[:5]))
    data = {"edits": [ZSRE], "test": [{"form": "zsre_mend", "paths": [str(test_part)]}]}
    quotas: dict[str, Any] = {"quotas": {"table": {"zsre": {"in_scope": 12, "out_of_scope": 12}}}}
    with pytest.raises(RecordError, match=r"5 of 12 training edits share a fact or a question with the 5 test edits"):
        build(tmp_path / "refused", input=data, lte={**quotas, "on_leakage": "refuse"})
    outcome = build(tmp_path / "dropped", input=data, lte=quotas)
    subjects = {json.loads(line)["src"] for line in test_part.read_text().splitlines()}
    assert outcome.data["leakage"] == {"test_edits": 5, "shared": 5, "handling": "drop", "unreadable": {}}
    assert [cell["found"] for cell in outcome.data["cells"]] == [7, 7]
    assert not [row for row in rows_of(tmp_path / "dropped") if any(subject in row["messages"][0]["content"] for subject in subjects)]
