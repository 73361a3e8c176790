"""Engine configs: wrong ones say what is wrong, right ones cost what they cost, and none loads a backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alignray.config import Config, load_config
from alignray.engine import EngineConfig, LlamaConfig, OpenAIConfig, Price, ScriptedConfig, build_engine, price_of
from alignray.engine.configs import is_loopback, is_own_network
from alignray.errors import ConfigError


class Run(Config):
    engine: EngineConfig


def load(tmp_path: Path, text: str) -> Run:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(Run, path)


def test_the_kind_chooses_the_config(tmp_path: Path) -> None:
    assert load(tmp_path, "engine: {kind: scripted, seed: 4}").engine == ScriptedConfig(seed=4)
    assert load(tmp_path, "engine: {kind: llama, slots: 2}").engine == LlamaConfig(slots=2)
    assert load(tmp_path, "engine: {kind: openai, model: gpt-4o-mini}").engine == OpenAIConfig(model="gpt-4o-mini")


def test_an_unknown_kind_is_told_which_kinds_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.yaml:1: .*'sglang'.*'scripted', 'llama', 'vllm', 'transformers', 'openai'"):
        load(tmp_path, "engine: {kind: sglang, model: x}")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("base_url: api.openai.com", "write a URL such as"),
        ("timeout: 3", 'did you mean "timeout_s"'),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml:4") as caught:
        load(tmp_path, f"engine:\n  kind: openai\n  model: x\n  {line}\n")
    assert says in str(caught.value)


@pytest.mark.parametrize("line", ["base_url: 'https://me:SECRET-1@host/v1'", "api_key_env: sk-proj-SECRET-1"])
def test_a_key_pasted_into_the_config_is_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match="variable") as caught:
        load(tmp_path, f"engine:\n  kind: openai\n  model: x\n  {line}\n")
    assert "SECRET" not in str(caught.value)


def test_prices_come_from_the_config_the_own_network_or_the_table() -> None:
    own = Price(prompt=1.0, completion=2.0)
    assert price_of(OpenAIConfig(model="x", price=own)) == own
    assert price_of(LlamaConfig(price=own)) == own
    assert price_of(ScriptedConfig()).usd(1000, 1000) == 0
    assert price_of(OpenAIConfig(model="x", base_url="http://10.1.2.3:8000/v1")).usd(1000, 1000) == 0
    # gpt-4o-mini: 0.15 and 0.60 dollars per million: 2,000 in and 1,000 out are 0.0003 + 0.0006
    assert price_of(OpenAIConfig(model="gpt-4o-mini")).usd(2000, 1000) == pytest.approx(0.0009)
    assert price_of(OpenAIConfig(model="gpt-4o-mini-2024-07-18")).usd(2000, 1000) == pytest.approx(0.0009)
    with pytest.raises(ConfigError, match=r"no price for model 'gpt-9'.*set price"):
        price_of(OpenAIConfig(model="gpt-9"))


def test_own_addresses_are_told_from_public_ones() -> None:
    assert is_loopback("http://127.0.0.1:80/v1") and is_loopback("http://localhost/v1") and is_loopback("http://[::1]/v1")
    assert not is_loopback("http://10.0.0.1/v1") and not is_loopback("https://api.openai.com/v1")
    own = ("http://127.0.0.1/v1", "http://192.168.1.5/v1", "http://vllm:8000/v1", "http://vllm.default.svc/v1", "http://gpu.local/v1")
    assert all(is_own_network(url) for url in own)
    assert not is_own_network("https://api.openai.com/v1") and not is_own_network("http://8.8.8.8/v1")


def test_importing_the_engines_loads_no_backend() -> None:
    code = (
        "import sys, alignray.engine;"
        "print(sorted({'aiohttp', 'xllamacpp', 'vllm', 'torch', 'transformers', 'ray'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_build_engine_takes_the_cap_from_the_config() -> None:
    assert build_engine(ScriptedConfig(max_in_flight=3)).max_records == 3
    assert build_engine(OpenAIConfig(model="x", max_in_flight=5)).max_records == 14
