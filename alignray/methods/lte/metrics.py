"""Edit success, portability, locality and fluency from token ids and texts, as the thesis and as the authors' code define them.

Source: thesis 5.2 (Eq 5.1: exact match of the most likely answer; fluency: weighted entropy of bigrams and trigrams) and the authors'
EasyEdit copy (token accuracy under teacher forcing; agreement of two runs). Rates are in [0, 1].
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from alignray.schema import Answer

# ---- token ids


def token_accuracy(argmax_ids: Sequence[int], target_ids: Sequence[int]) -> float:
    """Share of target tokens that are the most likely ones when all before them are given: the authors' edit success and portability.

    Raises:
        ValueError: the two differ in length, or there is no target.
    """
    return _agreement(argmax_ids, target_ids, "argmax_ids", "target_ids")


def exact_match(argmax_ids: Sequence[int], target_ids: Sequence[int]) -> float:
    """1 where every token of the target is the most likely one, else 0: Eq 5.1, as then the free-running answer is the target too."""
    return float(token_accuracy(argmax_ids, target_ids) == 1.0)


def locality_agreement(pre_argmax_ids: Sequence[int], post_argmax_ids: Sequence[int]) -> float:
    """Share of positions of the gold answer where the model says with the edit prompt what it says without it; gold need not be right."""
    return _agreement(pre_argmax_ids, post_argmax_ids, "pre_argmax_ids", "post_argmax_ids")


def _agreement(one: Sequence[int], other: Sequence[int], name: str, other_name: str) -> float:
    if len(one) != len(other) or not one:
        raise ValueError(f"{name} holds {len(one)} tokens and {other_name} {len(other)}; both are of the same answer and not empty")
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


# ---- texts


def is_answered(text: str, answers: Sequence[Answer], *, how: Literal["exact", "starts", "contains"] = "exact") -> bool:
    """Whether a written answer is one of the answers or an alias; case, articles, punctuation and Unicode forms make no difference.

    Args:
        how: the text is the answer, begins with it, or holds it, at word boundaries.
    """
    said = _words_of(text)
    for answer in answers:
        for form in (answer.text, *answer.aliases):
            words = _words_of(form)
            if not words:
                continue
            starts = range(1) if how != "contains" else range(len(said) - len(words) + 1)
            if any(said[start : start + len(words)] == words for start in starts) and (how != "exact" or len(said) == len(words)):
                return True
    return False


def _words_of(text: str) -> list[str]:
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    without = [word for word in words if word not in ("a", "an", "the")]
    return without or words


# ---- retrieval


def precision_at_k(retrieved: Sequence[str], relevant: Iterable[str], k: int) -> float:
    """Share of the k first retrieved ids that are relevant; with one relevant edit at most 1/k.

    Raises:
        ValueError: k is less than 1.
    """
    return len(_top(retrieved, k) & set(relevant)) / k


def hit_at_k(retrieved: Sequence[str], relevant: Iterable[str], k: int) -> float:
    """1 where one of the k first retrieved ids is relevant, else 0: the authors' top-1 and top-k hits."""
    return float(bool(_top(retrieved, k) & set(relevant)))


def _top(retrieved: Sequence[str], k: int) -> set[str]:
    if k < 1:
        raise ValueError(f"k={k} must be 1 or more")
    return set(retrieved[:k])


# ---- fluency


@dataclass(frozen=True)
class Fluency:
    """Entropy of a text's n-grams, in bits."""

    num_tokens: int
    h2: float
    """Of bigrams."""
    h3: float
    """Of trigrams."""

    @property
    def value(self) -> float:
        """(2/3 h2 + 4/3 h3) / 2. A text of n words that repeats nothing has log2(n-1)/3 + 2 log2(n-2)/3: compare equal lengths."""
        return (2 / 3 * self.h2 + 4 / 3 * self.h3) / 2


def fluency(text: str) -> Fluency:
    """Fluency of one text; 0 where it has too few words for an n-gram. Papers give the mean value times 100."""
    return fluency_of_tokens(word_tokens(unicodedata.normalize("NFKD", text)))


def fluency_of_tokens(tokens: Sequence[str]) -> Fluency:
    """The same of words."""
    return Fluency(len(tokens), ngram_entropy(tokens, 2), ngram_entropy(tokens, 3))


def measured_text(prompt: str, continuation: str, variant: Literal["thesis", "original"] = "thesis") -> str:
    """What fluency is taken of: the continuation alone, or prompt and continuation together (original)."""
    return continuation if variant == "thesis" else prompt + continuation


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """Entropy of the n-grams' frequencies in bits; 0 where there are none."""
    grams = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = grams.total()
    # 0.0 -: one gram alone gives -0.0
    return 0.0 - sum(count / total * math.log2(count / total) for count in grams.values()) if total else 0.0


# Words as in the Penn Treebank, whose convention the authors' tokenizer (nltk) follows; written from the convention.
_ABBREVIATIONS = frozenset(re.findall(r"\S+", """
    adm al apr assn ave aug bros cf cie co col corp cos cpl dec dept dr ed eds est etc feb fig figs ft gen gov hon inc jan jr jul jun lt
    ltd maj mar messrs mr mrs ms mt no nos nov oct op prof pt rep rev sen sep sept sgt sr st v vol vs e.g i.e ph.d u.k u.n u.s a.m p.m
"""))
_CLOSERS = "])}>\"'\u00bb\u201d\u2019"
_OPENERS = "([{<\u00ab\u201c\u2018\u201e"
# marks that are words wherever they stand; colon and comma are none inside numbers
_MARKS = re.compile(r"(\.{2,}|--|[][(){}<>;@#$%&?!*\"\u00ab\u00bb\u201c\u201d\u201e\u2018\u2019\u2013\u2014]|``?|[:,](?!\d))")
_CLITIC = re.compile(r"(n't|'(?:ll|re|ve|s|m|d)|')\Z", re.IGNORECASE)
_TWO_WORDS = re.compile(r"(can)(not)|(gon|got|wan)(na|ta)|(gim|lem)(me)|(d)('ye)|('t)(is|was)|(more)('n)", re.IGNORECASE)


def word_tokens(text: str) -> list[str]:
    """Words and punctuation marks of a text, with English clitics split off: do n't, John 's.

    Agrees with nltk's ``word_tokenize`` on ordinary prose (the conformance vectors). A full stop is a word at the end of a sentence,
    which is told by a list of abbreviations instead of a trained model.
    """
    chunks = text.split()
    tokens: list[str] = []
    for place, chunk in enumerate(chunks):
        body = chunk.rstrip(_CLOSERS)
        closers = chunk[len(body):]
        if body.endswith(".") and not body.endswith("..") and _ends_sentence(body, chunks[place + 1 :][:1]):
            tokens += [*_split_chunk(body[:-1]), ".", *_split_chunk(closers, is_start=False)]
        else:
            tokens += _split_chunk(chunk)
    return tokens


def _ends_sentence(body: str, following: list[str]) -> bool:
    """Whether the full stop at the end of a chunk ends a sentence."""
    if not following:
        return True
    word = body[:-1].lstrip(_OPENERS + _CLOSERS)
    begins_lower = following[0].lstrip(_OPENERS + _CLOSERS)[:1].islower()
    if len(word) == 1 and word.isalpha():
        return False  # an initial
    if word.casefold() in _ABBREVIATIONS or word[-1:].isdigit():
        return word[-1:].isdigit() and not begins_lower
    return True


def _split_chunk(chunk: str, *, is_start: bool = True) -> list[str]:
    """Words of a text without blanks; a double quote opens at its start and after a bracket, and closes elsewhere."""
    tokens: list[str] = []
    for piece in _MARKS.split(chunk):
        if piece == '"':
            opens = tokens[-1] in ("(", "[", "{", "<") if tokens else is_start
            tokens.append("``" if opens else "''")
        elif piece and _MARKS.fullmatch(piece):
            tokens.append(piece)
        elif piece:
            tokens += _split_word(piece)
    return tokens


def _split_word(word: str) -> list[str]:
    """A word, its clitics after it: ["could", "n't", "'ve"]."""
    clitics: list[str] = []
    while (found := _CLITIC.search(word)) is not None and found.start() > 0:
        clitics.insert(0, found[0])
        word = word[: found.start()]
    if word.startswith("'") and len(word) > 1 and not _TWO_WORDS.fullmatch(word):
        return ["'", word[1:], *clitics]
    two = _TWO_WORDS.fullmatch(word)
    return [*([part for part in two.groups() if part] if two else [word]), *clitics]
