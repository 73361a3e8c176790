"""The engine on a real vLLM: its texts, its cache, its limits, and its deaths."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

from alignray.engine import VLLMConfig
from alignray.engine.vllm import VLLMEngine
from alignray.errors import CallRefused, EngineDown
from alignray.schema import ChatRequest, Completion, Message
from tests.vllm.conftest import ROOT, TIMEOUT_S, Await

pytestmark = pytest.mark.vllm

PAGE = " ".join(f"Paragraph {number} tells how the river Elbe passes town number {number} on its way to the sea." for number in range(12))


def request(text: str, *, max_new_tokens: int = 24, **changes: Any) -> ChatRequest:
    return ChatRequest((Message("user", text),), max_new_tokens=max_new_tokens, **{"temperature": 0.0, "top_p": 1.0, **changes})


def processes(name: str) -> list[psutil.Process]:
    """This process' descendants of that name; vLLM names its own."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def gather(*calls: Coroutine[Any, Any, Completion]) -> list[Completion]:
    return await asyncio.gather(*calls)


def test_the_text_is_the_models_own(engine: VLLMEngine, wait: Await, model_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    question = "What is the capital of France?"
    completion = wait(engine.generate(request(question)))
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=False,
    )
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    expected = model.generate(prompt, do_sample=False, max_new_tokens=24)[0, prompt.shape[1] :]
    assert completion.text == tokenizer.decode(expected, skip_special_tokens=True)
    assert "Paris" in completion.text and completion.finish_reason == "stop"
    assert completion.prompt_tokens == prompt.shape[1] and completion.completion_tokens == len(expected)
    assert completion.model == "SmolLM2-135M-Instruct" and completion.cost_usd == 0


def test_a_page_is_read_once_for_all_steps_of_its_record(engine: VLLMEngine, wait: Await) -> None:
    first = wait(engine.generate(request(f"{PAGE}\n\n\nWho wrote this?")))
    before = engine.stats["cached_tokens"]
    second = wait(engine.generate(request(f"{PAGE}\n\n\nState one question that the text answers.")))
    cached = engine.stats["cached_tokens"] - before
    assert second.prompt_tokens > 200
    # all of the page but for the last block of 32, and no more than both prompts have in common
    assert first.prompt_tokens - 64 <= cached <= second.prompt_tokens
    assert engine.prefix_hit_rate > 0


def test_an_answer_follows_its_schema(engine: VLLMEngine, wait: Await) -> None:
    schema = {
        "type": "object", "additionalProperties": False, "required": ["score", "verdict"],
        "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 9}, "verdict": {"enum": ["good", "bad"]}},
    }
    guided = wait(engine.generate(request("Rate this sentence: it rains.", max_new_tokens=60, json_schema=json.dumps(schema))))
    jsonschema.validate(json.loads(guided.text), schema)
    free = wait(engine.generate(request("Rate this sentence: it rains.", max_new_tokens=60)))
    with pytest.raises(json.JSONDecodeError):
        json.loads(free.text)


@pytest.mark.parametrize("schema", ['{"type": "nonsense"}', "{not json"])
def test_a_schema_that_is_none_is_refused(engine: VLLMEngine, wait: Await, schema: str) -> None:
    with pytest.raises(CallRefused) as caught:
        wait(engine.generate(request("Hello", json_schema=schema)))
    assert caught.value.args[0] == "bad_request"


def test_a_prompt_that_is_too_long_is_refused_and_the_engine_lives_on(engine: VLLMEngine, wait: Await) -> None:
    with pytest.raises(CallRefused) as caught:
        wait(engine.generate(request("word " * 3000)))
    reason, message = caught.value.args
    assert reason == "context_too_long" and "max_model_len = 1024" in message and "raise engines" in message
    endless = json.dumps({"type": "string", "minLength": 3000})  # a schema that keeps the model from ending by itself
    cut = wait(engine.generate(request("word " * 960, max_new_tokens=500, json_schema=endless)))
    assert cut.finish_reason == "length" and 1020 <= cut.prompt_tokens + cut.completion_tokens <= 1025
    assert wait(engine.generate(request("Hello"))).text and engine.deaths == 0


def test_stop_strings_and_the_cap_end_an_answer(engine: VLLMEngine, wait: Await) -> None:
    whole = wait(engine.generate(request("Count from 1 to 9.", max_new_tokens=40)))
    cut = wait(engine.generate(request("Count from 1 to 9.", max_new_tokens=40, stop=("5",))))
    assert "5" in whole.text and cut.text == whole.text[: whole.text.index("5")] and cut.finish_reason == "stop"
    capped = wait(engine.generate(request("Count from 1 to 9.", max_new_tokens=3)))
    assert capped.completion_tokens == 3 and capped.finish_reason == "length"


def test_the_same_question_at_temperature_0_gets_the_same_answer(engine: VLLMEngine, wait: Await) -> None:
    asked = request("Write one sentence about rivers.", max_new_tokens=40)
    assert wait(engine.generate(asked)).text == wait(engine.generate(asked)).text


def test_a_killed_core_is_replaced_and_every_call_answered(engine: VLLMEngine, wait: Await) -> None:
    deaths = engine.deaths

    async def story() -> list[Completion]:
        asked = [request(f"Tell me about the number {number}.", max_new_tokens=80) for number in range(24)]
        calls = asyncio.ensure_future(gather(*(engine.generate(one) for one in asked)))
        await asyncio.sleep(1.0)
        [core] = processes("VLLM::EngineCore")
        core.kill()
        return await calls

    completions = wait(story())
    assert len(completions) == 24 and all(completion.text for completion in completions)
    assert engine.deaths == deaths + 1
    assert len(processes("VLLM::EngineCore")) == 1 and len(processes("VLLM::Worker")) == 1, "nothing of the dead core is left"


def test_a_core_that_hangs_is_killed_and_replaced(engine: VLLMEngine, wait: Await) -> None:
    deaths = engine.deaths
    [core] = processes("VLLM::EngineCore")
    core.suspend()
    started = time.monotonic()
    assert wait(engine.generate(request("Hello"))).text
    assert engine.deaths == deaths + 1 and time.monotonic() - started > TIMEOUT_S
    assert not core.is_running() or core.status() == psutil.STATUS_ZOMBIE


def test_a_setting_that_cannot_work_is_told_before_anything_is_loaded(config: VLLMConfig, wait: Await) -> None:
    def message(**changes: Any) -> str:
        with pytest.raises(EngineDown) as caught:
            wait(VLLMEngine(config.model_copy(update=changes)).start())
        return str(caught.value)

    assert 'did you mean "block_size"?' in message(engine_args={"blok_size": 32})
    assert "send_seed = true does not work on a CPU" in message(send_seed=True)
    assert "cannot load" in message(max_model_len=1 << 20) and "max_model_len" in message(max_model_len=1 << 20)


def test_a_model_that_does_not_fit_says_why_and_leaves_nothing_behind(model_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text(f"""
import asyncio
from alignray.engine import VLLMConfig, build_engine

if __name__ == "__main__":
    too_small = {{"num_gpu_blocks_override": 2}}
    asyncio.run(build_engine(VLLMConfig(model={str(model_dir)!r}, enforce_eager=True, max_model_len=1024, engine_args=too_small)).start())
""")
    with (tmp_path / "log").open("wb") as log:  # as in a Ray worker, whose output is a file
        done = subprocess.run([sys.executable, str(script)], stdout=log, stderr=log, cwd=ROOT, timeout=300, check=False)
    last = (tmp_path / "log").read_text().strip().splitlines()
    [told] = [line for line in last if line.startswith("alignray.errors.EngineDown: ")]
    assert done.returncode == 1 and "ValueError: To serve at least one request with the model's max seq len (1024)" in told


def test_the_model_does_not_outlive_the_process_that_loaded_it(config: VLLMConfig, tmp_path: Path) -> None:
    code = f"""
import asyncio, time
from alignray.engine import VLLMConfig, build_engine

async def main():
    engine = build_engine(VLLMConfig.model_validate_json({config.model_dump_json()!r}))
    await engine.start()
    print("LOADED", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""
    script = tmp_path / "load.py"  # a file, because the model's processes start by importing their parent's main module
    script.write_text(code)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        assert any(line == "LOADED\n" for line in parent.stdout)
        of_vllm = [child for child in psutil.Process(parent.pid).children(recursive=True) if "VLLM::" in " ".join(child.cmdline())]
        assert len(of_vllm) == 2
        parent.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(of_vllm, timeout=20)
    assert not alive and len(gone) == 2
