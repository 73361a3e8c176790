"""A Hugging Face checkpoint in this process: PyTorch and transformers on a GPU or the CPU, adapters of training merged in.

Prompts are rendered as training renders them, and an answer ends where training ends responses. Requests that wait together are
generated side by side; each draws from its own seed, and rows of a batch do not see each other. So an answer is the same in any
company, but for the rounding of a matrix product, which differs with the size of a batch and may decide between two tokens that
are all but equally likely: hardly ever in float32, now and then in bfloat16.

Legend: B rows, S rows that sample, T tokens, V vocabulary.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from alignray.chat_templates import ChatTemplate, TemplateRefused
from alignray.engine.base import Admit
from alignray.engine.configs import TransformersConfig, is_folder_name, model_name
from alignray.engine.prices import FREE
from alignray.errors import CallRefused, ConfigError, EngineDown
from alignray.schema import ChatRequest, Completion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Value = TypeVar("Value")

NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Files of a hub model that are downloaded."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LINGER_S = 0.02
"""How long a batch that is not full waits for company."""
BLIND_TO_PADDING = {"full_attention", "sliding_attention"}
"""Kinds of layers for which a masked token at the left is as none; a model with others answers one request at a time."""
NUCLEUS = 1024
"""Most likely tokens among which a nucleus is looked for before the whole vocabulary is sorted."""
PART = "engines.*"
NO_SCHEMA = (
    "engine transformers cannot hold an answer to a JSON schema; bind this role to an engine of kind vllm, llama or openai, "
    "or take a form of the step that asks for plain text"
)


def find_model(config: TransformersConfig) -> Path:
    """The local folder of a model; a hub model is downloaded into the hub's cache first.

    Raises:
        EngineDown: there is no such model, or it is a folder of adapters.
    """
    folder = Path(config.model).expanduser()
    if not folder.is_dir():
        if is_folder_name(config.model):
            raise EngineDown(
                f"engine transformers: model = {config.model!r} is not a folder; give one in Hugging Face layout, or an id of the hub"
            )
        folder = _download(config)
    if (folder / ADAPTER_CONFIG).is_file():
        raise EngineDown(
            f"engine transformers: model = {config.model!r} holds adapters ({ADAPTER_CONFIG}), not a whole model; set model to the one "
            f"that they were trained on, and adapters to [{config.model}]"
        )
    if not (folder / "config.json").is_file():
        raise EngineDown(f"engine transformers: model = {config.model!r} is no model folder (no config.json in it)")
    return folder


def _download(config: TransformersConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(config.model, revision=config.revision, allow_patterns=[*NEEDED]))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as err:
        raise EngineDown(
            f"engine transformers: model = {config.model!r} is no folder here, and the hub does not give it ({_first_line(err)}); "
            "check its name, or name a folder"
        ) from err


def find_adapters(folders: Sequence[str]) -> list[Path]:
    """The folders of adapters, each with weights that cannot run code.

    Raises:
        EngineDown: one of them is none.
    """
    found = [Path(folder).expanduser() for folder in folders]
    for folder in found:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (folder / name).is_file():
                raise EngineDown(f"engine transformers: adapters: {str(folder)!r} is no folder of adapters (no {name} in it)")
    return found


def pick_batch(sizes: Sequence[tuple[int, int]], *, max_batch: int, max_batch_tokens: int) -> list[int]:
    """Which of the waiting requests go together: the first, and those whose prompts are nearest to it in length.

    Args:
        sizes: tokens of the prompt and most tokens of the answer, in order of arrival.
        max_batch_tokens: rows times (longest prompt + longest answer), at most; the first one goes in any case.
    """
    batch, (prompt, answer) = [0], sizes[0]
    for place in sorted(range(1, len(sizes)), key=lambda place: abs(sizes[place][0] - sizes[0][0])):
        if len(batch) == max_batch:
            break
        longest = max(prompt, sizes[place][0]), max(answer, sizes[place][1])
        if (len(batch) + 1) * sum(longest) <= max_batch_tokens:
            batch.append(place)
            prompt, answer = longest
    return batch


def choose(logits_BV: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], draws: Sequence[float]) -> list[int]:
    """The next token of each row: the likeliest at temperature 0, else the one on which the row's draw in [0, 1) falls.

    Draws fall on probabilities in the order of the vocabulary, so a probability that is off by rounding moves hardly any of them.
    """
    import torch

    tokens_B = logits_BV.argmax(-1)
    sampled = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    if sampled:
        logits_SV = logits_BV[sampled].double()
        temperature_S1, top_p_S1, draw_S1 = (
            torch.tensor([values[row] for row in sampled], dtype=torch.float64, device=logits_BV.device)[:, None]
            for values in (temperatures, top_ps, draws)
        )
        # the largest is 0 then, whatever a small temperature makes of the others
        probs_SV = ((logits_SV - logits_SV.amax(-1, keepdim=True)) / temperature_S1).softmax(-1)
        if any(top_ps[row] < 1 for row in sampled):
            probs_SV = _nucleus(probs_SV, top_p_S1)
        mass_SV = probs_SV.cumsum(-1)
        total_S1 = mass_SV[:, -1:].contiguous()
        target_S1 = torch.minimum(draw_S1 * total_S1, torch.nextafter(total_S1, torch.zeros_like(total_S1)))
        tokens_B[sampled] = torch.searchsorted(mass_SV, target_S1, right=True)[:, 0]
    tokens: list[int] = tokens_B.tolist()
    return tokens


def _nucleus(probs_SV: Tensor, top_p_S1: Tensor) -> Tensor:
    """Probabilities with all but the likeliest tokens that make up ``top_p`` at 0; tokens as likely as the last of them stay."""
    import torch

    values_SK = mass_SK = probs_SV
    for size in (min(NUCLEUS, probs_SV.shape[-1]), probs_SV.shape[-1]):
        values_SK = probs_SV.topk(size, dim=-1).values
        mass_SK = values_SK.cumsum(-1)
        if bool(((mass_SK[:, -1:] >= top_p_S1) | (top_p_S1 >= 1)).all()):
            break
    last_S1 = (mass_SK < top_p_S1).sum(-1, keepdim=True).clamp(max=values_SK.shape[-1] - 1)
    least_S1 = torch.where(top_p_S1 < 1, values_SK.gather(-1, last_S1), torch.zeros_like(top_p_S1))
    return probs_SV.where(probs_SV >= least_S1, torch.zeros_like(probs_SV))


@dataclass(frozen=True)
class _Answer:
    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(eq=False)
class _Call:
    """A request that waits; its prompt is read by the worker."""

    request: ChatRequest
    answer: asyncio.Future[_Answer]
    prompt: list[int] = field(default_factory=list)
    max_tokens: int = 0


@dataclass
class _Row:
    """An answer as it grows."""

    call: _Call
    place: int
    random: random.Random
    ids: list[int] = field(default_factory=list)

    @property
    def temperature(self) -> float:
        temperature = self.call.request.temperature
        return 1.0 if temperature is None else temperature


class _Model:
    """Model, tokenizer and template. All of it runs in one thread, as torch's settings and a tokenizer ask for."""

    def __init__(self, config: TransformersConfig, closing: threading.Event) -> None:
        """
        Raises:
            EngineDown: it cannot be loaded, or not on this device.
        """
        import torch
        import transformers

        folder, adapters = find_model(config), find_adapters(config.adapters)
        self._closing = closing
        transformers.utils.logging.disable_progress_bar()  # an actor's log is no place for one
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._device = _device_of(config)
        dtype: Any = config.dtype if config.dtype != "auto" or self._device.type != "cpu" else "float32"
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as err:
            raise EngineDown(
                f"engine transformers cannot load {config.model!r}: {_first_line(err)}; name a folder with config.json, a tokenizer and "
                "safetensors weights"
            ) from err
        for adapter in adapters:
            self._merge(adapter)
        self._model = self._model.to(self._device).eval()
        self._tokenizer.model_max_length = int(1e30)  # what is too long is told by read()
        self._read_template(config)
        self._read_abilities(config)

    def _merge(self, adapter: Path) -> None:
        from peft import PeftModel

        try:
            self._model = PeftModel.from_pretrained(self._model, adapter, is_trainable=False).merge_and_unload(safe_merge=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as err:
            raise EngineDown(
                f"engine transformers: adapters: {str(adapter)!r} does not fit onto the model ({_first_line(err)}); name the model that it "
                "was trained on, and before it the adapters that were merged then"
            ) from err

    def _read_template(self, config: TransformersConfig) -> None:
        try:
            self._template = ChatTemplate(self._tokenizer, config.chat_template, config.template_fields, part=PART)
            _, end_id = self._template.find_end(config.end_token)
            self._add_bos = config.add_bos
            self._template.prompt_ids("", add_bos=self._add_bos)
        except ConfigError as err:
            raise EngineDown(f"engine transformers: {err}") from err
        self._ends = {end_id}
        settings = self._model.generation_config, self._model.config.get_text_config(), self._tokenizer
        for end in (getattr(holder, "eos_token_id", None) for holder in settings):
            self._ends.update(end if isinstance(end, list) else [] if end is None else [end])

    def _read_abilities(self, config: TransformersConfig) -> None:
        takes = inspect.signature(self._model.forward).parameters.keys()
        if "past_key_values" not in takes:
            raise EngineDown(
                f"engine transformers: {type(self._model).__name__} of {config.model!r} keeps no cache of keys and values; take kind vllm"
            )
        self._takes_positions = "position_ids" in takes
        self._takes_keep = "logits_to_keep" in takes
        settings = self._model.config.get_text_config()
        # other layers (recurrent ones, chunks counted from the left) may see the padding, and so may a model that is not told positions
        is_blind = set(getattr(settings, "layer_types", None) or ()) <= BLIND_TO_PADDING and self._takes_positions
        self.max_batch = config.max_batch if is_blind else 1
        positions = getattr(settings, "max_position_embeddings", None)
        self._max_length: int | None = int(positions) if positions else None

    def read(self, calls: Sequence[_Call]) -> list[CallRefused | None]:
        """Render prompts and cut them into tokens, as training does; for each, why the model cannot be asked this."""
        return [self._read(call) for call in calls]

    def _read(self, call: _Call) -> CallRefused | None:
        request = call.request
        if request.json_schema is not None:
            return CallRefused("bad_request", NO_SCHEMA)
        try:
            prompt = self._template.render(request.messages, is_prompt=True)
        except (TemplateRefused, ConfigError) as err:
            return CallRefused("bad_request", f"chat template {self._template.name} does not take this request: {err}")
        call.prompt = self._template.prompt_ids(prompt, add_bos=self._add_bos)
        if not call.prompt:
            return CallRefused("bad_request", "the prompt has no tokens")
        room = (self._max_length or 1 << 30) - len(call.prompt)
        if room < 1:
            return CallRefused(
                "context_too_long",
                f"the prompt has {len(call.prompt)} tokens and the model's {self._max_length} positions must hold prompt and answer; "
                "lower gates.max_tokens, or take a model with a longer context",
            )
        call.max_tokens = min(request.max_new_tokens or room, room)
        return None

    def generate(self, calls: Sequence[_Call]) -> list[_Answer]:
        """Answers in order. A batch that does not fit into the GPU's memory is halved.

        Raises:
            EngineDown: a single one does not fit, the model computes no numbers, or the engine is closing.
        """
        import torch

        try:
            return self._generate(calls)
        except torch.OutOfMemoryError as err:
            if len(calls) == 1:
                raise EngineDown(
                    f"engine transformers: a prompt of {len(calls[0].prompt)} tokens does not fit into the GPU's memory; lower "
                    "gates.max_tokens or roles.*.max_new_tokens, or take another GPU"
                ) from err
        except RuntimeError as err:
            if isinstance(err, EngineDown):
                raise
            raise EngineDown(
                f"engine transformers failed on {len(calls)} prompts ({_first_line(err)}); lower {PART}.max_batch_tokens"
            ) from err
        torch.cuda.empty_cache()
        half = len(calls) // 2
        return self.generate(calls[:half]) + self.generate(calls[half:])

    def _generate(self, calls: Sequence[_Call]) -> list[_Answer]:
        import torch
        from transformers import DynamicCache

        rows = [_Row(call, place, random.Random(call.request.seed)) for place, call in enumerate(calls)]
        answers: list[Any] = [None] * len(rows)
        with torch.inference_mode():
            ids_BT, mask_BT = self._padded([call.prompt for call in calls])
            cache = DynamicCache(config=self._model.config)
            while True:
                tokens = self._next_tokens(rows, self._forward(ids_BT, mask_BT, cache))
                for row, token in zip(rows, tokens, strict=True):
                    answers[row.place] = self._take(row, token)
                going = [place for place, row in enumerate(rows) if answers[row.place] is None]
                if not going:
                    return answers
                if len(going) < len(rows):  # who is done leaves the batch
                    going_B = torch.tensor(going, device=self._device)
                    cache.reorder_cache(going_B)
                    mask_BT, rows = mask_BT[going_B], [rows[place] for place in going]
                ids_BT = torch.tensor([[row.ids[-1]] for row in rows], device=self._device)
                mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)

    def _padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids [B, T] with prompts at the right end, and a mask [B, T] of them; what pads is masked, so any id will do."""
        import torch

        ids_BT = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, ids_BT.shape[1] - len(prompt) :] = torch.tensor(prompt)
            mask_BT[row, ids_BT.shape[1] - len(prompt) :] = 1
        return ids_BT.to(self._device), mask_BT.to(self._device)

    def _forward(self, ids_BT: Tensor, mask_BT: Tensor, cache: Any) -> Tensor:
        """Logits [B, V] behind the last token, float32."""
        if self._closing.is_set():
            raise EngineDown("engine transformers is closing")
        more: dict[str, Any] = {"logits_to_keep": 1} if self._takes_keep else {}
        if self._takes_positions:
            more["position_ids"] = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        output = self._model(input_ids=ids_BT, attention_mask=mask_BT, past_key_values=cache, use_cache=True, **more)
        logits_BV: Tensor = output.logits[:, -1].float()
        return logits_BV

    def _next_tokens(self, rows: Sequence[_Row], logits_BV: Tensor) -> list[int]:
        if bool(logits_BV.isnan().any()):
            raise EngineDown(f"engine transformers: the model's logits are no numbers (nan); take another {PART}.dtype, or better weights")
        return choose(
            logits_BV, [row.temperature for row in rows],
            [1.0 if row.call.request.top_p is None else row.call.request.top_p for row in rows],
            [row.random.random() if row.temperature > 0 else 0.0 for row in rows],
        )

    def _take(self, row: _Row, token: int) -> _Answer | None:
        """The answer, if it ends with this token."""
        row.ids.append(token)
        is_end = token in self._ends
        is_full = len(row.ids) == row.call.max_tokens
        stops = row.call.request.stop
        if not (is_end or is_full or stops):
            return None
        text = str(self._tokenizer.decode(
            row.ids[:-1] if is_end else row.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False,
        ))
        cuts = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
        if not (is_end or is_full or cuts):
            return None
        return _Answer(
            text[: min(cuts, default=len(text))], "stop" if is_end or cuts else "length", len(row.call.prompt), len(row.ids),
        )


def _device_of(config: TransformersConfig) -> torch.device:
    import torch

    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise EngineDown(f"engine transformers: {PART}.device = cuda, and PyTorch sees no GPU here; take auto, or give the actor a GPU")
    return torch.device("cuda" if has_gpu and config.device != "cpu" else "cpu")


class TransformersEngine:
    """Batches over one model, in a thread of its own."""

    def __init__(self, config: TransformersConfig) -> None:
        self.config = config
        self._price = config.price or FREE
        self._name = model_name(config)
        self._model: _Model | None = None
        self._waiting: list[_Call] = []
        self._worker: asyncio.Task[None] | None = None
        self._closing = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers")

    @property
    def max_records(self) -> int:
        """Twice a batch: while one is generated, the next one gathers and finds its like."""
        return 2 * self.config.max_batch

    async def start(self) -> None:
        """Load the model onto the device."""
        try:
            self._model = await self._in_thread(_Model, self.config, self._closing)
        except ImportError as err:
            raise EngineDown(f"engine transformers needs {err.name or 'PyTorch'}; run: pip install 'alignray[train]'") from err

    async def generate(self, request: ChatRequest, admit: Admit | None = None) -> Completion:
        """Answer one request in a batch with others that wait. ``admit`` is not asked: nothing is sent twice."""
        started = time.perf_counter()
        if self._closing.is_set():
            raise EngineDown("engine transformers is closed")
        call = _Call(request, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        answer = await call.answer
        tokens = answer.prompt_tokens, answer.completion_tokens
        return Completion(
            text=answer.text, finish_reason=answer.finish_reason, prompt_tokens=tokens[0], completion_tokens=tokens[1],
            model=self._name, latency_s=time.perf_counter() - started, cost_usd=self._price.usd(*tokens),
        )

    async def close(self) -> None:
        """End the batch under way and let go of the model's memory."""
        self._closing.set()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        self._model = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        """Batch after batch, while requests wait."""
        while self._waiting:
            if len(self._waiting) < self.config.max_batch:
                await asyncio.sleep(LINGER_S)
            batch: list[_Call] = []
            try:
                batch = await self._next_batch()
                if batch:
                    model = self._model
                    assert model is not None, "start() comes first"
                    answers = await self._in_thread(model.generate, batch)
                    for call, answer in zip(batch, answers, strict=True):
                        if not call.answer.done():
                            call.answer.set_result(answer)
            except Exception as err:  # whatever it is, nobody may wait for ever
                for call in batch or self._waiting:
                    if not call.answer.done():
                        call.answer.set_exception(err)
            self._waiting = [call for call in self._waiting if not call.answer.done()]  # some callers may have given up

    async def _next_batch(self) -> list[_Call]:
        """Take a batch out of what waits; requests that the model cannot be asked get their answer here."""
        model = self._model
        assert model is not None, "start() comes first"
        unread = [call for call in self._waiting if not call.prompt]
        for call, refusal in zip(unread, await self._in_thread(model.read, unread), strict=True):
            if refusal is not None and not call.answer.done():
                call.answer.set_exception(refusal)
        ready = [call for call in self._waiting if call.prompt and not call.answer.done()]
        if not ready:
            return []
        sizes = [(len(call.prompt), call.max_tokens) for call in ready]
        chosen = pick_batch(sizes, max_batch=model.max_batch, max_batch_tokens=self.config.max_batch_tokens)
        batch = [ready[place] for place in chosen]
        self._waiting = [call for call in self._waiting if call not in batch]
        return batch

    async def _in_thread(self, work: Callable[..., Value], *arguments: Any) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
