"""Verdicts of the judge: one level or none, never a guess."""

from __future__ import annotations

import pytest

from alignray.engine.scripted import scripted_text
from alignray.methods.webr import Rated, rating_steps
from alignray.methods.webr.ratings import DIFFICULTY, QUALITY, read_level
from alignray.schema import ChatRequest, Completion, Rejected
from alignray.steps import run_chain


@pytest.mark.parametrize("level", QUALITY)
def test_a_level_is_read_however_it_is_written(level: str) -> None:
    for text in (level, level.upper(), f"**{level}**", f"Rating: {level}.", f"The instruction is {level}", level.replace(" ", "\n")):
        assert read_level(text, QUALITY) == level


@pytest.mark.parametrize(
    ("text", "level"),
    [("Very hard", "very hard"), ("hard", "hard"), ("very easy.", "very easy"), ("hard. Yes, hard", "hard")],
)
def test_the_longer_of_two_overlapping_levels_counts(text: str, level: str) -> None:
    assert read_level(text, DIFFICULTY) == level


@pytest.mark.parametrize(
    "text",
    ["", "3/5", "easy or medium", "very hard, though easy in parts", "It asks about hardware.", "hardly", "uneasy", "mediums"],
)
def test_a_verdict_of_two_levels_or_none_is_not_read(text: str) -> None:
    assert read_level(text, DIFFICULTY) is None


def test_both_questions_fill_both_levels() -> None:
    steps = rating_steps()
    verdicts = {"webr/rate_quality": "good", "webr/rate_difficulty": "very hard"}
    rated = run_chain(Rated("r", "Explain tides."), steps, lambda step, _record, _request: Completion(verdicts[step.name]))
    assert rated == Rated("r", "Explain tides.", "good", "very hard")
    assert [step.role for step in steps] == ["judge", "judge"]


def test_an_unreadable_verdict_rejects_the_rating() -> None:
    outcome = run_chain(Rated("r", "x"), rating_steps(), lambda *_: Completion("no idea"))
    assert outcome == Rejected("r", "webr/rate_quality", "no_verdict", "no idea")


def test_the_shipped_fake_model_gives_verdicts_that_can_be_read() -> None:
    def scripted(_step: object, _record: object, request: ChatRequest) -> Completion:
        assert request.temperature == 0 and request.max_new_tokens == 16
        return Completion(scripted_text(request.messages))

    rated = [run_chain(Rated(str(n), f"Instruction {n}"), rating_steps(), scripted) for n in range(50)]
    assert {one.quality for one in rated} == set(QUALITY) and {one.difficulty for one in rated} == set(DIFFICULTY)
