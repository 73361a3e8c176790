"""The reader: official files in both languages, paths, stable ids, and what becomes of rows that are no items."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pydantic
import pytest

from alignray.errors import RecordError
from alignray.evals.followbench import FollowBenchConfig, benchmark
from alignray.evals.followbench.config import CATEGORIES
from alignray.evals.followbench.items import REASONS, Facts, read_items
from alignray.evals.followbench.rules import check_rule
from alignray.evals.followbench.templates import answer_is_right
from alignray.pipelines.evaluate_config import CandidateConfig
from alignray.schema import EvalDraft, Rejected


def official(data_dir: Path, language: str) -> dict[str, list[dict[str, Any]]]:
    folder = data_dir / "followbench"
    return {name: json.loads(gzip.decompress((folder / f"{language}_{name}_constraints.json.gz").read_bytes())) for name in CATEGORIES}


def config(language: str = "en", **switches: Any) -> FollowBenchConfig:
    return FollowBenchConfig.model_validate({"kind": "followbench", "language": language, **dict.fromkeys(CATEGORIES, "f"), **switches})


def row(level: int, *, example_id: Any = 1, category: str = "style", text: Any = None, **fields: Any) -> dict[str, Any]:
    instruction = f"Say {level}." if text is None else text
    given = {"example_id": example_id, "category": category, "source": "quora", "level": level, "instruction": instruction, "target": ""}
    return {**given, **fields}


def read(**files: list[Any]) -> list[EvalDraft | Rejected]:
    return list(read_items(files, config=config()))


@pytest.mark.parametrize(("language", "counts"), [
    ("en", {"content": 125, "situation": 110, "style": 150, "format": 150, "example": 200, "mixed": 85}),
    ("zh", {"content": 115, "situation": 110, "style": 150, "format": 150, "example": 200, "mixed": 65}),
])
def test_official_files_give_the_official_items(data_dir: Path, language: str, counts: dict[str, int]) -> None:
    items = list(benchmark(config(language)).read(official(data_dir, language)))
    assert all(isinstance(item, EvalDraft) for item in items)
    drafts = [item for item in items if isinstance(item, EvalDraft)]
    assert dict(Counter(draft.category for draft in drafts)) == counts
    assert len({draft.row_id for draft in drafts}) == len(drafts) and len({draft.group for draft in drafts}) == len(drafts) / 5
    facts = [Facts.from_json(draft.facts) for draft in drafts]
    assert sum(bool(fact.rule) for fact in facts) == {"en": 350, "zh": 330}[language]
    for draft, fact in zip(drafts, facts, strict=True):
        assert 1 <= fact.level <= 5 and draft.key == f"{draft.group}/{fact.level}"
        assert fact.rule or (len(fact.path) == fact.level + 1 and fact.path[-1] == draft.prompt[0].content)
    assert next(fact.kinds for draft, fact in zip(drafts, facts, strict=True) if draft.key == f"{language}/mixed/3/2") == "content, content"


def test_true_answers_of_the_example_files_are_in_form_and_right(data_dir: Path) -> None:
    """The five billsum answers have several lines, which the authors' rule refuses."""
    refused = set()
    for draft in read_items({"example": official(data_dir, "en")["example"]}, config=config()):
        assert isinstance(draft, EvalDraft)
        fact = Facts.from_json(draft.facts)
        for variant in ("original", "fixed"):
            verdict = check_rule(
                fact.rule, fact.gold, level=fact.level, target=fact.target, gold=fact.gold, variant=variant,  # type: ignore[arg-type]
            )
            refused |= set() if verdict and verdict.hard else {(variant, fact.source)}
        assert answer_is_right(fact.gold, fact.target, fact.gold)
    assert refused == {("original", "billsum")}


def test_ids_are_of_the_item_and_not_of_the_file_around_it() -> None:
    some = read(style=[row(0), row(1), row(2)])
    mixed = [row(0, category="mixed"), row(1, category="format")]
    more = read(style=[row(0, example_id=9), row(1, example_id=9), row(0), row(1), row(2)], mixed=mixed)
    assert len(more) == 4
    assert [item.row_id for item in some] == [item.row_id for item in more if isinstance(item, EvalDraft) and item.group == "en/style/1"]
    assert [draft.row_id for draft in list(read_items({"style": [row(0), row(1)]}, config=config("zh")))] != [some[0].row_id]


def test_facts_are_canonical_and_come_back_whole() -> None:
    (item,) = read(style=[row(0, text=""), row(1)])
    assert isinstance(item, EvalDraft)
    facts = Facts.from_json(item.facts)
    assert facts.path == ("", "Say 1.") and facts.to_json() == item.facts and list(json.loads(item.facts)) == sorted(json.loads(item.facts))


@pytest.mark.parametrize(("bad", "reason"), [
    (row(1, example_id="1"), "bad_id"), (row(1, example_id=True), "bad_id"), (row(6), "bad_level"), (row(-1), "bad_level"),
    ({**row(1), "level": "1"}, "bad_level"), (row(1, text=" "), "no_instruction"), (row(1, text=3), "no_instruction"), ("text", "no_row"),
    (row(2), "duplicate"), (row(3, example_id=5), "no_path"), (row(1, source="E2E"), "bad_target"),
    (row(1, source="CONLL2003", target="{'a'}"), "bad_target"), (row(1, source="CONLL2003", target="[{[]: 1}]"), "bad_target"),
    ({**row(1), "category": 5}, "bad_category"), ({**row(1), "category": [["style"]]}, "bad_category"),
])
def test_a_row_that_is_no_item_says_why(bad: Any, reason: str) -> None:
    found = read(style=[row(0), *([row(1), bad] if reason == "duplicate" else []), bad])
    rejected = [item for item in found if isinstance(item, Rejected)]
    assert rejected[-1].reason == reason and rejected[-1].step == "followbench/read" and reason in REASONS and rejected[-1].raw
    assert json.loads(rejected[-1].detail)["file"] == "style"


def test_half_a_surrogate_in_a_file_is_no_reason_to_stop() -> None:
    (item,) = read(style=[row(0), row(1, text="a\ud800b")])
    assert isinstance(item, EvalDraft) and item.prompt[0].content == "a\ufffdb"


@pytest.mark.parametrize(("files", "message"), [
    ({"style": []}, "followbench.style: the file holds no rows"),
    ({"style": [{"text": "hello"}]}, "rows need example_id, level, instruction, category; row 0 has text"),
    ({"style": [row(0, category="content")]}, "about content constraints; name the one about style constraints"),
    ({"content": [row(0, category="mixed"), row(1, category="content")]}, "about content, mixed constraints"),
    ({"mixed": [row(0, category="style")]}, "about style constraints; name the one about mixed"),
])
def test_a_file_that_is_another_one_is_refused(files: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read_items(files, config=config())


def test_a_config_names_at_least_one_file_and_hands_on_those_it_names() -> None:
    with pytest.raises(pydantic.ValidationError, match="name at least one of content, situation"):
        FollowBenchConfig(kind="followbench", human_labels="labels.jsonl")
    named = FollowBenchConfig(kind="followbench", mixed="m.json", human_labels="l.jsonl")
    assert named.files() == {"mixed": "m.json", "human_labels": "l.jsonl"}


def test_the_pipeline_alone_cuts_at_max_items() -> None:
    rows = [row(0), row(1), row(1), row(2), row(3)]
    found = list(read_items({"style": rows}, config=config(max_items=2)))
    assert [type(item).__name__ for item in found] == ["EvalDraft", "Rejected", "EvalDraft", "EvalDraft"]


@pytest.mark.parametrize("depth", [10, 300, 1000])
def test_a_row_nested_deeper_than_json_can_be_written_is_kept_as_far_as_it_can_be_shown(depth: int) -> None:
    deep = orjson.loads("[" * depth + "1" + "]" * depth)
    (rejected,) = read(style=[row(0), {**row(1), "level": deep, "text": "a\ud800" * 9000}])
    assert isinstance(rejected, Rejected) and rejected.reason == "bad_level" and len(rejected.raw) == Rejected.RAW_LIMIT
    assert '"level": [[[[[[[[[[' in rejected.raw and ("..." in rejected.raw) == (depth > 50) and rejected.raw.encode()


def test_human_labels_are_put_beside_their_item() -> None:
    rows = [row(0), row(1), row(2)]
    labels = [{"category": "style", "example_id": 1, "level": 2, "verdicts": [1, False]}]
    drafts = read(style=rows, human_labels=labels)
    assert [Facts.from_json(draft.facts).human for draft in drafts if isinstance(draft, EvalDraft)] == [None, (True, False)]
    too_few, no_bit = {"verdicts": [1]}, {"verdicts": [1, 2]}
    nowhere: list[Any] = [{"level": 3}, {"example_id": [1]}, {"example_id": {"a": 1}}, {"category": ["style"]}, {"level": None}]
    for wrong, message in (*((one, "which no file has") for one in nowhere), (too_few, "list of 2 times"), (no_bit, "list of 2 times")):
        with pytest.raises(RecordError, match=message):
            read(style=rows, human_labels=[{**labels[0], **wrong}])


def test_an_answer_is_sampled_as_the_candidate_says() -> None:
    """Thesis 7.3: temperature 0 and 2048 tokens, the candidate's defaults; a sweep (7.4.4) sets another temperature there."""
    [draft, *_] = [item for item in read(style=[row(level) for level in range(6)]) if isinstance(item, EvalDraft)]
    request = benchmark(config()).steps[0].build(draft)
    assert request is not None and (request.temperature, request.max_new_tokens) == (None, None)
    assert (CandidateConfig(engine="e").temperature, CandidateConfig(engine="e").max_new_tokens) == (0.0, 2048)
