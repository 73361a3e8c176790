"""Which new texts are too like a pool or an earlier new text, by ROUGE-L: the decisions of comparing all pairs, without doing so.

Source: Lion, arXiv:2305.12870 and thesis section 3.3 (a new instruction is valid where its ROUGE-L to the Cache Pool stays below 0.7);
the authors' code rejects above 0.7, so that 0.7 itself passes there: ``inclusive`` is the switch.

A longest common subsequence has no more words than two texts share, counted with repetitions. That number comes for all pairs at once
out of a sparse product of (word, occurrence) features; only pairs that it leaves possible are aligned, by bit-parallel LCS. F is then
worked out in float64 by the very operations of ``rouge_score`` 0.1.2 and compared as it is: some pairs that are on the threshold on
paper come out an ulp beside it (7 of 7 and 13 words: 0.7000000000000001), here as there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rapidfuzz import process
from rapidfuzz.distance import LCSseq
from scipy import sparse

from alignray.dedup.rouge import words_of
from alignray.errors import ConfigError

Words = Sequence[str]
Tokenizer = Literal["unicode", "original"]
Match = tuple[int, float]
"""Position of the closest text, and the F-measure."""
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_ASCII_WORD = re.compile("[a-z0-9]+")
_MARGIN = 1e-9
"""By how much a bound may fall short before a pair is dropped; rounding moves F by less than 1e-15."""
_NEW_ROWS, _POOL_ROWS = 512, 2048
"""Texts compared at a time."""
_FIRST_ROWS = 512
"""Candidates that are compared with each other at a time."""
_MAX_CODES = 0x110000
"""Words that have a character of their own."""


@dataclass(frozen=True)
class TooLike:
    """The text that a candidate is too like."""

    index: int
    """Its position on its side."""
    side: Literal["pool", "kept"]
    """pool: of the texts there were; kept: ``index`` is that of an earlier candidate."""
    score: float


def tokens_of(text: str, tokenizer: Tokenizer) -> list[str]:
    """Words of a text: of any script ("unicode"), or runs of a-z and 0-9 in lower case ("original", ``rouge_score`` without stemming).

    With "original" a text without Latin letters or digits has no words, scores 0 with everything and is always kept.
    """
    return words_of(text) if tokenizer == "unicode" else _ASCII_WORD.findall(text.lower())


def similar_pairs(new: Sequence[Words], pool: Sequence[Words], *, threshold: float, inclusive: bool) -> list[tuple[int, int, float]]:
    """All pairs (new, pool, F) that are too like, in order; a text without words is in none.

    Memory beside the texts: what is returned, some 100 bytes a word, and a block of pairs: 20 MiB, 240 where all are alike.

    Args:
        threshold: in (0, 1].
        inclusive: whether an F equal to the threshold is too like.

    Raises:
        ConfigError: the threshold is not in (0, 1].
    """
    found: list[tuple[int, int, float]] = []
    for rows, columns, scores in _blocks(new, pool, threshold, inclusive):
        found += zip(rows.tolist(), columns.tolist(), scores.tolist(), strict=True)
    return sorted(found)


def closest(
    new: Sequence[Words], pool: Sequence[Words], *, threshold: float, inclusive: bool, first_index: int = 0,
) -> list[Match | None]:
    """For each new text the pool's closest (the first of those) that it is too like; None where there is none.

    A pool may be compared in blocks, wherever they are, and the answers joined by ``closest_of``. Memory and errors as
    of ``similar_pairs``.

    Args:
        first_index: position of the block's first text in its pool.
    """
    best_score, best_index = np.zeros(len(new)), np.full(len(new), -1, np.int64)
    for block in _blocks(new, pool, threshold, inclusive):
        order = np.lexsort((block[1], -block[2], block[0]))
        leads = order[np.unique(block[0][order], return_index=True)[1]]
        rows, columns, scores = (part[leads] for part in block)
        is_tie_before = (scores == best_score[rows]) & (columns < best_index[rows])
        is_better = (scores > best_score[rows]) | is_tie_before
        best_score[rows[is_better]], best_index[rows[is_better]] = scores[is_better], columns[is_better]
    found = zip(best_index.tolist(), best_score.tolist(), strict=True)
    return [(index + first_index, score) if index >= 0 else None for index, score in found]


def closest_of(blocks: Iterable[Sequence[Match | None]]) -> list[Match | None]:
    """The answers for one list of new texts and the blocks of a pool (one at least) as one, whatever the order of the blocks."""
    return [_best(match for match in matches if match is not None) for matches in zip(*blocks, strict=True)]


def decide(
    new: Sequence[Words], pool_best: Sequence[Match | None], *, threshold: float, inclusive: bool, groups: Sequence[str] | None = None,
) -> list[TooLike | None]:
    """For each candidate, in the given order: None where it is kept, or what it is most like, the pool's text before a kept one.

    A candidate is kept where it is too like neither the pool nor an earlier candidate that was kept; one that was rejected bars no
    other. To go on after an earlier call, put what that kept in front with None as their pool match: it is kept again. Memory grows
    with what is kept, not with how many are alike.

    Args:
        pool_best: of each candidate, from ``closest``.
        groups: of each candidate; only kept candidates of its own group count. None: all do.

    Raises:
        ConfigError: the threshold is not in (0, 1].
        ValueError: lists of unequal length.
    """
    labels = [""] * len(new) if groups is None else list(groups)
    decided: list[TooLike | None] = [None if match is None else TooLike(match[0], "pool", match[1]) for match in pool_best]
    if not len(new) == len(decided) == len(labels):
        raise ValueError(f"{len(new)} candidates, {len(decided)} pool matches, {len(labels)} groups; give every candidate one of each")
    for label in dict.fromkeys(labels):
        rows = [row for row, own in enumerate(labels) if own == label and decided[row] is None]
        found = _among_themselves([new[row] for row in rows], threshold, inclusive)
        for row, match in zip(rows, found, strict=True):
            decided[row] = None if match is None else TooLike(rows[match[0]], "kept", match[1])
    return decided


def _among_themselves(new: Sequence[Words], threshold: float, inclusive: bool) -> list[Match | None]:
    """The closest of the kept ones before each text, where that is too like it."""
    found: list[Match | None] = []
    kept: list[int] = []
    for first in range(0, len(new), _FIRST_ROWS):
        part = new[first : first + _FIRST_ROWS]
        before = closest(part, [new[row] for row in kept], threshold=threshold, inclusive=inclusive)
        alike: list[list[Match]] = [[] if match is None else [(kept[match[0]], match[1])] for match in before]
        for late, early, score in similar_pairs(part, part, threshold=threshold, inclusive=inclusive):
            if early < late and not alike[early]:  # in order of late: what there is to say of early is said
                alike[late].append((first + early, score))
        kept += [first + row for row, matches in enumerate(alike) if not matches]
        found += [_best(matches) for matches in alike]
    return found


def _best(matches: Iterable[Match]) -> Match | None:
    return min(matches, key=lambda match: (-match[1], match[0]), default=None)


# ---- all pairs


@dataclass(frozen=True)
class _Coded:
    """Texts, shortest first."""

    order: IntArray
    """Position of each in the caller's list."""
    lengths: IntArray
    texts: list[Any]
    """Each as a string with one character a word, which is what bit-parallel LCS is fastest on; or as a list of word numbers."""
    features: Any
    """Sparse 0/1 matrix [texts, features]; a word's second occurrence is a feature of its own."""


def _blocks(
    new: Sequence[Words], pool: Sequence[Words], threshold: float, inclusive: bool
) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
    """Pairs that are too like, by blocks: positions in new and in pool, and F."""
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold={threshold} is no share that two texts can be alike by; choose one above 0, up to 1")
    ids = {word: number for number, word in enumerate(dict.fromkeys(word for words in new for word in words))}
    if not ids or not len(pool):
        return
    news, pools = _code(new, pool, ids)
    floor = threshold - _MARGIN
    columns = [slice(first, first + _POOL_ROWS) for first in range(0, len(pool), _POOL_ROWS)]
    turned = [pools.features[part].T.tocsr() for part in columns]
    for first in range(0, len(new), _NEW_ROWS):
        part = slice(first, first + _NEW_ROWS)
        own, features = news.lengths[part], news.features[part]
        for column, other_features in zip(columns, turned, strict=True):
            other = pools.lengths[column]
            # the longest text of the one side against the shortest of the other: lengths alone keep all below
            if 2 * own[-1] < floor * (own[-1] + other[0]) or 2 * other[-1] < floor * (own[0] + other[-1]):
                continue
            i, j = _possible(features @ other_features, own, other, floor)
            common = process.cpdist(
                [news.texts[first + row] for row in i.tolist()], [pools.texts[column.start + row] for row in j.tolist()],
                scorer=LCSseq.similarity, dtype=np.int64,
            )
            scores = _f_measure(common, own[i], other[j])
            is_like = scores >= threshold if inclusive else scores > threshold
            yield news.order[part][i[is_like]], pools.order[column][j[is_like]], scores[is_like]


def _possible(shared: Any, own: IntArray, other: IntArray, floor: float) -> tuple[IntArray, IntArray]:
    """Rows and columns of a block whose shared words do not keep F below the floor."""
    least = np.ceil(floor * (own + other[0]) / 2).astype(np.int32)  # with the shortest of the others; drops most before any look-up
    at = np.flatnonzero(shared.data >= np.repeat(least, np.diff(shared.indptr)))
    i = np.searchsorted(shared.indptr, at, side="right") - 1
    j = shared.indices[at].astype(np.int64)
    is_possible = 2 * shared.data[at] >= floor * (own[i] + other[j])
    return i[is_possible], j[is_possible]


def _f_measure(common: IntArray, num_own: IntArray, num_other: IntArray) -> FloatArray:
    """As ``rouge_score`` rounds it; which text is the target does not matter."""
    precision, recall = common / num_other, common / num_own
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def _code(new: Sequence[Words], pool: Sequence[Words], ids: Mapping[str, int]) -> tuple[_Coded, _Coded]:
    """Both sides with the same features: those of the new texts. Words that no new text has are one word, which none shares."""
    sides = []
    for texts in (new, pool):
        counts = np.fromiter(map(len, texts), np.int64, len(texts))
        order = np.argsort(counts, kind="stable")
        flat = np.fromiter((ids.get(word, len(ids)) for row in order.tolist() for word in texts[row]), np.int64, int(counts.sum()))
        sides.append((order, counts[order], flat))
    codes = [_occurrences(flat, lengths, len(ids)) * (len(ids) + 1) + flat for _, lengths, flat in sides]
    known = np.unique(codes[0])
    coded = []
    for (order, lengths, flat), code in zip(sides, codes, strict=True):
        starts = np.append(0, np.cumsum(lengths))
        place = np.minimum(np.searchsorted(known, code), known.size - 1)
        is_known = known[place] == code
        pointers = np.append(0, np.cumsum(is_known))[starts]
        ones = np.ones(int(is_known.sum()), np.int32)
        features = sparse.csr_array((ones, place[is_known].astype(np.int32), pointers), shape=(lengths.size, known.size))
        whole = _text_of(flat, len(ids))
        coded.append(_Coded(order, lengths, [whole[a:b] for a, b in itertools.pairwise(starts.tolist())], features))
    return coded[0], coded[1]


def _occurrences(flat: IntArray, lengths: IntArray, num_words: int) -> IntArray:
    """How often each word stood in its text before."""
    key = np.repeat(np.arange(lengths.size), lengths) * (num_words + 1) + flat
    order = np.argsort(key, kind="stable")
    is_first = np.ones(key.size, np.bool_)
    is_first[1:] = key[order][1:] != key[order][:-1]
    starts = np.flatnonzero(is_first)
    number = np.empty(key.size, np.int64)
    number[order] = np.arange(key.size) - np.repeat(starts, np.diff(np.append(starts, key.size)))
    return number


def _text_of(flat: IntArray, num_words: int) -> Any:
    if num_words >= _MAX_CODES:
        return flat.tolist()
    return flat.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
