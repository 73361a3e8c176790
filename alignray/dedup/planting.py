"""Pairs of known Jaccard similarity: planted beside a run's own texts, they tell how many such pairs the run finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import scipy.special

from alignray.dedup.config import MinHashConfig
from alignray.dedup.shingles import SINGLES, HashArray, IntArray, Texts, shingle_hashes
from alignray.dedup.signatures import exact_jaccard
from alignray.seeding import draw

FloatArray = npt.NDArray[np.float64]
Unit = TypeVar("Unit", str, int)

_CYCLE = ("at", "at", "above", "at", "below")
_ATTEMPTS = 4
"""Orders of edits that are tried: where one jumps over its stratum, another may not."""
_AT_WIDTH, _BELOW_WIDTH = 0.05, 0.15
_NOT_SIMILAR = -1.0
_SINGLE = "".join(f"{chr(first)}-{chr(last)}" for first, last in (*SINGLES, (0x20000, 0x3FFFF)))
_WORD = re.compile(f"([{_SINGLE}]|[^\\s{_SINGLE}]+)")
_LETTERS = "abcdefghijklmnoprstuvwxy"  # neither q nor z, which part the numbers of a fresh word
_FIRST_IDEOGRAPH, _NUM_IDEOGRAPHS = 0x20000, 0xA6D0
_FIRST_FRESH_ID = 1 << 62


@dataclass(frozen=True)
class PlantedPair:
    """A text and its edited copy."""

    source: int
    """Position of the text that was copied."""
    text: str | list[int]
    """The copy."""
    jaccard: float
    """True Jaccard similarity of the two shingle sets, in [0, 1]."""
    stratum: str
    """``below``, ``at`` or ``above``, see ``stratum_bounds``."""


@dataclass(frozen=True)
class Quality:
    """What a run made of its planted pairs. Rates in [0, 1] with their 95 % intervals; None where there was no pair."""

    num_at: int
    """Pairs at the threshold: less than 0.05 above it."""
    found_at: int
    recall: float | None
    """found_at / num_at."""
    recall_low: float | None
    recall_high: float | None
    num_above: int
    found_above: int
    recall_above: float | None
    recall_above_low: float | None
    recall_above_high: float | None
    num_below: int
    found_below: int
    precision: float | None
    """Of the planted pairs that were linked, the share that reaches the threshold."""
    precision_low: float | None
    precision_high: float | None
    wanted_recall: float
    is_missed: bool
    """Whether the recall at the threshold is less than the wanted one, beyond chance."""


def stratum_bounds(threshold: float) -> dict[str, tuple[float, float]]:
    """Least Jaccard similarity of each stratum, and the value that all of it stays below (``above`` ends with 1)."""
    upper = threshold + _AT_WIDTH
    return {"below": (max(0.0, threshold - _BELOW_WIDTH), threshold), "at": (threshold, upper), "above": (upper, np.inf)}


def plant_pairs(texts: Texts, config: MinHashConfig, *, seed: int) -> list[PlantedPair]:
    """A copy of each text, edited until its true Jaccard similarity lies in the stratum that the text's position gives it.

    Of five positions three go ``at`` the threshold, as close above it as the text allows; one goes ``above`` and one
    ``below``, to a similarity drawn for it. Edits put units that occur nowhere else in place of the text's own, in an
    order drawn from (seed, position): a pair depends on its own text and position alone. A text that is too short to
    be edited so finely gets no pair. Every copy has an edit, but for those ``at`` a threshold of 1. From a threshold of
    0.95 on there is nothing ``above``: those positions go ``at`` the threshold.

    Args:
        texts: strings, or sequences of non-negative integers where ``config.unit`` is ``token_id``.
    """
    strata = [_CYCLE[position % len(_CYCLE)] for position in range(len(texts))]
    if stratum_bounds(config.threshold)["above"][0] >= 1:
        strata = ["at" if stratum == "above" else stratum for stratum in strata]
    pairs: dict[int, PlantedPair] = {}
    for attempt in range(_ATTEMPTS):
        positions = [position for position in range(len(texts)) if position not in pairs]
        if positions:
            pairs |= {pair.source: pair for pair in _attempt(texts, positions, strata, config, seed, attempt)}
    return [pairs[position] for position in sorted(pairs)]


def measure(jaccard: npt.ArrayLike, is_found: npt.ArrayLike, *, threshold: float, recall: float) -> Quality:
    """Recall and precision over planted pairs [P], each with its exact (Clopper-Pearson) 95 % interval.

    Args:
        jaccard: true similarity of each pair, in [0, 1].
        is_found: whether the run linked the pair.
        recall: the wanted one, in (0, 1).
    """
    similarity, found = np.asarray(jaccard, np.float64), np.asarray(is_found, np.bool_)
    low, high = stratum_bounds(threshold)["at"]
    is_at, is_above, is_below = (similarity >= low) & (similarity < high), similarity >= high, similarity < low
    num_at, num_above, num_below = (int(is_in.sum()) for is_in in (is_at, is_above, is_below))
    found_at, found_above, found_below = (int((is_in & found).sum()) for is_in in (is_at, is_above, is_below))
    at, above = _rate(found_at, num_at), _rate(found_above, num_above)
    precision = _rate(found_at + found_above, found_at + found_above + found_below)
    return Quality(
        num_at, found_at, *at, num_above, found_above, *above, num_below, found_below, *precision,
        wanted_recall=recall, is_missed=at[2] is not None and at[2] < recall,
    )  # fmt: skip


def _rate(hits: int, num: int) -> tuple[float | None, float | None, float | None]:
    """hits / num and its Clopper-Pearson 95 % interval."""
    if num == 0:
        return None, None, None
    low = 0.0 if hits == 0 else float(scipy.special.betaincinv(hits, num - hits + 1, 0.025))
    high = 1.0 if hits == num else float(scipy.special.betaincinv(hits + 1, num - hits, 0.975))
    return hits / num, low, high


# ---- edits


@dataclass(frozen=True)
class _Edit:
    """A text that can be copied with any number of its units replaced; more edits keep those of fewer."""

    num_units: int
    copy: Callable[[int], str | list[int]]


def _edit(text: str | Sequence[int], unit: str, position: int, rng: np.random.Generator) -> _Edit:
    if unit == "token_id":
        ids = [int(token) for token in cast(Sequence[int], text)]
        order = rng.permutation(len(ids)).tolist()
        return _Edit(len(ids), partial(_replaced, ids, order, partial(_fresh_id, position)))
    if unit == "character":
        characters = list(cast(str, text))
        fresh = partial(_fresh_character, int(rng.integers(_NUM_IDEOGRAPHS)))
        order = rng.permutation(len(characters)).tolist()
        return _Edit(len(characters), partial(_joined, characters, order, fresh))
    pieces = _WORD.split(cast(str, text))  # words at odd places, what parts them at even ones
    order = (2 * rng.permutation(len(pieces) // 2) + 1).tolist()
    return _Edit(len(order), partial(_joined, pieces, order, partial(_fresh_word, position)))


def _replaced(units: list[Unit], order: list[int], fresh: Callable[[int], Unit], count: int) -> list[Unit]:
    copy = list(units)
    for rank, place in enumerate(order[:count]):
        copy[place] = fresh(rank)
    return copy


def _joined(units: list[str], order: list[int], fresh: Callable[[int], str], count: int) -> str:
    return "".join(_replaced(units, order, fresh, count))


def _fresh_word(position: int, rank: int) -> str:
    """A word of letters only, in spaces: its neighbour may be a character that is a word by itself."""
    return f" zq{_spelled(position)}zq{_spelled(rank)} "


def _spelled(number: int) -> str:
    letters = _LETTERS[number % len(_LETTERS)]
    while number >= len(_LETTERS):
        number //= len(_LETTERS)
        letters = _LETTERS[number % len(_LETTERS)] + letters
    return letters


def _fresh_character(start: int, rank: int) -> str:
    """An ideograph that hardly any text has; normalising leaves it as it is."""
    return chr(_FIRST_IDEOGRAPH + (start + rank) % _NUM_IDEOGRAPHS)


def _fresh_id(position: int, rank: int) -> int:
    return _FIRST_FRESH_ID + (position << 32) + rank


# ---- search


def _attempt(
    texts: Texts, positions: list[int], strata: list[str], config: MinHashConfig, seed: int, attempt: int
) -> Iterator[PlantedPair]:
    """Pairs of those texts at ``positions`` whose stratum is met by one order of edits."""
    bounds = stratum_bounds(config.threshold)
    chosen = [texts[position] for position in positions]
    edits: list[_Edit] = []
    targets = np.empty(len(positions), np.float64)
    for place, position in enumerate(positions):
        rng = np.random.default_rng(draw(seed, f"{position}/{attempt}", "dedup/planted"))
        edits.append(_edit(chosen[place], config.unit, position, rng))
        low, high = bounds[strata[position]]
        targets[place] = low if strata[position] == "at" else rng.uniform(low, min(high, 1.0))
    jaccard_of = partial(_jaccard, shingle_hashes(cast(Texts, chosen), config), edits, config)
    counts = _most_edits(jaccard_of, np.array([edit.num_units for edit in edits]), targets)
    is_open = np.ones(len(positions), np.bool_)
    for _ in range(2):  # one edit more crosses the target: below the threshold it may be the only one in bounds
        places = np.flatnonzero(is_open & (counts <= [edit.num_units for edit in edits]))
        for place, similarity in zip(places.tolist(), jaccard_of(places, counts[places]).tolist(), strict=True):
            position, count = positions[place], int(counts[place])
            low, high = bounds[strata[position]]
            proves_nothing = count == 0 and config.threshold < 1  # a copy is found for sure
            if low <= similarity < high and not proves_nothing:
                is_open[place] = False
                yield PlantedPair(position, edits[place].copy(count), similarity, strata[position])
        counts += 1


def _most_edits(jaccard_of: Callable[[IntArray, IntArray], FloatArray], num_units: IntArray, targets: FloatArray) -> IntArray:
    """Edits [N] after which the similarity still reaches the target, the most there are; all texts bisected in step."""
    low, high = np.zeros(len(num_units), np.int64), num_units + 1
    while (places := np.flatnonzero(high - low > 1)).size:
        middle = (low[places] + high[places]) // 2
        is_reached = jaccard_of(places, middle) >= targets[places]
        low[places[is_reached]] = middle[is_reached]
        high[places[~is_reached]] = middle[~is_reached]
    return low


def _jaccard(
    sources: tuple[HashArray, IntArray], edits: list[_Edit], config: MinHashConfig, places: IntArray, counts: IntArray
) -> FloatArray:
    """True similarity of each of these texts and its copy with that many edits; less than 0 for a text without shingles."""
    copies = [edits[place].copy(count) for place, count in zip(places.tolist(), counts.tolist(), strict=True)]
    flat, offsets = shingle_hashes(cast(Texts, copies), config)
    own_flat, own_offsets = sources
    pairs = np.stack([places, own_offsets.size + np.arange(len(places))], axis=1)
    joined = np.concatenate([own_offsets, own_flat.size + offsets])  # an empty document lies between the two
    similarity = exact_jaccard(np.concatenate([own_flat, flat]), joined, pairs)
    similarity[np.diff(own_offsets)[places] == 0] = _NOT_SIMILAR
    return similarity
