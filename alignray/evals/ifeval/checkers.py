"""The 25 checks of IFEval as plain functions from (kwargs, response) to bool, and the strict and loose verdicts made of them.

Source: arXiv:2311.07911 and the official evaluator, whose semantics these have, its oddities included (a divider of two blanks is
one of the paragraphs' borders, "******" of a response's). Three things differ on purpose: the language check is deterministic
(see ``language``), the letter that is counted is the one asked for even where it is "#" or "!" (the evaluator of the paper drew a
random letter there), and keywords are texts, not patterns. All checks are linear in the response's length, whatever a model writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from alignray.evals.ifeval.instructions import Instruction, Kwargs
from alignray.evals.ifeval.language import detect_language
from alignray.evals.ifeval.tokens import count_capital_words, count_sentences, count_words

Checker = Callable[[Kwargs, str], bool]
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
MAX_RESPONSE = 400_000
"""Characters of a response that is checked at all."""
_FENCES = ("```json", "```Json", "```JSON", "```")
_PUNCTUATION = frozenset(".,?!'\"")


def _compare(count: int, relation: str, limit: int) -> bool:
    return count < limit if relation == "less than" else count >= limit


# ---- keywords


def has_keywords(kwargs: Kwargs, response: str) -> bool:
    """keywords:existence. Every keyword somewhere, also within a word, in any case."""
    return all(_literal(keyword).search(response) for keyword in kwargs["keywords"])


def has_keyword_often(kwargs: Kwargs, response: str) -> bool:
    """keywords:frequency. Occurrences in any case, also within words."""
    count = sum(1 for _ in _literal(kwargs["keyword"].strip()).finditer(response))
    return _compare(count, kwargs["relation"], kwargs["frequency"])


def has_no_forbidden_word(kwargs: Kwargs, response: str) -> bool:
    """keywords:forbidden_words. None of them as a whole word, in any case."""
    return not any(re.search(rf"\b{re.escape(word)}\b", response, re.IGNORECASE) for word in kwargs["forbidden_words"])


def has_letter_often(kwargs: Kwargs, response: str) -> bool:
    """keywords:letter_frequency. Any character, letters in any case."""
    count = response.lower().count(kwargs["letter"].strip().lower())
    return _compare(count, kwargs["let_relation"], kwargs["let_frequency"])


def _literal(keyword: str) -> re.Pattern[str]:
    return re.compile(re.escape(keyword), re.IGNORECASE)


# ---- language and case


def is_in_language(kwargs: Kwargs, response: str) -> bool:
    """language:response_language. A text without a letter passes, as in the official evaluator."""
    return detect_language(response) in (kwargs["language"], None)


def is_english_capital(kwargs: Kwargs, response: str) -> bool:
    """change_case:english_capital. No small letter, and English."""
    return response.isupper() and detect_language(response) in ("en", None)


def is_english_lowercase(kwargs: Kwargs, response: str) -> bool:
    """change_case:english_lowercase. No capital letter, and English."""
    return response.islower() and detect_language(response) in ("en", None)


def has_capital_words(kwargs: Kwargs, response: str) -> bool:
    """change_case:capital_word_frequency."""
    return _compare(count_capital_words(response), kwargs["capital_relation"], kwargs["capital_frequency"])


# ---- length


def has_sentences(kwargs: Kwargs, response: str) -> bool:
    """length_constraints:number_sentences."""
    return _compare(count_sentences(response), kwargs["relation"], kwargs["num_sentences"])


def has_words(kwargs: Kwargs, response: str) -> bool:
    """length_constraints:number_words."""
    return _compare(count_words(response), kwargs["relation"], kwargs["num_words"])


def has_paragraphs(kwargs: Kwargs, response: str) -> bool:
    """length_constraints:number_paragraphs. Between dividers of three asterisks; an empty one counts nowhere, and in the middle fails."""
    parts = [bool(part.strip()) for part in response.split("***")]
    return all(parts[1:-1]) and sum(parts) == kwargs["num_paragraphs"]


def has_paragraph_with_first_word(kwargs: Kwargs, response: str) -> bool:
    """length_constraints:nth_paragraph_first_word. Paragraphs end with a blank line; empty ones shift the count, as officially."""
    paragraphs = response.split("\n\n")
    num_filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if num_filled != kwargs["num_paragraphs"]:
        return False
    words = paragraphs[kwargs["nth_paragraph"] - 1].split(None, 1)
    return bool(words) and _first_word(words[0]) == kwargs["first_word"].lower()


def _first_word(word: str) -> str:
    """Small, without quotes before it, up to its first punctuation mark."""
    word = word.lstrip("'").lstrip('"').lower()
    end = next((place for place, letter in enumerate(word) if letter in _PUNCTUATION), len(word))
    return word[:end]


# ---- content and format


def has_placeholders(kwargs: Kwargs, response: str) -> bool:
    """detectable_content:number_placeholders. Square brackets within a line, empty ones too."""
    return sum(map(_num_brackets, response.split("\n"))) >= kwargs["num_placeholders"]


def _num_brackets(line: str) -> int:
    count, place = 0, line.find("[")
    while place >= 0 and (place := line.find("]", place)) >= 0:
        count += 1
        place = line.find("[", place)
    return count


def has_postscript(kwargs: Kwargs, response: str) -> bool:
    """detectable_content:postscript. The marker anywhere, in any case; blanks between the letters of the two usual ones may be there."""
    marker, text = kwargs["postscript_marker"].strip(), response.lower()
    if marker == "P.P.S":
        return re.search(r"p\.\s?p\.\s?s", text) is not None
    if marker == "P.S.":
        return re.search(r"p\.\s?s\.", text) is not None
    return marker.lower() in text


def has_bullets(kwargs: Kwargs, response: str) -> bool:
    """detectable_format:number_bullet_lists. Exactly so many lines that begin with "-", or with "*" and no second one."""
    lines = response.split("\n")
    count, swallowed = 0, False
    for place, line in enumerate(lines):
        stripped = line.lstrip()
        count += stripped.startswith("-")
        if swallowed:
            swallowed = False  # a lone asterisk takes the next line for its text
        elif stripped.startswith("*") and not stripped.startswith("**") and (len(stripped) > 1 or place + 1 < len(lines)):
            count += 1
            swallowed = len(stripped) == 1
    return count == kwargs["num_bullets"]


def has_highlights(kwargs: Kwargs, response: str) -> bool:
    """detectable_format:number_highlighted_sections. *so* or **so** within a line; the latter counts both ways, as officially."""
    single = sum(bool(found.strip("*").strip()) for found in re.findall(r"\*[^\n*]*\*", response))
    double = sum(bool(found[2:-2].strip()) for found in re.findall(r"\*\*[^\n*]*\*\*", response))
    return single + double >= kwargs["num_highlights"]


def has_sections(kwargs: Kwargs, response: str) -> bool:
    """detectable_format:multiple_sections. The splitter followed by a number, so many times or more."""
    pattern = re.compile(re.escape(kwargs["section_spliter"].strip()) + r"\s?\d+")
    return sum(1 for _ in pattern.finditer(response)) >= kwargs["num_sections"]


def is_json(kwargs: Kwargs, response: str) -> bool:
    """detectable_format:json_format. JSON as Python reads it, with or without a fence around it."""
    text = response.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(kwargs: Kwargs, response: str) -> bool:
    """detectable_format:title. <<something>> within a line."""
    return any(map(_is_title, response.split("\n")))


def _is_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return start >= 0 and start + 3 <= end and bool(line[start : end + 2].lstrip("<").rstrip(">").strip())


def has_option(kwargs: Kwargs, response: str) -> bool:
    """detectable_format:constrained_response. One of the three answers somewhere."""
    return any(option in response for option in OPTIONS)


def has_two_responses(kwargs: Kwargs, response: str) -> bool:
    """combination:two_responses. Two that differ, with six asterisks between them; at either end they may stand too."""
    parts = [part.strip() for part in response.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeats_prompt(kwargs: Kwargs, response: str) -> bool:
    """combination:repeat_prompt. The response begins with the request, in any case."""
    return response.strip().lower().startswith(kwargs["prompt_to_repeat"].strip().lower())


def ends_with_phrase(kwargs: Kwargs, response: str) -> bool:
    """startend:end_checker. In any case; quotes around the response do not count."""
    return response.strip().strip('"').lower().endswith(kwargs["end_phrase"].strip().lower())


def is_quoted(kwargs: Kwargs, response: str) -> bool:
    """startend:quotation. Double quotes around the whole."""
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def has_no_comma(kwargs: Kwargs, response: str) -> bool:
    """punctuation:no_comma."""
    return "," not in response


CHECKERS: dict[str, Checker] = {
    "change_case:capital_word_frequency": has_capital_words,
    "change_case:english_capital": is_english_capital,
    "change_case:english_lowercase": is_english_lowercase,
    "combination:repeat_prompt": repeats_prompt,
    "combination:two_responses": has_two_responses,
    "detectable_content:number_placeholders": has_placeholders,
    "detectable_content:postscript": has_postscript,
    "detectable_format:constrained_response": has_option,
    "detectable_format:json_format": is_json,
    "detectable_format:multiple_sections": has_sections,
    "detectable_format:number_bullet_lists": has_bullets,
    "detectable_format:number_highlighted_sections": has_highlights,
    "detectable_format:title": has_title,
    "keywords:existence": has_keywords,
    "keywords:forbidden_words": has_no_forbidden_word,
    "keywords:frequency": has_keyword_often,
    "keywords:letter_frequency": has_letter_often,
    "language:response_language": is_in_language,
    "length_constraints:nth_paragraph_first_word": has_paragraph_with_first_word,
    "length_constraints:number_paragraphs": has_paragraphs,
    "length_constraints:number_sentences": has_sentences,
    "length_constraints:number_words": has_words,
    "punctuation:no_comma": has_no_comma,
    "startend:end_checker": ends_with_phrase,
    "startend:quotation": is_quoted,
}
"""The check of each instruction."""


def check_strict(instructions: Sequence[Instruction], response: str) -> tuple[bool, ...]:
    """One verdict per instruction on the response as it is; an empty response follows none.

    Raises:
        ConfigError: a language has to be told and lingua is not installed.
    """
    return tuple(_follows(instruction, response) for instruction in instructions)


def check_loose(instructions: Sequence[Instruction], response: str) -> tuple[bool, ...]:
    """One verdict per instruction: whether any of the ``loose_variants`` follows it.

    Raises:
        ConfigError: a language has to be told and lingua is not installed.
    """
    variants = loose_variants(response)
    return tuple(any(_follows(instruction, variant) for variant in variants) for instruction in instructions)


def loose_variants(response: str) -> tuple[str, ...]:
    """The response, without its first line, its last, both, and each of these without asterisks; every text once.

    Source: arXiv:2311.07911, section 2.2: a greeting, a closing remark and markdown emphasis do not count against an answer.
    """
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return tuple(dict.fromkeys([*cut, *(text.replace("*", "") for text in cut)]))


def _follows(instruction: Instruction, response: str) -> bool:
    return bool(response.strip()) and CHECKERS[instruction.name](instruction.kwargs, response)
