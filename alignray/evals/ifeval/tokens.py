"""Sentences, words and capitalized words, counted as the official evaluator counts them.

That evaluator splits sentences with NLTK's Punkt model for English and words with NLTK's Treebank rules. Here are Punkt's
decision rules with what it learned from newspapers replaced by short lists: abbreviations, and words that begin sentences.
No data file is read. All functions are linear in the text's length.
"""

from __future__ import annotations

import re

_ABBREVIATION_LIST = (
    "adj adm apr asst aug ave bldg blvd bros calif capt cf cmdr co col conn corp cpl ct dec dept dist dr est feb fla fri ft gen gov "
    "hon hwy inc jan jr jul jun lt ltd maj messrs mich minn mon mr mrs ms mt nev nov oct okla pa penn ph prof pvt rep "
    "rev sen sep sept sgt sr st tenn thu thurs tue tues univ va vol vs wis yr"
)
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
"""Words whose period ends no sentence by itself. Not those that are words without a period too."""
_DOTTED = re.compile(r"[a-z](?:\.[a-z]{1,2})+")
"""u.s, p.m, i.e, ph.d"""
_STARTER_LIST = (
    "a after all also although an and as at because before both but by do during each even finally first for from he her here his how "
    "however i if in instead is it its let many moreover most my no not now of on once one or our please she since so some such "
    "that the their then there therefore these they this those through thus to today we what when where which while who why "
    "will with yes yet you your"
)
_STARTERS = frozenset(_STARTER_LIST.split())
"""Words that are small within a sentence: a capital one after an abbreviation begins the next."""
_RUN = re.compile(r"\S+")
_AFTER_END = frozenset("?!)\";}]*:@'({[")
"""Signs that may stand right behind the end of a sentence."""
_WORD_BREAKS = re.compile(r"[?!)\";}\]*:@({\[]|--+")
_LEADING = "`&#-,"
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")
_CLOSING = re.compile(r"[\"')\]}]+?(?:\s+|(?=--)|$)")
_HEAD_WORD = re.compile(r"[^\W\d_]+")

_WORD = re.compile(r"\w+")
_TOKEN_BREAKS = re.compile(r"[\s;@#$%&?!*\[\](){}<>\"\u00ab\u00bb\u201c\u201d\u2018\u2019\u201e`]+|--|\.{2,}|''|[:,](?!\d)")
_CLITIC = re.compile(r"'(?:S|M|D|LL|RE|VE)$|N'T$")
_JOINED = frozenset(("CANNOT", "GONNA", "GOTTA", "LEMME", "WANNA", "GIMME", "D'YE", "MORE'N", "'TIS", "'TWAS"))
"""Words that Treebank's rules write as two."""


def count_words(text: str) -> int:
    """Runs of letters, digits and underscores."""
    return len(_WORD.findall(text))


def count_sentences(text: str) -> int:
    """Sentences of a text as ``split_sentences`` finds them."""
    return len(split_sentences(text))


def split_sentences(text: str) -> list[str]:
    """Sentences in order, without the whitespace between them. A line break by itself ends none."""
    slices = list(_slices(text))
    sentences: list[str] = []
    moved = 0  # closing quotes and brackets belong to the sentence before them
    for index, (begin, stop) in enumerate(slices):
        start, end, moved = begin + moved, stop, 0
        following = _CLOSING.match(text, *slices[index + 1]) if index + 1 < len(slices) else None
        if following is not None:
            end = slices[index + 1][0] + len(following[0].rstrip())
            moved = len(following[0])
        if text[start:end].strip():
            sentences.append(text[start:end])
    return sentences


def _slices(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence, before closing signs are moved."""
    runs = [(found.start(), found.end()) for found in _RUN.finditer(text)]
    slices, begin = [], 0
    for index, (start, end) in enumerate(runs):
        following = runs[index + 1] if index + 1 < len(runs) else None
        place = _possible_end(text, start, end, last=following is None)
        if place is None:
            continue
        inside = place < end
        after = text[place] if inside else text[slice(*following)] if following is not None else ""
        if _ends_sentence(text[start:place], after):
            slices.append((begin, place))
            begin = place if inside or following is None else following[0]
    stop = len(text.rstrip())
    if begin < stop:
        slices.append((begin, stop))
    return slices


def _possible_end(text: str, start: int, end: int, *, last: bool) -> int | None:
    """Behind the last sign in a run without blanks that may end a sentence; None where there is none."""
    for place in range(end, start, -1):
        if text[place - 1] in ".?!" and ((place == end and not last) or (place < end and text[place] in _AFTER_END)):
            return place
    return None


def _ends_sentence(head: str, after: str) -> bool:
    """Whether a sentence ends with ``head``, a run up to and with its last sign, before ``after``."""
    if head[-1] in "?!" or "?" in head or "!" in head:
        return True
    pieces = _WORD_BREAKS.split(head)
    word = pieces[-1].lstrip(_LEADING)
    if word == ".":
        return True
    begins = _begins_sentence(after)
    if word.endswith(".."):
        return begins
    kind = word[:-1].lower()
    if kind in _ABBREVIATIONS or kind.rsplit("-", 1)[-1] in _ABBREVIATIONS or _DOTTED.fullmatch(kind):
        return begins
    if _NUMBER.fullmatch(kind):
        return not after[:1].islower() and after[:1] not in tuple(";:,.!?")
    if len(kind) == 1 and kind.isalpha():
        return begins or not after[:1].isalpha()
    return True


def _begins_sentence(after: str) -> bool:
    found = _HEAD_WORD.match(after)
    return found is not None and found[0][0].isupper() and found[0].lower() in _STARTERS


def count_capital_words(text: str) -> int:
    """Words all in capitals, at least one letter each, in the official evaluator's tokens: "DON'T" is two, "X-RAY" one."""
    return sum(_capital_parts(piece) for piece in _TOKEN_BREAKS.split(text) if piece and piece.isupper())


def _capital_parts(piece: str) -> int:
    piece = piece.rstrip(".'") or piece
    if piece in _JOINED:
        return 2
    found = _CLITIC.search(piece)
    return 1 + (found is not None and found.start() > 0)
