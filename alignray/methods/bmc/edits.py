"""How far two answers are apart, and what an answer's result is."""

from __future__ import annotations

import re

from rapidfuzz.distance import Levenshtein

_RESULT = re.compile(r"\bthe (?:final )?answer is\b:?", re.IGNORECASE)


def edit_rate(before: str, after: str, *, unit: str = "word") -> float:
    """Words (or characters) inserted, deleted or replaced between two texts, over the longer one's, in [0, 1].

    This is the modification proportion of thesis Figure 6.3, by Levenshtein distance; blanks between words do not count.
    """
    if unit == "character":
        return Levenshtein.normalized_distance(before, after)
    return Levenshtein.normalized_distance(before.split(), after.split())


def same_text(one: str, other: str) -> bool:
    """Whether two texts differ in blanks at most."""
    return one.split() == other.split()


def result_of(answer: str) -> str | None:
    """What stands behind the last "The answer is", without case and closing marks; None where it does not stand."""
    _, *behind = _RESULT.split(answer)
    line = behind[-1].strip().partition("\n")[0] if behind else ""
    return line.strip(" *$.\"'").casefold() or None
