"""The English format rules, 22 and 30: as the authors check them, and as the instructions read."""

from __future__ import annotations

import re

from alignray.evals.followbench.rules_zh import MARKER, every_block_is_numbered, without_closing
from alignray.evals.followbench.texts import ENGLISH_STOPS, num_words, paragraphs, pieces, sentences, words

Bits = tuple[bool, ...]

# ---- format 22: three paragraphs on a table


CLOSING = "Those are suggestions"


def original_format_22(answer: str, _target: str, level: int) -> Bits:
    """Paragraphs at blank lines; the marker and the closing words are sentences like others."""
    blocks = answer.split("\n\n")
    bits = (
        len(blocks) == (4 if level == 5 else 3),
        all(len(pieces(block)) < 3 for block in blocks[:3]),
        all(len(piece.split()) > 20 for piece in pieces(answer)),
        every_block_is_numbered(blocks),
        answer.endswith(CLOSING),
    )
    return bits[:level]


def fixed_format_22(answer: str, _target: str, level: int) -> Bits:
    """Three numbered paragraphs; markers and closing words aside."""
    text, closes = without_closing(answer, CLOSING, ENGLISH_STOPS) if level == 5 else (answer, False)
    blocks = paragraphs(text)
    bodies = [MARKER.sub("", block, count=1) for block in blocks]
    bits = (
        len(blocks) == 3,
        all(len(sentences(body)) < 3 for body in bodies),
        all(num_words(sentence) > 20 for body in bodies for sentence in sentences(body)),
        all(MARKER.match(block) for block in blocks),
        closes,
    )
    return bits[:level]


# ---- format 30: a minister's five points (the Chinese item is left to the judge)


_STARRED_NUMBER = re.compile(r"\*\*\d")
_STOP_AND_BLANK = re.compile(r"[.?]\s")
_POINT = re.compile(r"\s*(?:(?:[0-9]{1,2}[.)]|[-+\u2022])\s*)?\*\*")
_BEFORE_NUMBERED = re.compile(r"(?<=\S)[ \t]+(?=\*\*[0-9])")
_KEYWORD = re.compile(r"\*{0,2} ?(?:[0-9]{1,2} ?[.):] ?)?\*{0,2}[^:*\n]{1,60}(?::\*{0,2}|\*\* ?:?)")
_LY_IS_STEM = frozenset({
    "ally", "anomaly", "apply", "assembly", "belly", "bully", "comply", "family", "fly", "folly", "holly", "imply", "italy",
    "jelly", "july", "multiply", "ply", "rally", "rely", "reply", "sally", "sly", "supply", "tally", "ugly",
})


def _num_starred_keywords(text: str) -> int:
    """How often ``**``, a digit, something and a colon stand in one line, counted without overlap in one pass."""
    found, place = 0, 0
    while (start := _STARRED_NUMBER.search(text, place)) is not None:
        line_end = text.find("\n", start.end())
        line_end = len(text) if line_end < 0 else line_end
        colon = text.find(":", start.end() + 1, line_end)
        found += colon >= 0
        place = colon + 1 if colon >= 0 else line_end
    return found


def _authors_sentences(text: str) -> list[str]:
    """Cut at a blank after "." or "?", but not after "U.S.", "i.e." or "Mr."."""
    cut, start = [], 0
    for match in _STOP_AND_BLANK.finditer(text):
        stop = match.start()
        is_initials = stop >= 3 and _in_word(text[stop - 3]) and text[stop - 2] == "." and _in_word(text[stop - 1])
        is_title = stop >= 2 and text[stop] == "." and "A" <= text[stop - 2] <= "Z" and "a" <= text[stop - 1] <= "z"
        if not is_initials and not is_title:
            cut.append(text[start : stop + 1])
            start = match.end()
    return [*cut, text[start:]]


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def original_format_30(answer: str, _target: str, level: int) -> Bits:
    """Marker, five keywords, short points, sentences of 10 to 15 words, no word with a literal "-ly"."""
    cut = _authors_sentences(answer)
    points = [sentence for sentence in cut if any(f"{number}." in sentence for number in range(1, 6))]
    bits = (
        "**" in answer,
        _num_starred_keywords(answer) == 5,
        all(point.count(".") < 2 for point in points),
        all(10 <= len(sentence.split()) <= 15 for sentence in cut),
        not any(word.endswith("-ly") for sentence in cut for word in sentence.split()),
    )
    return bits[:level]


def fixed_format_30(answer: str, _target: str, level: int) -> Bits:
    """Five points, one sentence each, of 10 to 15 words, no word in ly, a keyword first."""
    points, rest = _points(answer)
    bodies = [_KEYWORD.sub("", point, count=1) if _KEYWORD.match(point) else point for point in points]
    spoken = [sentence for body in (*bodies, *rest) for sentence in sentences(body.replace("*", " "))]
    endings = (word.casefold() for word in words(answer) if word.casefold().endswith("ly"))
    bits = (
        len(points) == 5,
        all(len(sentences(body.replace("*", " "))) < 2 for body in bodies),
        all(10 <= num_words(sentence) <= 15 for sentence in spoken),
        all(word in _LY_IS_STEM for word in endings),
        all(_KEYWORD.match(point) for point in points),
    )
    return bits[:level]


def _points(answer: str) -> tuple[list[str], list[str]]:
    """What follows the marker at the beginning of a line, or before a digit in it, up to the next one; and the other lines."""
    points: list[list[str]] = []
    rest: list[str] = []
    for block in paragraphs(_BEFORE_NUMBERED.sub("\n", answer)):
        current = rest
        for line in block.split("\n"):
            if (start := _POINT.match(line)) is not None:
                current = [line[start.end() - 2 :].strip()]
                points.append(current)
            else:
                current.append(line.strip())
    return ["\n".join(lines) for lines in points], rest
