"""The 25 checks on hand-made answers, and their speed on hostile ones."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.evals.ifeval.checkers import CHECKERS, check_loose, check_strict, loose_variants
from alignray.evals.ifeval.instructions import ARGUMENTS, Instruction, InstructionError, read_instructions

AT_LEAST, LESS = "at least", "less than"
NTH_WORD = "length_constraints:nth_paragraph_first_word"
LONG_ENGLISH = (
    "the quick brown fox jumps over the lazy dog while the farmer watches from the porch and wonders whether the weather "
    "will change before the evening comes"
)

CASES: list[tuple[str, dict[str, Any], str, bool]] = [
    ("keywords:existence", {"keywords": ["cat", "DOG"]}, "A dog and a CATALOG", True),
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "A dog", False),
    ("keywords:existence", {"keywords": ["c.t"]}, "cat", False),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "A catalog", True),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "A Cat.", False),
    ("keywords:frequency", {"keyword": " cat ", "frequency": 2, "relation": AT_LEAST}, "cat Catalog", True),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": LESS}, "cat Catalog", False),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": AT_LEAST}, "#a #b", True),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 1, "let_relation": LESS}, "quick", False),
    ("length_constraints:number_words", {"num_words": 3, "relation": AT_LEAST}, "it's so", True),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, "well-known, so", False),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": AT_LEAST}, "One. Two", True),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS}, "Mr. Smith paid $3.50", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\na\n***\nb", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\n***\nb", False),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n\nb", False),
    (NTH_WORD, {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Jasper"}, "a\n\n'jasper's b", True),
    (NTH_WORD, {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "b"}, "a\n\n\n\nb", False),
    (NTH_WORD, {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "b"}, "a\n\nb", False),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [[b]] [c\nd]", True),
    ("detectable_content:number_placeholders", {"num_placeholders": 3}, "[a] [[b]] [c\nd]", False),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "p. p. s hello", True),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "PS: hello", False),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "p. s. hello", True),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, "nxbx n.b.", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "* a\n  * b\n- c\n** d\n*", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "*\n* swallowed", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "- a\n- b", False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "** ** and *a\nb*", False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "**a**", True),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1 a SECTION2", True),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1 a Section 2", False),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', True),
    ("detectable_format:json_format", {}, 'Here: {"a": 1}', False),
    ("detectable_format:json_format", {}, "[" * 100_000, False),
    ("detectable_format:title", {}, "<<poem>>", True),
    ("detectable_format:title", {}, "<< >> <<a\nb>>", False),
    ("detectable_format:constrained_response", {}, "I say: My answer is no. So.", True),
    ("detectable_format:constrained_response", {}, "my answer is no", False),
    ("combination:two_responses", {}, "a ****** b", True),
    ("combination:two_responses", {}, "******a******b******", True),
    ("combination:two_responses", {}, "a ****** a", False),
    ("combination:two_responses", {}, "a ************ b", False),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say HI. "}, "\nsay hi. Hi", True),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, "Sure: Say hi", False),
    ("startend:end_checker", {"end_phrase": "The End."}, 'So. the end." ', True),
    ("startend:end_checker", {"end_phrase": "The End."}, "the end. Or not", False),
    ("startend:quotation", {}, ' "a" ', True),
    ("startend:quotation", {}, '"', False),
    ("punctuation:no_comma", {}, "a; b", True),
    ("punctuation:no_comma", {}, "a, b", False),
    ("change_case:capital_word_frequency", {"capital_relation": AT_LEAST, "capital_frequency": 3}, "DON'T SHOUT", True),
    ("change_case:capital_word_frequency", {"capital_relation": LESS, "capital_frequency": 2}, "An X-RAY a day", True),
    ("change_case:english_lowercase", {}, LONG_ENGLISH, True),
    ("change_case:english_lowercase", {}, LONG_ENGLISH.capitalize(), False),
    ("change_case:english_capital", {}, LONG_ENGLISH.upper(), True),
    ("change_case:english_capital", {}, LONG_ENGLISH, False),
    ("change_case:english_lowercase", {}, "это предложение написано по-русски и только маленькими буквами", False),
    ("language:response_language", {"language": "en"}, LONG_ENGLISH, True),
    ("language:response_language", {"language": "ru"}, LONG_ENGLISH, False),
    ("language:response_language", {"language": "ru"}, "12345 ?!", True),
]


@pytest.mark.parametrize(("name", "kwargs", "response", "follows"), CASES)
def test_a_check_by_hand(name: str, kwargs: dict[str, Any], response: str, follows: bool) -> None:
    instructions = read_instructions([name], [kwargs])
    assert check_strict(instructions, response) == (follows,)


def test_every_instruction_has_arguments_a_check_and_a_case() -> None:
    assert len(CHECKERS) == 25
    assert CHECKERS.keys() == ARGUMENTS.keys() == {name for name, *_ in CASES}


def test_an_empty_response_follows_nothing() -> None:
    instructions = read_instructions(["punctuation:no_comma"], [{}])
    assert check_strict(instructions, " \n") == check_loose(instructions, "") == (False,)


def test_the_eight_loose_variants() -> None:
    assert loose_variants("*a*\nb\n**c**") == ("*a*\nb\n**c**", "b\n**c**", "*a*\nb", "b", "a\nb\nc", "b\nc", "a\nb")
    assert loose_variants("a") == ("a", "")


def test_a_greeting_a_closing_line_and_emphasis_pass_loosely() -> None:
    quoted = read_instructions(["startend:quotation"], [{}])
    for response in ('Sure!\n"so"', '"so"\nDone.', 'Sure!\n"so"\nDone.', '*"so"*'):
        assert (check_strict(quoted, response), check_loose(quoted, response)) == ((False,), (True,))
    assert check_loose(quoted, 'one\ntwo\n"so"') == (False,)


texts = st.text("aA b.!?*-[]<>\n\",'#1", max_size=80)


@given(texts, st.sampled_from([case[:2] for case in CASES if "language" not in case[0] and "english" not in case[0]]))
def test_what_passes_strictly_passes_loosely(response: str, case: tuple[str, dict[str, Any]]) -> None:
    instructions = read_instructions([case[0]], [case[1]])
    assert check_loose(instructions, response) >= check_strict(instructions, response)


@pytest.mark.parametrize(("name", "kwargs", "problem"), [
    ("keywords:nothing", {}, "there is no instruction 'keywords:nothing'"),
    (["a"], {}, "there is no instruction"),
    ("keywords:frequency", {"keyword": "a", "frequency": 1}, "needs frequency, keyword, relation; got frequency, keyword"),
    ("punctuation:no_comma", {"more": 1}, "needs no arguments; got more"),
    ("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "more than"}, "relation must be 'less than' or 'at least'"),
    ("keywords:frequency", {"keyword": "a", "frequency": [1], "relation": [1]}, "frequency must be a whole number"),
    ("keywords:frequency", {"keyword": "a", "frequency": True, "relation": LESS}, "frequency must be a whole number"),
    ("keywords:frequency", {"keyword": "a", "frequency": float("nan"), "relation": LESS}, "frequency must be a whole number"),
    ("keywords:frequency", {"keyword": " ", "frequency": 1, "relation": LESS}, "keyword must be a text"),
    ("keywords:existence", {"keywords": "cat"}, "keywords must be 1 to 200 texts"),
    ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": LESS}, "letter must be one character"),
    ("language:response_language", {"language": "xx"}, "language must be one of the codes"),
    ("language:response_language", {"language": ["en"]}, "language must be one of the codes"),
    (NTH_WORD, {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}, "nth_paragraph must be 1"),
    ("punctuation:no_comma", [], "kwargs must be an object"),
])
def test_malformed_instructions_are_told(name: Any, kwargs: Any, problem: str) -> None:
    with pytest.raises(InstructionError, match="instruction 1") as told:
        read_instructions(["punctuation:no_comma", name], [{}, kwargs])
    assert problem in str(told.value) and len(str(told.value)) < 400


def test_lists_that_do_not_belong_together_are_told() -> None:
    for names, kwargs in (("a", []), (["punctuation:no_comma"], []), ([], []), (["punctuation:no_comma"] * 51, [{}] * 51)):
        with pytest.raises(InstructionError):
            read_instructions(names, kwargs)


def test_arguments_of_wide_tables_are_read() -> None:
    """Copies of the file from data frames name all arguments in all items, most of them null, and write 3 as 3.0."""
    read = read_instructions(["detectable_format:number_bullet_lists"], [{"num_bullets": 3.0, "keyword": None}])
    assert read == (Instruction("detectable_format:number_bullet_lists", {"num_bullets": 3}),)
    assert read_instructions(["punctuation:no_comma"], [None]) == (Instruction("punctuation:no_comma", {}),)


HOSTILE = [
    "[", "<<", "*", "**", "***", "\n", " \n", ".", "!", "a.", "'", "\"", ")", "p.", "p. ", "-", "1.", "....", "a'", "(\"", "``", "A", "1",
]


def test_hostile_responses_take_linear_time() -> None:
    """20,000 characters of each kind through every check but those of language: a quadratic one would take minutes."""
    unlike = {name: kwargs for name, kwargs, _, _ in CASES if "language" not in name and "english" not in name}
    instructions = read_instructions(list(unlike), list(unlike.values()))
    started = time.process_time()
    for piece in HOSTILE:
        check_strict(instructions, piece * (20_000 // len(piece)))
    assert time.process_time() - started < 15
