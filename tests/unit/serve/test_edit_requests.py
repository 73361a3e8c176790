"""The edit server without Ray: what requests are read as, what the model is asked, and what any other body gets."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from alignray.engine import Sampling, ScriptedConfig
from alignray.engine.scripted import ScriptedEngine
from alignray.errors import CallRefused, EngineDown, StorageError
from alignray.memory import MemoryConfig
from alignray.methods.lte.render import render_prompt
from alignray.schema import ChatRequest, Completion
from alignray.serve.edit_requests import Unusable, read_chat, read_edit, read_object, read_page
from alignray.serve.edits_config import EditServerConfig, RequestLimits

pytest.importorskip("fastapi")
testclient = pytest.importorskip("starlette.testclient")

from alignray.serve.edit_app import build_app, digest_of, pieces_of  # noqa: E402  they need FastAPI
from alignray.serve.edit_model import ModelBehind  # noqa: E402
from alignray.serve.edit_service import EditService  # noqa: E402

LIMITS = RequestLimits(body_bytes=4096, messages=4, message_chars=200, new_tokens=64, field_chars=100, metadata_bytes=200, page_edits=10)
EDIT = {"subject": "Anna", "prompt": "Anna lives in", "target": "Oslo"}
USER = {"role": "user", "content": "hello"}


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **changes}


def read(body: dict[str, Any]) -> Any:
    return read_chat(body, model="m", sampling=Sampling(temperature=0.5, max_new_tokens=9), limits=LIMITS)


class Recorder(ScriptedEngine):
    """Keeps what it was asked; fails on demand."""

    def __init__(self) -> None:
        super().__init__(ScriptedConfig())
        self.asked: list[ChatRequest] = []
        self.fails: Exception | None = None

    async def generate(self, request: ChatRequest, admit: Any = None) -> Completion:
        self.asked.append(request)
        if self.fails is not None:
            raise self.fails
        return await super().generate(request)


class Served:
    """A server, a client of it, and the engine behind."""

    def __init__(self, folder: Path, *, token: str | None = None, **changes: Any) -> None:
        config = EditServerConfig.model_validate({
            "memory": MemoryConfig(path=str(folder), embedder="hash", fsync=False), "engine": ScriptedConfig(), "model": "m",
            "limits": LIMITS, "floor": 0.2, "retry_down_s": 0.0, **({"token_env": "ANY"} if token else {}), **changes,
        })
        self.service, self.engine = EditService(config), Recorder()
        self.service.model = ModelBehind(config.engine, timeout_s=5, retry_down_s=config.retry_down_s, build=lambda _: self.engine)
        app = build_app(self.service, token_digest=digest_of(token) if token else None)
        self.client = testclient.TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)

    def ask(self, content: str, **changes: Any) -> Any:
        return self.client.post("/v1/chat/completions", json=chat(messages=[{"role": "user", "content": content}], **changes))

    def last_turn(self) -> str:
        return self.engine.asked[-1].messages[-1].content


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "memory")
    with served.client:
        yield served


# ---- reading


def test_a_chat_is_read_with_the_defaults_where_it_does_not_say() -> None:
    ask = read(chat(messages=[{"role": "developer", "content": "be brief"}, USER, {"role": "assistant", "content": "hi"},
                              {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]))
    assert [(message.role, message.content) for message in ask.request.messages] == [
        ("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("user", "a\nb")]
    assert ask.query == "a\nb"
    assert (ask.request.temperature, ask.request.top_p, ask.request.max_new_tokens, ask.request.seed) == (0.5, 1.0, 9, None)


def test_a_chat_s_own_sampling_wins_and_greedy_is_not_taken_for_unset() -> None:
    request = read(chat(temperature=0, top_p=0.5, max_tokens=3, max_completion_tokens=4, stop="\n", seed=-7)).request
    assert (request.temperature, request.top_p, request.max_new_tokens, request.stop, request.seed) == (0.0, 0.5, 4, ("\n",), -7)


def test_edits_go_into_the_last_turn_of_the_user_alone() -> None:
    ask = read(chat(messages=[USER, {"role": "user", "content": "where?"}, {"role": "assistant", "content": "In"}]))
    asked = ask.with_edits(["A fact."], form="ice")
    assert asked.messages[1].content == render_prompt(["A fact."], "where?", form="ice") != "where?"
    assert (asked.messages[0], asked.messages[2]) == (ask.request.messages[0], ask.request.messages[2])
    assert ask.with_edits([], form="ice") == ask.request


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "other"}, "model"), ({"model": None}, "model"), ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"),
        ({"messages": [USER] * 5}, "messages"), ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"), ({"messages": [[]]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "a\0"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x" * 201}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"temperature": 2.1}, "temperature"), ({"temperature": True}, "temperature"), ({"top_p": 0}, "top_p"), ({"n": 2}, "n"),
        ({"n": True}, "n"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 65}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": [""]}, "stop"), ({"stop": ["a"] * 17}, "stop"), ({"seed": 2**63}, "seed"), ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": "function"}]}, "tools"), ({"logprobs": True}, "logprobs"), ({"tempreature": 1}, "tempreature"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ],
)
def test_a_chat_that_cannot_be_served_as_asked_is_refused_by_field(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(Unusable) as refused:
        read(chat(**changes))
    assert refused.value.param == param and 400 <= refused.value.status < 500


def test_fields_that_ask_for_nothing_are_let_through() -> None:
    read(chat(n=1, tools=[], logprobs=False, frequency_penalty=0, user="me", response_format={"type": "text"}, stop=None, anything=None))


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"a": "\\ud800"}', b'{"a": "\xff"}', b'{"a": NaN}', b"[" * 3000])
def test_a_body_that_is_no_object_of_unicode_json_is_refused(body: bytes) -> None:
    with pytest.raises(Unusable, match="the body is"):
        read_object(body)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"subject": None}, "subject"), ({"target": " "}, "target"), ({"prompt": 3}, "prompt"), ({"target": "x" * 101}, "target"),
        ({"fact": "\0"}, "fact"), ({"id": "a/b"}, "id"), ({"id": "x" * 129}, "id"), ({"metadata": []}, "metadata"),
        ({"metadata": {"k": "v" * 200}}, "metadata"), ({"metadata": {"k": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}}, "metadata"),
        ({"descriptor": "x"}, "descriptor"),
    ],
)
def test_an_edit_that_cannot_be_kept_is_refused_by_field(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(Unusable) as refused:
        read_edit({**EDIT, **changes}, LIMITS)
    assert refused.value.param == param and refused.value.status == 400


def test_an_edit_without_relation_gets_the_prompt_around_its_subject_as_edits_of_files_do() -> None:
    draft = read_edit(EDIT, LIMITS)
    assert (draft.relation, draft.descriptor) == ("{} lives in", "Anna lives in Oslo")


@pytest.mark.parametrize("query", ["limit=0", "limit=11", "after=-1", "after=\u0663", "include_ended=maybe", "x=1"])
def test_a_page_that_there_cannot_be_is_refused(query: str) -> None:
    with pytest.raises(Unusable):
        read_page(dict([query.split("=")]), LIMITS)


@given(st.text())
def test_pieces_make_up_the_text(text: str) -> None:
    pieces = list(pieces_of(text))
    assert "".join(pieces) == text and all(pieces)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"host": "0.0.0.0"}, "lets others in"), ({"host": "::"}, "lets others in"), ({"token_env": "sk-1234"}, "not the token itself")],
)
def test_strangers_are_let_in_by_a_token_s_name_only(changes: dict[str, str], says: str) -> None:
    base = {"memory": {"path": "m"}, "engine": {"kind": "scripted"}}
    with pytest.raises(ValidationError, match=says):
        EditServerConfig.model_validate({**base, **changes})
    for host in ("127.0.0.1", "localhost", "::1"):
        EditServerConfig.model_validate({**base, "host": host})
    EditServerConfig.model_validate({**base, "host": "0.0.0.0", "token_env": "TOKEN"})


# ---- the app


def test_an_edit_is_in_the_next_prompt_and_gone_after_its_end(served: Served) -> None:
    query = "Anna lives in which town?"
    before = served.ask(query)
    assert before.json()["alignray"] == {"edits": []} and served.last_turn() == query
    added = served.client.post("/v1/edits", json=EDIT)
    assert (added.status_code, added.json()["outcome"], added.json()["superseded"]) == (201, "added", None)
    after = served.ask(query).json()
    assert served.last_turn() == f"[Updated Information] Anna lives in Oslo\n[Query] {query}"
    (found,) = after["alignray"]["edits"]
    # by hand: 3 of the 5 words of the query are 3 of the fact's 4; "town?" and "which" are not
    assert found["id"] == added.json()["id"] and found["score"] == pytest.approx(3 / 20**0.5)
    assert after["choices"][0]["message"]["content"] != before.json()["choices"][0]["message"]["content"]
    served.ask("How tall is Everest?")
    assert served.last_turn() == "How tall is Everest?"
    ended = served.client.delete(f"/v1/edits/{found['id']}").json()
    assert (ended["outcome"], ended["edit"]["deleted"]) == ("deleted", True)
    assert served.client.delete(f"/v1/edits/{found['id']}").json()["outcome"] == "unchanged"
    assert served.ask(query).json()["choices"] == before.json()["choices"] and served.last_turn() == query


def test_what_is_superseded_stays_in_the_history(served: Served) -> None:
    first = served.client.post("/v1/edits", json=EDIT).json()["id"]
    second = served.client.put(f"/v1/edits/{first}/supersede", json={"target": "Rome"})
    assert (second.status_code, second.json()["superseded"], second.json()["contradicts"]) == (201, first, True)
    assert second.json()["edit"]["fact"] == "Anna lives in Rome"
    shown = served.client.get(f"/v1/edits/{first}").json()
    assert (shown["live"], shown["superseded_by"], shown["history"]) == (False, second.json()["id"], [first, second.json()["id"]])
    again = served.client.post(f"/v1/edits/{first}/supersede", json={"target": "Bern"})
    assert again.status_code == 409 and "superseded by" in again.json()["error"]["message"]
    assert served.client.put("/v1/edits/none/supersede", json={"target": "Bern"}).status_code == 404
    other = served.client.put(f"/v1/edits/{second.json()['id']}/supersede", json={"target": "x", "subject": "Otto"})
    assert other.status_code == 409
    assert served.client.post("/v1/edits", json={**EDIT, "target": "Rome"}).status_code == 200  # says the same already
    clash = served.client.post("/v1/edits", json={**EDIT, "target": "Bern", "id": first})
    assert clash.status_code == 409 and clash.json()["error"]["type"] == "conflict_error"


def test_pages_hold_every_live_edit_once(served: Served) -> None:
    ids = [served.client.post("/v1/edits", json={**EDIT, "subject": f"P{n}", "relation": "town"}).json()["id"] for n in range(25)]
    served.client.delete(f"/v1/edits/{ids[3]}")
    seen, after = [], 0
    while after is not None:
        page = served.client.get("/v1/edits", params={"after": after, "limit": 10}).json()
        seen += [edit["id"] for edit in page["data"]]
        after = page["next_after"]
        assert page["has_more"] == (after is not None) and page["live"] == 24
    assert seen == [one for one in ids if one != ids[3]]
    assert len(served.client.get("/v1/edits?as_of=2").json()["data"]) == 2
    assert served.client.get("/v1/edits?as_of=99").status_code == 400


def test_a_dry_run_names_the_recent_queries_that_the_edit_would_touch_and_writes_nothing(served: Served) -> None:
    for query in ("Anna lives in which town?", "How tall is Everest?", "Who lives in Paris?"):
        served.ask(query)
    run = served.client.post("/v1/edits/dry_run", json=EDIT).json()
    assert run["queries"] == 3
    assert [touch["query"] for touch in run["touched"]] == ["Who lives in Paris?", "Anna lives in which town?"]
    assert served.client.post("/v1/edits/dry_run", json={**EDIT, "last": 2}).json()["touched"] == run["touched"][:1]
    assert served.client.get("/v1/edits").json()["data"] == []
    # one that is nearer stands before it; all words of that are the query's, 3 of the other's 4 are
    nearer = {"subject": "Anna", "prompt": "Anna lives in which", "target": "town?", "relation": "town"}
    served.client.post("/v1/edits", json=nearer)
    touched = served.client.post("/v1/edits/dry_run", json=EDIT).json()["touched"]
    assert [touch["rank"] for touch in touched if touch["query"].startswith("Anna")] == [2]


def test_recent_queries_are_bounded(tmp_path: Path) -> None:
    served = Served(tmp_path / "memory", recent_queries=2)
    with served.client:
        for number in range(5):
            served.ask(f"Anna lives in {number}")
        run = served.client.post("/v1/edits/dry_run", json=EDIT).json()
    assert [touch["query"] for touch in run["touched"]] == ["Anna lives in 4", "Anna lives in 3"]
    assert len(served.service._recent) == 2


def test_a_stream_is_the_same_answer_in_pieces(served: Served) -> None:
    served.client.post("/v1/edits", json=EDIT)
    whole = served.ask("Anna lives in which town?").json()
    lines = served.ask("Anna lives in which town?", stream=True, stream_options={"include_usage": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == whole["choices"][0]["message"]["content"] and len(chunks) > 4
    assert chunks[0]["alignray"] == whole["alignray"] and chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert (chunks[-1]["usage"], chunks[-1]["choices"]) == (whole["usage"], [])


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (EngineDown("the endpoint is gone"), 503, None), (CallRefused("endpoint_error", "the endpoint is gone"), 503, "endpoint_error"),
        (CallRefused("context_too_long", "the endpoint is gone"), 400, "context_length_exceeded"),
        (CallRefused("content_filter", "the endpoint is gone"), 400, "content_filter"), (StorageError("the endpoint is gone"), 503, None),
    ],
)
def test_what_the_model_behind_says_decides_the_status(served: Served, error: Exception, status: int, code: str | None) -> None:
    served.engine.fails = error
    for stream in (False, True):  # a stream that cannot be has not begun
        refused = served.ask("hello", stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert "the endpoint is gone" in refused.json()["error"]["message"]
    served.engine.fails = None
    assert served.ask("hello").status_code == 200


def test_a_model_that_is_down_is_left_alone_for_a_while_and_then_built_anew() -> None:
    built: list[Recorder] = []

    def build(_config: object) -> Recorder:
        built.append(Recorder())
        built[-1].fails = EngineDown("gone") if len(built) == 1 else None
        return built[-1]

    async def story() -> None:
        behind = ModelBehind(ScriptedConfig(), timeout_s=5, retry_down_s=0.2, build=build)
        request = read(chat()).request
        for _ in range(3):
            with pytest.raises(EngineDown, match="gone"):
                await behind.answer(request)
        assert (len(built), len(built[0].asked), behind.state) == (1, 1, "down")
        await asyncio.sleep(0.25)
        assert (await behind.answer(request)).text
        assert (len(built), behind.state) == (2, "up")

    asyncio.run(story())


def test_a_model_that_does_not_answer_in_time_is_given_up_and_not_taken_for_down() -> None:
    async def story() -> str:
        slow = ScriptedConfig(latency_s=5)
        behind = ModelBehind(slow, timeout_s=0.05, retry_down_s=9)
        with pytest.raises(EngineDown, match=r"no answer within 0\.05 s"):
            await behind.answer(read(chat()).request)
        return behind.state

    assert asyncio.run(story()) == "up"


def test_a_request_without_the_token_gets_401_in_openai_s_form(tmp_path: Path) -> None:
    served = Served(tmp_path / "memory", token="right")
    with served.client as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}, {"Authorization": b"Bearer \xff"}):
            for path in ("/v1/models", "/v1/edits", "/v1/edits/x"):
                refused = client.get(path, headers=headers)
                assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/v1/models", headers={"Authorization": "Bearer right"}).json()["data"][0]["id"] == "m"
        assert client.get("/healthz").json() == {"status": "ok", "model": "up", "live_edits": 0}
        assert client.get("/openapi.json").status_code == client.get("/docs").status_code == 404


def test_the_meter_hears_of_every_request_by_route_and_of_no_text_of_a_client(served: Served) -> None:
    heard: list[tuple[Any, ...]] = []

    class Recording:
        def request(self, route: str, status: int) -> None:
            heard.append((route, status))

        def retrieval(self, stage: str, seconds: float) -> None:
            heard.append((stage, seconds >= 0))

        def live(self, edits: int) -> None:
            heard.append(("live", edits))

    served.service.meter = Recording()
    edit_id = served.client.post("/v1/edits", json=EDIT).json()["id"]
    served.ask("hello")
    served.client.get(f"/v1/edits/{edit_id}")
    served.client.get("/v1/no/such/path")
    served.client.delete(f"/v1/edits/{edit_id}")
    chat_path, edit_path = "/v1/chat/completions", "/v1/edits/{edit_id}"
    assert heard == [("live", 1), ("/v1/edits", 201), ("embed", True), ("search", True), (chat_path, 200), (edit_path, 200), ("other", 404),
                     ("live", 0), (edit_path, 200)]


def test_a_log_of_refused_requests_holds_no_token_and_no_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    served = Served(tmp_path / "memory", token="a-right-token")
    served.engine.fails = RuntimeError("a bug")
    caplog.set_level("DEBUG")
    with served.client as client:
        client.get("/v1/models", headers={"Authorization": "Bearer a-wrong-token"})
        broken = client.post("/v1/chat/completions", json=chat(messages=[{"role": "user", "content": "a private matter"}]),
                             headers={"Authorization": "Bearer a-right-token"})
    assert broken.status_code == 500 and "a bug" not in broken.text and "a bug" in caplog.text
    for hidden in ("a-right-token", "a-wrong-token", "a private matter"):
        assert hidden not in caplog.text


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": "[x"}])
def test_without_a_token_a_web_page_reaches_nothing(served: Served, headers: dict[str, str]) -> None:
    refused = served.client.post("/v1/edits", json=EDIT, headers=headers)
    assert refused.status_code == 403 and served.service.num_live == 0
    assert served.client.post("/v1/edits", json=EDIT, headers={"Origin": "http://localhost:3000"}).status_code == 201


def test_paths_methods_and_sizes_that_there_are_not_are_refused_in_the_same_form(served: Served) -> None:
    for method, path, status in (("GET", "/v1/none", 404), ("PATCH", "/v1/edits", 405), ("GET", "/v1/edits/%00%ff", 404)):
        refused = served.client.request(method, path)
        assert refused.status_code == status and set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert served.client.post("/v1/edits", content=b" " * 4097).status_code == 413


def test_another_writer_is_kept_out_until_the_server_ends(tmp_path: Path) -> None:
    with Served(tmp_path / "memory").client, pytest.raises(StorageError):
        Served(tmp_path / "memory")
    Served(tmp_path / "memory").client.__enter__()


# ---- anything at all

WORDS = ("", "m", "hello", "user", "system", "\0", "\u202e", "\U0001f600", "x" * 300, "Anna", "0", "text")
KEYS = ("model", "messages", "temperature", "top_p", "max_tokens", "stop", "seed", "n", "stream", "stream_options", "tools", "subject",
        "prompt", "target", "relation", "fact", "id", "metadata", "last", "role", "content", "type", "text", "zzz")
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from(WORDS) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5), max_leaves=12,
)
GOOD_CHAT = st.fixed_dictionaries({"model": st.just("m"), "messages": st.just([USER])})
BODIES = st.one_of(
    ANY, st.builds(lambda good, bad: {**good, **bad}, GOOD_CHAT, st.dictionaries(st.sampled_from(KEYS), ANY, max_size=3)),
    st.builds(lambda bad: {**EDIT, **bad}, st.dictionaries(st.sampled_from(KEYS), ANY, max_size=3)),
)
PLACES = (
    ("POST", "/v1/chat/completions"), ("POST", "/v1/chat/completions"), ("POST", "/v1/edits"), ("POST", "/v1/edits/dry_run"),
    ("PUT", "/v1/edits/a/supersede"), ("POST", "/v1/edits/e1/supersede"), ("GET", "/v1/edits/e1"), ("PUT", "/v1/edits/e1"),
)


def test_no_body_brings_down_more_than_itself(tmp_path: Path) -> None:
    served = Served(tmp_path / "memory")
    statuses: Counter[int] = Counter()

    @settings(max_examples=1000, database=None)
    @given(place=st.sampled_from(PLACES), body=BODIES, noise=st.randoms())
    def ask(place: tuple[str, str], body: Any, noise: random.Random) -> None:
        data = json.dumps(body).encode()
        if noise.random() < 0.2:  # bytes cut, or one put in the middle
            at = noise.randrange(len(data) + 1)
            data = data[:at] + bytes([noise.randrange(256)]) * noise.randrange(2) + data[at:][: noise.choice((0, 9999))]
        answer = served.client.request(*place, content=data)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (place, data, answer.text)
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error["message"] and error["type"]

    with served.client:
        served.client.post("/v1/edits", json={**EDIT, "id": "e1"})
        served.ask("Anna lives in")  # for dry runs
        ask()
        assert served.ask("hello").status_code == served.client.get("/v1/edits").status_code == 200
    # else nothing got past the first check
    assert statuses[200] + statuses[201] > 50 and statuses[400] > 200, statuses
