import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from alignray.dedup.bands import band_keys, candidate_pairs
from alignray.dedup.config import MinHashConfig
from alignray.dedup.near_duplicates import near_duplicates
from alignray.dedup.shingles import shingle_hashes
from alignray.dedup.signatures import exact_jaccard, signatures

ORIGINAL = MinHashConfig(unit="token_id", n=1, bands=14, verify="none")


def tokens(start: int, stop: int) -> list[int]:
    return [0, *range(start, stop)]  # 0 is the BOS id


def words_as_ids(*texts: str) -> list[list[int]]:
    vocabulary: dict[str, int] = {}
    return [[0] + [vocabulary.setdefault(word, len(vocabulary) + 1) for word in text.split()] for text in texts]


@pytest.mark.parametrize(
    ("documents", "kept"),
    [
        pytest.param([tokens(1, 41), tokens(101, 141)], [True, True], id="disjoint"),
        pytest.param([tokens(1, 41), tokens(1, 41)[::-1]], [True, False], id="reversed words are the same set"),
        pytest.param([tokens(1, 41), tokens(1, 41) * 2], [True, False], id="repetition is invisible to a set"),
        pytest.param([tokens(1, 41), [*tokens(1, 38), 91, 92, 93]], [True, False], id="jaccard 0.86"),
        pytest.param(
            words_as_ids("Rewrite the text in 50 words", "Rewrite the text in 100 words"),
            [True, True],
            id="short, jaccard 0.75",
        ),
        pytest.param(
            [tokens(1, 91), tokens(6, 96), tokens(11, 101), tokens(21, 101) + list(range(200, 210))],
            [True, False, False, False],
            id="removal is transitive",
        ),
    ],
)
def test_the_original_mode_keeps_what_the_authors_code_keeps(documents: list[list[int]], kept: list[bool]) -> None:
    # vectors of the authors' code (WebR, arXiv:2504.15573), words as token ids. The hash family differs from theirs, so
    # the short pair holds for the default seed
    assert near_duplicates(list(range(len(documents))), documents, ORIGINAL).keep.tolist() == kept


def test_planted_articles_are_all_found(data_dir: Path) -> None:
    with gzip.open(data_dir / "neardup" / "articles_1000.jsonl.gz", "rt") as lines:
        articles = {row["id"]: row["text"] for row in map(json.loads, lines)}
    truth = json.loads((data_dir / "neardup" / "articles_1000.truth.json").read_text())
    config = MinHashConfig(n=3, threshold=0.5)
    result = near_duplicates(list(articles), list(articles.values()), config)
    keeper = dict(zip(articles, result.cluster, strict=True))
    assert all(keeper[one] == keeper[other] for one, other in truth)
    assert (~result.keep).sum() == len(truth)


def test_duplicate_paragraphs_are_those_of_dolma(data_dir: Path) -> None:
    folder = data_dir / "neardup"
    with gzip.open(folder / "dolma_provided_deduper_documents_000.json.gz", "rt") as lines:
        documents = [json.loads(line)["text"].split("\n") for line in lines]
    with gzip.open(folder / "dolma_expected_dedupe-paragraphs.json.gz", "rt") as lines:
        spans = [json.loads(line)["attributes"]["bff_duplicate_paragraph_spans"] for line in lines]
    expected = {(number, start) for number, found in enumerate(spans) for start, _, _ in found}
    rows = [
        (number, sum(len(before) + 1 for before in paragraphs[:place]), paragraph)
        for number, paragraphs in enumerate(documents) for place, paragraph in enumerate(paragraphs) if paragraph.strip()
    ]
    result = near_duplicates(list(range(len(rows))), [text for _, _, text in rows], MinHashConfig(threshold=1, bands=8))
    assert {rows[row][:2] for row in np.flatnonzero(~result.keep)} == expected and len(expected) == 43


def edited(base: list[str], num_edits: int, rng: np.random.Generator, tag: str) -> list[str]:
    copy = list(base)
    for place in rng.choice(len(base), num_edits, replace=False):
        copy[place] = f"{tag}e{place}"
    return copy


def test_planted_pairs_above_the_threshold_are_found_as_surely_as_wished() -> None:
    rng = np.random.default_rng(3)
    texts = []
    for pair in range(600):
        base = [f"p{pair}w{index}" for index in range(120)]
        texts += [" ".join(base), " ".join(edited(base, 4 + pair % 3, rng, f"p{pair}"))]
    config = MinHashConfig(recall=0.95)
    flat, offsets = shingle_hashes(texts, config)
    truth = exact_jaccard(flat, offsets, np.arange(1200, dtype=np.int64).reshape(600, 2))
    keys = band_keys(signatures(flat, offsets, config.num_perm, config.seed), *config.split())
    candidates, _ = candidate_pairs(keys, np.arange(1200), config.max_bucket)
    found = {tuple(pair) for pair in candidates.tolist()}
    wanted = [(2 * pair, 2 * pair + 1) for pair in np.flatnonzero((truth >= 0.7) & (truth < 0.75))]
    assert len(wanted) > 100
    num_found = sum(pair in found for pair in wanted)
    assert num_found >= binom.ppf(0.001, len(wanted), config.recall)
    result = near_duplicates(list(range(1200)), texts, config)
    assert not any(result.cluster[2 * pair] == result.cluster[2 * pair + 1] for pair in np.flatnonzero(truth < 0.7))


SENTENCES = [f"s{index} " + " ".join(f"w{index}{word}" for word in range(8)) for index in range(6)]
documents = st.lists(st.lists(st.sampled_from(SENTENCES), max_size=4).map(" ".join), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(documents, st.randoms(use_true_random=False), st.sampled_from(["exact", "estimate", "none"]))
def test_the_result_is_blind_to_order_and_stands_when_repeated(texts: list[str], random: object, verify: str) -> None:
    config = MinHashConfig(threshold=0.5, verify=verify, max_bucket=3)  # type: ignore[arg-type]
    ids = [f"id{index:02d}" for index in range(len(texts))]
    result = near_duplicates(ids, texts, config)
    cluster = dict(zip(ids, result.cluster, strict=True))

    order = list(range(len(ids)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = near_duplicates([ids[row] for row in order], [texts[row] for row in order], config)
    assert {ids[row]: keeper for row, keeper in zip(order, shuffled.cluster, strict=True)} == cluster

    kept_ids = [row for row, keep in zip(ids, result.keep, strict=True) if keep]
    kept_texts = [text for text, keep in zip(texts, result.keep, strict=True) if keep]
    if result.stats.capped == 0:  # a smaller corpus may fall under the cap and be compared more fully
        assert near_duplicates(kept_ids, kept_texts, config).keep.all()
    assert set(result.cluster) == set(kept_ids)
    assert (sum(cluster[row] == row for row in ids)) == len(kept_ids)


@settings(max_examples=40, deadline=None)
@given(documents, st.integers(1, 11))
def test_signatures_do_not_depend_on_how_the_texts_are_parted(texts: list[str], cut: int) -> None:
    config = MinHashConfig()

    def signed(part: list[str]) -> np.ndarray:
        return signatures(*shingle_hashes(part, config), config.num_perm, config.seed)

    np.testing.assert_array_equal(signed(texts), np.concatenate([signed(texts[:cut]), signed(texts[cut:])]))


def test_empty_texts_are_kept_and_counted_and_the_best_score_stays() -> None:
    text = "a page of enough words to make a few shingles of five"
    result = near_duplicates(["a", "b", "c", "d"], ["", text, text.upper(), "!"], MinHashConfig(), scores=[0, 1, 2, 0])
    assert result.keep.tolist() == [True, False, True, True]
    assert result.cluster == ["a", "c", "c", "d"]
    assert result.cluster_size.tolist() == [1, 2, 2, 1]
    assert result.stats.num_empty == 2
    assert result.stats.verified == 1


def test_thousands_of_copies_are_one_cluster_though_their_buckets_are_capped() -> None:
    text = "the same page of boilerplate that half of the crawl repeats word for word"
    result = near_duplicates(list(range(3000)), [text] * 3000, MinHashConfig())
    assert result.keep.sum() == 1 and result.keep[0]
    assert result.stats.capped == result.stats.bands
    assert result.stats.candidates < 2 * 3000


def test_false_candidates_are_thrown_out_by_the_check() -> None:
    one = [f"w{index}" for index in range(60)]
    texts = [" ".join(one), " ".join(one[:33] + [f"x{index}" for index in range(27)])]
    loose = MinHashConfig(bands=128, verify="none")
    assert near_duplicates([0, 1], texts, loose).keep.tolist() == [True, False]
    assert near_duplicates([0, 1], texts, loose.model_copy(update={"verify": "exact"})).keep.tolist() == [True, True]
    assert near_duplicates([0, 1], texts, loose.model_copy(update={"verify": "estimate"})).keep.tolist() == [True, True]
