"""The vLLM engine without vLLM: what a config may say, what becomes of it, and what is missing where vLLM is not installed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from alignray.config import Config, load_config
from alignray.engine import EngineConfig, Price, VLLMConfig, build_engine, model_name, price_of
from alignray.engine.vllm import VLLMEngine, check_names, engine_arguments, sampling_arguments
from alignray.errors import ConfigError, EngineDown
from alignray.schema import ChatRequest, Message


class Run(Config):
    engine: EngineConfig


def load(tmp_path: Path, text: str) -> EngineConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(Run, path).engine


def test_the_kind_builds_the_engine_and_caching_is_on(tmp_path: Path) -> None:
    config = load(tmp_path, "engine: {kind: vllm, model: org/model, tensor_parallel_size: 4, pipeline_parallel_size: 2, max_num_seqs: 96}")
    assert isinstance(config, VLLMConfig) and config.num_devices == 8 and config.enable_prefix_caching
    engine = build_engine(config)
    assert isinstance(engine, VLLMEngine) and engine.max_records == 96


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("engine_args: {trust_remote_code: true}", "trust_remote_code is refused: it runs code of the model's repository"),
        ("engine_args: {load_format: pt}", "load_format = 'pt' may unpickle weights; convert them to safetensors"),
        ("engine_args: {max_num_seqs: 4}", "max_num_seqs: set by alignray itself; write it beside engine_args"),
        ("engine_args: {model: other}", "model: set by alignray itself"),
        ("trust_remote_code: true", 'unknown key "trust_remote_code" under engine'),
        ("tensor_paralel_size: 2", 'did you mean "tensor_parallel_size"'),
        ("distributed_executor_backend: rey", 'did you mean "ray"'),
        ("gpu_memory_utilization: 1.5", "engine.gpu_memory_utilization = 1.5"),
    ],
)
def test_a_wrong_setting_says_why(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml:4") as caught:
        load(tmp_path, f"engine:\n  kind: vllm\n  model: org/model\n  {line}\n")
    assert says in str(caught.value)


def test_settings_become_arguments_of_vllm() -> None:
    arguments = engine_arguments(VLLMConfig(
        model="org/model", tensor_parallel_size=2, kv_cache_gib=1.5, max_model_len=2048, engine_args={"block_size": 32},
    ))
    assert arguments["model"] == "org/model" and arguments["tensor_parallel_size"] == 2 and arguments["block_size"] == 32
    assert arguments["kv_cache_memory_bytes"] == 1610612736 and arguments["max_model_len"] == 2048
    assert arguments["distributed_executor_backend"] == "mp"
    assert arguments["trust_remote_code"] is False and arguments["load_format"] == "safetensors"
    assert arguments["enable_prefix_caching"] is True


def test_one_device_leaves_the_executor_to_vllm_and_nodes_are_asked_for() -> None:
    assert "distributed_executor_backend" not in engine_arguments(VLLMConfig(model="org/model"))
    assert "kv_cache_memory_bytes" not in engine_arguments(VLLMConfig(model="org/model"))
    over_nodes = VLLMConfig(model="org/model", tensor_parallel_size=8, pipeline_parallel_size=2, distributed_executor_backend="ray")
    assert engine_arguments(over_nodes)["distributed_executor_backend"] == "ray"


def test_other_weights_formats_that_cannot_run_code_may_be_asked_for() -> None:
    config = VLLMConfig(model="org/model", engine_args={"load_format": "dummy"})
    assert engine_arguments(config)["load_format"] == "dummy"


def test_a_folder_is_found_and_a_path_that_is_none_is_not_looked_for_at_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert engine_arguments(VLLMConfig(model="~/model"))["model"] == str(tmp_path / "model")
    with pytest.raises(EngineDown, match=r"model = './gone' is not a folder; give one in Hugging Face layout"):
        engine_arguments(VLLMConfig(model="./gone"))
    with pytest.raises(EngineDown, match=r"model = '/gone' is not a folder"):
        engine_arguments(VLLMConfig(model="org/model", tokenizer="/gone"))


def test_an_argument_that_vllm_does_not_know_comes_with_the_nearest() -> None:
    known = {"block_size", "max_num_batched_tokens"}
    check_names({"block_size": 32}, known)
    with pytest.raises(EngineDown, match=r'engine_args has "blok_size", which this vLLM does not know; did you mean "block_size"\?'):
        check_names({"blok_size": 32}, known)
    with pytest.raises(EngineDown, match="see vLLM's AsyncEngineArgs"):
        check_names({"zzz": 1}, known)


def test_sampling_goes_along_and_the_seed_only_when_asked_for() -> None:
    request = ChatRequest((Message("user", "?"),), max_new_tokens=7, temperature=0.0, top_p=0.9, stop=("END",), seed=5)
    expected = {"temperature": 0.0, "top_p": 0.9, "max_tokens": 7, "stop": ["END"], "seed": None}
    assert sampling_arguments(request, send_seed=False) == expected
    assert sampling_arguments(request, send_seed=True) == expected | {"seed": 5}


def test_own_devices_cost_nothing_unless_told_otherwise() -> None:
    price = Price(prompt=1.0, completion=2.0)
    assert price_of(VLLMConfig(model="org/model")).usd(1000, 1000) == 0
    assert price_of(VLLMConfig(model="org/model", price=price)) == price


def test_a_model_is_called_by_its_id_or_its_folder() -> None:
    assert model_name(VLLMConfig(model="org/model")) == "org/model"
    assert model_name(VLLMConfig(model="/data/models/SmolLM2")) == "SmolLM2"


def test_a_library_that_is_not_installed_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    for variable in ("VLLM_NO_USAGE_STATS", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.setenv(variable, "1")  # so that what the engine sets is taken back
    with pytest.raises(EngineDown, match=r"needs vLLM .*pip install 'alignray\[vllm\]'"):
        asyncio.run(VLLMEngine(VLLMConfig(model="org/model")).start())
