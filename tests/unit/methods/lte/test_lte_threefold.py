"""Threefold: how many neighbours, which ones, and where the exact fact stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.methods.lte import LTEConfig, Neighbour, ThreefoldConfig, num_neighbours, select_neighbours, show, style_draw
from alignray.methods.lte.threefold import STYLES
from alignray.schema import EditDraft, Rewrite

ORIGINAL = LTEConfig.model_validate({"preset": "original"}).threefold
MEMORY = [("A is x", "A"), ("A is y", "A"), ("B is x", "B"), ("C is x", "C"), ("A was z", "A"), ("D is q", "D")]
"""The vectors' facts by number."""
REWRITES = (Rewrite("A", "{} is", "A is", "x"),)


def candidates(order: list[int]) -> list[Neighbour]:
    return [Neighbour(str(n), MEMORY[n][0], 1 - place / 10, MEMORY[n][1]) for place, n in enumerate(order)]


def draft(number: int = 0, *, edit: str = "0", source: Any = "zsre") -> EditDraft:
    return EditDraft(f"d{number}", edit, source, "in_scope", "edit", ("A is x",), "A", "What is A?", "x", "w")


def picked(order: list[int], num: int, config: ThreefoldConfig, row_id: str = "d", rewrites: Any = REWRITES) -> list[str]:
    found = select_neighbours(
        candidates(order), num, edit_id="0", facts=("A is x",), rewrites=rewrites, config=config, seed=3, row_id=row_id,
    )
    return [neighbour.fact for neighbour in found]


def test_draws_mean_the_styles_of_the_vectors(spec_vectors: Callable[[str], Any]) -> None:
    names = ("exact only", "exact + 1", "exact + 2")
    for case in spec_vectors("lte")["threefold"]["draws"]:
        assert names[num_neighbours(case["draw"], ThreefoldConfig())] == case["style"]


def test_selections_are_those_of_the_vectors(spec_vectors: Callable[[str], Any]) -> None:
    for case in spec_vectors("lte")["threefold"]["selection"]:
        order, num = case["similarity_order"], case["num"]
        assert picked(order, num, ThreefoldConfig()) == case["thesis_selection"]
        pool = {fact for row in range(40) for fact in picked(order, num, ORIGINAL, f"row {row}")}
        if case["original_candidate_pool"] is not None:
            assert pool == set(case["original_candidate_pool"])
        else:
            assert len(pool) < num and draw_of(ORIGINAL, order, num).facts == ("A is x",)


def draw_of(config: ThreefoldConfig, order: list[int], num: int) -> Any:
    """What is shown to a draft whose draw asks for ``num`` neighbours."""
    wanted = next(d for d in map(draft, range(100)) if num_neighbours(style_draw(d, config.model_copy(update={"draw_per": "query"}),
                                                                               seed=3), config) == num)
    return show(wanted, candidates(order), config.model_copy(update={"draw_per": "query"}), rewrites=REWRITES, seed=3)


def test_half_of_the_prompts_get_none_a_quarter_one_and_a_quarter_two() -> None:
    counts = Counter(num_neighbours(style_draw(draft(n), ThreefoldConfig(), seed=1), ThreefoldConfig()) for n in range(20_000))
    # five standard deviations of a share of 20,000
    assert abs(counts[0] / 20_000 - 0.5) < 0.018 and abs(counts[1] / 20_000 - 0.25) < 0.016 and abs(counts[2] / 20_000 - 0.25) < 0.016


def test_queries_of_an_edit_draw_for_themselves_and_share_one_draw_in_the_original() -> None:
    assert len({style_draw(draft(n), ThreefoldConfig(), seed=1) for n in range(9)}) == 9
    assert len({style_draw(draft(n), ORIGINAL, seed=1) for n in range(9)}) == 1


def test_the_exact_fact_stands_anywhere_and_first_in_the_original() -> None:
    places: Counter[int] = Counter()
    for number in range(3000):
        shown = show(draft(number), candidates([2, 3, 5]), ThreefoldConfig(shares=(0, 0, 1)), rewrites=REWRITES, seed=1)
        assert sorted(shown.facts) == ["A is x", "B is x", "C is x"] and shown.retrieved == ("2", "3")
        assert dict(zip(shown.facts, shown.places, strict=True)) == {"A is x": "0", "B is x": "2", "C is x": "3"}
        places[shown.facts.index("A is x")] += 1
    assert all(abs(places[place] - 1000) < 130 for place in range(3))  # five standard deviations
    first = ORIGINAL.model_copy(update={"shares": (0, 0, 1)})
    assert {show(draft(n, edit=str(n)), candidates([2, 3, 5]), first, rewrites=REWRITES, seed=1).facts[0] for n in range(50)} == {"A is x"}


def test_what_is_excluded_grows_from_the_fact_itself_to_its_subject() -> None:
    near = [
        Neighbour("0", "A is x", 0.9, "A", "{} is"), Neighbour("1", "a is y", 0.8, "a", "{} is"),
        Neighbour("4", "A was z", 0.7, "A", "{} was"), Neighbour("7", "A is x", 0.6, "E", "{} is"),
        Neighbour("2", "B is x", 0.5, "B", "{} is"),
    ]
    kept = {
        exclude: [neighbour.row_id for neighbour in select_neighbours(
            near, 5, edit_id="0", facts=("A is x",), rewrites=REWRITES, config=ThreefoldConfig(exclude=exclude), seed=1, row_id="d",
        )]
        for exclude in ("same_fact", "conflicting", "same_subject")
    }
    assert kept == {"same_fact": ["1", "4", "2"], "conflicting": ["4", "2"], "same_subject": ["2"]}


def test_a_fact_that_is_there_twice_is_shown_once() -> None:
    twice = [Neighbour("5", "D is q", 0.9, "D"), Neighbour("6", "D is q", 0.8, "D"), Neighbour("2", "B is x", 0.7, "B")]
    shown = show(draft(), twice, ThreefoldConfig(shares=(0, 0, 1)), rewrites=REWRITES, seed=1)
    assert shown.retrieved == ("5", "2")


def test_too_few_neighbours_are_shown_and_counted_or_none_at_all() -> None:
    config = ThreefoldConfig(shares=(0, 0, 1))
    fewer = show(draft(), candidates([0, 2]), config, rewrites=REWRITES, seed=1)
    assert (sorted(fewer.facts), fewer.num_short, fewer.style) == (["A is x", "B is x"], 1, "exact_and_2")
    bare = show(draft(), candidates([0, 2]), config.model_copy(update={"when_short": "exact_only"}), rewrites=REWRITES, seed=1)
    assert (bare.facts, bare.retrieved, bare.num_short) == (("A is x",), (), 2)


def test_the_original_leaves_two_data_sets_out_and_the_thesis_none() -> None:
    always = {"shares": (0, 0, 1)}
    for source, original in (("mquake", ()), ("counterfact", ()), ("zsre", ("2", "3"))):
        found = [show(draft(source=source), candidates([2, 3]), config.model_copy(update=always), rewrites=REWRITES, seed=1).retrieved
                 for config in (ThreefoldConfig(), ORIGINAL)]
        assert found == [("2", "3"), original]


@given(st.permutations(range(6)), st.integers(0, 50))
def test_the_same_draft_sees_the_same_facts_and_never_its_own_twice(order: list[int], number: int) -> None:
    for config in (ThreefoldConfig(), ORIGINAL):
        shown = show(draft(number), candidates(list(order)), config, rewrites=REWRITES, seed=2)
        assert shown == show(draft(number), candidates(list(order)), config, rewrites=REWRITES, seed=2)
        assert shown.facts.count("A is x") == 1 and len(set(shown.facts)) == len(shown.facts) == 1 + len(shown.retrieved)
        assert len(shown.retrieved) + shown.num_short == STYLES.index(shown.style)


def test_shares_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match="their sum 1"):
        ThreefoldConfig(shares=(0.5, 0.5, 0.5))
