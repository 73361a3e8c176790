import numpy as np
import pytest
from datasketch import MinHash

from alignray.dedup.config import MinHashConfig
from alignray.dedup.shingles import shingle_hashes
from alignray.dedup.signatures import estimated_jaccard, exact_jaccard, signatures

CONFIG = MinHashConfig(n=1)


def planted(jaccard: float, size: int, tag: str) -> tuple[str, str, float]:
    """Two texts of ``size`` distinct words each, and the Jaccard similarity of their word sets."""
    shared = round(2 * size * jaccard / (1 + jaccard))
    common = [f"{tag}c{index}" for index in range(shared)]
    sides = [" ".join(common + [f"{tag}{side}{index}" for index in range(size - shared)]) for side in "ab"]
    return sides[0], sides[1], shared / (2 * size - shared)


def test_exact_jaccard_meets_python_sets() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 40, rng.integers(0, 60))) for _ in range(40)]
    pairs = np.array([(left, right) for left in range(40) for right in range(left)], np.int64)
    flat, offsets = shingle_hashes(texts, CONFIG)
    found = exact_jaccard(flat, offsets, pairs)
    for (left, right), similarity in zip(pairs, found, strict=True):
        one, other = set(texts[left].split()), set(texts[right].split())
        assert similarity == pytest.approx(len(one & other) / len(one | other) if one | other else 0.0)


def test_the_estimate_errs_no_more_than_its_own_bound_and_than_datasketch() -> None:
    jaccards = np.linspace(0.02, 0.98, 200)
    cases = [planted(jaccard, 80, f"d{index}") for index, jaccard in enumerate(jaccards)]
    texts = [text for one, other, _ in cases for text in (one, other)]
    truth = np.array([similarity for _, _, similarity in cases])
    flat, offsets = shingle_hashes(texts, CONFIG)
    pairs = np.arange(400, dtype=np.int64).reshape(200, 2)
    np.testing.assert_allclose(exact_jaccard(flat, offsets, pairs), truth)
    ours = estimated_jaccard(signatures(flat, offsets, 128, seed=1), pairs) - truth
    peers = MinHash.bulk([[word.encode() for word in text.split()] for text in texts], num_perm=128)
    theirs = np.array([peers[2 * row].jaccard(peers[2 * row + 1]) for row in range(200)]) - truth
    assert np.abs(ours).mean() <= 1 / np.sqrt(128)
    assert np.abs(ours).mean() <= 1.25 * np.abs(theirs).mean()
    # unbiased: the mean error stays within three standard errors of zero
    assert abs(ours.mean()) <= 3 * np.sqrt((truth * (1 - truth)).mean() / 128 / 200)


def test_values_are_fixed_and_equal_the_documented_formula() -> None:
    flat, offsets = shingle_hashes(["the quick brown fox", ""], MinHashConfig(n=2))
    found = signatures(flat, offsets, 4, seed=1)
    mask = (1 << 64) - 1

    def sequence(index: int) -> int:
        value = (1 + (index + 1) * 0x9E3779B97F4A7C15) & mask
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
        value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
        return value ^ value >> 31

    formula = [
        min(((sequence(2 * p) | 1) * int(shingle) + sequence(2 * p + 1) & mask) >> 32 for shingle in flat) for p in range(4)
    ]
    assert found[0].tolist() == formula
    assert found[1].tolist() == [0xFFFFFFFF] * 4
    np.testing.assert_array_equal(signatures(flat, offsets, 9, seed=1)[:, :4], found)
    assert found[0].tolist() != signatures(flat, offsets, 4, seed=2)[0].tolist()
