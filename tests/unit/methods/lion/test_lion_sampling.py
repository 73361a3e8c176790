"""Drawings: the exact share in every prefix, no parent twice before all were used, and the same whatever the order and the waves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import RecordError
from alignray.methods.lion import LionConfig, drawings
from alignray.schema import Candidate, LionDraft
from alignray.seeding import row_id_of


def drafts(kind: str, num: int) -> list[LionDraft]:
    return [LionDraft(row_id_of(kind, str(n)), f"{kind} {n}", "seed", 0, category=kind.upper()) for n in range(num)]


HARD, EASY = drafts("hard", 7), drafts("easy", 11)


def draw(
    num: int, start: int = 0, hard: list[LionDraft] = HARD, easy: list[LionDraft] = EASY, rate: float = 0.5, round: int = 1, seed: int = 0,
) -> list[Candidate]:
    return drawings(hard, easy, round=round, start=start, num=num, config=LionConfig(hard_rate=rate), seed=seed)


@given(st.integers(0, 100).map(lambda percent: percent / 100), st.integers(0, 120))
def test_every_prefix_has_the_share_up_to_rounding(rate: float, num: int) -> None:
    found = draw(num, rate=rate)
    assert [candidate.number for candidate in found] == list(range(num))
    hard = 0
    for n, candidate in enumerate(found, 1):
        hard += candidate.origin == "hard"
        assert 0 <= hard - n * rate + 1e-9 < 1


def test_one_to_one_takes_turns_and_hard_or_easy_only_are_that() -> None:
    assert [candidate.origin for candidate in draw(4)] == ["hard", "easy", "hard", "easy"]
    assert {candidate.origin for candidate in draw(30, rate=1.0)} == {"hard"}
    assert {candidate.origin for candidate in draw(30, rate=0.0)} == {"easy"}
    assert Counter(candidate.origin for candidate in draw(6000, rate=0.5)) == {"hard": 3000, "easy": 3000}
    assert Counter(candidate.origin for candidate in draw(1000, rate=0.3)) == {"hard": 300, "easy": 700}


def test_where_one_kind_is_missing_all_are_of_the_other() -> None:
    assert {candidate.origin for candidate in draw(9, hard=[])} == {"easy"}
    assert {candidate.origin for candidate in draw(9, easy=[], rate=0.0)} == {"hard"}
    with pytest.raises(RecordError, match="round 1: no hard and no easy instruction to draw from"):
        draw(1, hard=[], easy=[])


@given(st.randoms(use_true_random=False), st.integers(0, 40), st.integers(0, 40))
def test_order_of_the_input_and_cuts_into_waves_change_nothing(shuffle: object, cut: int, rest: int) -> None:
    hard, easy = HARD[:], EASY[:]
    shuffle.shuffle(hard)  # type: ignore[attr-defined]
    shuffle.shuffle(easy)  # type: ignore[attr-defined]
    assert draw(cut, hard=hard, easy=easy) + draw(rest, cut, hard=hard, easy=easy) == draw(cut + rest)


def test_no_parent_is_used_again_before_all_were_and_each_pass_has_its_own_order() -> None:
    found = [candidate.parent_id for candidate in draw(5 * len(HARD), rate=1.0)]
    passes = [tuple(found[at : at + len(HARD)]) for at in range(0, len(found), len(HARD))]
    assert all(set(one) == {draft.row_id for draft in HARD} for one in passes) and len(set(passes)) > 1


def test_rounds_and_seeds_draw_differently() -> None:
    orders = {tuple(candidate.parent_id for candidate in draw(11, rate=0.0, **which)) for which in ({}, {"round": 2}, {"seed": 1})}
    assert len(orders) == 3


def test_a_drawing_knows_its_parent_and_has_an_id_of_its_own() -> None:
    found = draw(60) + draw(60, round=2)
    assert len({candidate.row_id for candidate in found}) == 120
    by_id = {draft.row_id: draft for draft in [*HARD, *EASY]}
    for candidate in found:
        parent = by_id[candidate.parent_id]
        assert (candidate.parent, candidate.category) == (parent.instruction, parent.category)
        assert parent.category == candidate.origin.upper()
        assert candidate.instruction == "" and candidate.row_id == row_id_of(
            "lion/candidate", parent.row_id, str(candidate.round), str(candidate.number))


def test_drawing_each_kind_by_itself_gives_ids_that_differ() -> None:
    apart = draw(20, easy=[]) + draw(20, hard=[])
    assert len({candidate.row_id for candidate in apart}) == 40
