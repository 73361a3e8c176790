"""What the referee is shown, and how its two scores are read: strictly, or as the authors' program does.

Source: thesis chapter 3 (the referee sees both answers in both orders) and the authors' parser.
"""

from __future__ import annotations

import re

import orjson

from alignray.methods.lion.config import LionConfig
from alignray.prompts import PromptTemplate

TEACHER_FIRST, STUDENT_FIRST = "lion/referee/teacher_first", "lion/referee/student_first"
Scores = tuple[float, float]
"""Of assistant 1 and assistant 2, in the order in which they were shown."""

_SCORE_SCHEMA = {"type": "integer", "minimum": 1, "maximum": 10}
SCORES_SCHEMA = orjson.dumps({
    "type": "object", "additionalProperties": False, "required": ["evidence", "score_1", "score_2"],
    "properties": {"evidence": {"type": "string", "maxLength": 600}, "score_1": _SCORE_SCHEMA, "score_2": _SCORE_SCHEMA},
}).decode()
"""JSON schema of a reply with ``referee_form: json``."""
READ_LIMIT = 100_000
"""Characters of a reply that are read; a longer one is unreadable."""

_PAD = r"[ \t*_`]{0,6}"
_WHOSE = re.compile(
    rf"(scores?{_PAD}(?:of|for)\b{_PAD}(?:the\b{_PAD})?)?(?<![a-z])assistant{_PAD}([12])(?!\d)(?:'s)?({_PAD}\bscore)?{_PAD}"
    rf"(?:\([^()\n]{{0,60}}\){_PAD})?(?:[:=\uff1a]|\bis\b)",
    re.IGNORECASE,
)
_SCORE = re.compile(
    rf"{_PAD}[<\[(]{{0,2}}(\d{{1,2}}(?:\.\d{{1,4}})?)(?!\d)[>\])]{{0,2}}(?:{_PAD}(?:/[ ]?10(?!\d)|out of (?:10|ten)\b|points?\b))?{_PAD}"
    r"(?:$|[,;|.](?!\d)|\(|[-\u2013\u2014](?![ \t]*\d)|\band\b)",
    re.IGNORECASE | re.MULTILINE,
)


def ask_referee(template: PromptTemplate, instruction: str, teacher: str, student: str, *, teacher_first: bool) -> str:
    """The referee's user turn with the two answers in one of the two orders."""
    first, second = (teacher, student) if teacher_first else (student, teacher)
    return template.render(instruction=instruction, answer_1=first, answer_2=second)


def scores_of(text: str, config: LionConfig) -> Scores | None:
    """Scores by the parser that the config names; None where there are none in [1, 10].

    The authors' parser passes 15, -3 and nan, and marks failure by two scores of -1: here all of these are unreadable.
    """
    if config.referee_form == "json":
        return _scores_in_json(text)
    scores = read_scores(text) if config.referee_parser == "strict" else read_scores_as_authors(text)
    return scores if scores is not None and all(1 <= score <= 10 for score in scores) else None


def _scores_in_json(text: str) -> Scores | None:
    """Scores of a reply that is the object of ``SCORES_SCHEMA`` and nothing else."""
    try:
        value = orjson.loads(text) if len(text) <= READ_LIMIT else None
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict):
        return None
    first, second = value.get("score_1"), value.get("score_2")
    if not (type(first) is int and type(second) is int and 1 <= first <= 10 and 1 <= second <= 10):
        return None
    return float(first), float(second)


def read_scores(text: str) -> Scores | None:
    """The two scores of a reply that states each of them once, or several times alike; None where there is any doubt.

    A statement is "Score of the Assistant 1: 8", in any case, order and markup, also 8/10 or 8 out of 10, and the scores are in
    [1, 10]. "Assistant 1: 8" counts where nothing in the reply is called a score; a score that is announced must be there.
    """
    if len(text) > READ_LIMIT:
        return None
    text = text.replace("\r\n", "\n")
    named: dict[str, set[float]] = {"1": set(), "2": set()}
    bare: dict[str, set[float]] = {"1": set(), "2": set()}
    for found in _WHOSE.finditer(text):
        is_named = bool(found[1] or found[3])
        value = _SCORE.match(text, found.end())
        if value is not None:
            (named if is_named else bare)[found[2]].add(float(value[1]))
        elif is_named:
            return None
    stated = named if any(named.values()) else bare
    if any(len(values) != 1 for values in stated.values()):
        return None
    scores = stated["1"].pop(), stated["2"].pop()
    return scores if all(1 <= score <= 10 for score in scores) else None


def read_scores_as_authors(text: str) -> Scores | None:
    """Scores as the authors' parser reads them; None where it gives -1 and -1. For comparison: nan and 15 pass.

    The last line but one must hold "Assistant 1" before its first colon and the last line "Assistant 2"; what stands after a line's
    last colon must be a number and nothing else.
    """
    lines = text.split("\n")[-2:]
    if len(lines) < 2 or any(f"Assistant {place}" not in line.split(":")[0] for place, line in enumerate(lines, 1)):
        return None
    try:
        return float(lines[0].split(":")[-1]), float(lines[1].split(":")[-1])
    except ValueError:
        return None
