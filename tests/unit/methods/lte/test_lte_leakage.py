"""Training edits that are test edits too are found by fact and by text, and others are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alignray.methods.lte import Overlap, leaking_ids, overlaps
from alignray.schema import Answer, Edit, Probe, Rewrite

TEST = Edit(
    "t", "mquake", "Hey Jude", "P175", "Hey Jude was performed by", "Madonna", ("f",), question="Who performed Hey Jude?",
    further=(Rewrite("Madonna", "P1037", "The director of Madonna is", "Modi"),), rephrases=("By whom is Hey Jude?",),
    portability=(Probe("Multi_Hop", "What is its language?", (Answer("Arabic"),)),),
    locality=(Probe("Neighborhood", "Yesterday was performed by", (Answer("x"),)),),
)
OTHER = Edit("n", "zsre", "Lyon", "{} is in", "Lyon is in", "Bonn", ("Lyon is in Bonn",))


def test_an_edit_that_changes_the_same_fact_leaks_whatever_it_is_changed_to() -> None:
    train = replace(OTHER, subject="HEY  Jude", relation="p175")
    assert overlaps([train], [TEST]) == [Overlap("subject_and_relation", "n", "t", "Hey Jude | P175")]


def test_a_later_rewrite_of_a_case_leaks_as_well() -> None:
    train = replace(OTHER, further=(Rewrite("Madonna", "P1037", "Who directs her:", "Anybody"),))
    assert [overlap.shared for overlap in overlaps([train], [TEST])] == ["Madonna | P1037"]


def test_same_subject_or_same_relation_alone_is_no_leak() -> None:
    assert not overlaps([replace(OTHER, subject="Hey Jude"), replace(OTHER, relation="P175")], [TEST])


TEXTS = (
    "who performed hey jude", "By whom  is Hey Jude", "What is its language??", "Yesterday was performed by", "Hey Jude was performed by:",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_question_of_any_kind_is_found_in_any_place_and_writing(text: str) -> None:
    item = (Probe("Reasoning", text, ()),)
    for train in (replace(OTHER, prompt=text), replace(OTHER, rephrases=(text,)), replace(OTHER, portability=item)):
        (found,) = overlaps([train], [TEST])
        assert (found.by, found.train_id, found.test_id) == ("text", "n", "t")


def test_an_item_of_locality_of_both_is_told_apart() -> None:
    train = replace(OTHER, locality=(Probe("nq", "Yesterday was performed by", ()),))
    assert overlaps([train], [TEST]) == [Overlap("locality", "n", "t", "Yesterday was performed by")]
    assert leaking_ids([train], [TEST]) == {"n"} and leaking_ids([train], [TEST], by=("subject_and_relation", "text")) == set()
    given_away = replace(OTHER, locality=(Probe("nq", "Hey Jude was performed by", ()),))
    assert [overlap.by for overlap in overlaps([given_away], [TEST])] == ["text"]


def test_an_edit_on_both_sides_leaks_in_every_way_and_clean_sets_do_not() -> None:
    assert [overlap.by for overlap in overlaps([TEST], [TEST])] == ["subject_and_relation", "text", "locality"]
    assert leaking_ids([TEST, OTHER], [TEST]) == {"t"}
    assert overlaps([OTHER], [TEST]) == [] == overlaps([], [TEST])


def test_every_test_edit_that_is_touched_is_named() -> None:
    twin = replace(TEST, row_id="u", locality=())
    assert [(overlap.by, overlap.test_id) for overlap in overlaps([TEST], [TEST, twin])] == [
        ("subject_and_relation", "t"), ("subject_and_relation", "u"), ("text", "t"), ("text", "u"), ("locality", "t"),
    ]
