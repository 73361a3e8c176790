"""Which queries an edit gives, with which two answers, and the two training examples that come of them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from alignray.io.preferences import example_of
from alignray.methods.lte import LTEConfig, Shown, build_drafts, examples_of
from alignray.schema import Answer, Edit, EditDraft, EditExample, PlainQuery, Probe, Rewrite, from_row, to_row

DROP: dict[str, Any] = {"scopes": {"plain_answers": "drop", "free_text": "file"}}
ASKED = (Answer("Lyon", ("Lugdunum",)), Answer("Nice"))


def edit(source: Any, number: int = 0, **changes: Any) -> Edit:
    base = Edit(
        f"{source}-{number}", source, f"S{number}", "{} is in", f"S{number} is in", "Bonn", (f"S{number} is in Bonn",),
        ground_truth=(Answer("Rome"),), rephrases=(f"Where is S{number}?",),
        portability=(Probe("Reasoning", f"River of S{number} is", (Answer("Rhine"),)),
                     Probe("Subject_Aliasing", f"The S{number} is in", (Answer("Bonn"),))),
        locality=tuple(Probe("Relation_Specificity", f"Colour {n} of S{number} is", ASKED) for n in range(5)),
    )
    return replace(base, **changes)


def mquake(number: int = 0) -> Edit:
    return edit(
        "mquake", number, locality=(), rephrases=(), facts=("A is in B", "B is in C"), further=(Rewrite("B", "P2", "B is in", "C"),),
        portability=tuple(Probe("Multi_Hop", f"Question {n} of {number}?", (Answer("C"),)) for n in range(3)),
        chain="A is in B. B is in C.", original_chain="A is in X. X is in Y.", original_answers=(Answer("Y"),),
    )


def plain(num: int) -> list[PlainQuery]:
    return [PlainQuery(f"p{n}", f"Plain {n}", f"Answer {n}") for n in range(num)]


def drafts_of(
    edits: list[Edit], queries: list[PlainQuery] | None = None, notes: Counter[str] | None = None, **switches: Any,
) -> list[EditDraft]:
    return build_drafts(edits, queries or [], LTEConfig.model_validate(switches), seed=5, notes=notes)


def shares(drafts: list[EditDraft]) -> Counter[tuple[str, str]]:
    return Counter((draft.kind, draft.aspect) for draft in drafts)


def test_zsre_is_asked_by_its_prompt_in_three_of_ten_edits_and_rephrased_else() -> None:
    drafts = drafts_of([edit("zsre", n) for n in range(2000)])
    in_scope = [draft for draft in drafts if draft.kind == "in_scope"]
    assert len(in_scope) == 2000 and abs(shares(drafts)["in_scope", "edit"] - 600) < 103  # five standard deviations
    assert {(draft.answer, draft.plain_answer, draft.asks) for draft in in_scope} == {("Bonn", "Rome", ())}
    assert {draft.query.endswith("?") for draft in in_scope if draft.aspect == "rephrase"} == {True}


def test_wiki_counterfact_is_asked_by_its_prompt_or_by_all_of_portability() -> None:
    drafts = drafts_of([edit("wiki_counterfact", n) for n in range(500)])
    found = shares(drafts)
    assert found["in_scope", "edit"] + found["in_scope", "Reasoning"] == 500
    assert found["in_scope", "Reasoning"] == found["in_scope", "Subject_Aliasing"] and abs(found["in_scope", "edit"] - 150) < 52
    assert found["out_of_scope", "Relation_Specificity"] == 2500
    alias, reasoning = (next(draft for draft in drafts if draft.aspect == kind) for kind in ("Subject_Aliasing", "Reasoning"))
    assert (alias.plain_answer, alias.asks) == ("Rome", ()) and (reasoning.plain_answer, reasoning.asks) == ("", ("lte/plain",))


def test_wiki_recent_gives_all_of_portability_and_three_of_each_kind_of_locality() -> None:
    found = shares(drafts_of([edit("wiki_recent", ground_truth=())]))
    assert found == {("in_scope", "edit"): 1, ("in_scope", "Reasoning"): 1, ("in_scope", "Subject_Aliasing"): 1,
                     ("out_of_scope", "Relation_Specificity"): 3}
    answers = {(draft.answer, draft.plain_answer) for draft in drafts_of([edit("wiki_recent")]) if draft.kind == "out_of_scope"}
    assert answers == {("Lyon", "Lyon")}  # the first alias of the first answer, with the edit and without it


def test_wikibio_is_continued_and_asked_one_item_of_locality() -> None:
    found = drafts_of([edit("wikibio", ground_truth=())])
    assert [(draft.kind, draft.query, draft.answer, draft.asks) for draft in found] == [
        ("in_scope", "S0 is in", "Bonn", ("lte/plain",)), ("out_of_scope", "Colour 0 of S0 is", "Lyon", ()),
    ]


def test_mquake_answers_with_the_hops_that_lead_there_and_shows_all_rewrites() -> None:
    draft = drafts_of([mquake()], plain(1), scopes={"earlier_share": 0})[0]
    assert draft.answer == "C\nA is in B. B is in C." and draft.plain_answer == "Y\nA is in X. X is in Y."
    assert draft.facts == ("A is in B", "B is in C") and draft.query in {f"Question {n} of 0?" for n in range(3)}
    assert {drafts_of([mquake(n)], plain(1), scopes={"earlier_share": 0})[0].query[:10] for n in range(30)} == {
        "Question 0", "Question 1", "Question 2"}


def test_mquake_borrows_half_of_its_out_of_scope_queries_and_no_plain_one_is_used_twice() -> None:
    edits = [mquake(n) for n in range(1000)] + [edit("zsre", n) for n in range(20)]
    borrowed = [draft for draft in drafts_of(edits, plain(700)) if draft.source == "mquake" and draft.kind == "out_of_scope"]
    found = Counter(draft.aspect for draft in borrowed)
    assert len(borrowed) == 1000 and abs(found["earlier"] - 500) < 80
    used = [draft.query for draft in borrowed if draft.aspect == "plain"]
    assert len(set(used)) == len(used)
    assert all(draft.answer == draft.plain_answer != "" for draft in borrowed)


def test_what_cannot_be_given_is_counted() -> None:
    notes: Counter[str] = Counter()
    edits = [edit("counterfact", n) for n in range(5)]
    drafts = drafts_of(edits, plain(3), notes)
    assert (shares(drafts)["out_of_scope", "plain"], notes["no_plain_query"]) == (3, 2)
    notes.clear()
    assert not [draft for draft in drafts_of([mquake()], [], notes, scopes={"earlier_share": 1}) if draft.kind == "out_of_scope"]
    assert notes["no_earlier_query"] == 1
    notes.clear()
    drafts = drafts_of([edit("wiki_recent", locality=())], [], notes, **DROP)
    assert [draft.aspect for draft in drafts] == ["edit", "Subject_Aliasing"]
    assert notes == {"no_plain_answer": 1, "no_locality": 1}


def test_counterfact_is_written_by_a_model_or_taken_from_the_file() -> None:
    written = drafts_of([edit("counterfact")])[0]
    assert (written.kind, written.query, written.asks) == ("free_text", "", ("lte/query", "lte/answer", "lte/verify", "lte/plain"))
    assert drafts_of([edit("counterfact")], scopes={"verify": False})[0].asks == ("lte/query", "lte/answer", "lte/plain")
    filed = drafts_of([edit("counterfact", question="In which city is S0?")], scopes={"free_text": "file", "out_of_scope": "file"})
    assert [(draft.kind, draft.query, draft.answer, draft.asks) for draft in filed[:2]] == [
        ("free_text", "In which city is S0?", "Bonn", ()), ("out_of_scope", "Colour 0 of S0 is", "Lyon", ()),
    ]
    assert drafts_of([edit("counterfact")], scopes={"out_of_scope": "model"})[-1].asks == ("lte/out_of_scope",)


def test_the_same_drafts_come_of_any_order_of_the_input() -> None:
    edits = [edit(source, n) for source in ("zsre", "wiki_counterfact", "counterfact") for n in range(30)] + [mquake(n) for n in range(30)]
    queries = plain(40)
    first = drafts_of(edits, queries)
    random.Random(1).shuffle(edits)
    random.Random(2).shuffle(queries)
    assert sorted(first, key=lambda draft: draft.row_id) == sorted(drafts_of(edits, queries), key=lambda draft: draft.row_id)
    assert len({draft.row_id for draft in first}) == len(first)


@pytest.mark.parametrize("source", ["zsre", "wiki_recent", "wiki_counterfact", "wikibio"])
def test_out_of_scope_answers_do_not_depend_on_the_prompt(source: str) -> None:
    found = [draft for draft in drafts_of([edit(source)]) if draft.kind == "out_of_scope"]
    assert found and all(draft.answer == draft.plain_answer and not draft.asks for draft in found)


# ---- examples


def test_a_draft_becomes_an_example_with_the_edit_prompt_and_one_without() -> None:
    draft = replace(drafts_of([edit("zsre")])[0], prompt_tokens=7, completion_tokens=2, cost_usd=0.5)
    shown = Shown(("S9 is in Ulm", "S0 is in Bonn"), ("zsre-9", "zsre-0"), ("zsre-9",), "exact_and_1")
    prompted, bare = examples_of(draft, shown, form="thesis")
    assert [turn.content for turn in prompted.messages] == [
        f"[Updated Information] 1. S9 is in Ulm\n2. S0 is in Bonn\n[Query] {draft.query}", "Bonn",
    ]
    assert [turn.content for turn in bare.messages] == [draft.query, "Rome"]
    assert (bare.facts, bare.retrieved, bare.style, bare.with_prompt) == ((), (), "bare", False)
    assert prompted.pair_id == bare.pair_id == draft.row_id and prompted.row_id != bare.row_id
    # the price of a pair is counted once
    assert (prompted.prompt_tokens + bare.prompt_tokens, prompted.cost_usd + bare.cost_usd) == (7, 0.5)


def test_an_example_survives_arrow_and_is_read_for_training_with_its_id() -> None:
    draft = drafts_of([mquake()], plain(1))[0]
    for example in examples_of(draft, Shown(draft.facts, ("m", "m"), (), "exact_only"), form="original_train"):
        assert from_row(EditExample, to_row(example)) == example
        read = example_of(to_row(example))
        assert (read.row_id, getattr(read, "messages", None)) == (example.row_id, example.messages)
    assert from_row(EditDraft, to_row(draft)) == draft
    assert from_row(Edit, to_row(mquake())) == mquake()
