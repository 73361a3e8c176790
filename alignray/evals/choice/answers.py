"""Which option a reply states. Two readers: the thesis' (its first capital letter), and a strict one that reads or says it cannot."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_CHARS = 20_000
"""Of a longer reply its end is read, where answers are stated."""
_MAX_STATEMENTS = 30

_SURELY = r"(?:most likely|probably|therefore|thus|clearly|indeed|the|option|choice|letter)"
_LEAD = re.compile(
    r"(?:\b(?:answer|option|choice)s?\b(?:\s{1,3}(?:to|for)\s[^\n.:]{1,60})?"
    rf"(?:\s{{1,3}}(?:is|are|would be|should be|must be)\b|\s{{0,3}}[:=\uff1a])"
    r"|(?:\u7b54\u6848|\u9009\u9879)(?:\u5e94?(?:\u8be5)?(?:\u662f|\u4e3a|\u9009))?\s?[:\uff1a]?|(?:\u6545|\u5e94|\u56e0\u6b64|\u6240\u4ee5)\u9009(?:\u62e9)?)"
    rf"[\s:\uff1a]{{0,4}}(?P<filler>(?:{_SURELY}\s{{1,3}}){{0,3}})",
    re.IGNORECASE,
)
_SAID_AFTER = re.compile(
    r"\b(?:option|choice|answer)\s{1,3}[(\[]?([A-Z])[)\]]?\s{1,3}is\s{1,3}(?:the\s{1,3})?(?:correct|right|best)\b", re.IGNORECASE,
)
_ONE = r"[(\[\uff08]?\s?[A-Z]{1,8}(?![A-Za-z0-9'\u2019])\s?[)\]\uff09]?"
_JOIN = r"\s{0,2}(?:,|\u3001|&|/|\u548c|\band\b|\bor\b)?\s{0,2}(?:\band\b\s{1,2})?"
# atomic groups: without them a long row of letters and blanks is tried in every grouping
_LETTERS = re.compile(rf"((?>{_ONE})(?>{_JOIN}{_ONE}){{0,15}}+)")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{([^{}\n]{1,80}(?:\{[^{}\n]{0,80}\}[^{}\n]{0,20})?)\}")
_LINE_START = re.compile(r"^\s{0,8}(?:[(\[\uff08]([A-Z])[)\]\uff09]|([A-Z])[.):\uff1a\uff0e\u3001])", re.MULTILINE)
_IN_BRACKETS = re.compile(r"[(\uff08]([A-Z])[)\uff09]")
_MARKUP = re.compile(r"\*{1,3}|`|\$|_{2}|\\(?:text|textbf|mathbf|mathrm)\s?(?=\{)|[{}]")
# "the answer is A because" speaks of the option, "the answer is A good idea" does not
_GOES_ON = re.compile(r"\s{0,3}(?:$|[.,;:!?)\]\uff0c\u3002\uff1b\n]|-|(?:because|since|as|for|with|which|and|but|so|in|due)\b)")


def first_capital(reply: str) -> str:
    """The first capital letter A-Z anywhere in a reply, or nothing: the thesis' rule (arXiv:2506.09329, chapter 5's AGIEval and BBH).

    "The answer is B" gives T, and so counts as wrong: kept as ``accuracy_thesis`` to compare with its tables.
    """
    found = re.search("[A-Z]", reply)
    return found[0] if found else ""


def read_letters(reply: str, options: Sequence[str], *, many: bool = False) -> tuple[str, ...] | None:
    """Letters of the options a reply states, in order of the alphabet; None where it states none, or contradicts itself.

    Evidence in this order, the last of several statements: a box; "the answer is (B)", "Answer: B", "option B is correct" or
    the option's own text in such a place; a reply, its first or its last line that is a letter; a first line "B. ..." where no
    other line begins with another letter; the one letter in round brackets. Two letters where one is asked for are no answer.

    Args:
        options: texts, of A, B, C ... in this order.
        many: several letters may hold.
    """
    letters = [chr(ord("A") + number) for number in range(len(options))]
    raw = reply[-MAX_CHARS:]
    text = _MARKUP.sub("", raw).strip()
    if not text:
        return None
    boxes = [_letters_at(_MARKUP.sub("", found[1]), letters) for found in _BOXED.finditer(raw)]
    for stated in ([box for box in boxes if box][-1:], _statements(text, letters, options)[-1:], _bare(text, letters, options)):
        if stated:
            return stated[0] if len(stated[0]) == 1 or many else None
    return None


def read_phrase(reply: str) -> str | None:
    """A bare answer: what follows the last "answer is" on its line, else a reply of one line; None where there is neither."""
    text = reply[-MAX_CHARS:].strip()
    places = [found.end() for found in re.finditer(r"\banswer(?: is\b:?|:)", text, re.IGNORECASE)]
    if places:
        rest = text[places[-1]:].strip().split("\n")[0]
    elif "\n" in text:
        return None
    else:
        rest = text
    return plain(rest) or None


def plain(text: str) -> str:
    """A text without case, markup, quotes around it and the full stop at its end; white space is one blank."""
    bare = " ".join(_MARKUP.sub("", text).split()).casefold()
    return bare.strip("\"'\u201c\u201d ").rstrip(". \u3002").strip("\"'\u201c\u201d ")


def _statements(text: str, letters: Sequence[str], options: Sequence[str]) -> list[tuple[str, ...]]:
    """What the text says the answer is, each time it says so, by place."""
    said: list[tuple[int, tuple[str, ...]]] = []
    for found in list(_LEAD.finditer(text))[-_MAX_STATEMENTS:]:
        rest = text[found.start("filler") : found.start("filler") + 1000].split("\n")[0]
        stated = _by_text(rest, options) or _by_text(rest[found.end() - found.start("filler") :], options)
        if not stated or len(plain(rest)) == 1:  # "B" is the letter, even where an option reads "b"; "B and D" is an option's text
            stated = _letters_at(text[found.end() : found.end() + 120], letters) or stated
        if stated:
            said.append((found.start(), stated))
    said += [(found.start(), (found[1].upper(),)) for found in _SAID_AFTER.finditer(text) if found[1].upper() in letters]
    return [stated for _, stated in sorted(said, key=lambda entry: entry[0])]


def _letters_at(text: str, letters: Sequence[str]) -> tuple[str, ...]:
    """Letters at the beginning of a text, or none where what stands there is a word or no option's letter."""
    found = _LETTERS.match(text.lstrip())
    if found is None:
        return ()
    stated = tuple(sorted(set(re.findall("[A-Z]", found[1]))))
    is_bare_article = found[1].strip() in ("A", "I")
    if any(letter not in letters for letter in stated) or (is_bare_article and not _GOES_ON.match(text.lstrip()[found.end():])):
        return ()
    return stated


def _by_text(text: str, options: Sequence[str]) -> tuple[str, ...]:
    """The option that a line is, word for word or up to its first full stop; options of one wording count as one."""
    wanted = {plain(text), plain(re.split(r"\.(?:\s|$)", text.strip(), maxsplit=1)[0])} - {""}
    named = [number for number, option in enumerate(options) if plain(option) in wanted]
    if not named or len({plain(options[number]) for number in named}) > 1:
        return ()
    return (chr(ord("A") + named[0]),)


def _bare(text: str, letters: Sequence[str], options: Sequence[str]) -> list[tuple[str, ...]]:
    """Letters without a sentence around them."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    for line in (lines[0], lines[-1]):
        found = _LETTERS.fullmatch(line.rstrip(".:\uff1a\u3002 "))
        if found is not None and (stated := _letters_at(line.rstrip(".:\uff1a\u3002 "), letters)):
            return [stated]
    starts = {found[1] or found[2] for found in _LINE_START.finditer(text)} & set(letters)
    if len(starts) == 1 and (found := _LINE_START.match(lines[0])) and set(_IN_BRACKETS.findall(lines[0])) & set(letters) <= starts:
        return [tuple(starts)]
    for line in (lines[0], lines[-1]):
        if named := _by_text(line, options):
            return [named]
    mentioned = set(_IN_BRACKETS.findall(text)) & set(letters)
    return [tuple(mentioned)] if len(mentioned) == 1 else []
