"""The English rules: as the authors check, and mended; see the table in ``rules``."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Callable
from functools import lru_cache

from alignray.evals.followbench import formats_en
from alignray.evals.followbench.rules_zh import Bits, Predicate, same_number
from alignray.evals.followbench.texts import has_word, is_mark, num_words, pieces, sentences, words

Rule = Callable[[str, str, int], Bits]
"""Answer, target and level (1 to 5) to bits."""


def cumulative(*predicates: Predicate, trimmed: bool = False) -> Rule:
    """Level n asks for the first n predicates; ``trimmed`` drops blanks around the answer first."""

    def rule(answer: str, _target: str, level: int) -> Bits:
        text = answer.strip() if trimmed else answer
        return tuple(holds(text) for holds in predicates[:level])

    return rule


def whole(compare: Callable[[str, str], bool]) -> Rule:
    """One bit, blind to the level."""
    return lambda answer, target, _level: (compare(answer, target),)


@lru_cache(maxsize=4096)
def entities(target: str) -> frozenset[str]:
    """The names of a target written as a Python list; of the official file or of a reward's label, read as a literal and never run.

    Raises:
        ValueError, TypeError, SyntaxError, RecursionError, MemoryError: it is none.
    """
    names = ast.literal_eval(target)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{target[:80]!r} is no list of names")
    return frozenset(names)


def _last_match(pattern: re.Pattern[str], answer: str) -> str:
    found = ""
    for match in pattern.finditer(answer):
        found = match[0]
    return found


_LETTER, _DATE, _DOLLARS = re.compile(r"\([A-Z]\)"), re.compile(r"\d{2}/\d{2}/\d{4}"), re.compile(r"\$\d+")
_WHOLE_DATE = re.compile(r"(?<![0-9])[0-9]{2}/[0-9]{2}/[0-9]{4}(?![0-9])")
_AMOUNT = re.compile(r"\$ ?([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.([0-9]+))?")


def _last_amount(answer: str, target: str) -> bool:
    found = None
    for match in _AMOUNT.finditer(answer):
        found = match
    return found is not None and same_number(found[1], found[2] or "", target.strip("$ "))


def _is_on_floor(answer: str, target: str) -> bool:
    return re.search(rf"(?<![0-9]){re.escape(target.casefold())}(?![^\W_])", answer.casefold()) is not None


def _has_event_lines(answer: str, target: str, level: int) -> Bits:
    lines = [line.strip() for line in answer.split("\n") if line.strip()]
    known = {line.strip() for line in target.split("\n")}
    return (len(lines) == level and len(set(lines)) == level and set(lines) <= known,)


# ---- the five summaries, as the authors check them


def _nth_has(number: int, word: str, text: str) -> bool:
    cut = pieces(text)
    return len(cut) >= number and has_word(cut[number - 1], word)


def _third_has_perfect(text: str) -> bool:
    cut = pieces(text)
    return len(cut) >= 3 and re.search(r"\b(?:has|have)\s+\w", cut[2]) is not None


def _num_blanks(text: str) -> int:
    """Words as the authors count those of a whole answer: pieces between single blanks."""
    return text.count(" ") + 1


def _num_ascii_marks(text: str) -> int:
    return sum(character in string.punctuation for character in text)


_PROGRESSIVE = re.compile(r"\b(?:am|is|are)\s+\w+ing\b")

_ORIGINAL_SUMMARIES: dict[str, Rule] = {
    "cnn_dailymail": cumulative(
        lambda text: len(pieces(text)) == 3,
        lambda text: all(len(piece.split()) < 15 for piece in pieces(text)),
        lambda text: _nth_has(1, "Potter", text) and _nth_has(2, "actor", text) and _nth_has(3, "films", text),
        lambda text: not _nth_has(2, "lavish", text),
        _third_has_perfect,
    ),
    "xsum": cumulative(
        lambda text: len(pieces(text)) == 1, lambda text: _num_blanks(text) < 20, lambda text: not has_word(text, "Newton Stewart"),
        lambda text: _PROGRESSIVE.search(text) is not None, lambda text: has_word(text, "operation"),
    ),
    "samsum": cumulative(
        lambda text: len(pieces(text)) == 1, lambda text: _num_blanks(text) < 15, lambda text: has_word(text, "stuff"),
        lambda text: re.search("procrast", text, re.IGNORECASE) is None, lambda text: _num_ascii_marks(text) == 1,
    ),
    "gigaword": cumulative(
        lambda text: _num_blanks(text) == 8, lambda text: _num_ascii_marks(text) == 0, str.islower,
        lambda text: not has_word(text, "bus"), lambda text: has_word(text, "in"),
    ),
    "arxiv": cumulative(
        lambda text: len(pieces(text)) == 1, lambda text: _num_blanks(text) <= 20, lambda text: text.startswith("We"),
        lambda text: has_word(text, "activations"), lambda text: not has_word(text, "transformer"),
    ),
}

# ---- and as a reader would


_ADVERBS = frozenset({
    "not", "never", "always", "also", "already", "just", "now", "still", "only", "both", "again", "recently", "often",
})
_PARTICIPLES = frozenset({
    "been", "become", "begun", "bought", "brought", "built", "caught", "come", "chosen", "cut", "done", "drawn", "driven",
    "fallen", "felt", "found", "given", "gone", "got", "gotten", "grown", "had", "held", "hit", "kept", "known", "laid", "led",
    "left", "lost", "made", "meant", "met", "paid", "put", "read", "risen", "run", "said", "seen", "sent", "set", "shown", "sold",
    "spent", "spoken", "stood", "swum", "taken", "taught", "thought", "thrown", "told", "turned", "understood", "won", "worn",
    "written", "broken", "hidden", "let", "lent",
})
_NO_PARTICIPLES = frozenset({
    "king", "thing", "nothing", "something", "anything", "everything", "during", "morning", "evening", "spring", "string", "ring",
    "wing",
})


def _follows(text: str, auxiliaries: frozenset[str], fits: Callable[[str], bool]) -> bool:
    """Whether one of the auxiliaries is followed, at most three adverbs between, by a word that fits."""
    tokens = words(text)
    for place, token in enumerate(tokens):
        if token.casefold() not in auxiliaries:
            continue
        for after in tokens[place + 1 : place + 5]:
            if fits(after):
                return True
            if after.casefold() not in _ADVERBS and not after.casefold().endswith("ly"):
                break
    return False


_HAVE = frozenset({"has", "have", "hasn't", "haven't", "hasn\u2019t", "haven\u2019t"})
_BE = frozenset({"am", "is", "are", "isn't", "aren't", "isn\u2019t", "aren\u2019t"})


def _is_participle(word: str) -> bool:
    return word.casefold() in _PARTICIPLES or (word.casefold().endswith("ed") and len(word) > 3)


def _is_ing_form(word: str) -> bool:
    return word.endswith("ing") and word.islower() and len(word) > 4 and word not in _NO_PARTICIPLES


def _sentence_has(number: int, word: str, text: str) -> bool:
    cut = sentences(text)
    return len(cut) >= number and has_word(cut[number - 1].casefold(), word)


_FIXED_SUMMARIES: dict[str, Rule] = {
    "cnn_dailymail": cumulative(
        lambda text: len(sentences(text)) == 3,
        lambda text: all(num_words(sentence) < 15 for sentence in sentences(text)),
        lambda text: _sentence_has(1, "potter", text) and _sentence_has(2, "actor", text) and _sentence_has(3, "films", text),
        lambda text: not _sentence_has(2, "lavish", text),
        lambda text: len(sentences(text)) >= 3 and _follows(sentences(text)[2], _HAVE, _is_participle),
        trimmed=True,
    ),
    "xsum": cumulative(
        lambda text: len(sentences(text)) == 1, lambda text: num_words(text) < 20, lambda text: "newton stewart" not in text.casefold(),
        lambda text: _follows(text, _BE, _is_ing_form), lambda text: "operation" in text.casefold(), trimmed=True,
    ),
    "samsum": cumulative(
        lambda text: len(sentences(text)) == 1, lambda text: num_words(text) < 15, lambda text: has_word(text.casefold(), "stuff"),
        lambda text: "procrast" not in text.casefold(), lambda text: sum(map(is_mark, text)) == 1, trimmed=True,
    ),
    "gigaword": cumulative(
        lambda text: num_words(text) == 8, lambda text: not any(map(is_mark, text)), str.islower,
        lambda text: not has_word(text.casefold(), "bus"), lambda text: has_word(text.casefold(), "in"), trimmed=True,
    ),
    "arxiv": cumulative(
        lambda text: len(sentences(text)) == 1, lambda text: num_words(text) <= 20, lambda text: re.match(r"We\b", text) is not None,
        lambda text: has_word(text.casefold(), "activations"), lambda text: re.search(r"\btransformers?\b", text.casefold()) is None,
        trimmed=True,
    ),
}

# ---- the tables


ORIGINAL: dict[str, Rule] = {
    "E2E": whole(str.__eq__),
    "text_editing": whole(str.__eq__),
    "WIKIEVENTS": whole(lambda answer, target: set(answer.split("\n")) <= set(target.split("\n"))),
    "CONLL2003": whole(lambda answer, target: answer in entities(target)),
    "BBH_logical": whole(lambda answer, target: _last_match(_LETTER, answer) == target),
    "BBH_time": whole(lambda answer, target: _last_match(_DATE, answer) == target),
    "self_made_space": whole(lambda answer, target: target in answer),
    "gsm_8k": whole(lambda answer, target: _last_match(_DOLLARS, answer) == target),
    "format_22": formats_en.original_format_22,
    "format_30": formats_en.original_format_30,
    **_ORIGINAL_SUMMARIES,
}
FIXED: dict[str, Rule] = {
    "E2E": whole(lambda answer, target: answer.strip() == target.strip()),
    "text_editing": whole(lambda answer, target: answer.strip() == target.strip()),
    "WIKIEVENTS": _has_event_lines,
    "CONLL2003": whole(lambda answer, target: answer.strip() in entities(target)),
    "BBH_logical": ORIGINAL["BBH_logical"],
    "BBH_time": whole(lambda answer, target: _last_match(_WHOLE_DATE, answer) == target),
    "self_made_space": whole(_is_on_floor),
    "gsm_8k": whole(_last_amount),
    "format_22": formats_en.fixed_format_22,
    "format_30": formats_en.fixed_format_30,
    **_FIXED_SUMMARIES,
}
