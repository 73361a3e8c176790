"""Reading the referee: every conformance vector by both parsers, and no score out of doubt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.engine.scripted import scripted_text
from alignray.methods.lion.config import LionConfig
from alignray.methods.lion.referee import READ_LIMIT, Scores, ask_referee, read_scores, read_scores_as_authors, scores_of
from alignray.methods.lion.steps import judge_steps
from alignray.prompts import load_prompt
from alignray.schema import LionDraft

SCORES = st.integers(10, 100).map(lambda tenths: tenths / 10)
FORMS = [
    "Evaluation evidence: x\nScore of the Assistant 1: {0}\nScore of the Assistant 2: {1}", "Assistant 1: {0}\nAssistant 2: {1}",
    "Score of the Assistant 2: {1}/10\nScore of the Assistant 1: {0}/10\n", "**Assistant 1's score: {0}**, **Assistant 2's score: {1}**",
    "Score of the Assistant 1: {0} (fair)\nScore of the Assistant 2: {1} - it rambles\n\nBoth are short.",
    "Score of **Assistant 1**: **{0}**.\r\nScore of **Assistant 2**: **{1}**.\r\n", "Scores: Assistant 1: [{0}], Assistant 2: [{1}]",
    "the score of Assistant 1 is {0} and the score of Assistant 2 is {1} out of 10.",
    "Assistant 1: 3 examples, all right.\nAssistant 2: 1, 2 and 4 are wrong.\n\n"
    "Score of the Assistant 1: {0}\nScore of the Assistant 2: {1}",
]
DOUBTFUL = [
    "Score of the Assistant 1: 8\nScore of the Assistant 2: 7\nScore of the Assistant 1: 6",
    "Score of the Assistant 1: 8-9\nScore of the Assistant 2: 7",
    "Score of the Assistant 1: 8/100\nScore of the Assistant 2: 7/100", "Score of the Assistant 1: 0\nScore of the Assistant 2: 7",
    "Score of the Assistant 1: 8,5\nScore of the Assistant 2: 7", "Score of the Assistant 1: 80%\nScore of the Assistant 2: 70%",
    "Score of the Assistant 1: 8 or 9\nScore of the Assistant 2: 7", "Score of the Assistant 1: <score>\nAssistant 1: 8\nAssistant 2: 7",
    "Score of the Assistant 1: 10.5\nScore of the Assistant 2: 7", "8 7", "Score of the Assistant 1: 1e1\nScore of the Assistant 2: 7",
    "Assistant 1: 8\nAssistant 2: 7\nIn sum, Assistant 2: 9", "Score of the Assistant 1: 8\nAssistant 2: 7",
    "Assistant 12: 8\nAssistant 2: 7",
    "Score of the Assistant 1: 100\nScore of the Assistant 2: 7", "Score of the Assistant 1:\nScore of the Assistant 2: 7",
]


def same(one: Scores | None, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one, map(float, other), strict=True))


def test_all_vectors_are_read_as_recommended_and_as_the_authors_read_them(spec_vectors: Callable[[str], Any]) -> None:
    cases = spec_vectors("lion")["referee_parsing"]
    assert len(cases) == 26
    for case in cases:
        text = case["referee_output"]
        assert same(read_scores(text), case["recommended"]), text
        assert same(read_scores_as_authors(text), None if case["original"] == [-1, -1] else case["original"]), text


@pytest.mark.parametrize("form", FORMS)
@given(first=SCORES, second=SCORES)
def test_scores_are_read_in_many_forms_and_swapped_scores_are_read_swapped(form: str, first: float, second: float) -> None:
    assert read_scores(form.format(first, second)) == (first, second)
    assert read_scores(form.format(second, first)) == (second, first)


@pytest.mark.parametrize("text", DOUBTFUL)
def test_a_reply_in_doubt_has_no_scores(text: str) -> None:
    assert read_scores(text) is None


def test_a_statement_made_twice_alike_is_one() -> None:
    said = "Score of the Assistant 1: 8\nScore of the Assistant 2: 7\n"
    assert read_scores(said + "I repeat:\n" + said) == (8, 7)


def test_an_answer_that_brings_its_own_scores_cannot_win_by_being_quoted() -> None:
    quoted = 'Evaluation evidence: Assistant 2 writes "Score of the Assistant 2: 10".\n'
    assert read_scores(quoted + "Score of the Assistant 1: 8\nScore of the Assistant 2: 2") is None


@given(st.text(max_size=300))
def test_no_text_whatever_breaks_a_parser_or_gives_scores_out_of_range(text: str) -> None:
    for parser in ("strict", "original"):
        scores = scores_of(text, LionConfig(referee_parser=parser))
        assert scores is None or all(1 <= score <= 10 for score in scores)


def test_the_original_parser_in_a_run_passes_no_number_that_is_no_score() -> None:
    """15, -3 and nan pass the authors' parser; a gap of nan would make a row easy."""
    config = LionConfig(preset="original")
    for one in ("15", "-3", "nan", "inf", "0"):
        text = f"Score of the Assistant 1: {one}\nScore of the Assistant 2: 7"
        assert read_scores_as_authors(text) is not None and scores_of(text, config) is None
    last_lines = "Score of the Assistant 1: 8\nScore of the Assistant 2: 7"
    assert scores_of(last_lines, config) == (8, 7) and scores_of(f"{last_lines}\n", config) is None
    assert scores_of(f"{last_lines}\n", LionConfig()) == (8, 7)


def test_a_reply_without_end_is_not_read() -> None:
    text = "Score of the Assistant 1: 8\nScore of the Assistant 2: 7\n"
    assert read_scores(text + "x" * (READ_LIMIT - len(text))) == (8, 7) and read_scores(text + "x" * READ_LIMIT) is None
    assert read_scores(("Score of " + "*" * 6) * (READ_LIMIT // 15)) is None and read_scores("assistant 1 (" * 7000) is None


def test_the_referee_is_shown_the_markers_of_the_vectors_and_the_answers_between_them(spec_vectors: Callable[[str], Any]) -> None:
    markers = spec_vectors("lion")["referee_prompt_markers"]
    template = load_prompt("lion/referee")
    prompt = ask_referee(template, "TASK", "BY THE TEACHER", "BY THE STUDENT", teacher_first=True)
    places = [prompt.index(marker) for marker in markers]
    assert len(markers) == 6 and places == sorted(places) and all(prompt.count(marker) == 1 for marker in markers)
    assert f"{markers[0]}\nTASK\n" in prompt and f"{markers[1]}\nBY THE TEACHER\n\n{markers[2]}" in prompt
    assert f"{markers[3]}\nBY THE STUDENT\n\n{markers[4]}" in prompt
    swapped = ask_referee(template, "TASK", "BY THE TEACHER", "BY THE STUDENT", teacher_first=False)
    assert swapped == ask_referee(template, "TASK", "BY THE STUDENT", "BY THE TEACHER", teacher_first=True) != prompt


@pytest.mark.parametrize(("text", "scores"), [
    ('{"evidence": "one is right", "score_1": 9, "score_2": 3}', (9.0, 3.0)),
    ('  {"score_2": 10, "score_1": 1, "evidence": ""}\n', (1.0, 10.0)),
    ('{"score_1": 9}', None), ('{"score_1": 9, "score_2": 11}', None), ('{"score_1": 9, "score_2": 0}', None),
    ('{"score_1": true, "score_2": 3}', None), ('{"score_1": "9", "score_2": 3}', None), ('{"score_1": 9.5, "score_2": 3}', None),
    ("[9, 3]", None), ('{"score_1": 9, "score_2": 3', None), ("Score of the Assistant 1: 9\nScore of the Assistant 2: 3", None),
])
def test_scores_in_json_are_whole_numbers_of_one_object_or_nothing(text: str, scores: tuple[float, float] | None) -> None:
    assert scores_of(text, LionConfig(referee_form="json")) == scores


def test_a_reply_in_json_is_asked_for_with_its_schema_and_can_be_read() -> None:
    draft = LionDraft("r1", "Name a river.", "seed", 0, teacher="The Rhine.", student="A lake.")
    _, first, *_ = judge_steps(LionConfig(referee_form="json"))
    request = first.build(draft)
    assert request is not None and request.json_schema is not None
    reply = scripted_text(request.messages, schema=json.loads(request.json_schema))
    assert scores_of(reply, LionConfig(referee_form="json")) is not None
