"""The HTTP engine against the mock endpoint, for real on loopback: every kind of fault, and what becomes of the call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from alignray.engine import OpenAIConfig, Price, openai
from alignray.engine.http_errors import retry_after, trouble_of_status
from alignray.engine.mock_server import MockConfig, MockServer, prompt_hash
from alignray.engine.openai import OpenAIEngine
from alignray.errors import CallRefused, EngineDown
from alignray.schema import ChatRequest, Completion, Message

KEY = "sk-proj-abcdefSECRETabcdef0123456789"
PRICE = Price(prompt=150.0, completion=600.0)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "BACKOFF_S", 0.1)


def ask_for(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest((Message("user", text),), max_new_tokens=64, temperature=0.0, top_p=1.0, **fields)


def config_for(url: str, **fields: Any) -> OpenAIConfig:
    settings = {"timeout_s": 0.4, "connect_timeout_s": 0.5, "max_attempts": 3, "down_after_s": 20.0} | fields
    return OpenAIConfig(model="mock", base_url=url, **settings)


def run(
    story: Callable[[OpenAIEngine, MockServer], Awaitable[Any]], mock: MockConfig | None = None, **fields: Any
) -> Any:
    """Tells the story with a fresh server and engine."""

    async def main() -> Any:
        async with MockServer(mock) as server:
            engine = OpenAIEngine(config_for(server.url, **fields))
            await engine.start()
            try:
                return await story(engine, server)
            finally:
                await engine.close()

    return asyncio.run(main())


async def one_call(engine: OpenAIEngine, server: MockServer) -> tuple[Completion, MockServer, OpenAIEngine]:
    return await engine.generate(ask_for("what is rain?")), server, engine


def test_an_answer_brings_text_tokens_price_and_latency() -> None:
    answer, server, engine = run(one_call, MockConfig(latency_s=0.05), price=PRICE)
    assert answer.text.endswith(".") and answer.finish_reason == "stop" and answer.model == "mock"
    assert answer.prompt_tokens == 4  # 13 characters at 4.3
    assert answer.cost_usd == pytest.approx((4 * 150 + answer.completion_tokens * 600) / 1e6)
    assert 0.05 <= answer.latency_s < 0.4
    assert server.requests[0] == {
        "model": "mock", "messages": [{"role": "user", "content": "what is rain?"}], "max_tokens": 64, "temperature": 0.0,
        "top_p": 1.0,
    }
    assert engine.stats == {"attempts": 1, "answers": 1}


def test_every_field_of_a_request_goes_out() -> None:
    async def story(engine: OpenAIEngine, server: MockServer) -> dict[str, Any]:
        await engine.generate(ask_for("x", stop=("\n\n",), seed=7, json_schema='{"type": "object"}'))
        return server.requests[0]

    body = run(story, send_seed=True, tokens_key="max_completion_tokens", extra_body={"top_k": 5, "temperature": 0.9})
    assert body["stop"] == ["\n\n"] and body["seed"] == 7 and body["top_k"] == 5 and body["temperature"] == 0.9
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["max_completion_tokens"] == 64 and "max_tokens" not in body


def test_missing_usage_is_estimated_and_counted() -> None:
    answer, _, engine = run(one_call, MockConfig(sends_usage=False), price=PRICE)
    assert engine.estimated_usage == 1
    assert answer.prompt_tokens == 4 and answer.completion_tokens > 0 and answer.cost_usd > 0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "http_500"), ("502", "http_502"), ("504", "http_504"), ("503", "http_503"), ("408", "http_408"),
        ("409", "http_409"), ("425", "http_425"), ("429", "http_429"), ("hang", "timeout"), ("drop", "cut"), ("cut", "cut"),
        ("bad_json", "bad_answer"), ("empty_choices", "bad_answer"),
    ],
)
def test_a_passing_fault_is_tried_again(fault: str, reason: str) -> None:
    answer, server, engine = run(one_call, MockConfig(faults=(fault,)))
    assert answer.text
    assert engine.stats[f"retries/{reason}"] == 1 and engine.stats["attempts"] == 2
    assert server.served[prompt_hash([Message("user", "what is rain?")])] == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("context", "context_too_long"), ("content_filter", "content_filter"), ("400", "http_4xx"), ("echo_key", "http_4xx"),
    ],
)
def test_a_request_that_can_never_work_is_refused_at_once(fault: str, reason: str) -> None:
    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        with pytest.raises(CallRefused) as caught:
            await engine.generate(ask_for("x"))
        assert caught.value.args[0] == reason and caught.value.args[1].startswith("HTTP 400: ")
        assert engine.stats["attempts"] == 1
        assert (await engine.generate(ask_for("y"))).text

    run(story, MockConfig(faults=(fault,)))


def test_bad_answers_are_refused_after_max_attempts() -> None:
    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        with pytest.raises(CallRefused) as caught:
            await engine.generate(ask_for("x"))
        assert caught.value.args[0] == "bad_answer"
        assert server.asked.total() == 3

    run(story, MockConfig(fault_rates={"empty_choices": 1.0}))


def test_a_call_that_keeps_failing_while_others_succeed_is_refused() -> None:
    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        answers = server._answer

        def answer(body: dict[str, Any], messages: list[Message]) -> dict[str, Any]:
            if messages[0].content == "poison":
                raise RuntimeError("the server falls over this prompt")
            return answers(body, messages)

        server._answer = answer
        poisoned = asyncio.create_task(engine.generate(ask_for("poison")))
        while not poisoned.done():
            assert (await engine.generate(ask_for("rain"))).text
            await asyncio.sleep(0.02)
        with pytest.raises(CallRefused) as caught:
            poisoned.result()
        assert caught.value.args[0] == "endpoint_error" and "3 attempts" in caught.value.args[1]

    run(story)


def test_a_lone_call_that_keeps_failing_is_refused_but_two_mean_that_the_endpoint_is_down() -> None:
    async def lone(engine: OpenAIEngine, server: MockServer) -> None:
        with pytest.raises(CallRefused, match="endpoint_error"):
            await engine.generate(ask_for("x"))

    async def two(engine: OpenAIEngine, server: MockServer) -> None:
        errors = await asyncio.gather(*(engine.generate(ask_for(text)) for text in "xy"), return_exceptions=True)
        assert all(isinstance(error, EngineDown) and "then resume" in str(error) for error in errors)
        with pytest.raises(EngineDown):
            await engine.generate(ask_for("z"))

    run(lone, MockConfig(fault_rates={"500": 1.0}), down_after_s=0.5)
    run(two, MockConfig(fault_rates={"500": 1.0}), down_after_s=0.5)


def test_an_endpoint_that_is_not_there_is_down_for_all_calls_within_down_after_s() -> None:
    async def main() -> None:
        async with MockServer() as server:
            url = server.url
        engine = OpenAIEngine(config_for(url, down_after_s=0.6))
        await engine.start()
        started = time.monotonic()
        errors = await asyncio.gather(*(engine.generate(ask_for(str(n))) for n in range(40)), return_exceptions=True)
        assert all(isinstance(error, EngineDown) and url in str(error) for error in errors)
        assert 0.6 <= time.monotonic() - started < 3
        await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "says"),
    [("401", "$OPENAI_API_KEY"), ("403", "$OPENAI_API_KEY"), ("404", "model 'mock'"), ("302", "base_url"), ("quota", "quota")],
)
def test_what_no_call_can_survive_stops_the_run_and_says_what_to_mend(fault: str, says: str) -> None:
    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        with pytest.raises(EngineDown) as caught:
            await engine.generate(ask_for("x"))
        assert says in str(caught.value) and len(caught.value.args) == 1
        assert server.asked.total() == 1

    run(story, MockConfig(faults=(fault,)))


def test_a_hanging_endpoint_is_down_after_timeouts_alone() -> None:
    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        errors = await asyncio.gather(*(engine.generate(ask_for(text)) for text in "xyz"), return_exceptions=True)
        assert all(isinstance(error, EngineDown) for error in errors)

    run(story, MockConfig(fault_rates={"hang": 1.0}), timeout_s=0.1, down_after_s=0.5)


@pytest.mark.parametrize(("fault", "pause_s"), [("429:1", 1.0), ("429:date", 1.0), ("503:1", 1.0)])
def test_retry_after_holds_back_every_call(fault: str, pause_s: float) -> None:
    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        started = time.monotonic()
        first = asyncio.create_task(engine.generate(ask_for("x")))
        await asyncio.sleep(0.1)
        await asyncio.gather(first, *(engine.generate(ask_for(str(n))) for n in range(5)))
        assert time.monotonic() - started >= pause_s - 0.05
        assert engine.stats["throttled"] == 1 and engine.stats["attempts"] == 7

    run(story, MockConfig(faults=(fault,)))


def test_being_throttled_never_costs_a_row() -> None:
    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        answers = await asyncio.gather(*(engine.generate(ask_for(str(n))) for n in range(60)))
        assert len(answers) == 60 and engine.stats["throttled"] > 0
        assert set(server.served.values()) == {1}

    run(story, MockConfig(latency_s=0.02, slots=4, overflow="429"), max_attempts=1)


def test_all_faults_at_once_lose_no_call_and_serve_none_twice() -> None:
    rates = {"500": 0.05, "429": 0.05, "cut": 0.05, "drop": 0.03, "bad_json": 0.05, "hang": 0.01}

    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        answers = await asyncio.gather(*(engine.generate(ask_for(str(n))) for n in range(300)))
        assert len(answers) == 300
        assert server.served.total() == 300 and set(server.served.values()) == {1}
        assert engine.controller.in_flight == 0

    run(story, MockConfig(latency_s=0.005, slots=32, fault_rates=rates), max_attempts=10)


def test_a_resending_that_may_be_paid_twice_is_admitted_first() -> None:
    class BudgetSpentError(Exception):
        pass

    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        asked: list[int] = []

        async def admit() -> None:
            asked.append(server.asked.total())
            if len(asked) == 2:
                raise BudgetSpentError

        # 429 and 503 were never worked on: nothing to pay; the timeout and the empty answer may have been
        with pytest.raises(BudgetSpentError):
            await engine.generate(ask_for("x"), admit)
        assert asked == [3, 4] and server.asked.total() == 4

    run(story, MockConfig(faults=("429", "503", "hang", "empty_choices")), max_attempts=6)


def test_a_cancelled_call_gives_its_place_back() -> None:
    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        task = asyncio.create_task(engine.generate(ask_for("x")))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert engine.controller.in_flight == 0

    run(story, MockConfig(faults=("hang",)))


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []

    async def story(engine: OpenAIEngine, server: MockServer) -> None:
        assert (await engine.generate(ask_for("x"))).text
        server._faults = ["echo_key"]
        with pytest.raises(CallRefused) as refused:
            await engine.generate(ask_for("x"))
        assert "[redacted]" in refused.value.args[1]
        server._faults = ["401"]
        with pytest.raises(EngineDown) as down:
            await engine.generate(ask_for("x"))
        seen.extend([repr(refused.value), repr(down.value), repr(engine.config)])

    run(story, MockConfig(api_key=KEY, faults=("500",)))
    run_wrong = MockConfig(api_key="sk-another-key-altogether")

    async def wrong(engine: OpenAIEngine, server: MockServer) -> None:
        with pytest.raises(EngineDown, match=r"\$OPENAI_API_KEY") as down:
            await engine.generate(ask_for("x"))
        seen.append(repr(down.value))

    run(wrong, run_wrong)
    assert len(seen) == 4
    for text in [*seen, caplog.text]:
        assert KEY not in text and "SECRET" not in text


def test_a_cloud_endpoint_wants_key_and_price_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EngineDown, match="export OPENAI_API_KEY="):
        asyncio.run(OpenAIEngine(OpenAIConfig(model="gpt-4o-mini")).start())
    with pytest.raises(EngineDown, match="set price:"):
        asyncio.run(OpenAIEngine(OpenAIConfig(model="nobody-knows-me")).start())


def test_each_status_has_its_meaning() -> None:
    def kind_of(status: int, body: bytes = b"") -> str:
        return trouble_of_status(status, {}, body, now=0.0).kind

    assert {status: kind_of(status) for status in (301, 400, 401, 403, 404, 408, 409, 413, 422, 425, 429, 500, 503, 529)} == {
        301: "down", 400: "refuse", 401: "down", 403: "down", 404: "down", 408: "retry", 409: "retry", 413: "refuse",
        422: "refuse", 425: "retry", 429: "throttle", 500: "retry", 503: "retry", 529: "retry",
    }
    for text in (
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "the request exceeds the available context size, try increasing it",
        "The decoder prompt (length 9000) is longer than the maximum model length of 4096.",
        "prompt is too long: 210000 tokens > 200000 maximum",
    ):
        trouble = trouble_of_status(400, {}, orjson.dumps({"error": {"message": text}}), now=0.0)
        assert (trouble.kind, trouble.reason) == ("refuse", "context_too_long"), text


def test_retry_after_is_read_as_seconds_milliseconds_or_date() -> None:
    assert retry_after({"Retry-After": "3"}, now=0) == 3
    assert retry_after({"Retry-After": "1.5"}, now=0) == 1.5
    assert retry_after({"retry-after-ms": "250"}, now=0) == 0.25
    assert retry_after({"Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=50) == 10
    assert retry_after({"Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=90) == 0
    assert retry_after({"Retry-After": "soon"}, now=0) == 0
    assert retry_after({}, now=0) == 0


def test_calls_in_flight_when_an_endpoint_dies_are_not_refused_for_an_answer_that_came_late() -> None:
    """One call sees the end of the endpoint before another's last answer is read; that answer says nothing about the first."""
    async def main() -> None:
        async with MockServer(MockConfig(fault_rates={"cut": 1.0})) as server:
            engine = OpenAIEngine(config_for(server.url, down_after_s=2.0, max_attempts=2))
            await engine.start()
            engine._jitter.uniform = lambda low, high: 0.3  # type: ignore[method-assign]  # no second attempt before all is over
            call = asyncio.create_task(engine.generate(ask_for("x")))
            while engine._health._failing_since is None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        engine._health.succeeded()
        with pytest.raises(EngineDown):
            await call
        await engine.close()

    asyncio.run(main())
