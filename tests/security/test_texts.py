"""Hostile texts through every room that handles them, without Ray."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from alignray.engine.configs import OpenAIConfig
from alignray.engine.openai import MAX_ANSWER_BYTES, OpenAIEngine
from alignray.errors import CallRefused, ConfigError, RecordError
from alignray.io.commits import CommitLog
from alignray.io.export import export, read_export
from alignray.io.fetch import FetchConfig
from alignray.io.journal import Journal, answer_of, read_events
from alignray.io.sources import IngestConfig, list_splits
from alignray.io.storage import Storage
from alignray.io.tables import read_blocks
from alignray.methods.webr.texts import strip_preamble
from alignray.prompts import PromptTemplate
from alignray.schema import ChatRequest, Completion, InstructionRow, Message, table_of
from alignray.untrusted import printable, storable
from tests.runfolders import make_rows
from tests.security import hostile

ANY_TEXT = st.text(alphabet=st.characters(), max_size=80) | st.sampled_from(sorted(hostile.ALL.values()))
"""Halves of surrogate pairs too: st.characters() without a codec has them."""


# ---- fit to be stored, fit to be shown


@given(ANY_TEXT)
@example("\ud800")
@example("\ud83d\udca3")
def test_a_storable_text_differs_only_where_it_could_not_be_stored(text: str) -> None:
    stored = storable(text)
    assert stored == hostile.storable(text) and storable(stored) == stored
    assert orjson.loads(orjson.dumps(stored)) == stored and pa.array([stored])[0].as_py() == stored


@given(ANY_TEXT)
def test_a_printable_text_holds_nothing_that_a_terminal_acts_on(text: str) -> None:
    shown = printable(text)
    assert not [character for character in shown if ord(character) < 32 and character not in "\t\n"]
    assert not [character for character in shown if 0x7F <= ord(character) < 0xA0 or 0xD800 <= ord(character) < 0xE000]
    assert "\u202e" not in shown and printable(shown) == shown
    shown.encode()


@given(st.dictionaries(ANY_TEXT.map(storable), ANY_TEXT.map(storable), max_size=3))
def test_json_stays_the_same_value_when_it_is_made_printable(value: dict[str, str]) -> None:
    assert json.loads(printable(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())) == value


# ---- journal, parts, export


@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_any_answer_survives_journal_parts_and_export(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    storage = Storage(str(folder))
    journal = Journal(storage, "calls-x")
    for number, text in enumerate(texts):
        answer = Completion(storable(text), model=storable(text))
        journal.append(journal.completion(f"key{number}", f"id{number}", "webr/response", "teacher", answer))
    journal.close()
    answers = [answer_of(event) for event in read_events(storage) if event is not None]
    assert [answer.text for answer in answers if isinstance(answer, Completion)] == [hostile.storable(text) for text in texts]
    row = next(row for row in make_rows(9, seed=1) if row.layout == "request_only")
    rows = [
        InstructionRow(**{**row.__dict__, "row_id": f"id{number}", "instruction": text, "url": text, "persona": text,
                          "messages": (Message("user", text), Message("assistant", text))})
        for number, text in enumerate(map(storable, texts))
    ]
    CommitLog(storage).write("rows", "all", {"rows": ("parts", table_of(InstructionRow, rows))}, {"kept": len(rows)})
    for name in ("openai", "alpaca", "sharegpt"):
        out = folder / "out" / f"{name}.jsonl"
        assert export(folder, name, out) == len(rows)
        assert [conversation.messages for conversation in read_export(out, name)] == [row.messages for row in rows]


# ---- a hostile endpoint


def ask(reply: bytes, *, status: int = 200, key: str = "", headers: dict[str, str] | None = None) -> Completion:
    """One call to an endpoint that replies with these bytes."""

    async def serve() -> Completion:
        async def chat(_: web.Request) -> web.Response:
            return web.Response(body=reply, status=status, content_type="application/json", headers=headers)

        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        engine = OpenAIEngine(OpenAIConfig(model="m", base_url=url, api_key_env="HOSTILE_TEST_KEY" if key else None, max_attempts=1))
        await engine.start()
        try:
            return await engine.generate(ChatRequest((Message("user", "hello"),)))
        finally:
            await engine.close()
            await runner.cleanup()

    return asyncio.run(serve())


def reply(text: object = "fine", **changes: object) -> bytes:
    choice = {"message": {"content": text}, "finish_reason": changes.pop("finish_reason", "stop")}
    return json.dumps({"model": "m", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}, **changes}).encode()


@pytest.mark.parametrize("name", hostile.ALL)
def test_a_hostile_answer_comes_through_as_text(name: str) -> None:
    assert ask(reply(hostile.ALL[name])).text == hostile.storable(hostile.ALL[name])


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    assert ask(reply("caf!").replace(b"!", b"\xe9")).text == "caf\ufffd"


@pytest.mark.parametrize("usage", [
    {"prompt_tokens": 2**63, "completion_tokens": 1}, {"prompt_tokens": -5, "completion_tokens": 1}, {"prompt_tokens": True}, ["x"], "many",
    {"prompt_tokens": 10**40, "completion_tokens": 1e300}, {"prompt_tokens": None, "completion_tokens": {}},
])
def test_token_counts_that_cannot_be_are_estimated(usage: object) -> None:
    answer = ask(reply(usage=usage))
    assert 0 < answer.prompt_tokens < 100 and 0 < answer.completion_tokens < 100 and answer.cost_usd >= 0


@pytest.mark.parametrize("reason", [["stop"], {"a": 1}, 5, None, "\ud800"])
def test_a_finish_reason_of_any_kind_is_unknown(reason: object) -> None:
    assert ask(reply(finish_reason=reason)).finish_reason == "unknown"


def test_a_model_name_is_cut() -> None:
    assert len(ask(reply(model="m" * 10_000)).model) == 200


@pytest.mark.parametrize("body", [
    b"[" * 100_000, b"{" * 10 + b"\xff", b"", b"null", b'{"choices": {"0": 1}}', reply(["a"]), reply({"a": 1}),
])
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(CallRefused) as caught:
        ask(body)
    assert caught.value.args[0] == "bad_answer"


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    with pytest.raises(CallRefused, match="more than") as caught:
        ask(reply("x" * (MAX_ANSWER_BYTES + 1)))
    assert caught.value.args[0] == "bad_answer"


def test_layers_of_preamble_do_not_cost_a_pass_each() -> None:
    started = time.process_time()
    for text in ("Here is the request:\n" * 200_000, "---\n" * 500_000, "'\"" * 1_000_000, "sure " * 500_000):
        assert strip_preamble(text)
    assert time.process_time() - started < 10


# ---- files


def test_a_file_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.jsonl").write_text("{}")
    (tmp_path / os.fsdecode(b"bad\xff.jsonl")).write_text("{}")
    with pytest.raises(RecordError, match="not UTF-8.*rename the file"):
        list_splits(IngestConfig.model_validate({"sources": [{"name": "a", "paths": [str(tmp_path)]}]}))


@pytest.mark.parametrize("path", ["x" * 300, "/dev/null/x", "file:///%00", "../" * 2000 + "x.jsonl"])
def test_a_path_that_cannot_be_is_a_record_error(path: str) -> None:
    with pytest.raises(RecordError):
        list_splits(IngestConfig.model_validate({"sources": [{"name": "a", "paths": [path]}]}))


def test_parquet_strings_that_are_no_utf8_are_told_row_by_row(tmp_path: Path) -> None:
    values = [b"good", b"\xed\xa0\x80", b"also good"]
    table = pa.table({
        "text": pa.array(values, pa.binary()).view(pa.string()),
        "list": pa.ListArray.from_arrays([0, 1, 2, 3], pa.array(values, pa.binary()).view(pa.string())),
    })
    pq.write_table(table, tmp_path / "rows.parquet")
    (split,) = list_splits(IngestConfig.model_validate({"sources": [{"name": "a", "paths": [str(tmp_path / "rows.parquet")]}]}))
    (block,) = read_blocks(split, FetchConfig())
    assert block.column("text") == ["good", b"\xed\xa0\x80", "also good"]
    assert block.column("list") == [["good"], b"", ["also good"]]


# ---- templates are the user's own, and still in a sandbox


@pytest.mark.parametrize("template", [
    "{{ text.__class__ }}", "{{ text|attr('__class__') }}", "{{ text['__class__'] }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ text }}",
    "{{ '{0.__class__.__mro__}'.format(text) }}", "{{ text.format_map({'a': 1}).__class__ }}", "{% import 'os' as os %}{{ text }}",
    "{% include '/etc/passwd' %}{{ text }}", "{% extends '/etc/passwd' %}{{ text }}", "{{ self.__init__.__globals__ }}{{ text }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}{{ text }}", "{{ lipsum.__globals__ }}{{ text }}",
    "{{ text.join.__self__ }}{{ 1/0 }}",
    "{% for n in range(10 ** 9) %}x{% endfor %}{{ text }}", "{% set text.x = 1 %}", "{{ text.encode().decode('rot13') }}",
])
def test_a_template_reaches_nothing_but_its_fields(template: str) -> None:
    with pytest.raises(ConfigError, match='prompt "mine"'):
        PromptTemplate("mine", template).render(text="{0.__class__}")


@given(ANY_TEXT)
def test_a_field_is_never_a_template(text: str) -> None:
    assert PromptTemplate("mine", "<{{ text }}>").render(text=text) == f"<{text}>"
