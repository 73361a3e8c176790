"""A fake OpenAI-compatible endpoint on loopback, with a known capacity and faults on demand.

In process: ``async with MockServer(MockConfig(...)) as server: ... server.url``.
As a process of its own: ``python -m alignray.engine.mock_server --latency 0.2 --slots 64``; its first line is its URL.
``GET /stats`` counts what was asked and served.
"""

from __future__ import annotations

import argparse
import asyncio
import email.utils
import hashlib
import random
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import orjson
import pydantic
from aiohttp import web

from alignray.config import Config
from alignray.engine.scripted import scripted_text
from alignray.schema import Message
from alignray.schema.tokens import estimate_tokens

FAULTS = (
    "429", "429:SECONDS", "429:date", "408", "409", "425", "500", "502", "503", "503:SECONDS", "504", "hang", "drop", "cut",
    "bad_json", "empty_choices", "context", "content_filter", "quota", "400", "401", "403", "404", "302", "echo_key",
)
"""Names for MockConfig.faults; "ok" is none."""


class MockConfig(Config):
    """How the fake endpoint behaves."""

    latency_s: float = pydantic.Field(default=0.0, ge=0)
    """Time an answer takes, once it has a slot."""
    slots: int | None = pydantic.Field(default=None, ge=1)
    """Answers at a time; null: no limit. Capacity is slots / latency_s."""
    overflow: Literal["queue", "429"] = "queue"
    """What happens beyond the slots."""
    rate: float | None = pydantic.Field(default=None, gt=0)
    """Requests per second of a token bucket, 429 beyond; null: no bucket."""
    burst: float = pydantic.Field(default=1.0, ge=1)
    """Size of the bucket."""
    retry_after_s: float | None = pydantic.Field(default=None, ge=0)
    """Retry-After sent with a 429 from slots or bucket; null: none."""
    faults: tuple[str, ...] = ()
    """Faults of the first calls in order of arrival, then none. See FAULTS."""
    fault_rates: dict[str, float] = pydantic.Field(default_factory=dict)
    """Faults by chance."""
    api_key: str | None = None
    """Key that every request must carry; null: any or none."""
    sends_usage: bool = True
    """Whether answers hold token counts."""
    journal_path: str | None = None
    """File that gets a line per answer served; null: none."""
    seed: int = 0
    """Of answers and chances."""


class MockServer:
    """The endpoint. ``asked`` and ``served`` count requests by ``prompt_hash``; ``refused`` counts 429s."""

    def __init__(self, config: MockConfig | None = None) -> None:
        self.config = config or MockConfig()
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.refused = 0
        self.requests: list[dict[str, Any]] = []
        """Bodies of the first 1,000 requests."""
        self.url = ""
        self._busy = 0
        self._slots = asyncio.Semaphore(self.config.slots) if self.config.slots else None
        self._tokens, self._refilled_at = self.config.burst, time.monotonic()
        self._rng = random.Random(self.config.seed)
        self._faults = list(reversed(self.config.faults))
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        """Listens on 127.0.0.1; port 0 takes a free one."""
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/stats", self._stats)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def close(self) -> None:
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> MockServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _stats(self, request: web.Request) -> web.Response:
        counts = {"asked": self.asked.total(), "served": self.served.total(), "refused": self.refused, "busy": self._busy}
        return _json(counts | {"repeated": sum(count - 1 for count in self.served.values()), "time_s": time.monotonic()})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        messages = [Message(turn["role"], turn["content"]) for turn in body["messages"]]
        key = prompt_hash(messages)
        self.asked[key] += 1
        if len(self.requests) < 1000:
            self.requests.append(body)
        if self.config.api_key and request.headers.get("Authorization") != f"Bearer {self.config.api_key}":
            return _error(401, "Incorrect API key provided", code="invalid_api_key")
        fault = self._next_fault()
        if fault != "ok":
            return await self._fail(fault, request)
        if not self._take_token() or (self.config.overflow == "429" and self._slots is not None and self._slots.locked()):
            self.refused += 1
            return _throttle(429, self.config.retry_after_s)
        answer = self._answer(body, messages)
        if self._slots is None:
            await self._work()
        else:
            async with self._slots:
                await self._work()
        self.served[key] += 1
        if self.config.journal_path:
            with Path(self.config.journal_path).open("ab") as journal:
                journal.write(orjson.dumps({"prompt_hash": key, "time_s": time.time()}) + b"\n")
        return _json(answer)

    async def _work(self) -> None:
        self._busy += 1
        try:
            await asyncio.sleep(self.config.latency_s)
        finally:
            self._busy -= 1

    def _answer(self, body: dict[str, Any], messages: list[Message]) -> dict[str, Any]:
        cap = body.get("max_tokens") or body.get("max_completion_tokens") or 1024
        asked = body.get("response_format") or {}
        schema = asked.get("json_schema", {}).get("schema")
        text = scripted_text(messages, seed=self.config.seed, max_new_tokens=cap, schema=schema)
        answer: dict[str, Any] = {
            "id": "chatcmpl-mock", "object": "chat.completion", "created": 0, "model": body.get("model", "mock"),
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        }
        if self.config.sends_usage:
            prompt_tokens = sum(estimate_tokens(message.content) for message in messages)
            completion_tokens = estimate_tokens(text)
            answer["usage"] = {
                "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            }
        return answer

    def _take_token(self) -> bool:
        if self.config.rate is None:
            return True
        now = time.monotonic()
        self._tokens = min(self.config.burst, self._tokens + (now - self._refilled_at) * self.config.rate)
        self._refilled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _next_fault(self) -> str:
        if self._faults:
            return self._faults.pop()
        chance = self._rng.random() if self.config.fault_rates else 1.0
        for fault, rate in self.config.fault_rates.items():
            if chance < rate:
                return fault
            chance -= rate
        return "ok"

    async def _fail(self, fault: str, request: web.Request) -> web.StreamResponse:
        name, _, argument = fault.partition(":")
        if name in ("429", "503"):
            self.refused += name == "429"
            return _throttle(int(name), argument or None)
        if name == "hang":
            await self._closing.wait()
            return _error(500, "closing")
        if name in ("drop", "cut"):
            return await _cut(request, after_headers=name == "cut")
        if name == "302":
            return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/elsewhere"})
        if name == "echo_key":
            return _error(400, f"cannot read headers {dict(request.headers)}")
        if name in SPECIAL_FAULTS:
            return SPECIAL_FAULTS[name]()
        return _error(int(name), "scripted fault")


def prompt_hash(messages: list[Message] | tuple[Message, ...]) -> str:
    """The name under which a mock server counts a request: 16 hex digits over its messages."""
    pairs = [(message.role, message.content) for message in messages]
    return hashlib.blake2b(orjson.dumps(pairs), digest_size=8).hexdigest()


def _json(data: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")


def _error(status: int, message: str, code: str | None = None) -> web.Response:
    return _json({"error": {"message": message, "type": "mock_error", "code": code}}, status)


def _throttle(status: int, retry_after: float | str | None) -> web.Response:
    response = _error(status, "slow down", code="rate_limit_exceeded")
    if retry_after == "date":
        retry_after = email.utils.formatdate(time.time() + 2, usegmt=True)
    if retry_after is not None:
        response.headers["Retry-After"] = f"{retry_after:g}" if isinstance(retry_after, float) else retry_after
    return response


async def _cut(request: web.Request, *, after_headers: bool) -> web.StreamResponse:
    """Hangs up, before the answer or in the middle of it."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    if after_headers:
        await response.prepare(request)
        await response.write(b'{"choices": [{"message": {"content": "half an an')
    if request.transport is not None:
        request.transport.close()
    return response


SPECIAL_FAULTS = {
    "bad_json": lambda: web.Response(body=b'{"choices": [{"mess', content_type="application/json"),
    "empty_choices": lambda: _json({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}),
    "context": lambda: _error(400, "This model's maximum context length is 4096 tokens.", code="context_length_exceeded"),
    "content_filter": lambda: _error(400, "The prompt was filtered.", code="content_filter"),
    "quota": lambda: _error(429, "You exceeded your current quota.", code="insufficient_quota"),
}


async def _serve(config: MockConfig, port: int) -> None:
    server = MockServer(config)
    await server.start(port)
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    try:
        await asyncio.Event().wait()
    finally:
        await server.close()


def main(arguments: list[str] | None = None) -> None:
    """Serves until interrupted."""
    name, about = "python -m alignray.engine.mock_server", "A fake OpenAI-compatible endpoint on loopback."
    parser = argparse.ArgumentParser(prog=name, description=about)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per answer")
    parser.add_argument("--slots", type=int, help="answers at a time")
    parser.add_argument("--overflow", choices=("queue", "429"), default="queue", help="what happens beyond the slots")
    parser.add_argument("--rate", type=float, help="requests per second of a token bucket")
    parser.add_argument("--burst", type=float, default=1.0, help="size of the bucket")
    parser.add_argument("--retry-after", type=float, help="seconds, sent with each 429")
    parser.add_argument("--faults", default="", help=f"comma-separated, for the first calls: {', '.join(FAULTS)}")
    parser.add_argument("--fault-rate", action="append", default=[], metavar="NAME=RATE", help="repeatable")
    parser.add_argument("--journal", help="file that gets a line per answer")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    rates = dict(rate.rsplit("=", 1) for rate in given.fault_rate)
    config = MockConfig(
        latency_s=given.latency, slots=given.slots, overflow=given.overflow, rate=given.rate, burst=given.burst,
        retry_after_s=given.retry_after, faults=tuple(filter(None, given.faults.split(","))),
        fault_rates={name: float(rate) for name, rate in rates.items()}, journal_path=given.journal, seed=given.seed,
    )
    try:
        asyncio.run(_serve(config, given.port))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
