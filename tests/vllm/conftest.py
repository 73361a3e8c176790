"""One real vLLM with SmolLM2 for all tests of this folder. `make test-vllm` builds what they need, and then nothing may be skipped."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignray.engine import VLLMConfig
from alignray.engine.vllm import VLLMEngine

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 20.0
"""After which a stopped engine counts as dead; a step of the little model takes well under a second."""

Await = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """SmolLM2 in Hugging Face layout: ALIGNRAY_VLLM_MODEL, else where `make test-vllm` writes it."""
    path = Path(os.environ.get("ALIGNRAY_VLLM_MODEL") or ROOT / ".venv-vllm" / "models" / "SmolLM2-135M-Instruct")
    missing = ""
    if importlib.util.find_spec("vllm") is None:
        missing = "vLLM is not installed here"
    elif not path.is_dir():
        missing = f"no model at {path}"
    if missing:
        message = f"{missing}; run: make test-vllm"
        if os.environ.get("ALIGNRAY_REQUIRE_VLLM") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def config(model_dir: Path) -> VLLMConfig:
    return VLLMConfig(
        model=str(model_dir), dtype="bfloat16", enforce_eager=True, max_model_len=1024, max_num_seqs=16, kv_cache_gib=0.5,
        engine_args={"block_size": 32}, timeout_s=TIMEOUT_S,
    )


@pytest.fixture(scope="session")
def wait(model_dir: Path) -> Iterator[Await]:
    """Runs a coroutine on an event loop in a thread of its own, as the chain runner does."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture(scope="session")
def engine(config: VLLMConfig, wait: Await) -> Iterator[VLLMEngine]:
    engine = VLLMEngine(config)
    wait(engine.start())
    yield engine
    wait(engine.close())
