"""Ids and draws: the same on every machine and in every release, uniform, and apart from each other."""

from __future__ import annotations

import hashlib
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, pearsonr

from alignray.seeding import draw, pick, rng_for, row_id_of, row_id_of_json, unit_draw

IDS = [f"row-{n}" for n in range(20_000)]


def test_an_id_is_blake2b_of_the_length_prefixed_parts() -> None:
    by_hand = hashlib.blake2b(b"\x02\0\0\0\0\0\0\0ab" + b"\x01\0\0\0\0\0\0\0c", digest_size=16).hexdigest()
    assert row_id_of("ab", "c") == by_hand


def test_golden_values_never_change() -> None:
    assert row_id_of("<urn:uuid:1>", "sha1:ABC") == "80af762ac6f4e93aa63ade01a8088c28"
    assert row_id_of_json({"b": [1, None], "a": "\u00e9"}) == "46ee1bb8a4f0de0de6d0fb94306553f8"
    assert draw(0, "row", "webr/branch") == 7907955489418936166
    assert unit_draw(7, "row", "webr/part") == 0.5501338061708024
    assert rng_for(7, "row", "plan").random() == 0.24462011570077036


@given(st.lists(st.text(), min_size=1, max_size=4), st.lists(st.text(), min_size=1, max_size=4))
def test_other_parts_give_another_id(left: list[str], right: list[str]) -> None:
    assert (row_id_of(*left) == row_id_of(*right)) == (left == right)


def test_lone_surrogates_have_an_id_too() -> None:
    assert row_id_of("\ud800") != row_id_of("?")


def test_the_order_of_keys_does_not_change_an_id() -> None:
    assert row_id_of_json({"a": 1, "b": {"c": 2, "d": 3}}) == row_id_of_json({"b": {"d": 3, "c": 2}, "a": 1})
    assert row_id_of_json({"a": 1}) != row_id_of_json({"a": "1"})


def test_draws_are_uniform() -> None:
    draws = [unit_draw(0, row_id, "test") for row_id in IDS]
    assert all(0 <= value < 1 for value in draws)
    assert kstest(draws, "uniform").pvalue > 1e-3


def test_picks_are_uniform() -> None:
    counts = Counter(pick(0, row_id, "word", ("request", "question", "instruction")) for row_id in IDS)
    assert chisquare(list(counts.values())).pvalue > 1e-3 and len(counts) == 3


def test_draws_of_other_purposes_and_seeds_have_nothing_in_common() -> None:
    base = [unit_draw(0, row_id, "webr/branch") for row_id in IDS]
    for other in ([unit_draw(0, row_id, "webr/part") for row_id in IDS], [unit_draw(1, row_id, "webr/branch") for row_id in IDS]):
        assert abs(pearsonr(base, other).statistic) < 4 / len(IDS) ** 0.5
        assert not set(base) & set(other)


def test_a_generator_continues_the_same_way_each_time() -> None:
    first, second = rng_for(3, "row", "plan"), rng_for(3, "row", "plan")
    assert [first.random() for _ in range(5)] == [second.random() for _ in range(5)]
    assert rng_for(3, "row", "other").random() != rng_for(3, "row", "plan").random()
