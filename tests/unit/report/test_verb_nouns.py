from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.report.verb_nouns import VERBS, root_verb_noun, verb_noun_structure


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Write a short persuasive essay about climate.", ("write", "essay")),
        ("Please summarize the article's key points in three bullets.", ("summarize", "point")),
        ("As a travel blogger, I need you to draft a 500-word itinerary for Rome.", ("draft", "itinerary")),
        ("Could you help me write a poem?", ("write", "poem")),
        ("Compare and contrast the two economies.", ("compare", "economy")),
        ("Create a detailed marketing plan for a bakery.", ("create", "plan")),
        ("Rewrite the given text in a formal tone", ("rewrite", "text")),
        ("Give me three examples of irony.", ("give", "example")),
        ("Develop a guide exploring the history of tea", ("develop", "guide")),
        ("Here is the text. Identify the main differences, and say why.", ("identify", "difference")),
        ("CREATE A LIST", ("create", "list")),
    ],
)
def test_finds_the_root_verb_and_its_object(instruction: str, expected: tuple[str, str]) -> None:
    assert root_verb_noun(instruction) == expected


@pytest.mark.parametrize(
    "instruction",
    ["", "   ", "?!.", "What is the capital of France?", "Explain how photosynthesis works.", "Turn this into a story",
     "Fasse den Text zusammen.", "请总结这篇文章。", "Write about tea."],
)
def test_leaves_out_what_the_rules_do_not_see(instruction: str) -> None:
    assert root_verb_noun(instruction) is None


@given(st.text(max_size=400))
def test_any_text_gives_a_listed_verb_and_a_word_or_nothing(text: str) -> None:
    pair = root_verb_noun(text)
    assert pair is None or (pair[0] in VERBS and pair[1] and pair[1] == pair[1].lower())


def test_the_structure_keeps_the_most_frequent_and_breaks_ties_by_name() -> None:
    instructions = ["Write a poem."] * 3 + ["Write a story.", "Write an essay."] + ["Create a plan."] * 2 + ["Why?"]
    structure = verb_noun_structure(instructions, top_verbs=1, top_nouns=2)
    assert structure == {
        "total": 8, "recognised": 7, "pairs": 4,
        "verbs": [{"verb": "write", "count": 5, "nouns": [{"noun": "poem", "count": 3}, {"noun": "essay", "count": 1}]}],
    }
