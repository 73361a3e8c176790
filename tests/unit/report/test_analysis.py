from __future__ import annotations

import json

import numpy as np
import pytest

from alignray.errors import RecordError
from alignray.report.analysis import analyze, diversity, summarize_ratings, token_length_statistics
from alignray.schema.tokens import estimate_tokens
from tests.runfolders import make_rows


def pairwise_diversity(vectors: np.ndarray) -> float:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    return 1 - float(cosines[np.triu_indices(len(unit), k=1)].mean())


def test_diversity_is_the_mean_over_all_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 8)) + 0.3
    found = diversity(vectors)
    assert found is not None
    assert found["diversity"] == pytest.approx(pairwise_diversity(vectors), abs=1e-5)
    assert found["low"] < found["diversity"] < found["high"]
    assert found["vectors"] == 60


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    # unit vectors of mean m have expected cosine |m|^2 between two independent draws
    population = rng.normal(size=(4000, 6)) + 0.4
    truth = pairwise_diversity(population)
    hits = 0
    for trial in range(40):
        found = diversity(population[rng.choice(4000, 80, replace=False)], seed=trial, num_resamples=100)
        assert found is not None
        hits += found["low"] <= truth <= found["high"]
    assert hits >= 33


def test_diversity_of_equal_and_of_opposite_vectors() -> None:
    same = diversity(np.ones((5, 3)))
    assert same is not None and same["diversity"] == pytest.approx(0, abs=1e-6)
    opposite = diversity([[1.0, 0.0], [-2.0, 0.0]])
    assert opposite is not None and opposite["diversity"] == pytest.approx(2)
    with_zero = diversity([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    assert with_zero is not None and with_zero["diversity"] == pytest.approx(1)


def test_diversity_is_the_same_each_time_and_refuses_what_is_no_matrix() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 4))
    assert diversity(vectors, seed=3) == diversity(vectors, seed=3)
    assert diversity([]) is None
    assert diversity([[1.0, 2.0]]) is None
    with pytest.raises(RecordError, match="embed the instructions again"):
        diversity([[1.0, float("nan")], [1.0, 2.0]])
    with pytest.raises(RecordError, match=r"\[N, D\]"):
        diversity([1.0, 2.0, 3.0])


def test_token_lengths_count_the_request_the_turn_and_the_answer() -> None:
    rows = make_rows(90, hostile=False)
    lengths = token_length_statistics(rows)
    expected = [estimate_tokens(row.instruction) for row in rows]
    summary = lengths["instruction"]
    assert summary is not None
    assert (summary["count"], summary["min"], summary["max"]) == (90, min(expected), max(expected))
    assert summary["mean"] == pytest.approx(np.mean(expected))
    assert summary["std"] == pytest.approx(np.std(expected))
    assert summary["p50"] == pytest.approx(np.median(expected))
    assert lengths["prompt"]["mean"] > lengths["instruction"]["mean"]
    for one in lengths.values():
        assert sum(one["histogram"]["counts"]) + one["histogram"]["over"] == 90


def test_without_rows_there_are_no_lengths() -> None:
    assert token_length_statistics([]) == {"instruction": None, "prompt": None, "response": None}


def test_unreadable_ratings_are_in_no_mean() -> None:
    ratings = [
        {"quality": "Excellent", "difficulty": "hard"}, {"quality": " very  poor ", "difficulty": "great"},
        {"quality": None, "difficulty": "easy"}, {},
    ]
    found = summarize_ratings(ratings)
    assert found["quality"]["levels"] == {"very poor": 1, "poor": 0, "average": 0, "good": 0, "excellent": 1}
    assert found["quality"] | {"levels": {}} == {"levels": {}, "scored": 2, "unscored": 2, "mean": 3.0}
    assert found["difficulty"]["mean"] == pytest.approx((4 + 2) / 2)
    assert summarize_ratings([])["quality"]["mean"] is None


def test_analysis_is_json_and_needs_only_rows() -> None:
    rows = make_rows(30)
    found = analyze(iter(rows))
    assert json.loads(json.dumps(found)) == found
    assert (found["rows"], found["diversity"], found["ratings"]) == (30, None, None)
    assert found["branches"] == {"instruction": 20, "response": 10}
    assert found["verb_nouns"]["total"] == 30
    full = analyze(rows, np.eye(4), [{"quality": "good", "difficulty": "easy"}])
    assert full["diversity"]["diversity"] == pytest.approx(1)
    assert full["ratings"]["quality"]["scored"] == 1
    assert analyze([])["rows"] == 0
