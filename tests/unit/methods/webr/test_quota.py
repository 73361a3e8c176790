"""How many of each: exact sums, nothing asked for that is not there, the same choice in any order."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.methods.webr import WebRConfig, branch_of, largest_balanced, quotas
from alignray.methods.webr.quota import branch_shares, fill, over_quota, select_pages
from alignray.seeding import row_id_of

SHARES = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 100), min_size=1)
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 90).map(float), min_size=1)
TWO_TO_ONE = branch_shares(WebRConfig())
IDS = [row_id_of(str(n)) for n in range(400)]


# ---- quotas


def test_100000_rows_at_two_to_one_are_the_thesis_numbers() -> None:
    assert quotas(100_000, TWO_TO_ONE) == {"instruction": 66_667, "response": 33_333}
    assert quotas(100_000, TWO_TO_ONE, rounding="floor") == {"instruction": 66_666, "response": 33_333}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 99_999, 100_000, 3_000_000])
def test_rounding_down_never_gives_more_than_the_exact_share(count: int) -> None:
    assert quotas(count, TWO_TO_ONE, rounding="floor") == {"instruction": 2 * count // 3, "response": count // 3}


@given(st.integers(0, 10**7), SHARES)
def test_quotas_sum_exactly_and_are_within_one_of_their_share(count: int, shares: dict[str, float]) -> None:
    found, total = quotas(count, shares), sum(shares.values())
    assert sum(found.values()) == count
    assert all(abs(found[name] - count * share / total) < 1 + 1e-6 for name, share in shares.items())


def test_ties_go_to_the_first_name() -> None:
    assert quotas(1, {"b": 1, "a": 1}) == {"a": 1, "b": 0}
    assert quotas(10, {"c": 1, "b": 1, "a": 1}) == {"a": 4, "b": 3, "c": 3}


def test_shares_of_branches_that_take_no_part_are_left_out() -> None:
    assert branch_shares(WebRConfig(instruction_share=1)) == {"instruction": 1}
    assert branch_shares(WebRConfig(instruction_share=0)) == {"response": 1}


# ---- largest_balanced


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 12)),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 9).map(float), min_size=1),
)
def test_the_most_balanced_rows_are_what_trying_all_finds(available: dict[str, int], shares: dict[str, float]) -> None:
    top = sum(available.values()) + 1
    fits = [n for n in range(top + 1) if all(count <= available.get(name, 0) for name, count in quotas(n, shares).items())]
    assert largest_balanced(available, shares) == max(fits)


def test_balanced_rows_by_hand() -> None:
    assert largest_balanced({"instruction": 66_667, "response": 33_333}, TWO_TO_ONE) == 100_000
    assert largest_balanced({"instruction": 10, "response": 3}, TWO_TO_ONE) == 10  # 7 and 3
    assert largest_balanced({"instruction": 10, "response": 0}, TWO_TO_ONE) == 1  # one row at 2:1 is an instruction
    assert largest_balanced({"response": 5}, {"response": 1.0}) == 5
    assert largest_balanced({}, {}) == 0


# ---- fill


@given(st.integers(0, 300), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 80)), WEIGHTS)
def test_fill_takes_what_is_asked_where_it_can_and_never_more_than_there_is(
    target: int, available: dict[str, int], weights: dict[str, float],
) -> None:
    found = fill(target, available, weights)
    assert found.keys() == weights.keys()
    assert all(0 <= count <= available.get(name, 0) for name, count in found.items())
    assert sum(found.values()) == min(target, sum(available.get(name, 0) for name in weights))


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40)), WEIGHTS)
def test_a_larger_target_never_takes_fewer_of_a_source(available: dict[str, int], weights: dict[str, float]) -> None:
    steps = [fill(target, available, weights) for target in range(60)]
    assert all(after[name] >= before[name] for before, after in itertools.pairwise(steps) for name in weights)


def test_the_alabama_paradox_does_not_happen() -> None:
    """By largest remainders the third source would lose a page here: 2 of 10, but 1 of 11."""
    weights = {"a": 6.0, "b": 6.0, "c": 2.0}
    plenty = dict.fromkeys(weights, 100)
    assert quotas(10, weights)["c"] == 2 and quotas(11, weights)["c"] == 1
    assert fill(10, plenty, weights)["c"] <= fill(11, plenty, weights)["c"]


def test_fill_by_hand() -> None:
    weights = {"crawl": 70.0, "math": 15.0, "code": 15.0}
    assert fill(100, dict.fromkeys(weights, 1000), weights) == {"crawl": 70, "math": 15, "code": 15}
    assert fill(100, {"crawl": 1000, "math": 5, "code": 1000}, weights) == {"crawl": 78, "math": 5, "code": 17}  # 95 at 70:15
    assert fill(100, {"crawl": 1000}, weights) == {"crawl": 100, "math": 0, "code": 0}
    assert fill(10**9, {"crawl": 3, "math": 2, "code": 1}, weights) == {"crawl": 3, "math": 2, "code": 1}


# ---- pages


def chosen(order: list[int], weights: dict[str, float] | None, targets: dict[str, int] | None) -> set[str]:
    sources = ["crawl" if n % 3 else "math" for n in order]
    found = select_pages([IDS[n] for n in order], sources, weights, targets, WebRConfig(), seed=0)
    assert found.tolist() == sorted(set(found.tolist()))
    return {IDS[order[position]] for position in found}


@pytest.mark.parametrize("weights", [None, {"crawl": 3.0, "math": 1.0}])
@pytest.mark.parametrize("targets", [None, {"instruction": 40, "response": 20}])
def test_the_same_pages_are_chosen_in_any_order(weights: dict[str, float] | None, targets: dict[str, int] | None) -> None:
    order = list(range(400))
    first = chosen(order, weights, targets)
    for seed in range(3):
        random.Random(seed).shuffle(order)
        assert chosen(order, weights, targets) == first


@pytest.mark.parametrize("weights", [None, {"crawl": 3.0, "math": 1.0}])
def test_a_larger_target_only_adds_pages(weights: dict[str, float] | None) -> None:
    order = list(range(400))
    steps = [chosen(order, weights, {"instruction": n, "response": n // 2}) for n in range(0, 420, 7)]
    assert all(before <= after for before, after in itertools.pairwise(steps))
    assert len(steps[-1]) > len(steps[0]) == 0


def test_targets_and_weights_are_met_exactly() -> None:
    found = chosen(list(range(400)), {"crawl": 3.0, "math": 1.0}, {"instruction": 40, "response": 20})
    counts = Counter((branch_of(row_id, WebRConfig(), seed=0), "crawl" if IDS.index(row_id) % 3 else "math") for row_id in found)
    assert counts == {
        ("instruction", "crawl"): 30, ("instruction", "math"): 10, ("response", "crawl"): 15, ("response", "math"): 5,
    }


def test_without_weights_and_targets_every_page_is_chosen() -> None:
    assert chosen(list(range(400)), None, None) == set(IDS)


def test_a_source_without_a_weight_is_left_out() -> None:
    found = chosen(list(range(400)), {"crawl": 1.0}, None)
    assert found == {IDS[n] for n in range(400) if n % 3}


# ---- over_quota


def surplus_ids(row_ids: list[str], branches: list[str], wanted: dict[str, int]) -> set[str]:
    return {row_id for row_id, surplus in zip(row_ids, over_quota(row_ids, branches, wanted, seed=0), strict=True) if surplus}


def test_what_is_beyond_the_quota_leaves_exactly_the_quota_in_any_order() -> None:
    branches = [branch_of(row_id, WebRConfig(), seed=0) for row_id in IDS]
    wanted = {"instruction": 100, "response": 50}
    surplus = surplus_ids(IDS, branches, wanted)
    stays = Counter(branch for row_id, branch in zip(IDS, branches, strict=True) if row_id not in surplus)
    assert stays == wanted
    assert surplus_ids(IDS[::-1], branches[::-1], wanted) == surplus


def test_a_larger_quota_only_lets_rows_stay() -> None:
    branches = ["instruction"] * len(IDS)
    steps = [surplus_ids(IDS, branches, {"instruction": n}) for n in range(0, 450, 30)]
    assert all(after <= before for before, after in itertools.pairwise(steps))
    assert steps[0] == set(IDS) and steps[-1] == set()
    assert surplus_ids(IDS, branches, {}) == set(IDS)
