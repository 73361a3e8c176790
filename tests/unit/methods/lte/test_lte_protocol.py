"""Who is in the memory when whom is scored, and what a record is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from alignray.methods.lte import EvaluationConfig, batch_events, items_of, stream_events
from alignray.schema import Answer, Edit, Probe, Rewrite

EDIT = Edit(
    "e", "mquake", "Lyon", "P", "Lyon is in", "Italy", ("Lyon is in Italy", "Italy is in Asia"),
    further=(Rewrite("Italy", "Q", "Italy is in", "Asia"),), rephrases=("Where is Lyon?",),
    portability=(Probe("Reasoning", "a", (Answer("1", ("one",)), Answer("2"))), Probe("Reasoning", "b", (Answer("3"),)),
                 Probe("Multi_Hop", "c", (Answer("4"),))),
    locality=(Probe("Forgetfulness", "d", (Answer("5"),)),),
)


def test_streams_are_scored_as_in_the_vectors(spec_vectors: Callable[[str], Any]) -> None:
    section = spec_vectors("lte")["streaming_protocol"]
    found = [{"step": step, "memory": list(event.memory), "scored_records": list(event.scored)}
             for step, event in enumerate(stream_events(section["n"], "at_insertion"))]
    assert found == section["original_eval_events"]
    (last,) = stream_events(section["n"], "final")
    assert {"memory": list(last.memory), "scored_records": list(last.scored)} == section["recommended_final_eval"]


@pytest.mark.parametrize(("num", "size", "wanted"), [
    (5, 2, [[0, 1], [2, 3], [4]]), (3, 1, [[0], [1], [2]]), (3, 10, [[0, 1, 2]]), (0, 4, []),
])
def test_batches_are_loaded_and_scored_one_after_the_other(num: int, size: int, wanted: list[list[int]]) -> None:
    assert [list(event.memory) for event in batch_events(num, size)] == wanted
    assert all(event.memory == event.scored for event in batch_events(num, size))


def test_no_batch_and_no_stream_is_no_event() -> None:
    assert stream_events(0, "final") == stream_events(0, "at_insertion") == []
    with pytest.raises(ValueError, match="size=0"):
        batch_events(3, 0)


def test_all_items_of_a_record_are_asked_with_all_their_answers() -> None:
    items = items_of(EDIT, EvaluationConfig())
    assert [(item.aspect, item.kind, item.prompt) for item in items] == [
        ("edit", "edit", "Lyon is in"), ("edit", "edit", "Italy is in"), ("rephrase", "rephrase", "Where is Lyon?"),
        ("portability", "Reasoning", "a"), ("portability", "Reasoning", "b"), ("portability", "Multi_Hop", "c"),
        ("locality", "Forgetfulness", "d"),
    ]
    assert items[3].answers == (Answer("1", ("one",)), Answer("2")) and items[1].answers == (Answer("Asia"),)


def test_the_original_asks_the_first_item_of_each_kind_for_its_first_answer() -> None:
    items = items_of(EDIT, EvaluationConfig(items="first_only"))
    assert [(item.prompt, item.answers) for item in items] == [
        ("Lyon is in", (Answer("Italy"),)), ("a", (Answer("1"),)), ("c", (Answer("4"),)), ("d", (Answer("5"),)),
    ]
