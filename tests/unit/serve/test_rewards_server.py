"""The reward endpoint as OpenRLHF's client calls it, and requests that it refuses."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from alignray.errors import ConfigError, RecordError
from alignray.evals.rewards import Rule
from alignray.serve.rewards import MIN_OVERLAP, Limits, _reward_of, build_app, response_of, run

PROMPT = "<|im_start|>user\nSay it in quotes.<|im_end|>\n<|im_start|>assistant\n"
LABEL = json.dumps({
    "kind": "ifeval", "instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}],
})
LIMITS = Limits(max_body_bytes=2_000_000, max_batch=4, check_cpu_s=0.3, workers=1)
NAMES = {"kind": "followbench", "rule": "CONLL2003", "level": 1}
OTHERS: set[int | None] = set()
"""Processes that were there before the server's."""

# ---- the response in the query


def test_the_response_is_what_follows_the_prompt() -> None:
    assert response_of(f'{PROMPT}"it"<|im_end|>', PROMPT) == '"it"'
    assert response_of(f'{PROMPT}"it"', PROMPT) == '"it"'
    assert response_of(f"{PROMPT}<|im_end|>", PROMPT) == ""
    assert response_of(f"{PROMPT}it <|im_end|> is<|im_end|><|endoftext|>\n", PROMPT) == "it <|im_end|> is"
    assert response_of("it</s>", "") == "it"
    assert response_of("p it END", "p ", end_tokens=("END",)) == "it "
    assert response_of("a</s></s>b", "a</s>") == "</s>b" and response_of("a</s> </s>\n", "a</s>") == " "


def test_blanks_that_decoding_puts_in_or_leaves_out_are_no_matter() -> None:
    assert response_of("<s> [INST] Say it. [/INST] it is</s>", "<s>[INST] Say it.  [/INST]") == " it is"
    assert response_of("<s> [INST] Say it. [/INST] it is</s>", "<s>[INST] Say it. [/INST] ") == "it is"
    assert response_of("Hi", " ") == "Hi"


def test_a_prompt_cut_on_its_left_is_found() -> None:
    assert response_of(f"{PROMPT[7:]}it", PROMPT) == "it"
    assert response_of(f"{PROMPT[-MIN_OVERLAP:]}it", PROMPT) == "it"
    assert response_of(PROMPT[5:], PROMPT) == ""


@pytest.mark.parametrize("query", [PROMPT[-MIN_OVERLAP + 1 :] + "it", "it", "", PROMPT[:-3], "x" + PROMPT + "it"])
def test_a_query_without_its_prompt_is_refused(query: str) -> None:
    with pytest.raises(RecordError, match="a query is prompt and response as one text"):
        response_of(query, PROMPT)


def test_hostile_queries_take_linear_time() -> None:
    started = time.process_time()
    for query, prompt in (
        ("a" * 200_000, "a" * 199_999 + "b"), ("ab" * 100_000 + "c", "ab" * 90_000 + "a"), ("</s>" * 300_000, ""), (" </s>" * 300_000, " "),
    ):
        try:
            response_of(query, prompt)
        except RecordError:
            pass
    assert time.process_time() - started < 5


# ---- over HTTP


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a thread of its own; the address of its app."""
    OTHERS.update(child.pid for child in multiprocessing.active_children())
    ready, stop, address = threading.Event(), asyncio.Event(), []

    async def serve() -> None:
        runner = web.AppRunner(build_app(LIMITS))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        ready.set()
        await stop.wait()
        await runner.cleanup()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    yield address[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


def post(url: str, body: Any) -> tuple[int, Any]:
    """As OpenRLHF 0.11.2's client does it."""

    async def ask() -> tuple[int, Any]:
        sent: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session, session.post(url, **sent) as response:
            return response.status, await response.json()

    return asyncio.run(ask())


def rows(*responses: str, label: str = LABEL) -> dict[str, list[str]]:
    return {
        "query": [f"{PROMPT}{response}<|im_end|>" for response in responses], "prompts": [PROMPT] * len(responses),
        "labels": [label] * len(responses),
    }


@pytest.mark.parametrize("path", ["/reward", "/get_reward", "/"])
def test_rewards_in_the_form_of_the_remote_reward(url: str, path: str) -> None:
    assert post(url + path, rows('"it"', "it", "it,")) == (200, {
        "rewards": [1.0, 0.5, 0.0], "scores": [1.0, 0.5, 0.0],
        "extra_logs": {"followed_all": [1.0, 0.0, 0.0], "num_constraints": [2.0, 2.0, 2.0], "unchecked": [0.0, 0.0, 0.0]},
    })


def test_a_batch_of_none_and_health(url: str) -> None:
    assert post(url, rows())[1]["rewards"] == []

    async def health() -> Any:
        async with aiohttp.ClientSession() as session, session.get(url + "/health") as response:
            return await response.json()

    assert asyncio.run(health()) == {"status": "ok"}


@pytest.mark.parametrize(("body", "status", "error", "index"), [
    (b"{", 400, "the body is not JSON", None), (b"\xff", 400, "the body is not JSON", None),
    ([], 400, "the body is a JSON object with query, prompts and labels; got list", None),
    ({"query": []}, 400, "prompts is a list of texts; got none", None),
    ({**rows("it"), "labels": LABEL}, 400, "labels is a list of texts; got str", None),
    ({**rows("it", "it"), "labels": [LABEL, {}]}, 400, "labels is a list of texts; row 1 is dict", 1),
    ({**rows("it"), "labels": []}, 400, "query, prompts and labels have 1, 1 and 0 rows", None),
    (rows(*["it"] * 5), 413, "5 rows at once; 4 are the most", None),
    (rows("a" * 3_000_000), 413, "the body is over 2000000 bytes", None),
    (rows("it", label=""), 422, "row 0: a rule is a JSON object; got ''", 0),
    (rows("it", label=json.dumps({**NAMES, "target": "[{[]: 1}]"})), 422, "no list of names", 0),
    (rows("it", label='{"kind": ' + "[" * 1000 + "]" * 1000 + "}"), 422, "nested too deeply", 0),
    ({**rows("it", "it"), "prompts": [PROMPT, "another"]}, 422, "row 1: the query begins with", 1),
])
def test_a_request_that_cannot_be_used_says_why(url: str, body: Any, status: int, error: str, index: int | None) -> None:
    answered, told = post(url, body)
    assert (answered, told.get("index")) == (status, index) and error in told["error"]


def test_a_slow_check_is_given_up_and_stops_nobody(url: str) -> None:
    many = json.dumps({
        "kind": "ifeval", "mode": "loose", "instruction_id_list": ["length_constraints:number_sentences"] * 50,
        "kwargs": [{"num_sentences": 1_000_000, "relation": "at least"}] * 50,
    })
    status, answer = post(url, rows("*a.\n" * 90_000, label=many))
    assert (status, answer["rewards"], answer["extra_logs"]["unchecked"]) == (200, [0.0], [1.0])
    assert post(url, rows('"it"'))[1]["rewards"] == [1.0]


def test_reading_a_rule_is_under_the_same_clock_and_no_error_of_it_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_label: str) -> Rule:
        while True:
            pass

    def broken(_label: str) -> Rule:
        raise TypeError("unhashable")

    before = signal.getsignal(signal.SIGPROF)
    try:
        monkeypatch.setattr("alignray.serve.rewards.read_rule", endless)
        assert _reward_of("it", "", "{}", replace(LIMITS, check_cpu_s=0.05)).problem == "timed_out"
        monkeypatch.setattr("alignray.serve.rewards.read_rule", broken)
        with pytest.raises(RecordError, match="cannot be read as a rule"):
            _reward_of("it", "", "{}", LIMITS)
    finally:
        signal.signal(signal.SIGPROF, before)


def test_a_killed_process_is_replaced(url: str) -> None:
    ours = [child.pid for child in multiprocessing.active_children() if child.pid and child.pid not in OTHERS]
    assert len(ours) == LIMITS.workers
    for pid in ours:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (outcome := post(url, rows('"it"')))[0] == 200 and time.monotonic() < deadline:
        time.sleep(0.05)  # the kill has not been noticed yet
    assert outcome[0] == 503 and "ask again" in outcome[1]["error"]
    assert post(url, rows('"it"'))[1]["rewards"] == [1.0]


def test_an_address_that_is_taken_is_told(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        run(port=port, limits=replace(LIMITS, workers=1))
