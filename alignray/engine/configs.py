"""The engines' configs and prices: light to import, no backend library in sight."""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic

from alignray.chat_templates import RESERVED
from alignray.config import Config
from alignray.engine.prices import FREE, Price, price_table
from alignray.errors import ConfigError


class ScriptedConfig(Config):
    """A fake model that ships with the package: instant, free, the same answer for the same messages."""

    kind: Literal["scripted"] = "scripted"
    """Which engine this is."""
    latency_s: float = pydantic.Field(default=0.0, ge=0)
    """Time per answer."""
    max_in_flight: int = pydantic.Field(default=256, ge=1)
    """Most calls open at once."""
    refusal_rate: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Share of answers that politely decline."""
    fail_rate: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Share of calls refused for good, with reason "scripted"."""
    length_rate: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Share of answers cut off in mid-sentence, finish reason "length"."""
    garble_rate: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Share of verdicts with scores that are given in no form at all."""
    seed: int = 0
    """Other seeds give other answers."""


class LlamaConfig(Config):
    """An embedded model on the CPU: no server, no key."""

    kind: Literal["llama"] = "llama"
    """Which engine this is."""
    model_path: str | None = None
    """A GGUF file; null: the SmolLM2-135M-Instruct weights that ``make weights`` installs."""
    context_tokens: int = pydantic.Field(default=4096, ge=256)
    """Prompt and answer together, per slot."""
    slots: int = pydantic.Field(default=4, ge=1)
    """Answers generated side by side in one batch."""
    threads: int | None = pydantic.Field(default=None, ge=1)
    """CPU threads; null: as many as the process may use."""
    price: Price | None = None
    """What to account per token; null: nothing."""


class OpenAIConfig(Config):
    """Any endpoint that speaks OpenAI's chat completions, in the cloud or next door."""

    kind: Literal["openai"] = "openai"
    """Which engine this is."""
    model: str = pydantic.Field(min_length=1)
    """Model name as the endpoint knows it."""
    base_url: str = "https://api.openai.com/v1"
    """Everything before /chat/completions."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; null: send none. The key itself never stands in a config."""
    price: Price | None = None
    """Dollars per million tokens; null: the price table by model name, and nothing for an endpoint on the own network."""
    max_in_flight: int = pydantic.Field(default=256, ge=1)
    """Most requests open at once. Only a cap: how many it really takes is found out while running."""
    timeout_s: float = pydantic.Field(default=120.0, gt=0)
    """Longest time for one attempt, from sending to the last byte."""
    connect_timeout_s: float = pydantic.Field(default=10.0, gt=0)
    """Longest time to open a connection."""
    max_attempts: int = pydantic.Field(default=6, ge=1)
    """Attempts per call; being told to slow down (429) does not count as one."""
    down_after_s: float = pydantic.Field(default=60.0, gt=0)
    """After this long with nothing but connection errors, timeouts and 5xx the endpoint counts as down and the run stops."""
    tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name under which the cap on generated tokens is sent; OpenAI's reasoning models want the second."""
    send_seed: bool = False
    """Send the request's seed, where the endpoint has such a field."""
    extra_body: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Further fields of every request, such as vLLM's top_k; they win over ours."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, data: Any) -> Any:
        # checked on the whole part, not on the field: an error about a field would repeat the secret as its value
        if isinstance(data, dict):
            name, url = data.get("api_key_env"), data.get("base_url")
            if isinstance(name, str) and not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError("api_key_env is the name of an environment variable, not the key itself")
            if isinstance(url, str) and ("@" in url or "?" in url or "#" in url):
                raise ValueError("base_url holds no user, password or query; name the key's variable in api_key_env")
        return data

    @pydantic.field_validator("base_url")
    @classmethod
    def _is_plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError('write a URL such as "http://127.0.0.1:8000/v1"')
        return url.rstrip("/")


class VLLMConfig(Config):
    """A model in this very process group, on the GPUs (or CPUs) of its actor: vLLM's asynchronous engine."""

    kind: Literal["vllm"] = "vllm"
    """Which engine this is."""
    model: str = pydantic.Field(min_length=1)
    """Folder in Hugging Face layout, or an id of the hub. Weights are read as safetensors, and code of a model repository never runs."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; a commit makes runs repeatable."""
    tokenizer: str | None = None
    """Another folder or id for the tokenizer; null: the model's."""
    chat_template_args: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Variables of the model's chat template, such as {enable_thinking: false}."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of weights and activations; auto: as the model was saved."""
    quantization: str | None = None
    """How the weights are quantised, such as "awq" or "fp8"; null: as the model's own config says."""
    kv_cache_dtype: str = "auto"
    """Type of the KV cache, such as "fp8"; auto: the model's."""
    max_model_len: int | None = pydantic.Field(default=None, ge=16)
    """Prompt and answer together, in tokens; null: what the model was made for. A longer prompt is rejected as context_too_long."""
    tensor_parallel_size: int = pydantic.Field(default=1, ge=1)
    """Devices that share each layer."""
    pipeline_parallel_size: int = pydantic.Field(default=1, ge=1)
    """Groups of devices that share the layers out among them."""
    distributed_executor_backend: Literal["mp", "ray"] | None = None
    """Who runs the devices of one engine: "mp" processes on one node, "ray" workers in a placement group over nodes; null: mp."""
    gpu_memory_utilization: float = pydantic.Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory for weights and KV cache. Engines of one chain share the GPUs, so their shares add up to at most 1."""
    kv_cache_gib: float | None = pydantic.Field(default=None, gt=0)
    """Size of the KV cache per device in GiB; null: what gpu_memory_utilization leaves, and 1 GiB on a CPU."""
    max_num_seqs: int = pydantic.Field(default=128, ge=1)
    """Answers generated side by side, and records under way in one replica: few enough that their pages stay in the KV cache."""
    enforce_eager: bool = False
    """No compilation and no CUDA graphs: slower, but up sooner."""
    enable_prefix_caching: bool = True
    """Keep the KV of prompts, so that the next step of a record need not read its page again."""
    seed: int = 0
    """Seeds sampling as a whole. What is drawn still depends on what else is in the batch; temperature 0 is what repeats."""
    send_seed: bool = False
    """Give each request the seed of its row: draws repeat, the sampler is slower. Not on a CPU, where vLLM's sampler fails with it."""
    engine_args: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Further arguments of vLLM's AsyncEngineArgs, such as {block_size: 32}."""
    timeout_s: float = pydantic.Field(default=300.0, gt=0)
    """An engine that has calls open and makes no step for this long counts as dead."""
    health_every_s: float = pydantic.Field(default=2.0, gt=0)
    """How often the engine is looked after."""
    max_restarts: int = pydantic.Field(default=3, ge=0)
    """A dead engine is replaced and its calls asked again; so many deaths in a row without an answer are borne, one more stops the run."""
    price: Price | None = None
    """What to account per token; null: nothing."""

    @property
    def num_devices(self) -> int:
        """GPUs that one engine needs."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @pydantic.field_validator("engine_args")
    @classmethod
    def _holds_only_further_arguments(cls, args: dict[str, Any]) -> dict[str, Any]:
        if "trust_remote_code" in args:
            raise ValueError("trust_remote_code is refused: it runs code of the model's repository; name a model that vLLM knows itself")
        if args.get("load_format") in ("auto", "hf", "pt", "npcache"):
            raise ValueError(f"load_format = {args['load_format']!r} may unpickle weights; convert them to safetensors, and leave it out")
        twice = sorted(args.keys() & (cls.model_fields.keys() - {"kind", "price"} | {"disable_log_stats"}))
        if twice:
            raise ValueError(f"{', '.join(twice)}: set by alignray itself; write it beside engine_args where there is such a key")
        return args


class TransformersConfig(Config):
    """A model in this very process by PyTorch and transformers: any checkpoint of training, where no vLLM is; on a CPU too."""

    kind: Literal["transformers"] = "transformers"
    """Which engine this is."""
    model: str = pydantic.Field(min_length=1)
    """Folder in Hugging Face layout, or an id of the hub. Weights are read as safetensors, and code of a model repository never runs."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; a commit makes runs repeatable."""
    adapters: tuple[str, ...] = ()
    """Folders of LoRA adapters (peft), merged into the weights one after the other, each trained on what the ones before it gave."""
    chat_template: str | None = None
    """As tokens.chat_template of training. null: the tokenizer's own; chatml or plain are built in; else a file with a Jinja template."""
    template_fields: dict[str, str | bool | int] = {}
    """As tokens.template_fields of training: further variables of the template, such as {enable_thinking: false}."""
    add_bos: bool = False
    """As tokens.add_bos of training: the tokenizer's first token before prompts that do not begin with it."""
    end_token: str | None = None
    """As tokens.end_token of training. null: what closes an assistant's turn. The model's own end tokens end an answer in any case."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of weights and activations. auto: on a GPU as the model was saved; on a CPU float32, whose rounding tips no close choice when
    other prompts share the batch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU that the actor was given, else the CPU."""
    max_batch: int = pydantic.Field(default=16, ge=1)
    """Answers generated side by side."""
    max_batch_tokens: int = pydantic.Field(default=32768, ge=1)
    """Most tokens of a batch, each row as long as the longest prompt and the longest answer asked for: what bounds the KV cache.
    A single request above it goes alone."""
    threads: int | None = pydantic.Field(default=None, ge=1)
    """CPU threads; null: as many as PyTorch takes by itself."""
    price: Price | None = None
    """What to account per token; null: nothing."""

    @pydantic.field_validator("template_fields")
    @classmethod
    def _leaves_the_chat_alone(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if reserved := sorted(RESERVED & fields.keys()):
            raise ValueError(f'template_fields cannot set "{reserved[0]}"')
        return fields


AnyEngineConfig = ScriptedConfig | LlamaConfig | VLLMConfig | TransformersConfig | OpenAIConfig
EngineConfig = Annotated[AnyEngineConfig, pydantic.Field(discriminator="kind")]


def is_loopback(url: str) -> bool:
    """True for an endpoint on this very machine."""
    host = urlsplit(url).hostname or ""
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def is_own_network(url: str) -> bool:
    """True for this machine, a private address, or a name that only a local resolver knows (no dot, .local, .internal)."""
    host = urlsplit(url).hostname or ""
    address = _address(host)
    if address:
        return address.is_private
    return "." not in host or host.endswith((".localhost", ".local", ".internal", ".lan", ".svc"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def price_of(config: AnyEngineConfig) -> Price:
    """What the engine's tokens cost; own and embedded engines cost nothing unless their config says otherwise.

    Raises:
        ConfigError: a paid endpoint whose model is not in the price table.
    """
    if isinstance(config, ScriptedConfig):
        return FREE
    if config.price is not None:
        return config.price
    if isinstance(config, LlamaConfig | VLLMConfig | TransformersConfig) or is_own_network(config.base_url):
        return FREE
    date, prices = price_table()
    price = prices.get(config.model) or prices.get(re.sub(r"-\d{4}-\d\d-\d\d$", "", config.model))
    if price is None:
        raise ConfigError(
            f"no price for model {config.model!r} at {config.base_url} in the table of {date} ({', '.join(prices)}); "
            "set price: {prompt: USD, completion: USD}, per million tokens"
        )
    return price


def model_name(config: AnyEngineConfig) -> str:
    """The model's name, for people."""
    if isinstance(config, OpenAIConfig):
        return config.model
    if isinstance(config, LlamaConfig):
        return PurePath(config.model_path).stem if config.model_path else "SmolLM2-135M-Instruct"
    if isinstance(config, VLLMConfig):
        return PurePath(config.model).name if config.model.startswith(("/", ".", "~")) else config.model
    if isinstance(config, TransformersConfig):
        return "+".join([_shown(config.model), *map(_shown, config.adapters)])
    return "scripted (no model)"


def _shown(model: str) -> str:
    """A hub id as it is; of a folder its name, and its parent's where it is a checkpoint's "model"."""
    if not is_folder_name(model):
        return model
    path = PurePath(model)
    return f"{path.parent.name}/model" if path.name == "model" and path.parent.name else path.name


def is_folder_name(model: str) -> bool:
    """True for what can only be meant as a path, not as an id of the hub."""
    return model.startswith(("/", ".", "~")) or model.count("/") > 1


_TRANSPORT = (
    "base_url", "api_key_env", "price", "max_in_flight", "timeout_s", "connect_timeout_s", "max_attempts", "down_after_s",
    "threads", "slots", "latency_s", "tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend",
    "gpu_memory_utilization", "kv_cache_gib", "max_num_seqs", "enforce_eager", "enable_prefix_caching", "health_every_s", "max_restarts",
    "device", "max_batch", "max_batch_tokens",
)


def without_transport(engines: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The part of dumped engine configs that decides what is answered."""
    return {name: {key: value for key, value in engine.items() if key not in _TRANSPORT} for name, engine in engines.items()}
