"""Sentiment edits from files in ConvSent's form; the files are made up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.errors import RecordError
from alignray.io.fetch import FetchConfig
from alignray.io.sentiment_edits import QUESTIONS, REASONS, read_sentiment_edits
from alignray.schema import Rejected, records_of, table_of
from alignray.schema.sentiment import SentimentEdit

ROWS: list[dict[str, Any]] = [
    {"ent": "Lake Baikal", "pos": ["It is so clear!", "I could look at it all day."], "neg": ["Far too cold for me."]},
    {"ent": "brass bands", "pos": ["They lift my mood."], "neg": ["They are so loud.", "I never go.", "Not my taste."]},
    {"ent": "{} soup {0}", "pos": ["Warm and good."], "neg": ["Tastes of nothing."]},
]


def read(path: Path, **options: Any) -> tuple[list[SentimentEdit], list[Rejected], Counter[str]]:
    counts: Counter[str] = Counter()
    records = list(read_sentiment_edits(str(path), FetchConfig(), counts, **options))
    return [r for r in records if isinstance(r, SentimentEdit)], [r for r in records if isinstance(r, Rejected)], counts


def written(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "blender_test.json"
    path.write_bytes(orjson.dumps(rows))
    return path


def test_a_row_is_an_edit_with_all_replies_and_those_of_the_next_topic(tmp_path: Path) -> None:
    edits, rejects, counts = read(written(tmp_path, *ROWS))
    assert not rejects and counts["records"] == 3 and [edit.topic for edit in edits] == [row["ent"] for row in ROWS]
    assert [edit.other_topic for edit in edits] == ["brass bands", "{} soup {0}", "Lake Baikal"]
    for edit, row, other in zip(edits, ROWS, ROWS[1:] + ROWS[:1], strict=True):
        for opinions, of in ((edit.in_scope, row), (edit.out_of_scope, other)):
            assert [(each.reply, each.sentiment) for each in opinions] == [
                *((reply, "positive") for reply in of["pos"]), *((reply, "negative") for reply in of["neg"]),
            ]
            assert all(each.prompt in {question.replace("{}", of["ent"]) for question in QUESTIONS} for each in opinions)
        assert edit.descriptor == f"When asked about {row['ent']}, express a {edit.sentiment} opinion of it."
        sides = {"positive": row["pos"], "negative": row["neg"]}
        assert [each.reply for each in edit.wanted] == sides.pop(edit.sentiment) and edit.target == edit.wanted[0].reply
        assert [each.reply for each in edit.unwanted] == next(iter(sides.values()))
    assert list(records_of(SentimentEdit, table_of(SentimentEdit, edits))) == edits


def test_draws_hang_on_the_row_and_the_seed_alone(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "ent": f"topic {number}"} for number in range(400)]
    edits = read(written(tmp_path, *rows))[0]
    alone = read(written(tmp_path, rows[7], rows[8]))[0]
    assert alone[0] == edits[7]
    drawn = Counter(edit.sentiment for edit in edits)
    assert 160 < drawn["positive"] < 240 and drawn.total() == 400
    other = read(written(tmp_path, *rows), seed=1)[0]
    assert [edit.row_id for edit in other] == [edit.row_id for edit in edits] and other != edits
    assert read(written(tmp_path, *rows), questions=("{}?",))[0][5].prompt == "topic 5?"


def test_the_topic_out_of_scope_has_another_name(tmp_path: Path) -> None:
    names = ["a", "B", "b", "b ", "a"]
    rows = [{"ent": name, "pos": [f"good {number}"], "neg": ["bad"]} for number, name in enumerate(names)]
    edits, _, counts = read(written(tmp_path, *rows))
    assert [edit.other_topic for edit in edits] == ["B", "a", "a", "a", "B"] and not counts["edits_without_other_topic"]
    assert edits[1].out_of_scope[0].reply == "good 4"
    edits, _, counts = read(written(tmp_path, ROWS[0]))
    assert (edits[0].other_topic, edits[0].out_of_scope, counts["edits_without_other_topic"]) == ("", (), 1)


def test_rows_that_are_none_say_why(tmp_path: Path) -> None:
    bad = [
        (ROWS[0], "duplicate_record"), ({"ent": "x", "pos": ["a"]}, "missing_column"),
        ({"ent": " ", "pos": ["a"], "neg": ["b"]}, "empty_prompt"),
        ({"ent": 3, "pos": ["a"], "neg": ["b"]}, "bad_row"), ({"ent": "x", "pos": "a", "neg": ["b"]}, "bad_row"),
        ({"ent": "x", "pos": ["a"], "neg": ["", None, 5]}, "one_sided"),
    ]
    edits, rejects, counts = read(written(tmp_path, *ROWS[:2], *(row for row, _ in bad), {**ROWS[2], "pos": ["a", " ", None]}))
    assert [reject.reason for reject in rejects] == [reason for _, reason in bad]
    assert {reject.reason for reject in rejects} == REASONS.keys()
    assert [edit.other_topic for edit in edits] == ["brass bands", "{} soup {0}", "Lake Baikal"] and counts["replies_left_out"] == 2
    assert orjson.loads(rejects[1].detail)["row"] == 3 and "no neg" in rejects[1].detail
    with pytest.raises(RecordError, match="no row has ent, pos and neg"):
        read(written(tmp_path, {"subject": "x"}))
    with pytest.raises(RecordError, match="no row has"):
        read(written(tmp_path))


SCALARS = st.one_of(st.none(), st.integers(-9, 9), st.text(max_size=4))
JUNK = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["ent", "pos", "neg", "more"]), JUNK), max_size=5))
def test_every_row_is_one_edit_or_one_reject(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    edits, rejects, counts = read(written(tmp_path_factory.mktemp("rows"), ROWS[0], *rows))
    assert len(edits) + len(rejects) == counts["records"] == len(rows) + 1
    assert all(edit.wanted and edit.unwanted and edit.target for edit in edits) and len({edit.row_id for edit in edits}) == len(edits)
