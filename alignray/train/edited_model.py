"""A model that is asked, edited by gradient descent, and put back: what the evaluation of knowledge editing needs of it.

Teacher forcing and editing go over right-padded rows, writing over left-padded ones with a cache; a row does not see its company. What a
row gets is therefore the same in any batch but for the rounding of matrix products, which decides between tokens that are all but equally
likely: hardly ever in float32, now and then in bfloat16. On a CPU the same calls give the same bits; a GPU's kernels may round anew.

Legend: B rows, T tokens, N scored positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from alignray.chat_templates import ChatTemplate, TemplateRefused
from alignray.engine.transformers import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BLIND_TO_PADDING, choose, pick_batch
from alignray.errors import ConfigError, RecordError, TrainingError
from alignray.objectives.logprobs import CHUNK
from alignray.schema import Message
from alignray.train.config import ModelConfig
from alignray.train.data import ExampleTokens
from alignray.train.edit_config import EditedModelConfig, FineTuneConfig
from alignray.train.model import TokenScorer, load_model, model_folder
from alignray.train.pack import Packed, pack_examples
from alignray.train.tokenize import load_tokenizer

DOWN_PROJECTIONS = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2", "mlp.fc_out", "fc2")
"""What transformers' models call the matrix that leads out of a layer's MLP."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class EditOutcome:
    """What an edit did. Losses are nats: mean over each target's tokens, then over facts."""

    steps: int
    """Passes over the facts in which a weight was changed."""
    first_loss: float
    """Before the edit."""
    loss: float
    """After it."""
    seconds: float


@dataclass
class _Row:
    """A text as it grows."""

    prompt: list[int]
    room: int
    random: random.Random
    ids: list[int] = field(default_factory=list)


class EditedModel:
    """A causal language model with the weights it was loaded with, or with edited ones."""

    def __init__(self, config: EditedModelConfig) -> None:
        """
        Raises:
            ConfigError: there is no such model, tokenizer, adapter, template or device.
        """
        self.config = config
        self._device = _device_of(config)
        wanted = ModelConfig(path=config.path, revision=config.revision, dtype=config.dtype, gradient_checkpointing=False)
        folder = str(model_folder(wanted))
        self._tokenizer = load_tokenizer(folder)
        self._tokenizer.model_max_length = int(1e30)  # what is too long is told here
        local = wanted.model_copy(update={"path": folder, "revision": None})
        model = load_model(local, dtype=getattr(torch, config.dtype), attention=config.attention)
        for adapter in config.adapters:
            model = _merged(model, Path(adapter).expanduser())
        self._model = model.to(self._device).eval().requires_grad_(False)
        self._scorer = TokenScorer(self._model, attention=config.attention).eval()
        self._loaded: dict[str, Tensor] = {}
        settings = self._model.config.get_text_config()
        self._positions = int(getattr(settings, "max_position_embeddings", None) or 1 << 30)
        self._is_blind_to_padding = set(getattr(settings, "layer_types", None) or ()) <= BLIND_TO_PADDING
        self._read_template(config)

    def _read_template(self, config: EditedModelConfig) -> None:
        has_template = bool(self._tokenizer.chat_template)
        if config.template == "chat" and not has_template:
            raise ConfigError(f"template = chat: the tokenizer of {config.path!r} has no chat template; take plain")
        self._template: ChatTemplate | None = None
        holders = self._model.generation_config, self._model.config.get_text_config(), self._tokenizer
        ends = [getattr(holder, "eos_token_id", None) for holder in holders]
        if has_template and config.template != "plain":
            try:
                self._template = ChatTemplate(self._tokenizer, None, config.template_fields)
                ends.append(self._template.find_end(None)[1])
            except ConfigError as err:
                raise ConfigError(f"template = {config.template} does not work with {config.path!r} ({err}); take plain") from err
        self._ends = {end for given in ends for end in (given if isinstance(given, list) else [given]) if end is not None}
        # what the tokenizer puts before a text of its own accord (BOS), and not what it may put behind
        alone, whole = self._encode("a"), list(self._tokenizer.encode("a"))
        starts = (at for at in range(len(whole)) if whole[at : at + len(alone)] == alone)
        self._leading = whole[: next(starts, 0)]

    @property
    def form(self) -> Literal["chat", "plain"]:
        """How a prompt and its target become tokens."""
        return "plain" if self._template is None else "chat"

    # ---- asking

    def argmax(self, prompts: Sequence[str], targets: Sequence[str]) -> list[tuple[Ids, Ids]]:
        """Target ids, and what the model finds likeliest at each of these positions when all before is given (teacher forcing).

        In plain form, prompt and target are tokenized together, and the target is what lies behind the ids that the prompt has alone; where
        the tokenizer joins the prompt's end with the blank, that token is the target's first. In chat form, each is tokenized for itself.

        Raises:
            RecordError: a target or prompt without tokens, or longer than the model's positions. It is a ValueError.
        """
        examples = self._examples(prompts, targets)
        head = self._model.get_output_embeddings()

        def likeliest(packed: Packed) -> Tensor:
            return torch.cat([head(hidden_CD).argmax(-1) for hidden_CD in torch.split(self._scorer.states(packed), CHUNK)])

        said = self._at_targets(examples, likeliest)
        return [(tuple(example.input_ids[example.loss_mask].tolist()), tuple(ids)) for example, ids in zip(examples, said, strict=True)]

    def why_not(self, prompt: str, target: str) -> str:
        """Why a pair cannot be asked or trained on (too long, empty), in words; nothing where it can."""
        try:
            self._example(prompt, target)
        except RecordError as err:
            return str(err)
        return ""

    def logprobs(self, prompts: Sequence[str], targets: Sequence[str]) -> list[list[float]]:
        """Natural log of the probability of each target token when all before is given; the tokens are those of ``argmax``.

        Raises:
            RecordError: as ``argmax``.
        """
        return self._at_targets(self._examples(prompts, targets), self._scorer)

    def _examples(self, prompts: Sequence[str], targets: Sequence[str]) -> list[ExampleTokens]:
        return [self._example(prompt, target) for prompt, target in zip(prompts, targets, strict=True)]

    def _at_targets(self, examples: Sequence[ExampleTokens], values_of: Callable[[Packed], Tensor]) -> list[list[Any]]:
        """What a function says of a batch's target tokens [N], by example."""
        found: list[list[Any]] = [[]] * len(examples)
        with torch.no_grad():
            for batch in self._batches([(len(example.input_ids), 0) for example in examples]):
                values = values_of(pack_examples([examples[place] for place in batch], alone=True).to(self._device)).tolist()
                for place in batch:
                    length = int(examples[place].loss_mask.sum())
                    found[place], values = values[:length], values[length:]
        return found

    def write(
        self, prompts: Sequence[str], *, max_new_tokens: int, top_k: int = 1, seeds: Sequence[int] | None = None,
        max_length: int | None = None,
    ) -> list[str]:
        """What the model says behind each prompt, up to an end token of the template or tokenizer, without it.

        Args:
            top_k: 1: the likeliest token each time; else one drawn among so many, as likely as they are.
            seeds: one for each prompt, where top_k > 1.
            max_length: tokens of prompt and continuation together, at most; a prompt that is as long gets "".

        Raises:
            RecordError: a prompt without tokens, or as long as the model's positions.
        """
        if top_k > 1 and (seeds is None or len(seeds) != len(prompts)):
            raise ValueError(f"top_k = {top_k} draws: give one seed for each of the {len(prompts)} prompts")
        rows = []
        for place, prompt in enumerate(prompts):
            ids = self._prompt_ids(prompt)
            self._check(ids, len(ids) + 1, prompt)
            room = min(max_new_tokens, self._positions - len(ids), max_new_tokens if max_length is None else max_length - len(ids))
            rows.append(_Row(ids, room, random.Random(seeds[place] if seeds else 0)))
        going = [row for row in rows if row.room > 0]
        max_batch = self.config.max_batch if self._is_blind_to_padding else 1
        with torch.no_grad():
            for batch in self._batches([(len(row.prompt), row.room) for row in going], max_batch=max_batch):
                self._write([going[place] for place in batch], top_k)
        return [str(self._tokenizer.decode(row.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)) for row in rows]

    def _write(self, rows: list[_Row], top_k: int) -> None:
        from transformers import DynamicCache

        width = max(len(row.prompt) for row in rows)
        # padding is masked, so any id will do
        ids_BT = torch.tensor([[0] * (width - len(row.prompt)) + row.prompt for row in rows], device=self._device)
        mask_BT = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows], device=self._device)
        cache = DynamicCache(config=self._model.config)
        while True:
            positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
            logits_BV = self._model(
                input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1].float()
            tokens = _drawn(logits_BV, rows, top_k)
            for row, token in zip(rows, tokens, strict=True):
                row.ids.append(token)
            going = [place for place, row in enumerate(rows) if row.ids[-1] not in self._ends and len(row.ids) < row.room]
            for row in rows:
                if row.ids[-1] in self._ends:
                    del row.ids[-1]
            if not going:
                return
            if len(going) < len(rows):  # who is done leaves the batch
                going_B = torch.tensor(going, device=self._device)
                cache.reorder_cache(going_B)
                mask_BT, rows = mask_BT[going_B], [rows[place] for place in going]
            ids_BT = torch.tensor([[row.ids[-1]] for row in rows], device=self._device)
            mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)

    # ---- editing

    def edit(self, facts: Sequence[tuple[str, str]], config: FineTuneConfig) -> EditOutcome:
        """Fine-tune on prompts and their targets, from the weights as they are now; only the target's tokens count, no end token.

        As in the authors' code a pass takes an optimizer step for each batch of facts (``FineTuneConfig``).

        Raises:
            ConfigError: the model has no such layer, or none whose MLP is known.
            RecordError: as ``argmax``; or there is no fact.
            TrainingError: the loss is no number any more; ``restore`` before going on.
        """
        started = time.perf_counter()
        if not facts:
            raise RecordError("an edit without facts; give one pair of prompt and target at least")
        weights = self._weights_of(config)
        examples = [self._example(prompt, target) for prompt, target in facts]
        self._loaded |= {name: weight.detach().clone() for name, weight in weights.items() if name not in self._loaded}
        with torch.no_grad():
            first_loss = self._loss(examples)
        steps = self._descend(weights, examples, config)
        with torch.no_grad():
            loss = self._loss(examples)
        return EditOutcome(steps, first_loss, loss, time.perf_counter() - started)

    def _descend(self, weights: dict[str, nn.Parameter], examples: Sequence[ExampleTokens], config: FineTuneConfig) -> int:
        """Passes in which a weight was changed."""
        masters = [weight.detach().float() for weight in weights.values()]  # the weights themselves where they are float32
        optimizer = torch.optim.AdamW(masters, lr=config.learning_rate, weight_decay=config.weight_decay)
        batches = [examples[start : start + config.batch_size] for start in range(0, len(examples), config.batch_size)]
        self._model.requires_grad_(False)
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
            for step in range(config.steps):
                total, has_changed = 0.0, False
                for batch in batches:
                    loss = self._loss(batch)
                    total += loss * len(batch)
                    if loss >= config.stop_loss:
                        for weight, master in zip(weights.values(), masters, strict=True):
                            master.grad = None if weight.grad is None else weight.grad.float()
                        optimizer.step()
                        self._take_over(weights, masters, config.max_change)
                        has_changed = True
                    self._model.zero_grad(set_to_none=True)
                if total / len(examples) < config.stop_loss:
                    return step + has_changed
            return config.steps
        finally:
            self._model.requires_grad_(False)
            self._model.zero_grad(set_to_none=True)

    def _take_over(self, weights: dict[str, nn.Parameter], masters: Sequence[Tensor], max_change: float | None) -> None:
        """Write the masters into the model's weights; both within ``max_change`` of the weights as loaded."""
        with torch.no_grad():
            for (name, weight), master in zip(weights.items(), masters, strict=True):
                if max_change is None:
                    weight.copy_(master)
                    continue
                loaded = self._loaded[name].double()
                near = master.double().clamp(loaded - max_change, loaded + max_change)
                master.copy_(near)
                rounded = near.to(weight.dtype)
                is_beyond = (rounded.double() - loaded).abs() > max_change  # by rounding alone; the number before is within
                weight.copy_(torch.where(is_beyond, rounded.nextafter(self._loaded[name]), rounded))

    def _loss(self, examples: Sequence[ExampleTokens]) -> float:
        """Mean over examples of the mean over their targets; with gradients added to the weights that take them, where they are enabled."""
        total = 0.0
        for batch in self._batches([(len(example.input_ids), 0) for example in examples]):
            packed = pack_examples([examples[place] for place in batch], alone=True).to(self._device)
            side = packed.sides[0].side(self._scorer(packed))
            loss = -((side.policy_BT * side.mask_BT).sum(-1) / side.mask_BT.sum(-1)).sum() / len(examples)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if not np.isfinite(total):
            shown = self._tokenizer.decode(examples[0].input_ids[-60:])
            raise TrainingError(
                f"the loss of {len(examples)} facts is {total}, the first of them ends in {shown!r}; lower learning_rate, or set max_change"
            )
        return total

    def _weights_of(self, config: FineTuneConfig) -> dict[str, nn.Parameter]:
        named = dict(self._model.named_parameters())
        if config.weights == "all":
            return named
        num_layers = self._model.config.get_text_config().num_hidden_layers
        layer = num_layers * 2 // 3 if config.layer is None else config.layer
        if layer >= num_layers:
            raise ConfigError(f"layer = {layer}: {self.config.path!r} has {num_layers} layers, counted from 0")
        decoder = self._model.get_decoder()
        stack = next(
            (child for child in decoder.modules() if isinstance(child, nn.ModuleList) and len(child) == num_layers), nn.ModuleList(),
        )
        inside = dict(stack[layer].named_parameters()) if len(stack) else {}
        found = next((inside[f"{name}.weight"] for name in DOWN_PROJECTIONS if f"{name}.weight" in inside), None)
        if found is None:
            raise ConfigError(f"weights = layer: no down projection of an MLP is known in {type(self._model).__name__}; take weights = all")
        return {name: weight for name, weight in named.items() if weight is found}

    def restore(self) -> None:
        """Put the weights back as they were loaded, bit by bit."""
        named = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, loaded in self._loaded.items():
                named[name].copy_(loaded)
        self._loaded.clear()

    @property
    def num_weights_changed(self) -> int:
        """How many single numbers differ from the weights as loaded."""
        named = dict(self._model.named_parameters())
        return sum(int((named[name] != loaded).sum()) for name, loaded in self._loaded.items())

    # ---- tokens

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _prompt_ids(self, prompt: str) -> list[int]:
        if self._template is None:
            return [*self._leading, *self._encode(prompt)]
        try:
            return self._template.prompt_ids(self._template.render([Message("user", prompt)], is_prompt=True), add_bos=False)
        except TemplateRefused as err:
            raise RecordError(f"the chat template does not take the prompt {prompt[-60:]!r} ({err}); set template to plain") from err

    def _example(self, prompt: str, target: str) -> ExampleTokens:
        """The ids of both, with the target marked."""
        if not target.strip():
            raise RecordError(f"the prompt {prompt[-60:]!r} has an empty target; leave it out")
        before = self._prompt_ids(prompt)
        if self._template is None:
            ids = [*self._leading, *self._encode(f"{prompt} {target}")]
            before = [here for here, _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, before, strict=False))]
        else:
            ids = [*before, *self._encode(target)]
        self._check(before, len(ids), prompt)
        return ExampleTokens("", np.array(ids, np.int64), np.arange(len(ids)) >= len(before))

    def _check(self, before: Sequence[int], length: int, prompt: str) -> None:
        if not before:
            raise RecordError(f"nothing stands before the answer to the prompt {prompt[-60:]!r}; give a longer prompt")
        if length > self._positions:
            raise RecordError(
                f"the prompt that ends in {prompt[-60:]!r} makes {length} tokens with its answer, and the model has {self._positions} "
                "positions; shorten it, or take a model with a longer context"
            )

    def _batches(self, sizes: Sequence[tuple[int, int]], *, max_batch: int | None = None) -> Iterator[list[int]]:
        """Places of what is computed side by side, like with like, longest first. Sizes are tokens of the prompt and of the answer."""
        max_batch = max_batch or self.config.max_batch
        waiting = sorted(range(len(sizes)), key=lambda place: (sizes[place], -place), reverse=True)
        while waiting:
            window = waiting[:max_batch]
            picked = pick_batch([sizes[place] for place in window], max_batch=max_batch, max_batch_tokens=self.config.max_batch_tokens)
            batch = sorted(window[place] for place in picked)
            yield batch
            waiting = [place for place in window if place not in batch] + waiting[len(window) :]


def _device_of(config: EditedModelConfig) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ConfigError("device = cuda, and PyTorch sees no GPU here; take auto or cpu")
    return torch.device("cuda" if has_gpu and config.device != "cpu" else "cpu")


def _merged(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (adapter / name).is_file():
            raise ConfigError(f"adapters: {str(adapter)!r} is no folder of adapters (no {name} in it)")
    try:
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=False).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as err:
        first = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise ConfigError(
            f"adapters: {str(adapter)!r} does not fit onto the model ({first}); name the model that it was trained on, and before it the "
            "adapters that were merged then"
        ) from err


def _drawn(logits_BV: Tensor, rows: Sequence[_Row], top_k: int) -> list[int]:
    """The next token of each row: the likeliest, or with top_k > 1 the one on which the row's own draw falls."""
    if top_k == 1:
        return choose(logits_BV, [0.0] * len(rows), [1.0] * len(rows), [0.0] * len(rows))
    best = logits_BV.topk(min(top_k, logits_BV.shape[-1]), dim=-1)
    kept_BV = torch.full_like(logits_BV, float("-inf")).scatter(-1, best.indices, best.values)
    return choose(kept_BV, [1.0] * len(rows), [1.0] * len(rows), [row.random.random() for row in rows])
