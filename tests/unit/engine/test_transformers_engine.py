"""The transformers engine on little random models: its tokens are training's, its answers are the model's, in any company."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import alignray.engine.transformers as engine_module
from alignray.config import Config, load_config
from alignray.engine import EngineConfig, Price, TransformersConfig, build_engine, model_name, price_of, without_transport
from alignray.engine.transformers import TransformersEngine, choose, find_adapters, find_model, pick_batch
from alignray.errors import CallRefused, ConfigError, EngineDown
from alignray.schema import ChatRequest, Completion, Message, PreferencePair
from alignray.train.tiny import write_tiny_model
from alignray.train.tokenize import ChatTokenizer, TokenizeConfig, TokenPair, load_tokenizer

TEXTS = ("Hi", "What is the capital of France?", "Name three rivers, and say where they end.", "a " * 60, "Why?")


def request(text: str, **changes: Any) -> ChatRequest:
    return ChatRequest((Message("user", text),), **{"max_new_tokens": 20, "temperature": 0.0, "top_p": 1.0, **changes})


def enliven(folder: Path, seed: int = 0) -> Path:
    """Larger random weights: a model that says other things to other prompts, and does not just repeat."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return enliven(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", hidden_size=32, max_length=256))


def run(config: TransformersConfig, work: Callable[[TransformersEngine], Any]) -> Any:
    """What an engine makes of some work, started and closed around it."""

    async def inner() -> Any:
        engine = TransformersEngine(config)
        await engine.start()
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(inner())


def ask(config: TransformersConfig, requests: Sequence[ChatRequest]) -> list[Completion]:
    """All at once."""

    async def together(engine: TransformersEngine) -> list[Completion]:
        return list(await asyncio.gather(*map(engine.generate, requests)))

    return list(run(config, together))


def ask_one_by_one(config: TransformersConfig, requests: Sequence[ChatRequest]) -> list[Completion]:
    async def in_turn(engine: TransformersEngine) -> list[Completion]:
        return [await engine.generate(request) for request in requests]

    return list(run(config, in_turn))


def said(completions: Sequence[Completion]) -> list[tuple[str, str, int, int]]:
    return [(each.text, each.finish_reason, each.prompt_tokens, each.completion_tokens) for each in completions]


def at(folder: Path, **settings: Any) -> TransformersConfig:
    return TransformersConfig(model=str(folder), device="cpu", **settings)


def script(monkeypatch: pytest.MonkeyPatch, folder: Path, *answers: str) -> None:
    """The model's next answers, token by token; each batch takes as many as it has rows, the rest is what the model would say."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    left = [tokenizer.encode(answer, add_special_tokens=False) for answer in answers]

    def scripted(logits: Any, *_: Any) -> list[int]:
        assert len(logits) == 1
        return [left[0].pop(0)]

    monkeypatch.setattr(engine_module, "choose", scripted)


# ---- what the model says


def reference(folder: Path, text: str, num_tokens: int) -> str:
    """Greedy, one token at a time, without batch, padding or cache."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False)
    start = len(ids)
    for _ in range(num_tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_greedy_answers_are_the_models_own_alone_and_in_a_batch(model_dir: Path) -> None:
    requests = [request(text) for text in TEXTS]
    expected = [reference(model_dir, text, 20) for text in TEXTS]
    assert len(set(expected)) == len(TEXTS) and all(len(set(text)) > 4 for text in expected), "the model has something to say"
    together, alone = ask(at(model_dir), requests), ask_one_by_one(at(model_dir), requests)
    assert [completion.text for completion in together] == expected
    assert said(together) == said(alone)


def test_a_seed_repeats_its_answer_in_any_company_and_another_seed_gives_another(model_dir: Path) -> None:
    requests = [
        request(text, temperature=0.9, top_p=top_p, seed=seed, max_new_tokens=15 + 3 * seed)
        for seed, (text, top_p) in enumerate(zip(TEXTS, (1.0, 0.9, 0.5, 1.0, 0.8), strict=True))
    ]
    alone = ask_one_by_one(at(model_dir), requests)
    assert said(ask(at(model_dir), requests)) == said(alone)
    assert said(ask(at(model_dir), requests[::-1])) == said(alone[::-1])
    assert said(ask(at(model_dir, max_batch=2), requests)) == said(alone)
    others = ask(at(model_dir), [request(TEXTS[1], temperature=0.9, seed=seed) for seed in range(8)])
    assert len({completion.text for completion in others}) == 8


def test_greedy_rows_and_sampled_rows_share_a_batch(model_dir: Path) -> None:
    mixed = [request(TEXTS[0]), request(TEXTS[1], temperature=1.3, seed=5), request(TEXTS[2])]
    answers = ask(at(model_dir), mixed)
    assert [answers[0].text, answers[2].text] == [reference(model_dir, TEXTS[place], 20) for place in (0, 2)]
    assert said(answers) == said(ask_one_by_one(at(model_dir), mixed))


def architecture(folder: Path, kind: str) -> Path:
    """A little model of another make beside the tiny model's tokenizer."""
    import transformers

    write_tiny_model(folder, hidden_size=32)
    makes: dict[str, tuple[str, dict[str, Any]]] = {
        "absolute positions": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
        "no positions": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
        "a sliding window": ("Mistral", {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "sliding_window": 8,
        }),
    }
    name, settings = makes[kind]
    ends = {"eos_token_id": 258, "bos_token_id": 256, "pad_token_id": 256}
    config = getattr(transformers, f"{name}Config")(vocab_size=259, **settings, **ends)
    getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM"))(config).save_pretrained(folder)
    return enliven(folder)


@pytest.mark.parametrize("kind", ["absolute positions", "no positions", "a sliding window"])
def test_other_makes_of_models_answer_the_same_in_a_batch(tmp_path: Path, kind: str) -> None:
    folder = architecture(tmp_path / "model", kind)
    answers = ask(at(folder), [request(text) for text in TEXTS])
    assert [completion.text for completion in answers] == [reference(folder, text, 20) for text in TEXTS]
    assert len({completion.text for completion in answers}) > 1


def test_a_model_that_might_see_the_padding_goes_without(model_dir: Path, tmp_path: Path) -> None:
    loaded = {kind: architecture(tmp_path / kind, kind) for kind in ("a sliding window", "no positions")}
    sizes = {kind: engine_module._Model(at(folder, max_batch=7), threading.Event()).max_batch for kind, folder in loaded.items()}
    assert sizes == {"a sliding window": 7, "no positions": 1}
    facts = json.loads((loaded["a sliding window"] / "config.json").read_text())
    (loaded["a sliding window"] / "config.json").write_text(json.dumps(facts | {"layer_types": ["full_attention", "chunked_attention"]}))
    assert engine_module._Model(at(loaded["a sliding window"]), threading.Event()).max_batch == 1


# ---- the same tokens as training


CHOICES: list[dict[str, Any]] = [
    {}, {"chat_template": "chatml"}, {"chat_template": "plain"}, {"add_bos": True}, {"chat_template": "plain", "add_bos": True},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_prompts_have_the_ids_of_training_and_bos_never_twice(model_dir: Path, tmp_path: Path, choice: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.bos_token = "<|endoftext|>"
    folder = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(model_dir).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    chat = ChatTokenizer(load_tokenizer(str(folder)), TokenizeConfig(**choice))
    turns = (Message("system", "Be brief."), Message("user", "Bonjour, \u00e7a va?"), Message("assistant", "Oui."), Message("user", "Ah."))
    trained = chat.pair(PreferencePair("0" * 32, turns, "yes", "no"), lambda a, b: ([1] * len(a), [1] * len(b)))
    assert isinstance(trained, TokenPair)
    model = engine_module._Model(at(folder, **choice), threading.Event())
    future: Any = None
    call = engine_module._Call(ChatRequest(turns, max_new_tokens=4), future)
    assert model.read([call]) == [None]
    assert call.prompt == trained.prompt_ids
    has_bos = choice.get("add_bos") or choice.get("chat_template") == "plain"
    assert call.prompt.count(tokenizer.bos_token_id) == (1 if has_bos else 0)
    assert chat.end_id in model._ends and trained.chosen_ids[-1] == chat.end_id


def test_a_template_from_a_file_and_its_fields_reach_the_prompt(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ mood }}{% for message in messages %}{{ message['content'] }}{% endfor %}")
    config = at(model_dir, chat_template=str(tmp_path / "t.jinja"), template_fields={"mood": "123"}, end_token="<|im_start|>")
    [completion] = ask(config, [request("four")])
    assert completion.prompt_tokens == len("123four")


@pytest.mark.parametrize("end_token", ["<|im_end|>", "<|endoftext|>"])
def test_an_answer_ends_with_the_end_token_of_training_or_of_the_model(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, end_token: str,
) -> None:
    script(monkeypatch, model_dir, f"So it is.{end_token}and more that nobody asked for")
    [completion] = ask(at(model_dir, end_token="<|endoftext|>"), [request("?", max_new_tokens=50)])
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("So it is.", "stop", len("So it is.") + 1)


def test_a_token_that_ends_nothing_is_not_shown_and_ends_nothing(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, model_dir, "a<|im_start|>b<|im_end|>")
    [completion] = ask(at(model_dir), [request("?", max_new_tokens=50)])
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("ab", "stop", 4)


# ---- where an answer ends


def test_a_stop_string_over_several_tokens_cuts_the_answer_before_it(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, model_dir, "one END two")
    [completion] = ask(at(model_dir), [request("?", stop=("two", "END"))])
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("one ", "stop", len("one END"))


def test_stop_strings_end_each_row_by_itself(model_dir: Path) -> None:
    whole = ask(at(model_dir), [request(text, max_new_tokens=40) for text in TEXTS])
    assert all(completion.finish_reason == "length" for completion in whole)
    stops = [completion.text[3 + place : 5 + place] for place, completion in enumerate(whole)]
    cut = ask(at(model_dir), [request(text, max_new_tokens=40, stop=(stop,)) for text, stop in zip(TEXTS, stops, strict=True)])
    for before, after, stop in zip(whole, cut, stops, strict=True):
        assert after.text == before.text[: before.text.index(stop)] and after.finish_reason == "stop"


def test_an_answer_that_is_cut_off_says_so_and_counts_its_tokens(model_dir: Path) -> None:
    answers = ask(at(model_dir), [request(text, max_new_tokens=3 + place) for place, text in enumerate(TEXTS)])
    assert [completion.completion_tokens for completion in answers] == [3, 4, 5, 6, 7]
    assert {completion.finish_reason for completion in answers} == {"length"}
    # ChatML around a byte per token: <|im_start|>user\n ... <|im_end|>\n<|im_start|>assistant\n is 6 + n + 2 + 11 tokens
    assert [completion.prompt_tokens for completion in answers] == [19 + len(text) for text in TEXTS]


def test_the_models_positions_hold_prompt_and_answer(model_dir: Path) -> None:
    [completion] = ask(at(model_dir), [request("x" * 230, max_new_tokens=100)])
    assert (completion.prompt_tokens, completion.completion_tokens, completion.finish_reason) == (249, 7, "length")
    says = r"'context_too_long', \"the prompt has 256 tokens and the model's 256 positions must hold prompt and answer; lower gates"
    with pytest.raises(CallRefused, match=says):
        ask(at(model_dir), [request("x" * 237)])


# ---- what cannot be asked


def test_a_request_that_cannot_be_asked_is_refused_alone(model_dir: Path) -> None:
    async def both(engine: TransformersEngine) -> list[Any]:
        asked = [request("x" * 999), request("Hi"), request("Hi", json_schema="{}")]
        return list(await asyncio.gather(*map(engine.generate, asked), return_exceptions=True))

    too_long, answer, schema = run(at(model_dir), both)
    assert isinstance(too_long, CallRefused) and too_long.args[0] == "context_too_long"
    assert isinstance(answer, Completion) and answer.text == reference(model_dir, "Hi", 20)
    assert isinstance(schema, CallRefused) and schema.args[0] == "bad_request"
    assert "bind this role to an engine of kind vllm, llama or openai" in schema.args[1]


def test_turns_that_the_template_does_not_take_are_a_bad_request(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        "{{ message['content'] }}{% endfor %}"
    )
    asked = ChatRequest((Message("system", "s"), Message("user", "u")), max_new_tokens=2, temperature=0.0, top_p=1.0)
    with pytest.raises(CallRefused, match=r"'bad_request', .*does not take this request: no system turn"):
        ask(at(model_dir, chat_template=str(tmp_path / "t.jinja")), [asked])


# ---- the next token


LOGITS = torch.log(torch.tensor([[0.3, 0.5, 0.2]]))


@pytest.mark.parametrize(
    ("temperature", "top_p", "draw", "token"),
    [
        (1.0, 1.0, 0.0, 0), (1.0, 1.0, 0.29, 0), (1.0, 1.0, 0.31, 1), (1.0, 1.0, 0.79, 1), (1.0, 1.0, 0.81, 2), (1.0, 1.0, 1 - 2**-53, 2),
        # 0.5 alone makes up half; 0.5 and 0.3 make up 0.7 and are 0.625 and 0.375 of 0.8
        (1.0, 0.45, 0.99, 1), (1.0, 0.7, 0.37, 0), (1.0, 0.7, 0.38, 1), (1.0, 0.7, 1 - 2**-53, 1),
        # squares 0.09, 0.25, 0.04 of 0.38: borders at 0.2368 and 0.8947
        (0.5, 1.0, 0.23, 0), (0.5, 1.0, 0.24, 1), (0.5, 1.0, 0.89, 1), (0.5, 1.0, 0.90, 2),
        (0.0, 1.0, 0.99, 1), (1e-300, 1.0, 0.99, 1), (1e-300, 0.5, 0.0, 1),
    ],
)
def test_a_draw_falls_on_the_token_worked_by_hand(temperature: float, top_p: float, draw: float, token: int) -> None:
    assert choose(LOGITS, [temperature], [top_p], [draw]) == [token]
    company = torch.cat([LOGITS.flip(-1), LOGITS, LOGITS])
    assert choose(company, [1.0, temperature, 0.0], [0.9, top_p, 1.0], [0.5, draw, 0.0])[1] == token


def test_a_nucleus_wider_than_the_first_look_is_the_whole_one() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 0.3, (4, 3 * engine_module.NUCLEUS))
    draws, top_ps = [0.05, 0.35, 0.65, 0.999], [0.97, 0.2, 0.9, 1.0]
    for row, token in enumerate(choose(torch.tensor(logits), [1.0] * 4, top_ps, draws)):
        probs = np.exp(logits[row]) / np.exp(logits[row]).sum()
        order = np.argsort(-probs)
        kept = order[: int((np.cumsum(probs[order]) < top_ps[row]).sum()) + 1]
        mass = np.cumsum(np.where(np.isin(np.arange(probs.size), kept), probs, 0))
        assert token == int(np.searchsorted(mass, draws[row] * mass[-1], side="right"))


def test_draws_make_up_the_models_probabilities() -> None:
    draws = [(number + 0.5) / 1000 for number in range(1000)]
    tokens = choose(LOGITS.expand(1000, 3), [1.0] * 1000, [1.0] * 1000, draws)
    assert [tokens.count(token) for token in range(3)] == [300, 500, 200]


# ---- batches


def test_a_batch_is_the_first_request_and_those_nearest_in_length() -> None:
    sizes = [(100, 10), (5, 10), (101, 10), (90, 10), (300, 10)]
    assert pick_batch(sizes, max_batch=3, max_batch_tokens=10**6) == [0, 2, 3]
    assert pick_batch(sizes, max_batch=9, max_batch_tokens=10**6) == [0, 2, 3, 1, 4]
    # (101 + 10) tokens for each of three rows are 333; the long one would make them four times 310
    assert pick_batch(sizes, max_batch=9, max_batch_tokens=333) == [0, 2, 3]
    assert pick_batch(sizes, max_batch=9, max_batch_tokens=500) == [0, 2, 3, 1]
    assert pick_batch(sizes, max_batch=9, max_batch_tokens=1) == [0]
    # a long answer fills the batch as a long prompt does
    assert pick_batch([(10, 10), (10, 500), (12, 10)], max_batch=9, max_batch_tokens=100) == [0, 2]


def test_no_batch_is_larger_than_asked_for_and_rows_that_are_done_leave_it(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    forward = engine_module._Model._forward

    def watched(self: Any, ids: Any, mask: Any, cache: Any) -> Any:
        shapes.append(tuple(ids.shape))
        return forward(self, ids, mask, cache)

    monkeypatch.setattr(engine_module._Model, "_forward", watched)
    requests = [request("x" * (number % 7), max_new_tokens=2 + number % 3) for number in range(22)]
    answers = ask(at(model_dir, max_batch=4), requests)
    assert [completion.completion_tokens for completion in answers] == [2 + number % 3 for number in range(22)]
    assert sum(rows for rows, _ in shapes) == sum(completion.completion_tokens for completion in answers), "no row is computed for nothing"
    prompts = [rows for rows, width in shapes if width > 1]
    assert max(prompts) == 4 and len(prompts) == 6


def test_the_event_loop_stays_free_and_later_requests_join_the_next_batch(model_dir: Path) -> None:
    async def work(engine: TransformersEngine) -> tuple[int, list[Completion]]:
        first = asyncio.create_task(engine.generate(request("Hi", max_new_tokens=200)))
        ticks = 0
        later: list[asyncio.Task[Completion]] = []
        while not first.done():
            await asyncio.sleep(0.002)
            ticks += 1
            if ticks in (5, 6):
                later.append(asyncio.create_task(engine.generate(request(TEXTS[ticks - 5]))))
        return ticks, [await task for task in later]

    ticks, later = run(at(model_dir), work)
    assert ticks > 20
    assert [completion.text for completion in later] == [reference(model_dir, text, 20) for text in TEXTS[:2]]


def test_a_batch_that_does_not_fit_is_halved_and_a_single_prompt_that_does_not_says_so(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate, sizes = engine_module._Model._generate, []

    def cramped(self: Any, calls: Any) -> Any:
        sizes.append(len(calls))
        if len(calls) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, calls)

    monkeypatch.setattr(engine_module._Model, "_generate", cramped)
    room = 2
    answers = ask(at(model_dir), [request(text) for text in TEXTS])
    assert sizes == [5, 2, 3, 1, 2]
    assert [completion.text for completion in answers] == [reference(model_dir, text, 20) for text in TEXTS]
    room = 0
    with pytest.raises(EngineDown, match=r"a prompt of 21 tokens does not fit into the GPU's memory; lower gates.max_tokens"):
        ask(at(model_dir), [request("Hi")])


def test_weights_that_are_no_numbers_stop_the_run(model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(tmp_path / "nan")
    with pytest.raises(EngineDown, match=r"logits are no numbers \(nan\); take another engines.\*.dtype"):
        ask(at(tmp_path / "nan"), [request("Hi")])


def test_closing_ends_what_is_under_way(model_dir: Path) -> None:
    async def inner() -> list[Any]:
        engine = TransformersEngine(at(model_dir, max_batch=1))
        await engine.start()
        calls = [asyncio.create_task(engine.generate(request("Hi", max_new_tokens=220))) for _ in range(3)]
        await asyncio.sleep(0.05)
        await engine.close()
        calls.append(asyncio.create_task(engine.generate(request("too late"))))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    ends = asyncio.run(asyncio.wait_for(inner(), 60))
    assert len(ends) == 4 and all(isinstance(end, EngineDown) for end in ends), ends


# ---- what is loaded


def test_a_tokenizer_without_a_padding_token_will_do(model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    answers = ask(at(folder), [request(text) for text in TEXTS])
    assert [completion.text for completion in answers] == [reference(model_dir, text, 20) for text in TEXTS]


def lora(model_dir: Path, folder: Path, seed: int) -> Path:
    """Random adapters that change much."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    adapted.save_pretrained(folder)
    return folder


def merged(model_dir: Path, folder: Path, adapters: Sequence[Path]) -> Path:
    """The weights plus alpha / rank = 2 times B A of each adapter, by hand."""
    from safetensors.torch import load_file

    model = AutoModelForCausalLM.from_pretrained(model_dir)
    weights = dict(model.named_parameters())
    for adapter in adapters:
        state = load_file(adapter / "adapter_model.safetensors")
        for name in [name for name in state if "lora_A" in name]:
            target = name.removeprefix("base_model.model.").replace("lora_A.", "")
            weights[target].data += 2 * state[name.replace("lora_A", "lora_B")] @ state[name]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder)
    return folder


def test_adapters_are_merged_one_after_the_other(model_dir: Path, tmp_path: Path) -> None:
    first, second = lora(model_dir, tmp_path / "first", 1), lora(model_dir, tmp_path / "second", 2)
    plain = [reference(model_dir, text, 20) for text in TEXTS[:2]]
    for number, adapters in enumerate([[first], [first, second]]):
        by_hand = merged(model_dir, tmp_path / f"merged-{number}", adapters)
        expected = [reference(by_hand, text, 20) for text in TEXTS[:2]]
        config = at(model_dir, adapters=tuple(map(str, adapters)))
        assert [completion.text for completion in ask(config, [request(text) for text in TEXTS[:2]])] == expected != plain


def test_a_folder_of_adapters_is_no_model_and_the_way_out_is_told(model_dir: Path, tmp_path: Path) -> None:
    folder = lora(model_dir, tmp_path / "adapters", 1)
    says = r"holds adapters \(adapter_config.json\), not a whole model; set model to the one that they were trained on, and adapters to \["
    with pytest.raises(EngineDown, match=says):
        find_model(TransformersConfig(model=str(folder)))
    with pytest.raises(EngineDown, match=r"is no folder of adapters \(no adapter_config.json in it\)"):
        find_adapters([str(model_dir)])
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(EngineDown, match=r"no adapter_model.safetensors in it"):
        find_adapters([str(folder)])


def test_adapters_of_another_model_say_so(model_dir: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", hidden_size=64)
    config = at(model_dir, adapters=(str(lora(other, tmp_path / "adapters", 1)),))
    with pytest.raises(EngineDown, match=r"does not fit onto the model .*; name the model that it was trained on"):
        ask(config, [])


def test_pickled_weights_and_code_of_a_model_are_not_touched(model_dir: Path, tmp_path: Path) -> None:
    pickled, coded = tmp_path / "pickled", tmp_path / "coded"
    for folder in (pickled, coded):
        AutoModelForCausalLM.from_pretrained(model_dir).save_pretrained(folder)
        AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(EngineDown, match=r"cannot load .*safetensors weights"):
        ask(at(pickled), [])
    facts = json.loads((coded / "config.json").read_text())
    facts |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (coded / "config.json").write_text(json.dumps(facts))
    (coded / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(EngineDown, match=r"cannot load"):
        ask(at(coded), [])
    assert not (tmp_path / "ran").exists()


def test_a_path_that_is_no_model_folder_is_not_looked_for_at_the_hub(tmp_path: Path) -> None:
    for name in ("./gone", "runs/lion/gone", str(tmp_path / "gone")):
        with pytest.raises(EngineDown, match="is not a folder; give one in Hugging Face layout"):
            find_model(TransformersConfig(model=name))
    with pytest.raises(EngineDown, match="no config.json in it"):
        find_model(TransformersConfig(model=str(tmp_path)))


def test_a_tokenizer_without_a_template_is_told_of_the_built_in_ones(model_dir: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(model_dir).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(EngineDown, match=r"has no chat template; set engines.\*.chat_template to chatml or plain"):
        ask(at(tmp_path), [])
    assert ask(at(tmp_path, chat_template="plain"), [request("Hi", max_new_tokens=2)])[0].completion_tokens == 2


def test_a_gpu_that_is_not_there_is_missed(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineDown, match="device = cuda, and PyTorch sees no GPU here; take auto"):
        ask(TransformersConfig(model=str(model_dir), device="cuda"), [])


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_a_library_that_is_not_installed_comes_with_its_command(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EngineDown, match=rf"needs {library}; run: pip install 'alignray\[train\]'"):
        asyncio.run(TransformersEngine(TransformersConfig(model="org/model")).start())


# ---- the config


class Run(Config):
    engine: EngineConfig


def test_the_kind_builds_the_engine_which_costs_nothing_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("engine: {kind: transformers, model: org/model, max_batch: 3}")
    config = load_config(Run, tmp_path / "run.yaml").engine
    assert isinstance(config, TransformersConfig)
    engine = build_engine(config)
    assert isinstance(engine, TransformersEngine) and engine.max_records == 6
    assert price_of(config).usd(1000, 1000) == 0
    price = Price(prompt=1.0, completion=2.0)
    assert price_of(TransformersConfig(model="m", price=price)) == price


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("trust_remote_code: true", 'unknown key "trust_remote_code" under engine'),
        ("template_fields: {messages: x}", 'template_fields cannot set "messages"'),
        ("max_bach: 2", 'did you mean "max_batch"'),
    ],
)
def test_a_wrong_setting_says_why(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "run.yaml").write_text(f"engine:\n  kind: transformers\n  model: org/model\n  {line}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:4") as caught:
        load_config(Run, tmp_path / "run.yaml")
    assert says in str(caught.value)


def test_a_model_is_called_by_its_id_or_its_folder_and_by_its_adapters() -> None:
    named = {
        "org/model": (), "SmolLM2": ("/data/SmolLM2",), "round-1/model": ("runs/lion/round-1/model",),
        "SmolLM2+round-1/model+b": ("/data/SmolLM2", "/runs/round-1/model", "./b"),
    }
    for name, (model, *adapters) in ((name, folders or (name,)) for name, folders in named.items()):
        assert model_name(TransformersConfig(model=model, adapters=tuple(adapters))) == name


def test_how_wide_it_works_does_not_decide_what_is_answered() -> None:
    one, other = TransformersConfig(model="m"), TransformersConfig(model="m", max_batch=2, max_batch_tokens=9, threads=1, device="cpu")
    assert without_transport({"a": one.model_dump()}) == without_transport({"a": other.model_dump()})
    different = TransformersConfig(model="m", dtype="bfloat16")
    assert without_transport({"a": one.model_dump()}) != without_transport({"a": different.model_dump()})
