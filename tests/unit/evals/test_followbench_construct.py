"""Growing a benchmark: replies read strictly, examples from templates, files that FollowBench's reader takes."""

from __future__ import annotations

import itertools
import json
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from alignray.dedup.rouge import rouge_l, words_of
from alignray.errors import RecordError
from alignray.evals.followbench.config import FollowBenchConfig
from alignray.evals.followbench.construct import (
    KINDS,
    NAME,
    PROBLEMS,
    REASONS,
    SCHEMA,
    Added,
    ConstructConfig,
    Facts,
    chosen_items,
    construct_steps,
    constructed_items,
    official_rows,
    path_of,
    read_initial,
    read_reply,
    read_reviews,
    step_names,
    summary_of,
)
from alignray.evals.followbench.items import Facts as ItemFacts
from alignray.evals.followbench.items import read_items
from alignray.evals.followbench.rules import EXAMPLE as EXAMPLE_RULE
from alignray.evals.followbench.rules import check_rule
from alignray.evals.followbench.templates import answer_is_right
from alignray.schema import ChatRequest, Completion, ConstructedItem, EvalDraft, Rejected, Reply
from alignray.steps import run_chain

CONFIG = ConstructConfig()
TEMPLATES = [
    {"question": "Text: {instruction}", "answer": "Mood: [{answer}]"},
    {"question": "How does this sound?\n{instruction}", "answer": "{'mood': '{answer}'}"},
    {"question": "{instruction}\nName the mood.", "answer": "Answer: {answer}"},
    {"question": "Review: {instruction}", "answer": "#Bot#\n{answer}"},
    {"question": "Sentence: {instruction}", "answer": "<{answer}>"},
    {"question": "{instruction}", "answer": "{{answer}}"},
]
SHOTS = [{"instruction": f"Thing number {name} happened.", "answer": answer} for name, answer in zip("abcdefg", "xyzxyzx", strict=True)]
EXAMPLE = {"instruction": "The staff smiled.", "category": "example", "answer": "good", "templates": TEMPLATES, "shots": SHOTS}


def rows(*given: Any) -> Iterable[tuple[str, int, Any]]:
    return [("mine.jsonl", number, row) for number, row in enumerate(given)]


def initial(text: str, category: str = "style", **more: Any) -> dict[str, Any]:
    return {"instruction": text, "category": category, **more}


def drafts_of(*given: Any, config: ConstructConfig = CONFIG, seed: int = 0) -> tuple[list[EvalDraft], list[Rejected]]:
    found = list(read_initial(rows(*given), Counter(), config=config, seed=seed))
    return [one for one in found if isinstance(one, EvalDraft)], [one for one in found if isinstance(one, Rejected)]


def reply_text(instruction: str, constraint: str) -> str:
    return json.dumps({"instruction": instruction, "added_constraint": constraint})


def grow(draft: EvalDraft, answer: Callable[[str, ChatRequest], Completion | str], config: ConstructConfig = CONFIG) -> Any:
    def generate(step: Any, _record: Any, request: ChatRequest) -> Completion:
        said = answer(step.name, request)
        return said if isinstance(said, Completion) else Completion(said)

    return run_chain(draft, construct_steps(config), generate)


def given_in(request: ChatRequest) -> str:
    return request.messages[0].content.partition("[Instruction]\n")[2].partition("\n\n[End of the instruction]")[0]


def one_more(step: str, request: ChatRequest) -> str:
    return reply_text(f"{given_in(request)} Also mind {step[-1]}.", f"mind {step[-1]}")


def grown(*given: Any) -> list[EvalDraft]:
    return [grow(draft, one_more) for draft in drafts_of(*given)[0]]


def items_of(drafts: Iterable[EvalDraft], reviews: Any = None) -> list[ConstructedItem]:
    return [item for draft in drafts for item in constructed_items(draft, reviews or {}, CONFIG)]


# ---- initial instructions


def test_an_instruction_too_like_an_earlier_one_is_set_aside_with_its_evidence() -> None:
    ten = "one two three four five six seven eight nine ten"
    almost = "one two three four five six seven x y z"  # ROUGE-L 0.7 exactly: not below
    below = "one two three four five six u v w q"
    kept, [rejected] = drafts_of(initial(ten), initial(almost, "content"), initial(below))
    assert [draft.prompt[0].content for draft in kept] == [ten, below]
    assert (rejected.step, rejected.reason) == (f"{NAME}/novelty", "near_duplicate")
    detail = json.loads(rejected.detail)
    assert (detail["row"], detail["like"], detail["rouge_l"]) == (1, kept[0].row_id, pytest.approx(0.7))
    by_category = ConstructConfig(novelty="category")
    assert len(drafts_of(initial(ten), initial(almost, "content"), initial(almost), config=by_category)[0]) == 2
    assert len(drafts_of(initial("?!"), initial("?!"), initial("..."))[0]) == 2, "a text without words is like itself alone"


def test_a_removed_instruction_removes_no_other() -> None:
    one, two, three = "a b c d e f g h i j", "a b c d e f g h x y", "a b c d e f x y z w"
    assert rouge_l(words_of(one), words_of(two)) >= 0.7 and rouge_l(words_of(two), words_of(three)) >= 0.7
    kept, rejected = drafts_of(initial(one), initial(two), initial(three))
    assert len(kept) == 2 and len(rejected) == 1


@pytest.mark.parametrize(("row", "reason"), [
    ("text", "no_row"), ({"category": "style"}, "no_instruction"), (initial(" \n"), "no_instruction"),
    (initial("x", "tone"), "bad_category"),
    (initial("x", "mixed", kinds=["style"] * 4), "bad_kinds"), (initial("x", "mixed", kinds=["example"] * 5), "bad_kinds"),
    (initial("x", "content", source="E2E"), "reserved_source"), ({**EXAMPLE, "answer": ""}, "no_answer"),
    ({**EXAMPLE, "answer": "two\nlines"}, "answer_has_lines"), ({**EXAMPLE, "shots": SHOTS[:4]}, "too_few_shots"),
    ({**EXAMPLE, "shots": [*SHOTS[:4], {"instruction": EXAMPLE["instruction"], "answer": "good"}]}, "too_few_shots"),
    ({**EXAMPLE, "templates": TEMPLATES[:4]}, "too_few_templates"), ({**EXAMPLE, "templates": [TEMPLATES[0]] * 6}, "too_few_templates"),
    ({**EXAMPLE, "templates": [*TEMPLATES, {"question": "no place", "answer": "{answer}"}]}, "bad_template"),
    ({**EXAMPLE, "templates": [*TEMPLATES, {"question": "{instruction}", "answer": "{answer} {answer}"}]}, "bad_template"),
])
def test_a_row_that_cannot_grow_says_why(row: Any, reason: str) -> None:
    kept, [rejected] = drafts_of(row)
    assert not kept and (rejected.step, rejected.reason) == (f"{NAME}/read", reason) and reason in REASONS


def test_ids_count_within_a_category_and_skip_those_with_a_rule_of_their_own() -> None:
    names = [f"{letter}{number}" for letter in "abcde" for number in range(8)]
    kept, _ = drafts_of(*(initial(name, "format") for name in names), initial("else", "style"))
    ids = [Facts.from_json(draft.facts).example_id for draft in kept]
    assert ids == [*(number for number in range(1, 43) if number not in (22, 30)), 1]
    assert len({draft.row_id for draft in kept}) == len(kept) and kept[-1].key == "style/1"


def test_kinds_of_a_mixed_example_are_given_or_drawn_by_its_id() -> None:
    given = ["format", "format", "style", "content", "situation"]
    [told], _ = drafts_of(initial("one thing", "mixed", kinds=given))
    assert Facts.from_json(told.facts).kinds == tuple(given)
    names = [f"number {number} w{number} x{number}" for number in range(30)]
    drawn = [Facts.from_json(draft.facts).kinds for draft in drafts_of(*(initial(name, "mixed") for name in names))[0]]
    alone = Facts.from_json(drafts_of(initial(names[7], "mixed"))[0][0].facts).kinds
    assert drawn[7] == alone, "what stands around a row does not matter"
    assert {kind for kinds in drawn for kind in kinds} == set(KINDS) and all(len(set(kinds)) > 1 for kinds in drawn)


# ---- the chain


def test_each_level_is_asked_with_the_instruction_of_the_level_before() -> None:
    asked: list[tuple[str, str]] = []

    def answer(step: str, request: ChatRequest) -> str:
        asked.append((step, given_in(request)))
        assert request.json_schema == SCHEMA and "style constraint" in request.messages[0].content
        return one_more(step, request)

    draft = grow(drafts_of(initial("Praise rain."))[0][0], answer)
    path = path_of(draft, CONFIG)
    assert [step for step, _ in asked] == [f"{NAME}/level_{level}" for level in range(1, 6)]
    assert [given for _, given in asked] == ["Praise rain.", *(step.instruction for step in path[:-1])]
    assert [step.constraint for step in path] == [f"mind {level}" for level in range(1, 6)]
    assert path[-1].instruction == "Praise rain. Also mind 1. Also mind 2. Also mind 3. Also mind 4. Also mind 5."


def test_a_mixed_example_is_asked_for_the_kind_of_each_level() -> None:
    kinds = ["format", "style", "content", "situation", "style"]
    asked: list[str] = []

    def answer(step: str, request: ChatRequest) -> str:
        asked.extend(kind for kind in KINDS if f"add one {kind} constraint" in request.messages[0].content)
        return one_more(step, request)

    draft = grow(drafts_of(initial("Praise rain.", "mixed", kinds=kinds))[0][0], answer)
    assert asked == kinds
    assert [row["category"] for row in official_rows(items_of([draft]))][:3] == ["mixed", "format", "format, style"]


GIVEN = "List five ways to save water at home."
LONGER = "List five ways to save water at home in a table."


@pytest.mark.parametrize(("reply", "problem"), [
    ("Sure! Here it is.", "unreadable"), ("", "unreadable"), ("[]", "unreadable"), (json.dumps({"instruction": LONGER}), "unreadable"),
    (json.dumps({"instruction": LONGER, "added_constraint": "table", "note": 1}), "unreadable"),
    (json.dumps({"instruction": [LONGER], "added_constraint": "table"}), "unreadable"), (reply_text(LONGER, " "), "unreadable"),
    (reply_text(" ", "table"), "unreadable"), (f"Well: {reply_text(LONGER, 'table')}", "unreadable"),
    (reply_text("list FIVE ways to save water at home", "none"), "unchanged"), (reply_text("Save water.", "brief"), "shortened"),
    (reply_text("Write a long poem about the sea and all of its fishes", "poem"), "rewritten"),
    (reply_text(LONGER, "In rhyme!"), "repeated"),
    (Reply("s", reply_text(LONGER, "table"), "length"), "cut_at_max_tokens"), (Reply("s", "", "content_filter"), "content_filter"),
])
def test_a_reply_that_cannot_be_used_says_why(reply: str | Reply, problem: str) -> None:
    said = reply if isinstance(reply, Reply) else Reply("s", reply)
    assert read_reply(said, [Added("x", "in rhyme")], GIVEN, CONFIG) == problem and problem in PROBLEMS


def test_a_fence_around_the_whole_reply_is_taken_off() -> None:
    fenced = f"```json\n{reply_text(LONGER + ' ', 'a table')}\n```"
    assert read_reply(Reply("s", fenced), [], GIVEN, CONFIG) == Added(LONGER, "a table")


def test_what_cannot_be_used_is_asked_for_twice_more_with_what_was_wrong() -> None:
    asked: list[tuple[str, int]] = []

    def answer(step: str, request: ChatRequest) -> str:
        asked.append((step, len(request.messages)))
        if step == f"{NAME}/level_2":
            return "no"
        if step == f"{NAME}/level_2_retry_1":
            assert PROBLEMS["unreadable"] in request.messages[-1].content and request.messages[1].content == "no"
            return reply_text(given_in(request), "nothing")
        if step == f"{NAME}/level_2_retry_2":
            assert PROBLEMS["unchanged"] in request.messages[-1].content
        return one_more(step, request)

    draft = grow(drafts_of(initial("Praise rain."))[0][0], answer)
    assert asked[1:4] == [(f"{NAME}/level_2", 1), (f"{NAME}/level_2_retry_1", 3), (f"{NAME}/level_2_retry_2", 3)] and len(asked) == 7
    assert len(path_of(draft, CONFIG)) == 5


def test_the_third_bad_reply_rejects_the_row_with_the_last_reason() -> None:
    def answer(step: str, request: ChatRequest) -> Completion | str:
        if "level_3" not in step:
            return one_more(step, request)
        return Completion("cut", finish_reason="length") if step.endswith("2") else "nothing to read"

    draft = drafts_of(initial("Praise rain."))[0][0]
    rejected = grow(draft, answer)
    assert isinstance(rejected, Rejected) and rejected.row_id == draft.row_id
    assert (rejected.step, rejected.reason, rejected.raw) == (f"{NAME}/level_3", "cut_at_max_tokens", "cut")
    assert json.loads(rejected.detail)["levels"] == 2


def test_tokens_and_cost_of_all_replies_add_up() -> None:
    def answer(step: str, request: ChatRequest) -> Completion:
        return Completion(one_more(step, request), prompt_tokens=10, completion_tokens=2, cost_usd=0.5)

    draft = grow(drafts_of(initial("Praise rain."))[0][0], answer)
    assert (draft.prompt_tokens, draft.completion_tokens, draft.cost_usd, len(draft.replies)) == (50, 10, 2.5, 5)


def test_the_steps_survive_pickle() -> None:
    steps = pickle.loads(pickle.dumps([(step.name, step.build, step.parse) for step in construct_steps(CONFIG)]))
    assert [name for name, _, _ in steps] == [name for level in range(1, 6) for name in step_names(level)]


# ---- examples


def test_a_level_has_one_noise_template_more_than_the_one_below_and_the_question_stays() -> None:
    draft = grow(drafts_of(EXAMPLE)[0][0], lambda step, request: pytest.fail("examples need no model"))
    items = items_of([draft])
    assert [item.level for item in items] == [1, 2, 3, 4, 5] and len({item.target for item in items}) == 1
    marks = {"Mood: [": 0, "{'mood': '": 1, "Answer: ": 2, "#Bot#\n": 3, "<": 4, "{": 5}
    seen: list[set[int]] = []
    for item in items:
        *shots, question = item.instruction.split("\n\n")
        assert len(shots) == 5 and "The staff smiled." in question and "good" not in item.instruction
        forms = [max((place for mark, place in marks.items() if mark in shot), key=lambda p: (p != 5, p)) for shot in shots]
        seen.append(set(forms))
        own = forms[-1]
        assert TEMPLATES[own]["question"].replace("{instruction}", "The staff smiled.") == question
        noise = [form for form in forms if form != own]
        assert forms == noise + [own] * (5 - len(noise)), "the own template stands last"
        assert len(set(forms)) == item.level
    assert all(below < above for below, above in itertools.pairwise(seen))
    orders = {tuple(re.findall(r"number ([a-g]) happened", item.instruction)) for item in items}
    assert len(orders) == 1 and len(set(orders.pop())) == 5, "the same shots in the same order at all levels"


def test_examples_come_from_the_seed_and_the_row_alone() -> None:
    def levels(*given: Any, seed: int = 0) -> tuple[str, ...]:
        return next(facts.instructions for draft in drafts_of(*given, seed=seed)[0] if (facts := Facts.from_json(draft.facts)).instructions)

    assert levels(EXAMPLE) == levels(initial("Something else before."), EXAMPLE)
    assert len({levels(EXAMPLE, seed=seed) for seed in range(6)}) == 6


@pytest.mark.parametrize("seed", range(8))
def test_the_answer_in_its_own_template_is_right_and_in_a_noise_template_it_is_not(seed: int) -> None:
    item = items_of(drafts_of(EXAMPLE, seed=seed)[0])[0]
    verdict = check_rule(EXAMPLE_RULE, item.answer, level=1, target=item.target, gold=item.answer)
    assert verdict is not None and verdict.hard
    for template in TEMPLATES:
        said = template["answer"].replace("{answer}", "good")
        assert answer_is_right(said, item.target, item.answer) == (said == item.answer)


# ---- items, review, files


def test_the_files_are_read_by_followbench_with_every_path() -> None:
    drafts = grown(
        initial("Praise rain."), initial("Name a river.", "format", source="mine"), initial("Tell of bees.", "content"),
        initial("Cook for six.", "situation"), initial("Greet them all.", "mixed"), EXAMPLE,
    )
    items = chosen_items(items_of(drafts), by_review=False)
    files = {category: official_rows(item for item in items if item.category == category) for category in {i.category for i in items}}
    config = FollowBenchConfig.model_validate({"kind": "followbench", **{name: f"{name}.json" for name in files}})
    read = list(read_items(files, config=config))
    assert not [one for one in read if isinstance(one, Rejected)] and len(read) == 30
    for draft in read:
        assert isinstance(draft, EvalDraft)
        facts = ItemFacts.from_json(draft.facts)
        assert bool(facts.rule) == (draft.category == "example"), "nothing but examples is judged by a rule"
        assert len(facts.path) == (0 if facts.rule else facts.level + 1)
    assert list(files["style"][0])[:6] == ["example_id", "category", "source", "level", "instruction", "target"]
    assert "answer" in files["example"][0] and "answer" not in files["style"][0]
    assert {row["source"] for row in files["format"]} == {"mine"} and {row["source"] for row in files["style"]} == {"own"}


def accept(*levels: int, example: int = 1, category: str = "style") -> list[dict[str, Any]]:
    return [{"category": category, "example_id": example, "level": level, "review": "accepted"} for level in levels]


@pytest.mark.parametrize(("reviews", "kept"), [
    (accept(1, 2, 3, 4, 5), [0, 1, 2, 3, 4, 5]), (accept(1, 2, 4, 5), [0, 1, 2]), (accept(2, 3), []), ([], []),
    ([*accept(1, 2, 4), {"category": "style", "example_id": 1, "level": 3, "review": "rejected"}], [0, 1, 2]),
    ([*accept(1, 2), {"category": "style", "example_id": 1, "level": 0, "review": "rejected"}], []),
])
def test_accepted_items_stay_as_far_as_their_path_is_accepted(reviews: list[dict[str, Any]], kept: list[int]) -> None:
    items = items_of(grown(initial("Praise rain.")), read_reviews(reviews, "review.jsonl"))
    assert [item.level for item in chosen_items(items, by_review=True)] == kept
    assert [item.level for item in chosen_items(items, by_review=False)] == [0, 1, 2, 3, 4, 5]


def test_levels_of_an_example_stand_by_themselves() -> None:
    items = items_of(grown(EXAMPLE), read_reviews(accept(2, 5, category="example"), "review.jsonl"))
    assert [item.level for item in chosen_items(items, by_review=True)] == [2, 5]


def test_the_summary_counts_examples_reviews_and_words() -> None:
    items = items_of(grown(initial("Praise rain."), initial("Sing of snow now.")), read_reviews(accept(1, 2, 3, 4, 5), "r"))
    assert summary_of(items, by_review=True) == {"style": {
        "examples": 2, "complete": 1, "items": 10, "written": 5, "accepted": 5, "rejected": 0, "unreviewed": 5,
        "words": {"0": 3.0, "1": 6.0, "2": 9.0, "3": 12.0, "4": 15.0, "5": 18.0},
    }}
    assert summary_of(items, by_review=False)["style"]["complete"] == 2


@pytest.mark.parametrize(("given", "message"), [
    ([{"category": "style", "example_id": 1, "level": 1, "review": "fine"}], "row 0 is .*fine.*accepted, rejected or unreviewed"),
    ([{"category": "tone", "example_id": 1, "level": 1, "review": "accepted"}], "row 0 is .*tone"),
    ([{"category": "style", "example_id": True, "level": 1, "review": "accepted"}], "row 0"),
    ([{"category": "style", "example_id": 1, "level": 6, "review": "accepted"}], "row 0"),
    ([*accept(1), {**accept(1)[0], "review": "rejected"}], "row 1 says rejected of style/1/1, an earlier row accepted"),
])
def test_a_review_that_cannot_be_understood_is_an_error(given: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read_reviews(given, "review.jsonl")
    assert read_reviews([*accept(1), *accept(1), {**accept(2)[0], "review": "unreviewed"}], "r") == {("style", 1, 1): "accepted"}
