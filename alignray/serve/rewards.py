"""Verifiable rewards over HTTP, in the form that OpenRLHF's remote reward asks for.

OpenRLHF (tested with 0.11.2, ``--reward.remote_url http://HOST:PORT/reward``; older: ``--remote_rm_url``) posts

    {"query": [prompt and response as one text], "prompts": [...], "labels": [...]}

and reads ``rewards``, ``scores`` and ``extra_logs``. The label of a row is its rule (see ``alignray.evals.rewards``). A query is
decoded from tokens with the special ones in it, so it ends with the end token, may differ from the prompt in blanks, and begins in
the middle of a prompt that was cut on its left; ``response_of`` knows these.

A request that cannot be used gets 4xx and {"error": what is wrong, "index": in which row}. OpenRLHF asks five times, says so in its
log and goes on without a reward.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from alignray.errors import ConfigError, RecordError
from alignray.evals.rewards import Reward, Rule, read_rule, reward

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8770
END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<|return|>", "<end_of_turn>", "<eos>",
    "</s>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
"""What models end their answers with: Qwen, Llama 2 and 3, Phi, gpt-oss, Gemma, Mistral, DeepSeek."""
MIN_OVERLAP = 32
"""Characters of a cut prompt's end that must stand before the response."""
TIMED_OUT = "timed_out"
"""Problem of an answer whose check was given up."""


@dataclass(frozen=True)
class Limits:
    """What a request may take."""

    max_body_bytes: int = 32 * 2**20
    max_batch: int = 1024
    """Rows of one request."""
    check_cpu_s: float = 20.0
    """CPU time of one answer's check; after it the answer earns 0 and is counted as unchecked. Not time on the clock: what an answer
    earns must not depend on how busy the machine is."""
    workers: int = 2
    """Processes that check."""
    end_tokens: tuple[str, ...] = END_TOKENS
    """Taken off a response's end."""


@dataclass
class _Workers:
    """The processes that check; new ones where the old were killed."""

    limits: Limits
    executor: Executor = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        # spawn: a fork of a process with threads may hang
        self.executor = ProcessPoolExecutor(self.limits.workers, mp_context=multiprocessing.get_context("spawn"))

    async def check(self, query: str, prompt: str, label: str) -> Reward:
        executor = self.executor
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, _reward_of, query, prompt, label, self.limits)
        except BrokenProcessPool:
            if self.executor is executor:  # the first to notice
                logger.warning("a process that checks answers was killed; starting new ones")
                self.start()
            raise


_WORKERS: web.AppKey[_Workers] = web.AppKey("workers", _Workers)
_LIMITS: web.AppKey[Limits] = web.AppKey("limits", Limits)


class _Unusable(Exception):
    """A request that gets an answer of its own."""

    def __init__(self, status: int, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.status, self.index = status, index


def run(host: str = HOST, port: int = PORT, *, limits: Limits | None = None) -> None:
    """Serve until interrupted. There is no login: whoever reaches the port can have answers checked, so it is this machine's only.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        web.run_app(build_app(limits or Limits()), host=host, port=port, print=None, access_log=None)
    except OSError as err:
        raise ConfigError(f"cannot listen on {host}:{port} ({err.strerror or err}); choose another port") from err


def build_app(limits: Limits) -> web.Application:
    """The application: POST /reward (also /get_reward and /), GET /health."""
    app = web.Application(client_max_size=limits.max_body_bytes)
    app[_LIMITS] = limits
    app.cleanup_ctx.append(_with_workers)
    for path in ("/reward", "/get_reward", "/"):
        app.router.add_post(path, _post)
    app.router.add_get("/health", _health)
    return app


async def _with_workers(app: web.Application) -> AsyncIterator[None]:
    app[_WORKERS] = workers = _Workers(app[_LIMITS])
    yield
    workers.executor.shutdown(wait=False, cancel_futures=True)


async def _health(request: web.Request) -> web.Response:
    return _answer({"status": "ok"})


async def _post(request: web.Request) -> web.Response:
    try:
        rewards = await _rewards_of(await _body(request), request.app)
    except _Unusable as err:
        logger.warning("refused (%d): %s", err.status, err)
        place = {} if err.index is None else {"index": err.index}
        return _answer({"error": str(err), **place}, status=err.status)
    values = [one.value for one in rewards]
    return _answer({
        "rewards": values, "scores": values,
        # the same keys in every answer: OpenRLHF puts the numbers of a batch under each other
        "extra_logs": {
            "followed_all": [float(bool(one.bits) and all(one.bits)) for one in rewards],
            "num_constraints": [float(len(one.bits)) for one in rewards],
            "unchecked": [float(bool(one.problem)) for one in rewards],
        },
    })


async def _body(request: web.Request) -> Any:
    try:
        return orjson.loads(await request.read())
    except web.HTTPRequestEntityTooLarge as err:
        limit = request.app[_LIMITS].max_body_bytes
        raise _Unusable(413, f"the body is over {limit} bytes; send fewer rows at once") from err
    except orjson.JSONDecodeError as err:
        raise _Unusable(400, f"the body is not JSON ({err})") from err


async def _rewards_of(body: Any, app: web.Application) -> list[Reward]:
    queries, prompts, labels = _columns(body, app[_LIMITS])
    tasks = [app[_WORKERS].check(*row) for row in zip(queries, prompts, labels, strict=True)]
    rewards: list[Reward] = []
    # all are awaited, so that no row's error is left over
    for index, outcome in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
        if isinstance(outcome, RecordError):
            raise _Unusable(422, f"row {index}: {outcome}", index) from outcome
        if isinstance(outcome, BrokenProcessPool):
            raise _Unusable(503, "a process that checks answers was killed; ask again") from outcome
        if isinstance(outcome, ConfigError):
            raise _Unusable(501, str(outcome), index) from outcome
        if isinstance(outcome, BaseException):
            raise outcome
        rewards.append(outcome)
    return rewards


def _columns(body: Any, limits: Limits) -> tuple[list[str], list[str], list[str]]:
    if not isinstance(body, dict):
        raise _Unusable(400, f"the body is a JSON object with query, prompts and labels; got {type(body).__name__}")
    columns = []
    for name in ("query", "prompts", "labels"):
        column = body.get(name)
        if not isinstance(column, list):
            raise _Unusable(400, f"{name} is a list of texts; got {type(column).__name__ if name in body else 'none'}")
        wrong = next((index for index, value in enumerate(column) if not isinstance(value, str)), None)
        if wrong is not None:
            raise _Unusable(400, f"{name} is a list of texts; row {wrong} is {type(column[wrong]).__name__}", wrong)
        columns.append(column)
    sizes = [len(column) for column in columns]
    if len(set(sizes)) != 1:
        raise _Unusable(400, f"query, prompts and labels have {sizes[0]}, {sizes[1]} and {sizes[2]} rows; they belong together")
    if sizes[0] > limits.max_batch:
        raise _Unusable(413, f"{sizes[0]} rows at once; {limits.max_batch} are the most")
    return columns[0], columns[1], columns[2]


def _answer(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


# ---- in a process that checks


class _GivenUp(BaseException):
    """The alarm of a check that takes too long; no handler of ordinary errors may take it."""


def _give_up(_signal: int, _frame: Any) -> None:
    raise _GivenUp


def _reward_of(query: str, prompt: str, label: str, limits: Limits) -> Reward:
    """The reward of one row; 0 and ``timed_out`` where reading its rule and checking take too long.

    Raises:
        RecordError: the label is no rule, or the prompt does not stand before the response.
    """
    signal.signal(signal.SIGPROF, _give_up)
    signal.setitimer(signal.ITIMER_PROF, limits.check_cpu_s)
    try:
        return reward(_rule_of(label), response_of(query, prompt, end_tokens=limits.end_tokens))
    except _GivenUp:
        logger.warning("process %d gave up a check after %g s of CPU time", os.getpid(), limits.check_cpu_s)
        return Reward(0.0, (), TIMED_OUT)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _rule_of(label: str) -> Rule:
    try:
        return read_rule(label)
    except RecordError:
        raise
    except (ValueError, TypeError, RecursionError, MemoryError) as err:
        raise RecordError(f"the label cannot be read as a rule ({type(err).__name__}: {err})") from err


def response_of(query: str, prompt: str, *, end_tokens: Sequence[str] = END_TOKENS) -> str:
    """The response alone: what follows the prompt in the query, without end tokens.

    Raises:
        RecordError: the prompt does not stand before it, not even in other blanks or cut on its left.
    """
    if query.startswith(prompt):
        start: int | None = len(prompt)
    else:
        start = _end_despite_blanks(query, prompt)
        start = _end_of_cut_prompt(query, prompt) if start is None else start
    if start is None:
        raise RecordError(
            f"the query begins with {query[:80]!r}, its prompt with {prompt[:80]!r}; a query is prompt and response as one text",
        )
    return query[start : _end_before_tokens(query, start, end_tokens)]


def _end_before_tokens(text: str, start: int, end_tokens: Sequence[str]) -> int:
    """Where the text from ``start`` on ends but for end tokens and the blanks after them. Linear: nothing is copied."""
    end = len(text)
    while True:
        stop = end
        while stop > start and text[stop - 1].isspace():
            stop -= 1
        token = next((token for token in end_tokens if token and text.endswith(token, start, stop)), "")
        if not token:
            return end
        end = stop - len(token)


def _end_despite_blanks(query: str, prompt: str) -> int | None:
    """Where the prompt ends in the query if blanks do not count; those at its end are taken off the response as far as they are there."""
    place = 0
    for letter in prompt:
        if letter.isspace():
            continue
        while place < len(query) and query[place].isspace():
            place += 1
        if place == len(query) or query[place] != letter:
            return None
        place += 1
    for _ in range(len(prompt) - len(prompt.rstrip())):
        place += place < len(query) and query[place].isspace()
    return place


def _end_of_cut_prompt(query: str, prompt: str) -> int | None:
    """Length of the longest end of the prompt that the query begins with; None under MIN_OVERLAP. Linear (Knuth, Morris, Pratt)."""
    pattern = query[: len(prompt)]
    borders = [0] * len(pattern)
    matched = 0
    for place in range(1, len(pattern)):
        while matched and pattern[place] != pattern[matched]:
            matched = borders[matched - 1]
        matched += pattern[place] == pattern[matched]
        borders[place] = matched
    matched = 0
    for letter in prompt:
        while matched and (matched == len(pattern) or letter != pattern[matched]):
            matched = borders[matched - 1]
        matched += bool(pattern) and letter == pattern[matched]
    return matched if matched >= MIN_OVERLAP else None
