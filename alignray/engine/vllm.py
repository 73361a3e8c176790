"""vLLM in process: its asynchronous engine in this actor's event loop, the model's own processes on the actor's devices.

Prefix caching makes a record's steps share the KV of their page. What a request asks for (sampling, stop strings, a JSON
schema) goes along with each call, so calls of every step and role fill one batch. On what repeats: temperature 0 gives the
same text for the same batch shapes; above 0 the draws depend on the whole batch unless ``send_seed`` is on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import itertools
import logging
import os
import re
import stat
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Literal

from alignray.engine import orphans
from alignray.engine.base import Admit
from alignray.engine.configs import VLLMConfig, model_name
from alignray.engine.prices import FREE
from alignray.engine.supervisor import CoreDied, Supervisor
from alignray.errors import CallRefused, EngineDown
from alignray.schema import ChatRequest, Completion, Message

logger = logging.getLogger(__name__)

# read by vLLM when it is imported; whoever set one of them keeps it
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    # on a CPU: its own binding sets a core aside, which on 2 cores makes it a hundred times slower
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
CPU_KV_CACHE_GIB = 1.0
GIB = 1 << 30
GRACE_S = 5.0
"""For a core to end by itself; one that hangs is killed then."""
PROBE = ChatRequest((Message("user", "Say yes."),), max_new_tokens=4, temperature=0.0, top_p=1.0)
FinishReason = Literal["stop", "length", "unknown"]
FINISH_REASONS: dict[Any, FinishReason] = {"stop": "stop", "length": "length", "repetition": "length"}
_launching = threading.Lock()


def find_model(model: str) -> str:
    """The folder of a model, or its id at the hub as it is.

    Raises:
        EngineDown: a path that is no folder; vLLM would look for it at the hub.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path)
    if model.startswith(("/", ".", "~")):
        raise EngineDown(f"engine vllm: model = {model!r} is not a folder; give one in Hugging Face layout, or an id of the hub")
    return model


def engine_arguments(config: VLLMConfig) -> dict[str, Any]:
    """What vLLM's AsyncEngineArgs is called with, on any device."""
    arguments: dict[str, Any] = {
        "model": find_model(config.model), "revision": config.revision,
        "tokenizer": find_model(config.tokenizer) if config.tokenizer else None,
        "tokenizer_revision": config.revision if config.tokenizer is None else None,
        "dtype": config.dtype, "quantization": config.quantization, "kv_cache_dtype": config.kv_cache_dtype,
        "max_model_len": config.max_model_len, "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size, "gpu_memory_utilization": config.gpu_memory_utilization,
        "max_num_seqs": config.max_num_seqs, "enforce_eager": config.enforce_eager,
        "enable_prefix_caching": config.enable_prefix_caching, "seed": config.seed,
        "trust_remote_code": False, "load_format": "safetensors", "disable_log_stats": True,
    }
    backend = config.distributed_executor_backend or ("mp" if config.num_devices > 1 else None)
    optional = {
        "distributed_executor_backend": backend,
        "kv_cache_memory_bytes": int(config.kv_cache_gib * GIB) if config.kv_cache_gib else None,
    }
    return arguments | {key: value for key, value in optional.items() if value is not None} | config.engine_args


def sampling_arguments(request: ChatRequest, *, send_seed: bool) -> dict[str, Any]:
    """What vLLM's SamplingParams is called with, but for the JSON schema and the kind of output."""
    return {
        "temperature": request.temperature, "top_p": request.top_p, "max_tokens": request.max_new_tokens,
        "stop": list(request.stop) or None, "seed": request.seed if send_seed else None,
    }


def check_names(given: dict[str, Any], known: set[str]) -> None:
    """Every further argument is one that this vLLM has.

    Raises:
        EngineDown: naming the nearest one.
    """
    for name in sorted(given.keys() - known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f'did you mean "{near[0]}"?' if near else "see vLLM's AsyncEngineArgs"
        raise EngineDown(f'engine vllm: engine_args has "{name}", which this vLLM does not know; {hint}')


class _Heartbeat:
    """A stat logger of vLLM's that only counts the steps its core makes."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> _Heartbeat:
        return self

    def record(self, *args: Any, **kwargs: Any) -> None:
        self.steps += 1

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, *args: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class _Answer:
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class _VLLMCore:
    """One AsyncLLM with its processes."""

    def __init__(self, llm: Any, config: VLLMConfig, heartbeat: _Heartbeat, mark: str, watch: Any) -> None:
        self._llm, self._config, self._heartbeat, self._mark, self._watch = llm, config, heartbeat, mark, watch
        self._tokenizer = llm.get_tokenizer()
        self._max_model_len: int = llm.model_config.max_model_len
        self._numbers = itertools.count()
        # a thread of its own keeps long pages off the event loop; one, because a tokenizer is not for sharing
        self._tokens = ThreadPoolExecutor(1, thread_name_prefix="vllm-tokens")

    @property
    def steps(self) -> int:
        return self._heartbeat.steps

    def fault(self) -> str:
        return "its engine core process has ended" if self._llm.errored else ""

    async def answer(self, request: ChatRequest) -> _Answer:
        prompt = await asyncio.get_running_loop().run_in_executor(self._tokens, self._render, request)
        if len(prompt) >= self._max_model_len:
            raise CallRefused(
                "context_too_long",
                f"the prompt has {len(prompt)} tokens and max_model_len = {self._max_model_len} must hold prompt and answer; "
                "raise engines.*.max_model_len or lower gates.max_tokens",
            )
        output = await self._generate(prompt, self._sampling(request))
        answer = output.outputs[0]
        if answer.finish_reason in ("abort", "error"):
            raise CoreDied(f"a call ended with {answer.finish_reason!r}")
        return _Answer(
            text=answer.text, finish_reason=FINISH_REASONS.get(answer.finish_reason, "unknown"), prompt_tokens=len(prompt),
            completion_tokens=len(answer.token_ids), cached_tokens=output.num_cached_tokens or 0,
        )

    async def _generate(self, prompt: list[int], sampling: Any) -> Any:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        calls = self._llm.generate(tokens_input(prompt), sampling, f"call-{next(self._numbers)}")
        try:
            outputs = [output async for output in calls]
        except EngineDeadError as err:
            raise CoreDied("its engine core process has ended") from err
        except (VLLMClientError, ValueError) as err:
            raise CallRefused("bad_request", str(err)) from err
        except EngineGenerateError as err:
            if self._llm.errored:
                raise CoreDied("its engine core process has ended") from err
            if isinstance(err.__cause__, ValueError | TypeError):
                raise CallRefused("bad_request", str(err.__cause__)) from err
            raise CoreDied(f"a call failed with {err.__cause__!r}") from err
        return outputs[-1]

    def _render(self, request: ChatRequest) -> list[int]:
        """The prompt as the model's chat template puts it, in tokens."""
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        try:
            prompt: list[int] = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False, **self._config.chat_template_args,
            )
        except Exception as err:  # a template may raise anything: on a role that it does not know, without a template at all
            raise CallRefused("bad_request", f"the chat template of {self._config.model} does not take this request: {err}") from err
        return prompt

    def _sampling(self, request: ChatRequest) -> Any:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        arguments = sampling_arguments(request, send_seed=self._config.send_seed)
        try:
            if request.json_schema is not None:
                arguments["structured_outputs"] = StructuredOutputsParams(json=request.json_schema)
            return SamplingParams(**arguments, output_kind=RequestOutputKind.FINAL_ONLY)
        except (VLLMClientError, ValueError) as err:
            raise CallRefused("bad_request", str(err)) from err

    async def kill(self) -> None:
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()  # or it would log the end that we are about to bring as an error
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._llm.shutdown(timeout=GRACE_S)
        orphans.kill(self._mark)  # workers that a killed core left behind
        self._tokens.shutdown(wait=False, cancel_futures=True)
        self._watch.kill()
        self._watch.wait()


class VLLMEngine:
    """A model on this actor's GPUs or CPUs.

    ``stats`` counts "answers", "prompt_tokens", "cached_tokens" (prompt tokens found in the prefix cache) and "completion_tokens".
    """

    def __init__(self, config: VLLMConfig) -> None:
        self.config = config
        self.stats: Counter[str] = Counter()
        self._price = config.price or FREE
        self._supervisor: Supervisor[ChatRequest, _Answer] = Supervisor(
            self._launch, PROBE, name=f"engine vllm ({config.model})", timeout_s=config.timeout_s,
            health_every_s=config.health_every_s, max_restarts=config.max_restarts,
        )

    @property
    def max_records(self) -> int:
        """One per sequence: a record's next step is scheduled at once, while its page is in the cache."""
        return self.config.max_num_seqs

    @property
    def deaths(self) -> int:
        """Engine cores that were lost and replaced."""
        return self._supervisor.deaths

    @property
    def prefix_hit_rate(self) -> float:
        """Share of prompt tokens that were found in the prefix cache."""
        return self.stats["cached_tokens"] / max(self.stats["prompt_tokens"], 1)

    async def start(self) -> None:
        """Load the model onto the devices."""
        await self._supervisor.start()

    async def generate(self, request: ChatRequest, admit: Admit | None = None) -> Completion:
        """Answer one request. ``admit`` is not asked: what a dead core worked on is charged to nobody."""
        started = time.perf_counter()
        answer = await self._supervisor.ask(request)
        self.stats.update({
            "answers": 1, "prompt_tokens": answer.prompt_tokens, "cached_tokens": answer.cached_tokens,
            "completion_tokens": answer.completion_tokens,
        })
        return Completion(
            text=answer.text, finish_reason=answer.finish_reason, prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens, model=model_name(self.config), latency_s=time.perf_counter() - started,
            cost_usd=self._price.usd(answer.prompt_tokens, answer.completion_tokens),
        )

    async def close(self) -> None:
        """End the model's processes."""
        await self._supervisor.close()

    async def _launch(self) -> _VLLMCore:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # loading takes from seconds to many minutes; the event loop goes on meanwhile
        return await asyncio.to_thread(self._load)

    def _load(self) -> _VLLMCore:
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as err:
            raise EngineDown(
                f"engine vllm needs vLLM ({err}); on a GPU machine run: pip install 'alignray[vllm]', on a CPU see `make test-vllm`"
            ) from err
        arguments = engine_arguments(self.config)
        check_names(self.config.engine_args, {field.name for field in dataclasses.fields(AsyncEngineArgs)})
        if current_platform.is_cpu():
            if self.config.send_seed:
                raise EngineDown("engine vllm: send_seed = true does not work on a CPU; leave it out, temperature 0 is what repeats there")
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
                arguments.setdefault("kv_cache_memory_bytes", int(CPU_KV_CACHE_GIB * GIB))
        heartbeat, mark = _Heartbeat(), uuid.uuid4().hex
        with _launching:
            resource_tracker.ensure_running()  # this process' own helper, started here so that it does not bear the mark
            watch = orphans.watch(mark)
            log_end = _stderr_size()
            os.environ[orphans.VARIABLE] = mark
            try:
                llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[heartbeat])
                return _VLLMCore(llm, self.config, heartbeat, mark, watch)
            except Exception as err:
                orphans.kill(mark)
                watch.kill()
                watch.wait()
                raise EngineDown(_describe(self.config, err, _cause_since(log_end))) from err
            finally:
                del os.environ[orphans.VARIABLE]


def _describe(config: VLLMConfig, err: Exception, cause: str) -> str:
    """Why a model did not load, in one line; ``cause`` is what the core's own process said of it."""
    said = " ".join((cause or str(err)).split())[:1000] or type(err).__name__
    return f"engine vllm cannot load {config.model!r}: {said}; correct the engine's config (the actor's log has more), then resume"


_LAST_WORDS = re.compile(rb"^(?:\([^)]*\) )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.MULTILINE)


def _stderr_size() -> int | None:
    """Where this process' error output ends, if it is a file, as it is in a Ray worker."""
    status = os.fstat(2)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _cause_since(end: int | None) -> str:
    """The last error that the model's processes, which share our error output, ended with; nothing where it is no file."""
    if end is None:
        return ""
    with open("/proc/self/fd/2", "rb") as log:  # noqa: PTH123  # a file that is open already, by its number
        log.seek(end)
        errors: list[bytes] = _LAST_WORDS.findall(log.read())
    told = [error for error in errors if b"ore initialization failed" not in error]
    return told[-1].decode(errors="replace") if told else ""
