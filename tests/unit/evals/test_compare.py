from alignray.evals.compare import NOT_SEPARABLE, compare, compare_runs, rank
from alignray.schema import Score, ScoredItem


def run(name: str, values: list[float | None], *, benchmark: str = "bench", metric: str = "hit") -> list[ScoredItem]:
    return [
        ScoredItem(
            f"{name}-{key}", name, benchmark, str(key), str(key), "", (), "{}", (),
            (Score(metric, value or 0.0, problem="unreadable" if value is None else ""),),
        )
        for key, value in enumerate(values)
    ]


GOOD = run("good", [1.0] * 38 + [0.0] * 2)
FAIR = run("fair", [1.0] * 36 + [0.0] * 4)
POOR = run("poor", [0.0] * 30 + [1.0] * 10)


def test_candidates_are_compared_on_common_items_only() -> None:
    found = compare(run("a", [1.0, None, 1.0, 0.0]), run("b", [0.0, 1.0, None, 0.0, 1.0]), "hit")
    assert found.test.difference.num == 2 and found.test.difference.value == 0.5 and found.num_left_out == 3
    assert (found.first, found.second, found.benchmark) == ("a", "b", "bench")


def test_an_interval_over_zero_is_not_separable_in_either_direction() -> None:
    assert compare(GOOD, FAIR, "hit").verdict == compare(FAIR, GOOD, "hit").verdict == NOT_SEPARABLE
    assert compare(GOOD, POOR, "hit").verdict == compare(POOR, GOOD, "hit").verdict == "good"
    nothing = compare(run("a", [None]), run("b", [1.0]), "hit")
    assert nothing.verdict == NOT_SEPARABLE and nothing.test.difference.value is None


def test_a_ranking_is_refused_where_it_cannot_be_said() -> None:
    found = rank({"fair": FAIR, "poor": POOR, "good": GOOD}, "hit")
    assert found.tiers == (("good", "fair"), ("poor",)) and not found.is_full
    assert found.statement == "good = fair > poor (not separable)" and found.num_items == 40 and len(found.comparisons) == 3
    full = rank({"poor": POOR, "good": GOOD}, "hit")
    assert full.is_full and full.statement == "good > poor" and full.level == 0.95
    assert rank({"poor": POOR, "good": GOOD}, "hit", higher_is_better=False).tiers == (("poor",), ("good",))


def test_a_chain_of_neighbours_that_overlap_is_one_tier() -> None:
    ladder = {f"m{step}": run(f"m{step}", [1.0] * (10 + 3 * step) + [0.0] * (30 - 3 * step)) for step in range(5)}
    found = rank(ladder, "hit", level=0.999)
    assert found.tiers == (("m4", "m3", "m2", "m1", "m0"),)  # the ends may differ; the middle ties them
    assert 0.999 < found.level < 1


def test_more_candidates_ask_for_more_of_each_pair() -> None:
    assert rank({"a": GOOD, "b": FAIR, "c": POOR}, "hit").level == 1 - (1 - 0.95) / 3


def test_candidates_without_a_common_item_are_not_ranked() -> None:
    found = rank({"a": run("a", [1.0, None]), "b": run("b", [None, 1.0])}, "hit")
    assert found.tiers == (("a", "b"),) and found.means == {} and found.num_items == 0
    assert rank({}, "hit").tiers == ()


def test_runs_are_compared_metric_by_metric() -> None:
    first = GOOD + run("good", [1.0, 0.5], benchmark="other", metric="depth") + run("good", [1.0], benchmark="alone")
    second = POOR + run("poor", [0.0, 0.5], benchmark="other", metric="depth")
    found = compare_runs(first, second)
    assert [(one.benchmark, one.metric) for one in found] == [("bench", "hit"), ("other", "depth")]
    assert found[0].verdict == "good" and found[1].verdict == NOT_SEPARABLE
