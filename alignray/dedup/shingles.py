"""From documents to sets of n-gram hashes, without a Python object per word.

Texts are normalised (NFKC, then casefold), joined into one buffer of code points and scanned by a compiled loop that
never looks beyond a document's end. What a word is:

- spaces, controls, ASCII characters other than letters and digits, and the punctuation of ``_SEPARATORS`` part words;
- a character of a script written without spaces (``SINGLES``: Chinese characters, kana, Thai, Lao, Burmese, Khmer) is
  a word by itself;
- everything else (letters of any other script, digits, marks, emoji, mathematical symbols) builds words.

The ranges are written out here because the interpreter's own tables grow with Unicode.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from alignray.dedup.config import MinHashConfig
from alignray.dedup.hashing import BASIS, FACTOR, absorb, compiled, mix64

Texts = Sequence[str] | Sequence[Sequence[int]]
HashArray = npt.NDArray[np.uint64]
AnyHashArray = npt.NDArray[np.uint64] | npt.NDArray[np.uint32]
IntArray = npt.NDArray[np.int64]

_SEPARATOR, _WORD, _SINGLE = 0, 1, 2
_SEPARATORS = (
    (0x00, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0xA9), (0xAB, 0xB1), (0xB4, 0xB4), (0xB6, 0xB8), (0xBB, 0xBB),
    (0xBF, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7), (0x37E, 0x37E), (0x387, 0x387), (0x589, 0x58A), (0x5BE, 0x5BE),
    (0x5C0, 0x5C0), (0x5C3, 0x5C3), (0x5F3, 0x5F4), (0x60C, 0x60D), (0x61B, 0x61F), (0x66A, 0x66D), (0x6D4, 0x6D4),
    (0x964, 0x965), (0xE2F, 0xE2F), (0xE5A, 0xE5B), (0xF0B, 0xF14), (0x104A, 0x104F), (0x1360, 0x1368), (0x1680, 0x1680),
    (0x17D4, 0x17DA), (0x2000, 0x206F), (0x3000, 0x3004), (0x3008, 0x3020), (0x3030, 0x3030), (0x30FB, 0x30FB),
    (0xFE10, 0xFE19), (0xFE30, 0xFE6B), (0xFEFF, 0xFEFF), (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF65),
)  # fmt: skip
SINGLES = (
    (0xE01, 0xE2E), (0xE30, 0xE4F), (0xE81, 0xEDF), (0x1000, 0x1049), (0x1050, 0x109F), (0x1780, 0x17D3), (0x3005, 0x3007),
    (0x3021, 0x302F), (0x3031, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
)  # fmt: skip
_BMP = 0x10000
_FIRST_IDEOGRAPH_BEYOND, _LAST_IDEOGRAPH_BEYOND = 0x20000, 0x3FFFF
_CHUNK_CHARACTERS = 1 << 21
"""Characters scanned at a time: bounds the buffers to some 40 MB, whatever the number of texts."""


def shingle_hashes(texts: Texts, config: MinHashConfig) -> tuple[HashArray, IntArray]:
    """Sorted distinct shingle hashes of every document, end to end, and offsets [N + 1] into them.

    A document with fewer than ``config.n`` units has one shingle of all of them; one with none has no shingle.

    Args:
        texts: strings, or sequences of non-negative integers where ``config.unit`` is ``token_id``.
    """
    flats: list[HashArray] = [np.empty(0, np.uint64)]
    sizes: list[IntArray] = [np.zeros(1, np.int64)]
    if config.unit == "token_id":
        chunks = _token_units(cast(Sequence[Sequence[int]], texts))
    else:
        chunks = text_units(cast(Sequence[str], texts), config.unit)
    power = np.uint64(pow(int(FACTOR), config.n - 1, 1 << 64))
    for units, counts in chunks:
        shingles = np.empty(units.size, np.uint64)
        num_distinct = np.empty(counts.size, np.int64)
        total = _distinct_shingles(units, counts, config.n, power, shingles, num_distinct)
        flats.append(shingles[:total].copy())
        sizes.append(num_distinct)
    return np.concatenate(flats), np.cumsum(np.concatenate(sizes))


def normalise(text: str) -> str:
    """NFKC, then casefold: full-width, ligature and case variants fall together."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def text_units(texts: Sequence[str], unit: str) -> Iterator[tuple[HashArray, IntArray]]:
    """Hashes of all units in order, and units per document, for one chunk of texts after another."""
    pending: list[str] = []
    num_pending = 0
    for text in texts:
        normal = normalise(text)
        if unit == "character":
            normal = " ".join(normal.split())
        pending.append(normal)
        num_pending += len(normal)
        if num_pending >= _CHUNK_CHARACTERS:
            yield _chunk_units(pending, unit)
            pending, num_pending = [], 0
    if pending:
        yield _chunk_units(pending, unit)


def word_spans(normal: str) -> IntArray:
    """First character and end [W, 2] of each word of a normalised text: the words that ``text_units`` hashes, in order."""
    codes = np.frombuffer(normal.encode("utf-32-le", "surrogatepass"), np.uint32)
    spans = np.empty((codes.size, 2), np.int64)
    return spans[: _word_spans(codes, _KINDS, spans)]


def _chunk_units(texts: list[str], unit: str) -> tuple[HashArray, IntArray]:
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    if unit == "character":
        return _mixed(codes.astype(np.uint64)), lengths
    hashes = np.empty(codes.size, np.uint64)
    counts = np.empty(len(texts), np.int64)
    total = _word_hashes(codes, lengths, _KINDS, hashes, counts)
    return hashes[:total], counts


def _token_units(documents: Sequence[Sequence[int]]) -> Iterator[tuple[HashArray, IntArray]]:
    counts = np.fromiter(map(len, documents), np.int64, len(documents))
    tokens = [np.asarray(document, np.int64) for document in documents]
    flat = np.concatenate([np.empty(0, np.int64), *tokens])
    yield _mixed(flat.view(np.uint64)), counts


def _kinds() -> npt.NDArray[np.uint8]:
    kinds = np.full(_BMP, _WORD, np.uint8)
    for ranges, kind in ((_SEPARATORS, _SEPARATOR), (SINGLES, _SINGLE)):
        for first, last in ranges:
            kinds[first : last + 1] = kind
    kinds[0x30:0x3A] = _WORD  # digits
    return kinds


_KINDS = _kinds()


@compiled
def _mixed(values: HashArray) -> HashArray:
    hashes = np.empty_like(values)
    for index in range(values.size):
        hashes[index] = mix64(absorb(BASIS, values[index]))
    return hashes


@compiled
def _kind_of(code: np.uint32, kinds: npt.NDArray[np.uint8]) -> np.uint8:
    if code < _BMP:
        return kinds[code]
    return np.uint8(_SINGLE if _FIRST_IDEOGRAPH_BEYOND <= code <= _LAST_IDEOGRAPH_BEYOND else _WORD)


@compiled
def _word_hashes(
    codes: npt.NDArray[np.uint32], lengths: IntArray, kinds: npt.NDArray[np.uint8], hashes: HashArray, counts: IntArray
) -> int:
    start = 0
    written = 0
    for document in range(lengths.size):
        before = written
        state = BASIS
        is_open = False
        for index in range(start, start + lengths[document]):
            code = codes[index]
            kind = _kind_of(code, kinds)
            if kind == _WORD:
                state = absorb(state, np.uint64(code))
                is_open = True
                continue
            if is_open:
                hashes[written] = mix64(state)
                written += 1
                state = BASIS
                is_open = False
            if kind == _SINGLE:
                hashes[written] = mix64(absorb(BASIS, np.uint64(code)))
                written += 1
        if is_open:
            hashes[written] = mix64(state)
            written += 1
        counts[document] = written - before
        start += lengths[document]
    return written


@compiled
def _word_spans(codes: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8], spans: IntArray) -> int:
    written = 0
    is_open = False
    for index in range(codes.size):
        kind = _kind_of(codes[index], kinds)
        if not (kind == _WORD and is_open) and kind != _SEPARATOR:
            spans[written, 0] = index
            written += 1
        if kind != _SEPARATOR:
            spans[written - 1, 1] = index + 1
        is_open = kind == _WORD
    return written


@compiled
def _distinct_shingles(
    units: HashArray, counts: IntArray, n: int, power: np.uint64, shingles: HashArray, num_distinct: IntArray
) -> int:
    """Rolling polynomial of n unit hashes (base FACTOR, ``power`` its n-1st), mixed, sorted and made distinct."""
    start = 0
    written = 0
    for document in range(counts.size):
        count = counts[document]
        first = written
        width = min(n, count)
        rolling = np.uint64(0)
        for index in range(start, start + width):
            rolling = rolling * FACTOR + units[index]
        if count > 0:
            shingles[written] = mix64(rolling)
            written += 1
        for index in range(start + width, start + count):
            rolling = (rolling - units[index - n] * power) * FACTOR + units[index]
            shingles[written] = mix64(rolling)
            written += 1
        if written > first:
            shingles[first:written].sort()
            last = first
            for index in range(first + 1, written):
                if shingles[index] != shingles[last]:
                    last += 1
                    shingles[last] = shingles[index]
            written = last + 1
        num_distinct[document] = written - first
        start += count
    return written
