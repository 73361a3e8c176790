"""How the rules cut an answer into sentences, words and paragraphs: as the authors' program does, and as a reader would."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator

ENGLISH_STOPS, CHINESE_STOPS = ".!?", "。！？"

_ENGLISH_PIECE = re.compile(r"[.!?]")
_CHINESE_PIECE = re.compile(r"[。！？]")
_BOUNDARY = re.compile(r"(?<![.!?])[.!?]++[\"'\u201d\u2019)\]*]*+(?=\s|$)")
_ABBREVIATION = re.compile(r"(?:^|[\s(\"'])(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|No|(?:[A-Za-z]\.)+[A-Za-z])$")
_CHINESE_UNIT = re.compile(r"[A-Za-z0-9]+|[^\W_]")
_WORD_TOKEN = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


def pieces(text: str) -> list[str]:
    """What lies between stops, as the authors count English sentences: a piece of blanks counts, "3.5" is cut in two."""
    return [piece for piece in _ENGLISH_PIECE.split(text) if piece]


def chinese_pieces(text: str) -> list[str]:
    """The same between Chinese stops."""
    return [piece for piece in _CHINESE_PIECE.split(text) if piece]


def sentences(text: str) -> list[str]:
    """English sentences as a reader counts them: a stop ends one before a blank or the end, unless it belongs to a number or a title."""
    found, start = [], 0
    for boundary in _BOUNDARY.finditer(text):
        before = text[max(start, boundary.start() - 24) : boundary.start()]
        if boundary[0] == "." and boundary.end() < len(text) and _ABBREVIATION.search(before):
            continue
        found.append(text[start : boundary.end()].strip())
        start = boundary.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if _WORD_TOKEN.search(sentence)]


def chinese_sentences(text: str) -> list[str]:
    """Chinese sentences with a letter or character in them."""
    return [piece.strip() for piece in chinese_pieces(text) if _CHINESE_UNIT.search(piece)]


def words(text: str) -> list[str]:
    """Words of a text; marks that stand alone are none."""
    return _WORD_TOKEN.findall(text)


def num_words(text: str) -> int:
    """Blank-separated words with a letter or digit in them: "3.5", "clean-up" and "it's" are one each."""
    return sum(1 for token in text.split() if any(map(str.isalnum, token)))


def num_characters(text: str) -> int:
    """Chinese characters; a run of Latin letters or digits counts as one, marks and blanks as none."""
    return sum(1 for _ in _CHINESE_UNIT.finditer(text))


def is_mark(character: str) -> bool:
    """Whether it is punctuation, of ASCII or of Unicode."""
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def has_word(text: str, word: str) -> bool:
    """Whole word or phrase, case sensitive."""
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def paragraphs(text: str) -> list[str]:
    """Blocks of lines between blank lines."""
    return ["\n".join(block) for block in _blocks(text)]


def _blocks(text: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in text.split("\n"):
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block
