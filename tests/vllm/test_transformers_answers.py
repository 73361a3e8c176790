"""The transformers engine on real weights: SmolLM2 answers as transformers' own generation does, alone and in a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignray.engine import TransformersConfig
from alignray.engine.transformers import TransformersEngine
from alignray.schema import ChatRequest, Completion, Message
from tests.vllm.conftest import Await

pytestmark = pytest.mark.vllm

QUESTIONS = (
    "What is the capital of France?", "Write a haiku about rain.", "Name three rivers in Europe, and say for each in which sea it ends.",
    "Summarize: " + "The Elbe passes many towns on its way to the sea. " * 12, "Hi",
)


def request(text: str, *, temperature: float = 0.0, seed: int | None = None) -> ChatRequest:
    return ChatRequest((Message("user", text),), max_new_tokens=32, temperature=temperature, top_p=0.95, seed=seed)


@pytest.fixture(scope="module")
def checkpoint(model_dir: Path, wait: Await) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(TransformersConfig(model=str(model_dir), device="cpu"))
    wait(engine.start())
    yield engine
    wait(engine.close())


async def gather(engine: TransformersEngine, requests: list[ChatRequest]) -> list[Completion]:
    return list(await asyncio.gather(*map(engine.generate, requests)))


def test_greedy_answers_are_those_of_transformers_alone_and_in_a_batch(
    checkpoint: TransformersEngine, wait: Await, model_dir: Path,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(model_dir), AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    answers = wait(gather(checkpoint, [request(question) for question in QUESTIONS]))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True,
        )
        ids = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert (answer.prompt_tokens, answer.completion_tokens) == (prompt["input_ids"].shape[1], len(ids))
        assert wait(checkpoint.generate(request(question))).text == answer.text
    assert "Paris" in answers[0].text


def test_sampled_answers_follow_their_seeds_in_any_company(checkpoint: TransformersEngine, wait: Await) -> None:
    requests = [request(question, temperature=0.8, seed=seed) for seed, question in enumerate(QUESTIONS)]
    together = wait(gather(checkpoint, requests))
    alone = [wait(checkpoint.generate(request)) for request in requests]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert wait(checkpoint.generate(request(QUESTIONS[1], temperature=0.8, seed=99))).text != together[1].text
