"""Refusals are told from answers, and preambles from the text they announce."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.engine.scripted import REFUSALS
from alignray.methods.webr.texts import (
    is_refusal,
    is_refusal_original,
    strip_improved_original,
    strip_preamble,
    strip_preamble_original,
)

VECTORS = json.loads((Path(__file__).parents[3] / "golden" / "webr_vectors.json").read_text())

# what the normalised detector makes of the 13 vectors, by request and response: everything that declines goes
NORMALIZED_KEEP = [True, False, False, False, False, False, False, False, False, False, False, False, False]

DECLINES = [
    *REFUSALS,
    "I\u2019m sorry, I can\u2019t.",
    "i'm sorry but i cannot do that",
    "I'M SORRY, BUT I CAN'T HELP WITH THAT.",
    '"I cannot generate content of this kind."',
    "**I'm sorry**, but the text you provided is empty.",
    "I'm really sorry, but I'm unable to provide the help that you need.",
    "I'm unable to assist with that.",
    "I am not able to generate that content.",
    "I must decline.",
    "I must respectfully decline to write this.",
    "I cannot and will not help with this.",
    "I won't do that.",
    "Unfortunately, I can't access external websites.",
    "Sorry, that's not something I can help with.",
    "I apologize for any confusion, but I can't provide medical advice.",
    "I apologise, however the page holds no text.",
    "I'm sorry. As an AI, I do not have opinions.",
    "As an AI assistant I don't have access to the page.",
    "As a large language model, I cannot browse.",
    "My apologies, but I will not write that.",
]
ANSWERS = [
    "",
    "I'm sorry to hear that your plant died; here is how to save the next one: water it less.",
    "I'm sorry for your loss. Grief takes its time.",
    "I am sorry I missed your birthday, Anna. The train stood for three hours.",
    "I apologize for the delay in shipping your order. It left our warehouse today.",
    "My apologies for the late reply; the figures are attached.",
    "Please accept my apologies for the noise last night. It will not happen again.",
    "Apologies are hard to make well. Five rules help.",
    "Sorry seems to be the hardest word, sang Elton John.",
    "Sorry, we are closed on Mondays. Come back on Tuesday!",
    "I can't help but smile when the snow begins to fall.",
    "I cannot help thinking of the summer that we spent there.",
    "I cannot stress enough how important sleep is.",
    "I can't wait to show you the garden.",
    "I can't access my account; write a message to the support team for me.",
    "I am unable to attend the meeting on Friday; please send me the minutes.",
    "I must decline your invitation, as I am abroad that week.",
    "I will not write in this diary again until spring.",
    "I won't lie: the first week is hard.",
    "I refuse to believe that the moon is made of cheese.",
    "I cannot support the motion, for three reasons.",
    "As an AI researcher, I cannot overstate how much the tools have changed.",
    "As an airline pilot I can't drink before a flight.",
    "As an AI tool spreads through a firm, roles change.",
    "Unfortunately, the museum cannot admit visitors under six.",
    'Write a letter that begins with "I\'m sorry, but I cannot come".',
    "The minister said: I cannot comply with the ruling.",
]


# ---- refusals


@pytest.mark.parametrize("case", VECTORS["filter"], ids=lambda case: case["note"] or case["response"])
def test_the_authors_filter_keeps_what_it_kept(case: dict[str, Any]) -> None:
    keep = bool(case["request"] and case["response"] and not is_refusal_original(case["response"]))
    assert keep is case["original_keep"]


def test_the_normalised_filter_drops_every_refusal_of_the_vectors() -> None:
    keep = [
        bool(case["request"] and case["response"]) and not is_refusal(case["request"]) and not is_refusal(case["response"])
        for case in VECTORS["filter"]
    ]
    assert keep == NORMALIZED_KEEP


@pytest.mark.parametrize("text", DECLINES)
def test_a_text_that_turns_the_task_down_is_a_refusal(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_a_text_that_does_the_task_is_none(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize("text", DECLINES)
def test_spelling_makes_no_difference(text: str) -> None:
    for variant in (text.upper(), text.lower(), text.replace("'", "\u2019"), f"  {text}\n", text.replace(" ", "  "), f'"{text}"'):
        assert is_refusal(variant)


@given(st.text(max_size=500))
def test_any_text_gets_a_verdict_and_only_its_beginning_counts(text: str) -> None:
    assert is_refusal("Rivers carry sand. " + text) is False


# ---- preambles


@pytest.mark.parametrize("case", VECTORS["llama_prefix_strip"], ids=lambda case: case["raw"][:24])
def test_the_authors_here_is_rule_gives_what_it_gave(case: dict[str, str]) -> None:
    assert strip_preamble_original(case["raw"]) == case["original"]


@pytest.mark.parametrize("case", VECTORS["wr_final_strip"], ids=lambda case: case["refined"][:24])
def test_the_authors_improved_answer_rule_gives_what_it_gave(case: dict[str, str]) -> None:
    assert strip_improved_original(case["refined"]) == case["original_final"]


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("Here is a request:\n\nShorten it.", "Shorten it."),
        ("Here\u2019s the request: Shorten it.", "Shorten it."),
        ("Sure! Here is the improved answer:\n\n---\n\nBody", "Body"),
        ("Certainly, here are the instructions you asked for:\n1. Go.\n2. Stop.", "1. Go.\n2. Stop."),
        ("Improved Answer:\n\nBody one.\n\nBody two.", "Body one.\n\nBody two."),
        ("Request: Shorten it.", "Shorten it."),
        ('"Shorten it."', "Shorten it."),
        ("\u201cShorten it.\u201d", "Shorten it."),
        ('Here is my question: "Why?"', "Why?"),
        ("Sure!\nShorten it.", "Shorten it."),
        ("  Shorten it. \n", "Shorten it."),
    ],
)
def test_what_announces_the_text_is_taken_off(text: str, body: str) -> None:
    assert strip_preamble(text) == body


@pytest.mark.parametrize(
    "text",
    [
        "Here is the whole answer in one paragraph.",
        "Here's the thing: it rains all winter.",
        "Here is where the river bends: a mill stood on the bank.",
        "It\u2019s late.",
        '"Yes" and "no" are answers.',
        '"He said ""hi"""',
        "Here is the answer:",
        "---",
        "Sure is a strange word.",
    ],
)
def test_what_only_looks_like_a_preamble_stays(text: str) -> None:
    assert strip_preamble(text) == text


PIECES = st.sampled_from([
    "Here is ", "here's ", "the request", "improved answer", ":", "\n", "\n\n", " ", "Sure", "!", '"', "'", "---\n", "***\n", "\u201c",
    "\u201d", "\u2019", "Body", "Question:", "a", "- ", ".",
])


@given(st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join)))
def test_stripping_never_empties_a_text_never_adds_and_needs_no_second_time(text: str) -> None:
    stripped = strip_preamble(text)
    assert bool(stripped) == bool(text.strip())
    assert stripped in text
    assert strip_preamble(stripped) == stripped
