"""Chat completions over HTTP from any endpoint that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import orjson

from alignray.engine.base import Admit
from alignray.engine.concurrency import Controller, Gate, Ticket
from alignray.engine.configs import OpenAIConfig, is_loopback, is_own_network, price_of
from alignray.engine.http_errors import Health, Trouble, redact, trouble_of_status
from alignray.engine.prices import FREE
from alignray.errors import CallRefused, ConfigError, EngineDown
from alignray.schema import ChatRequest, Completion
from alignray.schema.tokens import estimate_tokens
from alignray.untrusted import storable

logger = logging.getLogger(__name__)

BACKOFF_S, MAX_BACKOFF_S, MAX_THROTTLE_BACKOFF_S = 0.5, 20.0, 5.0
MAX_ANSWER_BYTES = 16 << 20
"""Longest body that is read, unpacked; no model writes as much, and a compressed one could be any size."""
MAX_TOKENS_SAID = 1 << 40
"""Token counts beyond this are no counts."""
MAX_MODEL_NAME = 200
KEEPALIVE_S = 4.0
"""Idle connections are dropped before common servers do it (5 s), or a request would be sent into a closing one."""
FinishReason = Literal["stop", "length", "content_filter", "unknown"]
FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop", "eos": "stop", "end_turn": "stop",
    "length": "length", "max_tokens": "length", "content_filter": "content_filter",
}


@dataclass(frozen=True)
class Answer:
    """A usable HTTP answer; token counts are None where the endpoint sent no usage."""

    text: str
    finish_reason: FinishReason
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_s: float


class OpenAIEngine:
    """An endpoint behind the engine's door.

    ``stats`` counts "attempts", "answers", "retries/REASON", "throttled" and "estimated_usage".
    """

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self.controller = Controller(config.max_in_flight)
        self.stats: Counter[str] = Counter()
        self._url = f"{config.base_url}/chat/completions"
        self._key: str | None = None
        self._price = FREE
        self._session: aiohttp.ClientSession | None = None
        self._gate = Gate(self.controller)
        self._health = Health(config.down_after_s)
        self._call_numbers = itertools.count()
        self._jitter = random.Random()
        self._down: EngineDown | None = None
        self._woken = asyncio.Event()

    @property
    def max_records(self) -> int:
        """A few more than requests: while one record is between two steps, another's request takes its place."""
        return self.config.max_in_flight + self.config.max_in_flight // 4 + 8

    @property
    def estimated_usage(self) -> int:
        """Answers whose token counts are estimates because the endpoint sent none."""
        return self.stats["estimated_usage"]

    async def start(self) -> None:
        """Reads the key and the price and opens the pool; the endpoint itself is first asked by the first call."""
        config = self.config
        try:
            self._price = price_of(config)
        except ConfigError as err:
            raise EngineDown(str(err)) from err
        self._key = os.environ.get(config.api_key_env) or None if config.api_key_env else None
        if config.api_key_env and not self._key and not is_loopback(config.base_url):
            raise EngineDown(
                f"{config.base_url} needs a key and ${config.api_key_env} is not set; "
                f"export {config.api_key_env}=..., or set api_key_env: null when the endpoint takes none"
            )
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._down, self._woken = None, asyncio.Event()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_in_flight, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=config.timeout_s, sock_connect=config.connect_timeout_s),
            headers=headers,
            trust_env=not is_own_network(config.base_url),
        )

    async def close(self) -> None:
        """Calls still waiting for their turn end with EngineDown."""
        self._stop(f"the engine for {self.config.base_url} was closed")
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def generate(self, request: ChatRequest, admit: Admit | None = None) -> Completion:
        """Answer one request, over as many attempts as it takes and is worth."""
        body = orjson.dumps(self._body(request))
        call, attempts, throttles = next(self._call_numbers), 0, 0
        successes_before: int | None = None
        while True:
            if self._down is not None:
                raise EngineDown(*self._down.args)
            result = await self._attempt(body)
            if isinstance(result, Answer):
                return self._completion(request, result)
            message = redact(result.message, self._key)
            if result.kind == "refuse":
                raise CallRefused(result.reason, message)
            if result.kind == "down":
                raise self._stop(self._way_out(result.reason, message))
            self.stats[f"retries/{result.reason}"] += 1
            logger.debug("%s: %s, trying again", self._url, message)
            if result.kind == "throttle":
                throttles += 1
                if self._health.throttled(time.monotonic()):
                    raise self._stop(f"{self._url}: nothing but 429 for minutes ({message}); check the quota, then resume")
                await self._back_off(throttles, MAX_THROTTLE_BACKOFF_S)
                continue
            attempts += 1
            others_succeeded = successes_before is not None and self._health.successes > successes_before
            successes_before = self._health.successes
            self._give_up(result, message, call=call, attempts=attempts, others_succeeded=others_succeeded)
            await self._back_off(attempts, MAX_BACKOFF_S)
            if admit is not None and result.may_be_billed:
                await admit()

    def _give_up(self, trouble: Trouble, message: str, *, call: int, attempts: int, others_succeeded: bool) -> None:
        """Raises when this call, or the endpoint, has had its chances.

        Args:
            others_succeeded: some call was answered between this failure and the one before: the endpoint was there.
        """
        is_last = attempts >= self.config.max_attempts
        if trouble.reason == "bad_answer":
            if is_last:
                raise CallRefused("bad_answer", f"{message} ({attempts} attempts)")
            return
        verdict = self._health.failed(
            call, time.monotonic(), reason=trouble.reason, latency_s=self.controller.latency_s
        )
        if verdict == "down":
            raise self._stop(
                f"{self._url}: no answer for {self.config.down_after_s:g} s ({message}); "
                "see that the endpoint runs and can be reached, then resume"
            )
        # while nobody succeeds, or none can connect, the endpoint may be down: rejecting the row now would reject every row
        if is_last and trouble.reason != "unreachable" and (verdict == "alone" or others_succeeded):
            raise CallRefused("endpoint_error", f"{message} ({attempts} attempts)")

    async def _attempt(self, body: bytes) -> Answer | Trouble:
        """One HTTP exchange, reported to the controller."""
        assert self._session is not None, "start() comes before generate()"
        ticket = await self._gate.enter()
        self.stats["attempts"] += 1
        result: Answer | Trouble | None = None
        try:
            result = await self._exchange(self._session, body, ticket)
        finally:
            self._report(ticket, result)
        return result

    async def _exchange(self, session: aiohttp.ClientSession, body: bytes, ticket: Ticket) -> Answer | Trouble:
        try:
            # a redirect would carry key and prompt to who knows where
            async with session.post(self._url, data=body, allow_redirects=False) as response:
                data = await _body_of(response)
                if response.status != 200:
                    return trouble_of_status(response.status, response.headers, data, now=time.time())
                if len(data) > MAX_ANSWER_BYTES:
                    return Trouble("retry", "bad_answer", f"HTTP 200 with a body of more than {MAX_ANSWER_BYTES} bytes")
        except aiohttp.ClientConnectorCertificateError as err:
            return Trouble("down", "certificate", f"the certificate does not hold: {err}")
        except aiohttp.ConnectionTimeoutError:
            return Trouble("retry", "unreachable", f"no connection within {self.config.connect_timeout_s:g} s")
        except TimeoutError:
            return Trouble("retry", "timeout", f"no complete answer within {self.config.timeout_s:g} s")
        except aiohttp.ClientConnectorError as err:
            return Trouble("retry", "unreachable", str(err))
        except (aiohttp.ClientError, OSError) as err:
            return Trouble("retry", "cut", f"{type(err).__name__}: {err}")
        return _read_answer(data, latency_s=time.monotonic() - ticket.sent_at)

    def _report(self, ticket: Ticket, result: Answer | Trouble | None) -> None:
        now = time.monotonic()
        if isinstance(result, Answer):
            self._health.succeeded()
            self.controller.succeeded(ticket, now)
        elif result is None:
            self.controller.failed(ticket)
        elif result.is_overload:
            self.stats["throttled"] += 1
            self.controller.throttled(ticket, now, result.retry_after_s)
        elif result.reason == "timeout":
            self.controller.timed_out(ticket, now)
        else:
            self.controller.failed(ticket)
        self._gate.pump()

    async def _back_off(self, failures: int, longest_s: float) -> None:
        """Full jitter: anywhere between at once and the doubled wait; woken early when the engine stops."""
        delay = self._jitter.uniform(0, min(longest_s, BACKOFF_S * 2 ** min(failures - 1, 10)))
        try:
            async with asyncio.timeout(delay):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _stop(self, message: str) -> EngineDown:
        """The error to raise; all other calls, waiting ones too, get the same."""
        if self._down is None:
            self._down = EngineDown(message)
            self._woken.set()
            self._gate.refuse_all(EngineDown(message))
        return EngineDown(*self._down.args)

    def _way_out(self, reason: str, message: str) -> str:
        """What to do about an endpoint that will not take any of our calls."""
        config = self.config
        if reason in ("http_401", "http_403"):
            env = config.api_key_env
            cure = f"set a valid key in ${env}" if env else "name the variable that holds its key in api_key_env"
        elif reason == "http_404":
            cure = f"see that model {config.model!r} and base_url are right"
        elif reason == "quota":
            cure = "raise the account's quota, then resume"
        elif reason == "certificate":
            cure = "see that base_url names the right host"
        else:
            cure = "set base_url to where it really answers"
        return f"{self._url}: {message}; {cure}"

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        config = self.config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        }
        if request.max_new_tokens is not None:
            body[config.tokens_key] = request.max_new_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.top_p is not None:
            body["top_p"] = request.top_p
        if request.stop:
            body["stop"] = request.stop
        if config.send_seed and request.seed is not None:
            body["seed"] = request.seed
        if request.json_schema is not None:
            schema = orjson.loads(request.json_schema)
            body["response_format"] = {
                "type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema},
            }
        return body | config.extra_body

    def _completion(self, request: ChatRequest, answer: Answer) -> Completion:
        self.stats["answers"] += 1
        prompt_tokens, completion_tokens = answer.prompt_tokens, answer.completion_tokens
        if prompt_tokens is None or completion_tokens is None:
            self.stats["estimated_usage"] += 1
            prompt_tokens = sum(estimate_tokens(message.content) for message in request.messages)
            completion_tokens = estimate_tokens(answer.text)
        return Completion(
            text=answer.text.replace(self._key, "[redacted]") if self._key else answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            model=redact(answer.model, self._key)[:MAX_MODEL_NAME] or self.config.model,
            latency_s=answer.latency_s,
            cost_usd=self._price.usd(prompt_tokens, completion_tokens),
        )


async def _body_of(response: aiohttp.ClientResponse) -> bytes:
    """The body, or its beginning, longer than MAX_ANSWER_BYTES, where it is longer than that."""
    pieces: list[bytes] = []
    size = 0
    while size <= MAX_ANSWER_BYTES and (piece := await response.content.readany()):
        pieces.append(piece)
        size += len(piece)
    if size > MAX_ANSWER_BYTES:
        response.close()
    return b"".join(pieces)


def _read_json(data: bytes) -> Any:
    """The JSON of a body, also where some of its bytes are no UTF-8 or its texts hold halves of surrogate pairs.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return json.loads(data.decode("utf-8", "replace"))
        except RecursionError as err:
            raise ValueError("it is nested too deep") from err


def _read_answer(data: bytes, *, latency_s: float) -> Answer | Trouble:
    """The first choice of a 200; what is not one is worth another try."""
    try:
        payload = _read_json(data)
    except ValueError:
        return Trouble("retry", "bad_answer", f"HTTP 200 with a body that is not JSON: {data[:80]!r}")
    choices = payload.get("choices") if isinstance(payload, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return Trouble("retry", "bad_answer", f"HTTP 200 without a choice: {data[:200]!r}")
    text = message.get("content")
    if text is None:
        # a refusal under structured output stands in its own field; an answer may also hold no text at all
        text = message.get("refusal") or ""
    if not isinstance(text, str):
        return Trouble("retry", "bad_answer", f"HTTP 200 with content that is not text: {data[:200]!r}")
    usage = payload.get("usage") if isinstance(payload.get("usage"), dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    is_count = [type(count) is int and 0 <= count <= MAX_TOKENS_SAID for count in counts]
    prompt_tokens, completion_tokens = [count if counted else None for count, counted in zip(counts, is_count, strict=True)]
    finish_reason = FINISH_REASONS.get(str(choice.get("finish_reason")), "unknown")
    model = storable(str(payload.get("model") or ""))
    return Answer(storable(text), finish_reason, model, prompt_tokens, completion_tokens, latency_s)
