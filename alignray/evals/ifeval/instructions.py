"""The 25 instructions: their names and arguments, read strictly.

Source: IFEval, arXiv:2311.07911, table of verifiable instructions, and the official evaluator. Where an argument is missing that
evaluator draws a random one; here that is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignray.evals.ifeval.language import LANGUAGES

Kwargs = Mapping[str, Any]
RELATIONS = ("less than", "at least")
MAX_TEXT = 20_000
"""Characters of an argument."""
MAX_LIST = 200
"""Words of an argument that is a list."""
MAX_COUNT = 1_000_000

ARGUMENTS: dict[str, dict[str, str]] = {
    "change_case:capital_word_frequency": {"capital_relation": "relation", "capital_frequency": "count"},
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
    "combination:repeat_prompt": {"prompt_to_repeat": "text"},
    "combination:two_responses": {},
    "detectable_content:number_placeholders": {"num_placeholders": "count"},
    "detectable_content:postscript": {"postscript_marker": "text"},
    "detectable_format:constrained_response": {},
    "detectable_format:json_format": {},
    "detectable_format:multiple_sections": {"section_spliter": "text", "num_sections": "count"},
    "detectable_format:number_bullet_lists": {"num_bullets": "count"},
    "detectable_format:number_highlighted_sections": {"num_highlights": "count"},
    "detectable_format:title": {},
    "keywords:existence": {"keywords": "texts"},
    "keywords:forbidden_words": {"forbidden_words": "texts"},
    "keywords:frequency": {"keyword": "text", "frequency": "count", "relation": "relation"},
    "keywords:letter_frequency": {"letter": "letter", "let_frequency": "count", "let_relation": "relation"},
    "language:response_language": {"language": "language"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": "count", "nth_paragraph": "count", "first_word": "text"},
    "length_constraints:number_paragraphs": {"num_paragraphs": "count"},
    "length_constraints:number_sentences": {"num_sentences": "count", "relation": "relation"},
    "length_constraints:number_words": {"num_words": "count", "relation": "relation"},
    "punctuation:no_comma": {},
    "startend:end_checker": {"end_phrase": "text"},
    "startend:quotation": {},
}
"""Arguments of each instruction and their kinds."""


@dataclass(frozen=True)
class Instruction:
    """One thing that an answer has to do, with its arguments read."""

    name: str
    """Such as "keywords:frequency"."""
    kwargs: Kwargs


class InstructionError(ValueError):
    """An instruction or its arguments are not of the official form."""


def read_instructions(names: Any, kwargs: Any, *, max_instructions: int = 50) -> tuple[Instruction, ...]:
    """The instructions of one item, from the official file's ``instruction_id_list`` and ``kwargs``.

    An argument that is null counts as absent: some copies of the file name every argument in every item.

    Raises:
        InstructionError: naming the place, what is wrong and the value.
    """
    if not isinstance(names, list) or not isinstance(kwargs, list):
        raise InstructionError("instruction_id_list and kwargs must both be lists")
    if len(names) != len(kwargs):
        raise InstructionError(f"{len(names)} instructions have {len(kwargs)} kwargs; each needs one")
    if not 0 < len(names) <= max_instructions:
        raise InstructionError(f"{len(names)} instructions; 1 to {max_instructions} can be checked")
    return tuple(_read_one(place, name, given) for place, (name, given) in enumerate(zip(names, kwargs, strict=True)))


def _read_one(place: int, name: Any, given: Any) -> Instruction:
    if not isinstance(name, str) or name not in ARGUMENTS:
        raise InstructionError(f"instruction {place}: there is no instruction {_shown(name)}")
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise InstructionError(f"instruction {place} ({name}): kwargs must be an object; got {_shown(given)}")
    present = {key: value for key, value in given.items() if value is not None}
    wanted = ARGUMENTS[name]
    if present.keys() != wanted.keys():
        raise InstructionError(f"instruction {place} ({name}) needs {_names(wanted)}; got {_names(present)}")
    for key, kind in wanted.items():
        problem = _problem(kind, present[key])
        if problem:
            raise InstructionError(f"instruction {place} ({name}): {key} must be {problem}; got {_shown(present[key])}")
    if name == "length_constraints:nth_paragraph_first_word" and not 1 <= present["nth_paragraph"] <= present["num_paragraphs"]:
        raise InstructionError(f"instruction {place} ({name}): nth_paragraph must be 1 to num_paragraphs; got {present['nth_paragraph']}")
    # JSON of pandas writes 3.0 for 3 where a column has gaps
    return Instruction(name, {key: int(value) if wanted[key] == "count" else value for key, value in present.items()})


def _problem(kind: str, value: Any) -> str:
    """What a value of the kind must be, where this one is not; else nothing."""
    if kind == "count":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number and 0 <= value <= MAX_COUNT and value == int(value) else f"a whole number from 0 to {MAX_COUNT}"
    if kind == "relation":
        return "" if value in RELATIONS else " or ".join(map(repr, RELATIONS))
    if kind == "language":
        return "" if isinstance(value, str) and value in LANGUAGES else "one of the codes " + ", ".join(sorted(LANGUAGES))
    if kind == "letter":
        return "" if isinstance(value, str) and len(value.strip()) == 1 else "one character"
    if kind == "texts":
        good = isinstance(value, list) and 0 < len(value) <= MAX_LIST and all(map(_is_text, value))
        return "" if good else f"1 to {MAX_LIST} texts, none empty"
    return "" if _is_text(value) else f"a text of 1 to {MAX_TEXT} characters"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_TEXT


def _names(keys: Mapping[str, Any]) -> str:
    return _shown(", ".join(sorted(map(str, keys))) or "no arguments", quoted=False)


def _shown(value: Any, *, quoted: bool = True) -> str:
    try:
        text = repr(value) if quoted else str(value)
    except RecursionError:  # JSON may be nested deeper than that
        text = f"a {type(value).__name__} nested too deeply"
    return text if len(text) <= 100 else text[:100] + "..."
