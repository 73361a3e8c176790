"""The fake model: the same everywhere, varied, bounded, and able to fail on request."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from itertools import combinations

import jsonschema
import pytest

from alignray.engine import ScriptedConfig, build_engine
from alignray.engine.scripted import REFUSALS, scripted_text
from alignray.errors import CallRefused
from alignray.schema import ChatRequest, Completion, Message
from alignray.schema.tokens import estimate_tokens

PAGES = [
    " ".join(f"{noun} number {position} {verb} slowly through page {page}" for position, (noun, verb) in enumerate(
        [("river", "runs"), ("tax", "rises"), ("violin", "sounds"), ("engine", "turns"), ("harvest", "fails")] * 8))
    for page in range(60)
]


def ask(config: ScriptedConfig, *prompts: str, max_new_tokens: int = 256) -> list[Completion | BaseException]:
    async def main() -> list[Completion | BaseException]:
        engine = build_engine(config)
        await engine.start()
        requests = [ChatRequest((Message("user", prompt),), max_new_tokens=max_new_tokens) for prompt in prompts]
        return await asyncio.gather(*(engine.generate(request) for request in requests), return_exceptions=True)

    return asyncio.run(main())


def test_an_answer_depends_on_messages_and_seed_alone_in_every_process() -> None:
    code = (
        "from alignray.engine.scripted import scripted_text; from alignray.schema import Message;"
        "print(scripted_text([Message('system', 'be brief'), Message('user', 'tell me of rivers and their names')], seed=3))"
    )
    here = scripted_text([Message("system", "be brief"), Message("user", "tell me of rivers and their names")], seed=3)
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        )
        assert there.stdout == here + "\n"
    assert here != scripted_text([Message("user", "tell me of rivers and their names")], seed=3)
    assert here != scripted_text([Message("system", "be brief"), Message("user", "tell me of rivers and their names")], seed=4)


def test_answers_borrow_the_prompts_words_and_differ_between_prompts() -> None:
    texts = [scripted_text([Message("user", page + "\n\nWrite a question about it.")]) for page in PAGES]
    assert len(set(texts)) == len(texts)
    assert sum("slowly through" in text for text in texts) == len(texts)
    grams = [{tuple(words[at : at + 5]) for at in range(len(words) - 4)} for words in (text.split() for text in texts)]
    overlaps = [len(one & other) / len(one | other) for one, other in combinations(grams, 2)]
    assert max(overlaps) < 0.7  # none is a near-duplicate of another
    assert {round(len(text), -2) for text in texts} >= {200, 300, 400, 500}


@pytest.mark.parametrize("cap", [1, 7, 40, 4000])
def test_an_answer_keeps_to_max_new_tokens(cap: int) -> None:
    for answer in ask(ScriptedConfig(), *PAGES, max_new_tokens=cap):
        assert isinstance(answer, Completion)
        assert answer.completion_tokens == estimate_tokens(answer.text) <= cap
        assert answer.finish_reason == ("length" if cap < 40 else answer.finish_reason)


def test_an_empty_prompt_gets_an_answer_too() -> None:
    assert scripted_text([Message("user", "")]) and scripted_text([])
    assert scripted_text([Message("user", "\u6cb3\u5ddd " * 400)], max_new_tokens=20)


def test_a_rating_is_one_of_the_offered_options() -> None:
    prompts = [f"{page}\nHow hard is it?\nAnswer with one of: very easy, easy, hard.\nNothing else." for page in PAGES]
    answers = [answer.text for answer in ask(ScriptedConfig(), *prompts) if isinstance(answer, Completion)]
    assert set(answers) == {"very easy", "easy", "hard"}


def test_rates_are_met_and_their_calls_always_the_same_ones() -> None:
    config = ScriptedConfig(refusal_rate=0.3, fail_rate=0.2, length_rate=0.5)
    prompts = [f"{page} {turn}" for page in PAGES for turn in range(20)]
    first, second = ask(config, *prompts), ask(config, *prompts)
    assert [repr(one) for one in first] == [repr(other) for other in second]
    failed = [answer for answer in first if isinstance(answer, CallRefused)]
    answers = [answer for answer in first if isinstance(answer, Completion)]
    assert all(error.args[0] == "scripted" for error in failed)
    assert len(failed) / len(first) == pytest.approx(0.2, abs=0.04)
    assert sum(answer.finish_reason == "length" for answer in answers) / len(answers) == pytest.approx(0.5, abs=0.05)
    whole = [answer for answer in answers if answer.finish_reason == "stop"]
    assert sum(answer.text in REFUSALS for answer in whole) / len(whole) == pytest.approx(0.3, abs=0.06)


def test_a_request_with_a_schema_gets_a_value_that_follows_it() -> None:
    schema = {
        "type": "object", "required": ["verdicts", "rating"], "properties": {
            "verdicts": {"type": "array", "minItems": 3, "maxItems": 3, "items": {"enum": ["YES", "NO"]}},
            "rating": {"type": "integer", "minimum": 1, "maximum": 10}, "note": {"type": "string"}, "sure": {"type": "boolean"},
        },
    }
    engine = build_engine(ScriptedConfig())
    seen = set()
    for number in range(30):
        request = ChatRequest((Message("user", f"Judge answer {number}."),), json_schema=json.dumps(schema))
        text = asyncio.run(engine.generate(request)).text
        assert asyncio.run(engine.generate(request)).text == text
        jsonschema.validate(json.loads(text), schema)
        seen.add(text)
    assert len(seen) > 20
