"""A record that became Arrow and came back is the record it was."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.schema import (
    InstructionRow,
    Message,
    Rejected,
    WebDocument,
    WebRDraft,
    arrow_schema,
    from_row,
    records_of,
    table_of,
    to_row,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGER = st.integers(-(2**63), 2**63 - 1)
DOCUMENT = st.builds(WebDocument, row_id=TEXT, text=TEXT, url=TEXT, offset=INTEGER, num_tokens=INTEGER, truncated=st.booleans())
DRAFT = st.builds(
    WebRDraft, row_id=TEXT, document=DOCUMENT, branch=TEXT, part=st.booleans(), text=TEXT, word=TEXT, max_words=INTEGER,
    persona=TEXT, cost_usd=st.floats(allow_nan=False),
)
MESSAGES = st.lists(st.builds(Message, role=TEXT, content=TEXT), max_size=4).map(tuple)


@dataclass(frozen=True)
class Nested:
    """Every kind of field there is."""

    name: str
    inner: Message
    many: tuple[Message, ...]
    words: tuple[str, ...]
    score: float
    yes: bool


NESTED = st.builds(
    Nested, name=TEXT, inner=st.builds(Message, role=TEXT, content=TEXT), many=MESSAGES, words=st.lists(TEXT, max_size=3).map(tuple),
    score=st.floats(allow_nan=False), yes=st.booleans(),
)


@given(st.lists(DRAFT, max_size=4))
def test_drafts_come_back_from_a_table(drafts: list[WebRDraft]) -> None:
    assert list(records_of(WebRDraft, table_of(WebRDraft, drafts))) == drafts


@given(st.lists(NESTED, max_size=4))
def test_records_in_records_and_in_tuples_come_back(records: list[Nested]) -> None:
    assert list(records_of(Nested, table_of(Nested, records))) == records


@given(NESTED)
def test_a_row_is_plain_python_and_a_record_survives_pickle(record: Nested) -> None:
    assert to_row(record) == dataclasses.asdict(record) | {
        "many": [dataclasses.asdict(message) for message in record.many], "words": list(record.words),
    }
    assert pickle.loads(pickle.dumps(record)) == record


@pytest.mark.parametrize("cls", [WebDocument, WebRDraft, InstructionRow, Rejected])
def test_an_empty_table_has_the_columns_and_types_of_a_full_one(cls: type) -> None:
    empty = table_of(cls, [])
    assert empty.num_rows == 0
    assert empty.schema == arrow_schema(cls)
    assert empty.column_names == [field.name for field in dataclasses.fields(cls)]


def test_a_schema_is_what_one_would_write_by_hand() -> None:
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    assert arrow_schema(Nested) == pa.schema([
        ("name", pa.string()), ("inner", message), ("many", pa.list_(message)), ("words", pa.list_(pa.string())),
        ("score", pa.float64()), ("yes", pa.bool_()),
    ])


def test_columns_that_a_record_does_not_have_are_passed_over_and_missing_ones_are_not() -> None:
    assert from_row(Message, {"role": "user", "content": "x", "extra": 1}) == Message("user", "x")
    with pytest.raises(KeyError, match="content"):
        from_row(Message, {"role": "user"})


def test_a_field_that_arrow_cannot_hold_says_which_types_there_are() -> None:
    @dataclass(frozen=True)
    class Loose:
        value: set  # type: ignore[type-arg]

    Loose.__annotations__["value"] = set
    with pytest.raises(TypeError, match="use str, int, float, bool, a record or a tuple"):
        arrow_schema(Loose)


def test_a_class_constant_is_no_column() -> None:
    assert "RAW_LIMIT" not in arrow_schema(Rejected).names and Rejected.RAW_LIMIT == 4000
