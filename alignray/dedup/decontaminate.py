"""Texts that share word n-grams with benchmark items, and the passage that they share. What becomes of them is the caller's."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignray.dedup.hashing import FACTOR, compiled, mix64
from alignray.dedup.shingles import HashArray, IntArray, normalise, text_units, word_spans
from alignray.errors import ConfigError

_MAX_MATCHED = 500
"""Characters of a passage that are kept."""
_NOWHERE = -1


@dataclass(frozen=True)
class GramTable:
    """Grams of one width, and the items that hold them: those of gram g are owners[starts[g] : starts[g + 1]]."""

    width: int
    """Words per gram."""
    grams: HashArray
    """Sorted distinct hashes [G]."""
    starts: IntArray
    """[G + 1]."""
    owners: npt.NDArray[np.int32]
    """Positions of items."""
    heads: npt.NDArray[np.uint32]
    """Where the grams with each value of the upper bits begin [2**bits + 1]; a look-up then compares one or two grams."""


@dataclass(frozen=True)
class BenchmarkIndex:
    """Benchmark items in the form that texts are compared with."""

    names: list[tuple[str, str]]
    """Benchmark and id of every item, also of those that are too short."""
    num_grams: IntArray
    """Distinct grams of every item; 0 where it is too short."""
    tables: tuple[GramTable, ...]
    """By width: n, and the lengths of items that are shorter."""

    @property
    def num_items(self) -> int:
        """Items given, among them those too short to be looked for."""
        return len(self.names)

    @property
    def num_too_short(self) -> int:
        """Items that can not be found: fewer words than both n and ``min_words``."""
        return int((self.num_grams == 0).sum())


@dataclass(frozen=True)
class Hit:
    """A text that shares words with a benchmark item."""

    row: int
    """Position of the text."""
    benchmark: str
    item: str
    matched: str
    """The longest passage of the text all of whose n-grams are the item's, as it stands there; its first 500 characters."""
    num_grams: int
    """Distinct grams of the item that the text holds."""
    share: float
    """num_grams over all distinct grams of the item, in (0, 1]."""


def build_index(items: Sequence[tuple[str, str, str]], *, n: int, min_words: int = 8) -> BenchmarkIndex:
    """Index of items (benchmark, id, text) by their word n-grams; words are those of ``shingles``.

    An item with fewer than n words is one gram of all its words, if it has ``min_words`` or more.

    Raises:
        ConfigError: n or min_words is less than 1.
    """
    if n < 1 or min_words < 1:
        raise ConfigError(f"decontamination.n={n} and min_words={min_words} must both be 1 or more")
    chunks = list(text_units([text for _, _, text in items], "word"))
    units = np.concatenate([np.empty(0, np.uint64), *(chunk for chunk, _ in chunks)])
    counts = np.concatenate([np.empty(0, np.int64), *(chunk for _, chunk in chunks)])
    widths = np.where(counts >= n, n, np.where(counts >= min_words, counts, 0))
    num_grams = np.zeros(len(items), np.int64)
    tables: list[GramTable] = []
    for width in sorted(set(widths.tolist()) - {0}):
        is_in = widths == width
        grams = _grams(units[np.repeat(is_in, counts)], counts[is_in], width)
        owners = np.repeat(np.flatnonzero(is_in), counts[is_in] - width + 1)
        order = np.lexsort((owners, grams))
        grams, owners = grams[order], owners[order]
        is_new = np.ones(grams.size, np.bool_)
        is_new[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
        grams, owners = grams[is_new], owners[is_new]
        num_grams += np.bincount(owners, minlength=len(items))
        distinct, firsts = np.unique(grams, return_index=True)
        starts = np.append(firsts, grams.size).astype(np.int64)
        tables.append(GramTable(width, distinct, starts, owners.astype(np.int32), _heads(distinct)))
    return BenchmarkIndex([(benchmark, item) for benchmark, item, _ in items], num_grams, tuple(tables))


def find_hits(index: BenchmarkIndex, texts: Sequence[str]) -> list[Hit]:
    """One hit for each text and item that share a gram, in order of row, benchmark and item id."""
    hits: list[tuple[Hit, int]] = []
    first_row = 0
    for units, counts in text_units(texts, "word"):
        passages: dict[int, _Passages] = {}
        for table in index.tables:
            for shared in _shared(table, units, counts, index.num_items):
                row = first_row + shared.document
                if row not in passages:
                    passages[row] = _Passages(texts[row])
                matched = passages[row].cut(shared.first_word, shared.end_word)[:_MAX_MATCHED]
                share = shared.num_grams / int(index.num_grams[shared.item])
                hits.append((Hit(row, *index.names[shared.item], matched, shared.num_grams, share), shared.item))
        first_row += counts.size
    hits.sort(key=lambda found: (found[0].row, found[0].benchmark, found[0].item, found[1]))
    return [hit for hit, _ in hits]


# ---- grams


def _grams(units: HashArray, counts: IntArray, width: int) -> HashArray:
    """Hashes of all runs of ``width`` words of each document, in order; a document with fewer words has none."""
    grams = np.empty(int(np.maximum(counts - width + 1, 0).sum()), np.uint64)
    _fill_grams(units, counts, width, np.uint64(pow(int(FACTOR), width - 1, 1 << 64)), grams)
    return grams


def _heads(grams: HashArray) -> npt.NDArray[np.uint32]:
    bits = max(1, int(grams.size).bit_length())
    firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    return np.append(np.searchsorted(grams, firsts), grams.size).astype(np.uint32)


@dataclass(frozen=True)
class _Shared:
    """What a document has in common with an item; words [first_word, end_word) are its longest passage."""

    document: int
    item: int
    num_grams: int
    first_word: int
    end_word: int


def _shared(table: GramTable, units: HashArray, counts: IntArray, num_items: int) -> Iterator[_Shared]:
    grams = _grams(units, counts, table.width)
    places = np.empty(grams.size, np.int32)
    bits = (table.heads.size - 1).bit_length() - 1
    _look_up(grams, table.grams, table.heads, np.uint64(64 - bits), places)
    found = np.flatnonzero(places != _NOWHERE)
    if not found.size:
        return
    starts = np.concatenate([[0], np.cumsum(np.maximum(counts - table.width + 1, 0))])
    documents = np.searchsorted(starts, found, side="right") - 1
    words = found - starts[documents]
    # one line for each gram and each item that owns it, ordered by document, item and word
    gram = places[found]
    num_owners = table.starts[gram + 1] - table.starts[gram]
    line = np.repeat(np.arange(found.size), num_owners)
    rank = np.arange(line.size) - np.repeat(np.cumsum(num_owners) - num_owners, num_owners)
    items = table.owners[table.starts[gram][line] + rank]
    codes, words, gram = documents[line] * num_items + items, words[line], gram[line]
    order = np.lexsort((words, codes))
    codes, words, gram = codes[order], words[order], gram[order]
    is_run = np.ones(codes.size, np.bool_)
    is_run[1:] = (codes[1:] != codes[:-1]) | (words[1:] != words[:-1] + 1)
    run_starts = np.flatnonzero(is_run)
    run_lengths = np.diff(np.append(run_starts, codes.size))
    by_length = np.lexsort((run_starts, -run_lengths, codes[run_starts]))  # the first of the longest leads each pair
    pair_codes, leads = np.unique(codes[run_starts][by_length], return_index=True)
    longest = by_length[leads]
    by_gram = np.lexsort((gram, codes))
    is_distinct = np.ones(codes.size, np.bool_)
    is_distinct[1:] = (codes[by_gram][1:] != codes[by_gram][:-1]) | (gram[by_gram][1:] != gram[by_gram][:-1])
    num_grams = np.bincount(np.searchsorted(pair_codes, codes[by_gram][is_distinct]), minlength=pair_codes.size)
    for pair, code in enumerate(pair_codes.tolist()):
        first_word = int(words[run_starts[longest[pair]]])
        end_word = first_word + int(run_lengths[longest[pair]]) + table.width - 1
        yield _Shared(code // num_items, code % num_items, int(num_grams[pair]), first_word, end_word)


# ---- passages


class _Passages:
    """Cuts passages out of a text by its words, which are those of the normalised text."""

    def __init__(self, text: str) -> None:
        normal = normalise(text)
        self._spans = word_spans(normal)
        self._ends = None if text.isascii() else _cluster_ends(text, normal)
        self._text = text if text.isascii() or self._ends is not None else normal

    def cut(self, first_word: int, end_word: int) -> str:
        """The words [first_word, end_word) and all between them; of the normalised text where the two can't be aligned."""
        first, end = int(self._spans[first_word, 0]), int(self._spans[end_word - 1, 1])
        if self._ends is not None:
            own_ends, normal_ends = self._ends
            cluster = int(np.searchsorted(normal_ends, first, side="right"))
            first = int(own_ends[cluster - 1]) if cluster else 0
            end = int(own_ends[np.searchsorted(normal_ends, end - 1, side="right")])
        return self._text[first:end]


def _cluster_ends(text: str, normal: str) -> tuple[IntArray, IntArray] | None:
    """Ends [C] of the text's clusters (a character and the marks that combine with it), there and in the normalised text.

    None where the clusters, normalised one by one, do not make the normalised text (conjoining Hangul, stray marks).
    """
    starts = [place for place, character in enumerate(text) if place == 0 or not unicodedata.combining(character)]
    own_ends = [*starts[1:], len(text)]
    parts = [normalise(text[start:end]) for start, end in zip(starts, own_ends, strict=True)]
    if "".join(parts) != normal:
        return None
    return np.array(own_ends, np.int64), np.array(list(itertools.accumulate(map(len, parts))), np.int64)


# ---- compiled


@compiled
def _fill_grams(units: HashArray, counts: IntArray, width: int, power: np.uint64, grams: HashArray) -> None:
    start = 0
    written = 0
    for document in range(counts.size):
        stop = start + counts[document]
        if counts[document] >= width:
            rolling = np.uint64(0)
            for index in range(start, start + width):
                rolling = rolling * FACTOR + units[index]
            grams[written] = mix64(rolling)
            written += 1
            for index in range(start + width, stop):
                rolling = (rolling - units[index - width] * power) * FACTOR + units[index]
                grams[written] = mix64(rolling)
                written += 1
        start = stop


@compiled
def _look_up(
    wanted: HashArray, grams: HashArray, heads: npt.NDArray[np.uint32], shift: np.uint64, places: npt.NDArray[np.int32]
) -> None:
    """Place of each wanted gram among ``grams``, or _NOWHERE."""
    for index in range(wanted.size):
        head = wanted[index] >> shift
        places[index] = _NOWHERE
        for place in range(heads[head], heads[head + np.uint64(1)]):
            if grams[place] >= wanted[index]:
                if grams[place] == wanted[index]:
                    places[index] = place
                break
