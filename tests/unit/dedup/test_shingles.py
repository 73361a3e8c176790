import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.dedup import shingles
from alignray.dedup.config import MinHashConfig
from alignray.dedup.shingles import shingle_hashes

MASK = (1 << 64) - 1
BASIS, FACTOR = 0xCBF29CE484222325, 0x9FB21C651E98DF25


def mix(value: int) -> int:
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & MASK
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ value >> 33


def word_hash(word: str) -> int:
    state = BASIS
    for character in word:
        state = (state ^ ord(character)) * FACTOR & MASK
        state ^= state >> 32
    return mix(state)


def shingle_set(words: list[str], n: int) -> set[int]:
    """The documented hash in plain integers: the oracle of the compiled one."""
    grams = [words[start : start + n] for start in range(max(1, len(words) - n + 1))] if words else []
    result = set()
    for gram in grams:
        rolling = 0
        for word in gram:
            rolling = (rolling * FACTOR + word_hash(word)) & MASK
        result.add(mix(rolling))
    return result


def sets_of(texts: list[str], **config: object) -> list[list[int]]:
    flat, offsets = shingle_hashes(texts, MinHashConfig(**config))  # type: ignore[arg-type]
    return [flat[start:stop].tolist() for start, stop in itertools.pairwise(offsets)]


words = st.lists(st.text("abcxyz0189éßЖ", min_size=1, max_size=4), max_size=12)


@settings(max_examples=80, deadline=None)
@given(st.lists(words, max_size=5), st.integers(1, 6))
def test_shingles_meet_the_plain_python_oracle(documents: list[list[str]], n: int) -> None:
    expected = [sorted(shingle_set([word.casefold() for word in document], n)) for document in documents]
    assert sets_of([" \n".join(document) for document in documents], n=n) == expected


def test_hashes_stay_what_they_were_when_signatures_were_first_written() -> None:
    # a change here makes every stored signature worthless: raise HASH_VERSION with it
    assert sets_of(["The quick brown fox"], n=3) == [[1668788823332773056, 12985097623004978475]]


@pytest.mark.parametrize(
    ("text", "same_words"),
    [
        ("Don't  stop--now!", "don t stop now"),
        ("ＦＵＬＬ　ｗｉｄｔｈ ﬁne", "full width fine"),
        ("STRASSE Straße", "strasse strasse"),
        ("«Où est-il?» — là…", "où est il là"),
        ("日本語", "日 本 語"),
        ("GPU入門、第2版。", "gpu 入 門 第 2 版"),
        ("한국어 문장", "한국어 문장"),
        ("𠀀𠀁x", "𠀀 𠀁 x"),
        ("x² + y", "x2 y"),
    ],
)
def test_words_are_parted_as_documented(text: str, same_words: str) -> None:
    assert sets_of([text], n=1) == [sorted(shingle_set(same_words.split(), 1))]


def test_short_documents_never_borrow_words_from_a_neighbour() -> None:
    alone = [sets_of([text])[0] for text in ["one two", "three four five six seven eight", "nine"]]
    assert sets_of(["one two", "three four five six seven eight", "nine"]) == alone
    assert [len(found) for found in alone] == [1, 2, 1]


def test_empty_texts_have_no_shingle() -> None:
    assert sets_of(["", " \t\n", "--- ... !!!", "a"]) == [[], [], [], sets_of(["a"])[0]]
    assert sets_of([]) == []


def test_lone_surrogates_and_controls_are_read() -> None:
    assert len(sets_of(["ok \ud800 ok\x00ok"], n=1)[0]) == 2


def test_characters_and_token_ids_make_shingles_too() -> None:
    assert sets_of(["Ab  c"], unit="character", n=2) == sets_of(["aB\nC "], unit="character", n=2)
    assert len(sets_of(["abcd"], unit="character", n=2)[0]) == 3
    flat, offsets = shingle_hashes([[5, 6, 7], [], [7, 6, 5], [0]], MinHashConfig(unit="token_id", n=1))
    assert offsets.tolist() == [0, 3, 3, 6, 7]
    assert set(flat[:3]) == set(flat[3:6])


def test_chunks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text number {index} of a few words more" for index in range(50)]
    whole = shingle_hashes(texts, MinHashConfig())
    monkeypatch.setattr(shingles, "_CHUNK_CHARACTERS", 100)
    for left, right in zip(whole, shingle_hashes(texts, MinHashConfig()), strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_config_loads_no_compiler() -> None:
    code = "import sys, alignray.dedup.config; sys.exit('numba' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
