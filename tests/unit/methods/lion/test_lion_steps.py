"""Lion's chains in plain Python: who is asked what, what is asked again, and that nothing unreadable ever counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.methods.lion import (
    LionConfig,
    gap_of,
    generator_steps,
    is_hard,
    judge_steps,
    read_scores,
    read_scores_as_authors,
    teacher_steps,
)
from alignray.methods.lion.steps import REASONS
from alignray.prompts import load_prompt
from alignray.schema import Candidate, ChatRequest, Completion, LionDraft, Rejected, Review, from_row, to_row
from alignray.steps import run_chain

DRAFT = LionDraft("id", "Name a prime.\nbelow 10", "seed", 0, teacher="7, as only 1 and 7 divide it", student="9")
CANDIDATE = Candidate("c", 3, 1, "hard", "id", "Name a prime.")
FIRST, SECOND = "lion/referee/teacher_first", "lion/referee/student_first"
Asked = list[tuple[str, str, ChatRequest]]


def said(first: float, second: float) -> str:
    return f"Evaluation evidence: x\nScore of the Assistant 1: {first}\nScore of the Assistant 2: {second}"


def judged(replies: Sequence[str] | Callable[[ChatRequest], str], draft: LionDraft = DRAFT, **switches: Any) -> tuple[Any, Asked]:
    """A draft through ``judge_steps``: the student says "9", the referee what it is given, in the order in which it is asked."""
    asked: Asked = []
    left = None if callable(replies) else iter(replies)

    def generate(step: Any, _draft: Any, request: ChatRequest) -> Completion:
        asked.append((step.name, step.role, request))
        text = "9" if step.role == "student" else next(left) if left is not None else replies(request)  # type: ignore[operator]
        return Completion(text, prompt_tokens=10, completion_tokens=2, cost_usd=0.5)

    return run_chain(draft, judge_steps(LionConfig.model_validate(switches)), generate), asked


def through(steps: list[Any], record: Any, completion: Completion | str) -> tuple[Any, ChatRequest]:
    requests: list[ChatRequest] = []

    def generate(_step: Any, _record: Any, request: ChatRequest) -> Completion:
        requests.append(request)
        return completion if isinstance(completion, Completion) else Completion(completion)

    return run_chain(record, steps, generate), requests[0]


# ---- seeds and teacher


def test_the_teacher_is_asked_under_the_labels_and_its_answer_is_kept() -> None:
    draft, request = through(teacher_steps(LionConfig()), replace(DRAFT, teacher=""), Completion(" 7\n", "stop", 5, 1, cost_usd=0.1))
    assert [message.role for message in request.messages] == ["system", "user"]
    assert request.messages[1].content == f"### Instruction:\n{DRAFT.instruction}\n\n### Response:"
    assert (draft.teacher, draft.prompt_tokens, draft.completion_tokens, draft.cost_usd) == ("7", 5, 1, 0.1)


@pytest.mark.parametrize(("reason", "completion"), [
    ("empty", Completion(" \n")), ("cut_at_max_tokens", Completion("7, be", "length")),
    ("content_filter", Completion("7", "content_filter")),
])
def test_a_teacher_that_did_not_answer_says_why(reason: str, completion: Completion) -> None:
    rejected, _ = through(teacher_steps(LionConfig()), DRAFT, completion)
    assert (rejected.row_id, rejected.step, rejected.reason, rejected.raw) == ("id", "lion/teacher", reason, completion.text)
    assert reason in REASONS


def test_a_cut_answer_is_kept_where_the_config_says_so() -> None:
    cut = Completion("7, be", "length")
    assert through(teacher_steps(LionConfig(on_length="keep")), DRAFT, cut)[0].teacher == "7, be"
    assert through(teacher_steps(LionConfig(preset="original")), DRAFT, cut)[0].teacher == "7, be"


# ---- student and referee


def test_the_student_gets_the_instruction_alone_and_the_referee_both_answers_in_both_orders() -> None:
    draft, asked = judged([said(9, 4), said(5, 8)])
    assert [(name, role) for name, role, _ in asked] == [("lion/student", "student"), (FIRST, "referee"), (SECOND, "referee")]
    student, first, second = ([(turn.role, turn.content) for turn in request.messages] for _, _, request in asked)
    assert student == [("user", DRAFT.instruction)]
    assert first[1][1].index(DRAFT.teacher) < first[1][1].index("]\n9\n")
    assert second[1][1].index(DRAFT.teacher) > second[1][1].index("]\n9\n")
    assert first[0] == second[0] == ("system", load_prompt("lion/referee_system").text)
    assert draft.reviews == (Review(FIRST, 9, 4, said(9, 4)), Review(SECOND, 8, 5, said(5, 8)))
    assert gap_of(draft) == gap_of(replace(draft, reviews=draft.reviews[::-1]))
    assert (draft.prompt_tokens, draft.completion_tokens, draft.cost_usd) == (30, 6, 1.5)


def test_what_an_earlier_round_left_on_a_draft_does_not_count_again() -> None:
    earlier, _ = judged([said(9, 1), said(1, 9)])
    draft, asked = judged([said(5, 5), said(5, 5)], earlier)
    assert len(asked) == 3 and len(draft.reviews) == 2 and gap_of(draft).gap == 0  # type: ignore[union-attr]
    assert draft.prompt_tokens == 60


def test_an_unreadable_reply_is_asked_for_again_with_the_reply_beside_it() -> None:
    draft, asked = judged(["who knows", "", said(9, 4), said(5, 8)])
    assert [name for name, _, _ in asked[1:]] == [FIRST, f"{FIRST}_again_1", f"{FIRST}_again_2", SECOND]
    question, again, last = (request.messages for _, _, request in asked[1:4])
    assert again[:2] == last[:2] == question
    assert [turn.content for turn in again[2:]] == ["who knows", load_prompt("lion/referee_again").text]
    assert last[2].content == "(empty)" and [turn.role for turn in last[2:]] == ["assistant", "user"]
    assert [(review.teacher, review.student) for review in draft.reviews] == [(None, None), (None, None), (9, 4), (8, 5)]
    assert gap_of(draft).readings == 2  # type: ignore[union-attr]


def test_one_readable_order_is_enough_and_is_flagged_by_its_count() -> None:
    for replies in (["?", "?", "?", said(5, 8)], [said(8, 5), "?", "?", "?"]):
        draft, asked = judged(replies)
        assert len(asked) == 5
        gap = gap_of(draft)
        assert gap is not None and (gap.teacher, gap.student, gap.gap, gap.readings) == (8, 5, 3, 1)


@pytest.mark.parametrize("retries", [0, 1, 2, 3])
def test_a_row_that_no_reply_can_be_read_of_is_quarantined_after_all_tries(retries: int) -> None:
    rejected, asked = judged(["garbage"] * 8, retries=retries)
    assert isinstance(rejected, Rejected) and len(asked) == 1 + 2 * (1 + retries)
    assert (rejected.step, rejected.reason) == ("lion/referee", "unreadable") and rejected.reason in REASONS
    assert rejected.raw.count("garbage") == 2 * (1 + retries) and f"[{SECOND}]" in rejected.raw


def test_an_empty_answer_of_the_student_is_judged_as_such() -> None:
    steps = judge_steps(LionConfig())

    def generate(step: Any, _draft: Any, request: ChatRequest) -> Completion:
        if step.role == "student":
            return Completion("")
        first_is_empty = "[The Start of Assistant 1's Answer]\n\n" in request.messages[1].content
        return Completion(said(1, 9) if first_is_empty else said(9, 1))

    draft = run_chain(DRAFT, steps, generate)
    assert draft.student == "" and gap_of(draft).gap == 8 and is_hard(gap_of(draft), LionConfig())  # type: ignore[arg-type, union-attr]


@given(st.integers(1, 10), st.integers(1, 10))
def test_a_referee_that_sees_only_the_texts_gives_the_same_scores_in_both_orders(teacher: int, student: int) -> None:
    def referee(request: ChatRequest) -> str:
        prompt = request.messages[1].content
        teacher_first = prompt.index(DRAFT.teacher) < prompt.index("]\n9\n")
        return said(teacher, student) if teacher_first else said(student, teacher)

    draft, _ = judged(referee)
    first, second = draft.reviews
    assert (first.teacher, first.student) == (second.teacher, second.student) == (teacher, student)
    assert gap_of(draft).gap == teacher - student  # type: ignore[union-attr]


@given(st.integers(1, 10), st.integers(1, 10))
def test_pure_position_bias_cancels(one: int, other: int) -> None:
    draft, _ = judged([said(one, other)] * 2)
    assert gap_of(draft).gap == 0  # type: ignore[union-attr]


GARBAGE = st.sampled_from(["", "error", "Score of the Assistant 1: 8", said(15, -3), said(0, 0), "I can't say.", said(-1, -1)])


@given(st.lists(st.one_of(GARBAGE, st.just(said(9, 9))), min_size=6, max_size=6), st.sampled_from(["strict", "original"]))
def test_unreadable_replies_never_make_a_row_easy_nor_change_its_gap(replies: list[str], parser: str) -> None:
    """The readable replies say 9 : 9 as shown, so a gap that is not 0 could only come from garbage."""
    outcome, asked = judged(replies, referee_parser=parser)
    num_readable = sum(text == said(9, 9) for text in replies[: len(asked) - 1])
    if isinstance(outcome, Rejected):
        assert outcome.reason == "unreadable" and num_readable == 0
    else:
        gap = gap_of(outcome)
        assert gap is not None and gap.readings == num_readable > 0 and (gap.teacher, gap.student) == (9, 9)


@given(st.lists(GARBAGE, max_size=2), st.lists(GARBAGE, max_size=2))
def test_a_hard_row_stays_hard_however_much_garbage_comes_before(before: list[str], between: list[str]) -> None:
    draft, _ = judged([*before, said(8, 7), *between, said(7, 8)])
    assert gap_of(draft).gap == 1 and is_hard(gap_of(draft), LionConfig())  # type: ignore[arg-type, union-attr]


def test_only_the_parser_named_decides_what_is_readable() -> None:
    trailing = said(9, 4) + "\n"
    assert read_scores(trailing) == (9, 4) and read_scores_as_authors(trailing) is None
    assert judged([trailing] * 6, referee_parser="original")[0].reason == "unreadable"
    assert gap_of(judged([trailing] * 6)[0]).gap == 0  # type: ignore[union-attr]


# ---- generator


@pytest.mark.parametrize("origin", ["hard", "easy"])
def test_the_generator_gets_the_parent_and_the_prompt_of_its_kind(origin: Any) -> None:
    candidate, request = through(
        generator_steps(LionConfig()), replace(CANDIDATE, origin=origin), Completion(" Name two even numbers.\n", "stop", 9, 4, cost_usd=1),
    )
    assert request.messages[0].content == load_prompt(f"lion/generator_{origin}").render(instruction=CANDIDATE.parent)
    assert [message.role for message in request.messages] == ["user"] and request.max_new_tokens == 512
    assert candidate.instruction == "Name two even numbers."
    assert (candidate.prompt_tokens, candidate.completion_tokens, candidate.cost_usd) == (9, 4, 1)


def test_auto_gives_four_tokens_for_each_word_of_the_parent() -> None:
    for config in (LionConfig(generator_max_tokens="auto"), LionConfig(preset="original")):
        assert through(generator_steps(config), CANDIDATE, "Name two even numbers.")[1].max_new_tokens == 12
    chinese = replace(CANDIDATE, parent="\u5199\u4e00\u9996\u8bd7")
    assert through(generator_steps(LionConfig(generator_max_tokens="auto")), chinese, "x")[1].max_new_tokens == 16
    assert through(generator_steps(LionConfig(preset="original")), chinese, "x")[1].max_new_tokens == 4


@pytest.mark.parametrize(("reason", "completion"), [
    ("too_short", Completion("Name it.")), ("cut_at_max_tokens", Completion("Name two even numbers and", "length")),
    ("marker_word", Completion("Write an Instruction for a game.")), ("bad_start", Completion("- Name two even numbers.")),
    ("content_filter", Completion("Name two even numbers.", "content_filter")),
])
def test_a_text_that_is_no_instruction_says_why(reason: str, completion: Completion) -> None:
    rejected, _ = through(generator_steps(LionConfig()), CANDIDATE, completion)
    assert isinstance(rejected, Rejected) and reason in REASONS
    assert (rejected.row_id, rejected.step, rejected.reason, rejected.raw) == ("c", "lion/generator", reason, completion.text)


# ---- what crosses processes, and prompts of one's own


def test_steps_and_records_cross_processes() -> None:
    import cloudpickle

    config = LionConfig()
    steps = [*teacher_steps(config), *judge_steps(config), *generator_steps(config)]
    back = cloudpickle.loads(cloudpickle.dumps(steps))
    assert [step.name for step in back] == [step.name for step in steps] and len(back) == 9
    draft, _ = judged(["?", said(9, 4), said(5, 8)])
    assert from_row(LionDraft, to_row(draft)) == draft


def test_a_prompt_of_ones_own_is_used(tmp_path: Path) -> None:
    (tmp_path / "lion").mkdir()
    (tmp_path / "lion" / "generator_hard.txt").write_text("Like {{ instruction }} please")
    _, request = through(generator_steps(LionConfig(), str(tmp_path)), CANDIDATE, "x")
    assert request.messages[0].content == "Like Name a prime. please"
