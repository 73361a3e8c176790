"""The call journal: what was paid is found again, once, whatever died while it was written."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alignray.io.journal import Journal, Refusal, SharedAnswers, add_up, answer_of, answers_for, call_key, read_events
from alignray.io.storage import Storage
from alignray.schema import ChatRequest, Completion, Message

REQUEST = ChatRequest((Message("user", "hello"),), max_new_tokens=10, temperature=0.7, top_p=1.0)
ANSWER = Completion("hi\n\u00e9", "stop", 10, 5, "m", 0.25, 0.001)


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path) if request.param == "local" else f"memory://run-{uuid.uuid4().hex}")


def write(storage: Storage, *lines: bytes, writer: str = "w") -> None:
    pen = Journal(storage, writer)
    for line in lines:
        pen.append(line)
    pen.close()


def answered(storage: Storage, key: str, row: str = "r", step: str = "webr/persona", answer: Completion = ANSWER, grant: str = "") -> bytes:
    return Journal(storage, "x").completion(key, row, step, "author", answer, grant=grant)


def granted(storage: Storage, name: str, usd: float = 0.5, tokens: int = 100, row: str = "r") -> bytes:
    return Journal(storage, "x").grant(name, row, usd, tokens, "session")


# ---- keys


def test_a_key_is_the_same_for_the_same_question() -> None:
    assert call_key("r", "s", "m", REQUEST) == call_key("r", "s", "m", dataclasses.replace(REQUEST))
    assert len(call_key("r", "s", "m", REQUEST)) == 24


@pytest.mark.parametrize(
    "other",
    [
        ("q", "s", "m", REQUEST), ("r", "t", "m", REQUEST), ("r", "s", "n", REQUEST),
        *(("r", "s", "m", dataclasses.replace(REQUEST, **change)) for change in (
            {"messages": (Message("system", "hello"),)}, {"messages": (Message("user", "hello "),)}, {"max_new_tokens": 11},
            {"temperature": 0.8}, {"top_p": 0.9}, {"stop": ("x",)}, {"json_schema": "{}"},
        )),
    ],
)
def test_everything_that_decides_an_answer_is_in_the_key(other: tuple[str, str, str, ChatRequest]) -> None:
    assert call_key(*other) != call_key("r", "s", "m", REQUEST)


MESSAGES = st.lists(st.tuples(st.sampled_from(["user", "\0user\0"]), st.text("a\0u", max_size=4)), max_size=3)


@example([("user", "a\0user\0b")], [("user", "a"), ("user", "b")])
@given(MESSAGES, MESSAGES)
def test_other_messages_have_another_key_whatever_stands_in_them(left: list[tuple[str, str]], right: list[tuple[str, str]]) -> None:
    keys = [call_key("r", "s", "m", ChatRequest(tuple(Message(*one) for one in messages))) for messages in (left, right)]
    assert (keys[0] == keys[1]) == (left == right)


# ---- what is found again


def test_an_answer_comes_back_as_it_was(storage: Storage) -> None:
    write(storage, answered(storage, "k"))
    [event] = read_events(storage)
    assert event is not None and answer_of(event) == ANSWER


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["stop", "length", "content_filter", "unknown"]))
def test_any_text_stays_on_its_line_and_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str, finish: str) -> None:
    storage = Storage(str(tmp_path_factory.mktemp("journal")))
    answer = Completion(text, finish, 1, 2, "m", 0.5, 0.25)  # type: ignore[arg-type]
    write(storage, answered(storage, "k", answer=answer), answered(storage, "l"))
    events = list(read_events(storage))
    assert len(events) == 2 and events[0] is not None and answer_of(events[0]) == answer


def test_a_refusal_comes_back_as_one(storage: Storage) -> None:
    write(storage, Journal(storage, "x").refusal("k", "r", "s", "author", Refusal("context_too_long", "x" * 900)))
    [event] = read_events(storage)
    assert event is not None and answer_of(event) == Refusal("context_too_long", "x" * 500)


def test_answers_are_found_by_row_in_all_writers_files_and_the_first_of_a_key_wins(storage: Storage) -> None:
    later = dataclasses.replace(ANSWER, text="later")
    write(storage, answered(storage, "k1", "r1"), answered(storage, "k2", "r2"), granted(storage, "k1#1", row="r1"), writer="a")
    write(storage, answered(storage, "k1", "r1", answer=later), answered(storage, "k3", "r1"), writer="b")
    found = answers_for(storage, ["r1", "r9"])
    assert {row: set(keys) for row, keys in found.items()} == {"r1": {"k1", "k3"}}
    assert answer_of(found["r1"]["k1"]) == ANSWER


# ---- damage


def test_a_torn_last_line_is_no_event_and_no_damage(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write(storage, answered(storage, "k1"), answered(storage, "k2"))
    path = tmp_path / "calls" / "w.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    totals, rows = add_up(storage)
    assert (totals.calls, totals.damaged, rows) == (1, 0, {"r"})
    assert list(answers_for(storage, ["r"])["r"]) == ["k1"]


@pytest.mark.parametrize("damage", [b"{}", b"null", b"3", b"[1]", b'{"key": "k"}', b'{"grant": "g"}', b'{"key":', b"\xff\xfe", b""])
def test_a_damaged_line_is_counted_and_harms_no_other(storage: Storage, damage: bytes) -> None:
    write(storage, answered(storage, "k1"), damage + b"\n", answered(storage, "k2"))
    totals, _ = add_up(storage)
    assert (totals.calls, totals.damaged) == (2, 1)
    assert set(answers_for(storage, ["r"])["r"]) == {"k1", "k2"}


def test_no_flipped_byte_stops_the_reading(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    line = answered(storage, "k1") + granted(storage, "k2#1") + answered(storage, "k3")
    for position in range(len(line)):
        storage.write("calls/w.jsonl", line[:position] + bytes([line[position] ^ 0x04]) + line[position + 1 :])
        assert add_up(storage)[0].calls >= 1
        answers_for(storage, ["r"])


# ---- totals


def test_an_empty_journal_adds_up_to_nothing(storage: Storage) -> None:
    totals, rows = add_up(storage)
    assert (totals.usd, totals.tokens, totals.calls, totals.repeated, totals.damaged, totals.steps, rows) == (0, 0, 0, 0, 0, {}, set())


def test_totals_are_the_sums_by_hand(storage: Storage) -> None:
    other = Completion("x", "stop", 100, 20, "n", 1.0, 0.5)
    write(
        storage, answered(storage, "k1", "r1"), answered(storage, "k2", "r2"),
        answered(storage, "k3", "r1", step="webr/refine", answer=other),
        Journal(storage, "x").refusal("k4", "r3", "webr/refine", "author", Refusal("bad_request", "no")),
    )
    totals, rows = add_up(storage)
    assert rows == {"r1", "r2", "r3"}
    assert (totals.calls, totals.tokens, totals.usd, totals.repeated) == (3, 150, pytest.approx(0.502), 0)
    persona, refine = totals.steps["webr/persona"], totals.steps["webr/refine"]
    assert (persona.calls, persona.prompt_tokens, persona.completion_tokens, persona.usd) == (2, 20, 10, pytest.approx(0.002))
    assert (refine.calls, refine.refused, refine.latency_s, refine.models, refine.role) == (1, 1, 1.0, {"n"}, "author")


def test_a_call_asked_twice_is_paid_twice_and_counted_as_repeated(storage: Storage) -> None:
    write(storage, answered(storage, "k1"), writer="a")
    write(storage, answered(storage, "k1"), writer="b")
    totals, _ = add_up(storage)
    assert (totals.calls, totals.repeated, totals.usd) == (2, 1, pytest.approx(0.002))


def test_a_grant_is_open_until_a_completion_settles_it(storage: Storage) -> None:
    write(
        storage, granted(storage, "k1#1"), granted(storage, "k2#1", 0.25, 40), granted(storage, "k3#1"),
        answered(storage, "k1", grant="k1#1"),
        Journal(storage, "x").refusal("k3", "r", "s", "author", Refusal("bad_request", ""), grant="k3#1"),
    )
    totals, _ = add_up(storage)
    assert {name: (grant["usd"], grant["tokens"]) for name, grant in totals.open_grants.items()} == {"k2#1": (0.25, 40)}
    assert totals.usd == pytest.approx(0.001)


def test_a_settle_that_is_read_before_its_grant_closes_it_too(storage: Storage) -> None:
    write(storage, answered(storage, "k1", grant="k1#1"), writer="a")
    write(storage, granted(storage, "k1#1"), writer="b")
    assert add_up(storage)[0].open_grants == {}


def test_a_sending_that_may_have_been_billed_stays_open_though_a_later_one_is_settled(storage: Storage) -> None:
    write(storage, granted(storage, "k1#1"), granted(storage, "k1#2"), answered(storage, "k1", grant="k1#2"))
    assert set(add_up(storage)[0].open_grants) == {"k1#1"}


def test_shared_answers_are_found_by_content_and_cost_nothing(tmp_path: Path) -> None:
    root, key = str(tmp_path / "verdicts"), call_key("", "followbench/judge", "judge", REQUEST)
    first = SharedAnswers(root, "one")
    assert first.find(key) is None
    first.add(key, "followbench/judge", "judge", ANSWER)
    second = SharedAnswers(root, "two")
    for store in (first, second):
        found = store.find(key)
        assert found is not None and found.text == ANSWER.text and found.model == ANSWER.model
        assert (found.prompt_tokens, found.completion_tokens, found.cost_usd) == (0, 0, 0.0)
    other = dataclasses.replace(REQUEST, temperature=0.1)
    assert second.find(call_key("", "followbench/judge", "judge", other)) is None


def test_a_shared_answer_is_counted_apart_from_the_calls_that_were_made(storage: Storage) -> None:
    pen = Journal(storage, "w")
    write(storage, pen.completion("k1", "r1", "s", "judge", ANSWER), pen.completion("k2", "r2", "s", "judge", ANSWER, shared=True))
    totals, rows = add_up(storage)
    assert (totals.calls, totals.steps["s"].calls, totals.steps["s"].shared, totals.usd) == (1, 1, 1, 0.001)
    assert rows == {"r1", "r2"}
    assert answers_for(storage, ["r2"])["r2"]["k2"]["text"] == ANSWER.text
