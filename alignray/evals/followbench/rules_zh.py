"""What the Chinese rules check otherwise than the English ones, as the authors' program does and mended; see the table in ``rules``."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alignray.evals.followbench.texts import CHINESE_STOPS, chinese_pieces, chinese_sentences, is_mark, num_characters, paragraphs

Bits = tuple[bool, ...]
Predicate = Callable[[str], bool]

CLOSING = "这些是建议"
MARKER = re.compile(r"\A\s*\*{0,2}[0-9]{1,3}[.、．)]\*{0,2}\s*")
"""A paragraph's number as a reader sees it."""

_MARKS = frozenset(string.punctuation + "，。：’“”")
_AUTHORS_MARKER = re.compile(r"\d+\.")
_LETTER = re.compile(r"\([A-Z]\)")
_ANY_LETTER = re.compile(r"[(（]([A-Z])[)）]")
_DOLLARS = "美元"
_NUMBER_BEFORE = re.compile(r"([0-9]{1,3}(?:[,，][0-9]{3})+|[0-9]+)(?:\.([0-9]+))?\s*$")
_DOLLAR_SIGN = re.compile(r"[$＄] ?([0-9]{1,3}(?:[,，][0-9]{3})+(?![0-9])|[0-9]+)(?:\.([0-9]+))?")


@dataclass(frozen=True)
class ChineseRules:
    """One variant of the rules that are not the English ones."""

    whole: Mapping[str, Callable[[str, str], bool]]
    """Of answer and target, one verdict for the whole."""
    summaries: Mapping[str, Sequence[Predicate]]
    """One predicate per level, adding up."""
    format_22: Callable[[str, int], Bits]
    """Of answer and level."""


def same_number(whole: str, cents: str, target: str) -> bool:
    """Whether digits with thousands separators, and what follows the point, are the target's whole number."""
    digits = whole.replace(",", "").replace("，", "").lstrip("0") or "0"
    return digits == target.replace(",", "") and not cents.strip("0")


def every_block_is_numbered(blocks: Sequence[str]) -> bool:
    """The authors' test: every paragraph that is not blank begins with digits and a full stop."""
    return all(_AUTHORS_MARKER.match(block.lstrip()) for block in blocks if block.strip())


def without_closing(text: str, closing: str, stops: str) -> tuple[str, bool]:
    """The text without closing words at its end, and whether they were there; marks, quotes and a marker around them aside."""
    quotes = stops + " \t\n*\"'\u201c\u201d\u2018\u2019"
    bare = text.rstrip(quotes)
    if not bare.casefold().endswith(closing.casefold()):
        return text, False
    rest = bare[: len(bare) - len(closing)].rstrip(quotes.replace("\n", "").translate({ord(stop): None for stop in stops}))
    head, newline, last = rest.rpartition("\n")
    if newline and MARKER.fullmatch(last + " "):  # the closing words as a numbered paragraph of their own
        rest = head
    return rest, True


# ---- as the authors check


def _last_dollars(answer: str, target: str) -> bool:
    """The last digits that stand directly before the word for dollars, with it."""
    place = len(answer)
    while (place := answer.rfind(_DOLLARS, 0, place)) >= 0:
        start = place
        while start > 0 and answer[start - 1].isdecimal():
            start -= 1
        if start < place:
            return answer[start:place] + _DOLLARS == target
    return False


def _last_letter(answer: str, target: str) -> bool:
    found = _LETTER.findall(answer)
    return bool(found) and found[-1] == target


def _nth_has(number: int, word: str, text: str) -> bool:
    cut = chinese_pieces(text)
    return len(cut) >= number and word in cut[number - 1]


def _original_format_22(answer: str, level: int) -> Bits:
    blocks = answer.split("\n\n")
    bits = (
        len(blocks) == (4 if level == 5 else 3),
        all(len(chinese_pieces(block)) < 3 for block in blocks[:3]),
        all(len(piece) > 20 for piece in chinese_pieces(answer)),
        every_block_is_numbered(blocks),
        answer.endswith(CLOSING),
    )
    return bits[:level]


ORIGINAL = ChineseRules(
    whole={
        "BBH_logical": _last_letter,
        "self_made_space": lambda answer, target: target in answer,
        "gsm_8k": _last_dollars,
    },
    summaries={
        "cnn_dailymail": (
            lambda text: len(chinese_pieces(text)) == 3,
            lambda text: all(len(piece) < 15 for piece in chinese_pieces(text)),
            lambda text: _nth_has(1, "波特", text) and _nth_has(2, "演员", text) and _nth_has(3, "电影", text),
            lambda text: not _nth_has(2, "奢侈", text),
            lambda text: _nth_has(3, "了", text),
        ),
        "xsum": (
            lambda text: len(chinese_pieces(text)) == 1, lambda text: len(text) < 20, lambda text: "牛顿斯图尔特" not in text,
            lambda text: "在" in text, lambda text: "操作" in text,
        ),
        "samsum": (
            lambda text: len(chinese_pieces(text)) == 1, lambda text: len(text) < 15, lambda text: "琐碎的" in text,
            lambda text: "拖沓的" not in text, lambda text: sum(character in _MARKS for character in text) == 1,
        ),
        "gigaword": (
            lambda text: len(text) == 8, lambda text: not any(character in _MARKS for character in text),
            lambda text: not any(map(str.isnumeric, text)), lambda text: "公交车" not in text, lambda text: "在" in text,
        ),
        "arxiv": (
            lambda text: len(chinese_pieces(text)) == 1, lambda text: len(text) <= 20, lambda text: text.startswith("我们"),
            lambda text: "激活" in text, lambda text: "transformer" not in text,
        ),
    },
    format_22=_original_format_22,
)

# ---- mended


def _fixed_last_dollars(answer: str, target: str) -> bool:
    wanted = target.removesuffix(_DOLLARS)
    found: tuple[int, str, str] | None = None
    place = len(answer)
    while found is None and (place := answer.rfind(_DOLLARS, 0, place)) >= 0:
        if (number := _NUMBER_BEFORE.search(answer[max(0, place - 32) : place])) is not None:
            found = place, number[1], number[2] or ""
    for sign in _DOLLAR_SIGN.finditer(answer):
        if found is None or sign.start() > found[0]:
            found = sign.start(), sign[1], sign[2] or ""
    return found is not None and same_number(found[1], found[2], wanted)


def _fixed_last_letter(answer: str, target: str) -> bool:
    found = _ANY_LETTER.findall(answer)
    return bool(found) and f"({found[-1]})" == target


def _is_on_floor(answer: str, target: str) -> bool:
    return re.search(rf"(?<![0-9]){re.escape(target)}", answer) is not None


def _sentence_has(number: int, word: str, text: str) -> bool:
    cut = chinese_sentences(text)
    return len(cut) >= number and word in cut[number - 1]


def _is_one_of_at_most(limit: int) -> tuple[Predicate, Predicate]:
    return (lambda text: len(chinese_sentences(text)) == 1), (lambda text: num_characters(text) <= limit)


def _fixed_format_22(answer: str, level: int) -> Bits:
    text, closes = without_closing(answer, CLOSING, CHINESE_STOPS) if level == 5 else (answer, False)
    blocks = paragraphs(text)
    bodies = [MARKER.sub("", block, count=1) for block in blocks]
    most = 2 if level >= 4 else 3
    bits = (
        len(blocks) == 3,
        all(len(chinese_sentences(body)) <= most for body in bodies),
        all(num_characters(sentence) > 20 for body in bodies for sentence in chinese_sentences(body)),
        all(MARKER.match(block) for block in blocks),
        closes,
    )
    return bits[:level]


FIXED = ChineseRules(
    whole={"BBH_logical": _fixed_last_letter, "self_made_space": _is_on_floor, "gsm_8k": _fixed_last_dollars},
    summaries={
        "cnn_dailymail": (
            lambda text: len(chinese_sentences(text)) == 3,
            lambda text: all(num_characters(sentence) <= 15 for sentence in chinese_sentences(text)),
            lambda text: _sentence_has(1, "波特", text) and _sentence_has(2, "演员", text) and _sentence_has(3, "电影", text),
            lambda text: not _sentence_has(2, "奢侈", text),
            lambda text: _sentence_has(3, "了", text),
        ),
        "xsum": (
            *_is_one_of_at_most(20), lambda text: "牛顿斯图尔特" not in text, lambda text: "在" in text, lambda text: "操作" in text,
        ),
        "samsum": (
            *_is_one_of_at_most(15), lambda text: "琐碎的" in text, lambda text: "拖沓的" not in text,
            lambda text: sum(map(is_mark, text)) == 1,
        ),
        "gigaword": (
            lambda text: num_characters(text) == 8, lambda text: not any(map(is_mark, text)),
            lambda text: not any("0" <= character <= "9" or "０" <= character <= "９" for character in text),
            lambda text: "公交车" not in text, lambda text: "在" not in text,
        ),
        "arxiv": (
            *_is_one_of_at_most(20), lambda text: text.startswith("我们"), lambda text: "激活" in text,
            lambda text: "transformer" not in text.casefold(),
        ),
    },
    format_22=_fixed_format_22,
)
