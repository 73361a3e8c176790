"""The final answer in a solution: a box, "#### 18", "the answer is 18", and for plain numbers the last one there is."""

from __future__ import annotations

import re

MAX_CHARS = 50_000
"""Of a longer solution the end is read."""
MAX_ANSWER = 1_000
"""Longer than this nothing is a final answer."""
_MAX_BOXES = 20

_SOLID_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-\u2212])?\\?\$?(?P<minus>[-\u2212])?"
    r"(?P<whole>\d{1,3}(?:(?:,|\{,\}|,\\!)\d{3}){1,10}(?!\d)|\d{1,60})?(?P<part>\.\d{1,60})?"
    r"(?:\s?/\s?(?P<under>\d{1,30}))?(?P<percent>\s?\\?%)?",
)
_HASHES = re.compile(r"####\s{0,4}([^\n]{1,200})")
_LABEL = re.compile(r"^\s{0,4}(?:\*\*)?(?:final\s)?(?:A|answer)(?:\*\*)?\s?:(?:\*\*)?\s{0,4}([^\n]{1,400})", re.MULTILINE | re.IGNORECASE)
_STATED = re.compile(
    r"\banswer(?:\s(?:to|for)\s[^\n.:]{1,80})?\s(?:is|are|equals|will be|would be)(?:\sequal\sto)?:?\s{0,4}([^\n]{1,400})",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,2}")


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed`` that is complete: nested braces, or "\\boxed 5" without any; None where there is none."""
    text = text[-MAX_CHARS:]
    for found in reversed(list(_BOX.finditer(text))[-_MAX_BOXES:]):
        start = found.end()
        if text[start : start + 1] != "{":
            bare = re.match(r"[^\s$\\{}]{1,100}", text[start:])
            if bare:
                return bare[0].rstrip(".,")
            continue
        depth = 0
        for place in range(start, min(len(text), start + MAX_ANSWER)):
            # a brace behind a backslash is a character of the answer
            if text[place] in "{}" and text[place - 1] != "\\":
                depth += 1 if text[place] == "{" else -1
                if depth == 0:
                    return text[start + 1 : place]
    return None


def final_number(text: str) -> str | None:
    """The number a word problem's solution ends in, as written but for blanks, commas and dollar signs; None without one.

    Looked for in this order: the last "#### ...", the last box, the last line "Answer: ..." or "A: ...", the last "the answer
    is ...", the last number of all. In the first four places the first number counts.
    """
    text = text[-MAX_CHARS:]
    boxed = last_boxed(text)
    for place in (_last(_HASHES, text), boxed, _last(_LABEL, text), _last(_STATED, text)):
        if place and (numbers := _numbers(place)):
            return numbers[0]
    numbers = _numbers(text)
    return numbers[-1] if numbers else None


def final_expression(text: str) -> str | None:
    """The expression a solution ends in; None where it states none.

    Looked for in this order: the last box (as MATH's own scorer, which reads nothing else), the last "#### ...", the last
    "the answer is ..." or "Answer: ..." with what its dollar signs enclose. A number somewhere is no statement.
    """
    text = text[-MAX_CHARS:]
    boxed = last_boxed(text)
    if boxed is not None and boxed.strip():
        return boxed.strip()
    for pattern in (_HASHES, _STATED, _LABEL):
        if place := _last(pattern, text):
            maths = re.search(r"\$([^$]{1,300})\$", place)
            found = (maths[1] if maths else re.split(r"\.(?:\s|$)", place)[0]).strip().strip("*").strip().rstrip(".")
            if found:
                return found
    return None


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.findall(text)
    return found[-1] if found else ""


def official_gsm8k(text: str) -> str | None:
    """What GSM8K's own scorer compares as text: the number after the first "#### " (in its published model solutions "A: ")."""
    found = re.search(r"#### (-?[0-9.,]{1,100})", text) or re.search(r"^A: (-?[0-9.,]{1,100})", text, re.MULTILINE)
    return found[1].replace(",", "") if found else None


def _numbers(text: str) -> list[str]:
    """All numbers of a text in its order: "1,200" as 1200, "$-3.50" as -3.50, "3/4" and "15%" as they are."""
    numbers = []
    for found in _SOLID_NUMBER.finditer(text):
        whole = re.sub(r"[^\d]", "", found["whole"] or "")
        if not whole and not found["part"]:
            continue
        # "5-3" is a difference, "= -3" a negative number
        sign = "-" if found["sign"] or found["minus"] else ""
        under = f"/{found['under']}" if found["under"] else ""
        numbers.append(f"{sign}{whole}{found['part'] or ''}{under}{'%' if found['percent'] else ''}")
    return numbers
