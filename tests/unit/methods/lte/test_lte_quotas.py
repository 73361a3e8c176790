"""Quotas: Table C.1 to the pair, the same pairs whatever the order, and a shortfall that is said."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.methods.lte import LTEConfig, QuotaConfig, num_examples, select_pairs, shortfalls, wanted_pairs
from alignray.methods.lte.quotas import Shortfall, cell_of
from alignray.schema import Answer, Edit, EditDraft, Probe

PER_CELL = {"zsre": 1000, "ripple_edits": 2250, "wikibio": 250, "mquake": 4000, "counterfact": 7500}


def draft(source: Any, kind: Any, number: int, *, edit: int | None = None, asks: tuple[str, ...] = ()) -> EditDraft:
    return EditDraft(
        f"{source}/{kind}/{number}/{edit}", f"{source}-{number if edit is None else edit}", source, kind, "edit", ("F",), "S", asks=asks,
    )


SOURCES = ("zsre", "wiki_recent", "wiki_counterfact", "wikibio", "mquake", "counterfact")


def supply(num: int, sources: tuple[str, ...] = SOURCES) -> list[EditDraft]:
    return [
        draft(source, "free_text" if (source, scope) == ("counterfact", "in_scope") else scope, number)
        for source in sources for scope in ("in_scope", "out_of_scope") for number in range(num)
    ]


def test_table_c1_is_fifteen_thousand_in_each_of_four_cells() -> None:
    wanted = wanted_pairs(QuotaConfig())
    assert wanted == {(group, scope): size for group, size in PER_CELL.items() for scope in ("in_scope", "out_of_scope")}
    assert sum(num_examples(QuotaConfig()).values()) == 60_000
    # what the notes say of the authors' threefold: it leaves out 46,000 of 60,000 rows
    assert num_examples(QuotaConfig())["mquake"] + num_examples(QuotaConfig())["counterfact"] == 46_000


def test_exactly_the_table_is_taken_where_there_is_enough() -> None:
    chosen = select_pairs(supply(7600), QuotaConfig(), seed=1)
    assert Counter(map(cell_of, chosen)) == wanted_pairs(QuotaConfig()) and not shortfalls(chosen, QuotaConfig())
    assert len({draft.row_id for draft in chosen}) == 30_000


def test_ripple_edits_takes_from_its_two_data_sets_alike() -> None:
    chosen = [d for d in select_pairs(supply(3000), QuotaConfig(scale=0.1), seed=1) if cell_of(d) == ("ripple_edits", "in_scope")]
    by_source = Counter(d.source for d in chosen)
    assert len(chosen) == 225 and abs(by_source["wiki_recent"] - by_source["wiki_counterfact"]) == 1


def test_a_data_set_that_gives_less_is_filled_up_by_its_other_half() -> None:
    drafts = [draft("wiki_recent", "in_scope", n) for n in range(10)] + [draft("wiki_counterfact", "in_scope", n) for n in range(500)]
    assert Counter(d.source for d in select_pairs(drafts, QuotaConfig(scale=0.1), seed=1)) == {"wiki_recent": 10, "wiki_counterfact": 215}


@pytest.mark.parametrize("seed", range(8))
def test_an_edit_with_many_queries_does_not_crowd_others_out(seed: int) -> None:
    drafts = [draft("zsre", "in_scope", n, edit=0) for n in range(500)] + [draft("zsre", "in_scope", n) for n in range(1, 10)]
    chosen = select_pairs(drafts, QuotaConfig(scale=0.01), seed=seed)
    assert len(chosen) == 10 and len({d.edit_id for d in chosen}) == 10


def test_what_is_missing_is_said_by_cell() -> None:
    config = QuotaConfig(scale=0.01)
    chosen = select_pairs([*supply(100)][:-30], config, seed=1)
    assert shortfalls(chosen, config) == [Shortfall("counterfact", "out_of_scope", 75, 70)]


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_choice_is_blind_to_the_order_and_a_larger_table_only_adds(seed: int, shuffler: random.Random) -> None:
    drafts = supply(40)
    small = select_pairs(drafts, QuotaConfig(scale=0.002), seed=seed)
    shuffler.shuffle(drafts)
    assert select_pairs(drafts, QuotaConfig(scale=0.002), seed=seed) == small
    assert {d.row_id for d in small} <= {d.row_id for d in select_pairs(drafts, QuotaConfig(scale=0.004), seed=seed)}


def test_pairs_that_a_model_is_asked_for_are_taken_in_surplus_and_trimmed_when_finished() -> None:
    config = QuotaConfig(scale=0.1)
    drafts = [draft("counterfact", "free_text", n, asks=("lte/query",)) for n in range(2000)]
    asked = select_pairs(drafts, config, seed=1, drop_rate=0.15)
    assert len(asked) == 883  # 750 / 0.85, rounded up
    assert len(select_pairs(supply(2000, ("counterfact",)), config, seed=1, drop_rate=0.15)) == 2 * 750
    assert len(select_pairs(asked, config, seed=1)) == 750
    with pytest.raises(ValueError, match="drop_rate=1"):
        select_pairs(drafts, config, seed=1, drop_rate=1)


def probes(kind: str, num: int) -> tuple[Probe, ...]:
    return tuple(Probe(kind, f"{kind} {n}", (Answer("a"),)) for n in range(num))


def test_the_original_takes_records_whole_until_both_scopes_are_equally_many() -> None:
    config = LTEConfig.model_validate({"preset": "original", "quotas": {"original_stop": 3}}).quotas
    # in-scope and out-of-scope queries record by record: 2+1, 1+1, 1+2 makes 4 and 4; the last is never reached
    sizes = [(2, 1), (1, 1), (1, 2), (5, 5)]
    edits = [Edit(f"wiki_recent-{n}", "wiki_recent", "S", "R", "P", "T", ("F",)) for n in range(4)]
    drafts = [
        draft("wiki_recent", scope, 10 * n + k, edit=n)
        for n, counts in enumerate(sizes) for scope, num in zip(("in_scope", "out_of_scope"), counts, strict=True) for k in range(num)
    ]
    chosen = select_pairs(drafts, config, seed=1, edits=edits)
    assert Counter(d.kind for d in chosen) == {"in_scope": 4, "out_of_scope": 4} and not any(d.edit_id.endswith("3") for d in chosen)
    assert not [short for short in shortfalls(chosen, config) if short.group == "ripple_edits"]


def test_the_original_goes_through_wiki_counterfact_by_falling_number_of_kinds() -> None:
    config = QuotaConfig(ripple_edits_rule="original", original_stop=0)
    few = Edit("wiki_counterfact-0", "wiki_counterfact", "S", "R", "P", "T", ("F",), locality=probes("Relation_Specificity", 9))
    many = Edit("wiki_counterfact-1", "wiki_counterfact", "S", "R", "P", "T", ("F",), portability=probes("Reasoning", 1),
                locality=probes("Relation_Specificity", 1))
    drafts = [draft("wiki_counterfact", scope, n, edit=n) for n in range(2) for scope in ("in_scope", "out_of_scope")]
    chosen = select_pairs(drafts, config, seed=1, edits=[few, many])
    assert {d.edit_id for d in chosen} == {"wiki_counterfact-1"}
