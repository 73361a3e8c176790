"""Models as scorers of tokens: loading, adapters, attention over packed rows, and whether a model can share prefixes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignray.errors import ConfigError
from alignray.objectives.logprobs import CHUNK, token_logprobs
from alignray.train.config import LoRAConfig, ModelConfig
from alignray.train.data import PairTokens
from alignray.train.pack import Packed, attention_mask, pack_pairs, pad_pairs

logger = logging.getLogger(__name__)

NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Files of a hub model that are downloaded."""
PROBE_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Nats by which the two layouts may differ on a probe; a model that mixes the branches is off by far more."""


class TokenScorer(nn.Module):
    """A causal language model that returns log-probabilities of targets instead of logits."""

    def __init__(self, model: Any, *, attention: str) -> None:
        """Args:
            model: a transformers causal language model, or one with peft adapters.
            attention: its attention implementation; decides how masks are handed over.
        """
        super().__init__()
        self.model = model
        self._attention = attention
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        found = base.get_output_embeddings()
        if type(found) is not nn.Linear:
            raise ConfigError(f"{type(base).__name__} ends in {type(found).__name__}, not a linear layer; leave it out of lora.targets")
        # the head keeps its weights and their name; only what it computes when it is given targets is new
        found.__class__ = _Head
        head: Any = found
        head.softcap = getattr(base.config, "final_logit_softcapping", None)
        head.scale = float(getattr(base.config, "logit_scale", None) or 1.0) / float(getattr(base.config, "logits_scaling", None) or 1.0)
        # in a tuple, or their parameters would stand in the state twice
        self._parts: tuple[Any, _Head] = (base.get_decoder(), head)

    def forward(self, packed: Packed, reference: TokenScorer | None = None) -> Tensor:
        """Log-probabilities [N] of the packed targets, float32; with a reference, [2, N]: them, and KL(this || reference) there."""
        hidden_ND = self.states(packed)
        logprobs_N: Tensor
        if reference is None:
            logprobs_N = self._parts[1](hidden_ND, packed.target_N)
        else:
            logprobs_N = self._parts[1](hidden_ND, packed.target_N, (reference.states(packed), reference._parts[1]))
        return logprobs_N

    def states(self, packed: Packed) -> Tensor:
        """Last hidden states [N, D] of the positions that predict the targets."""
        decoder, head = self._parts
        mask: Any = None
        if not packed.is_causal:
            mask = _block_mask(packed) if self._attention == "flex_attention" else attention_mask(packed)
            if self._attention == "eager":
                dtype = head.weight.dtype
                mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        states_RLD = decoder(
            input_ids=packed.input_ids_RL, position_ids=packed.position_ids_RL, attention_mask=mask, use_cache=False,
        ).last_hidden_state
        hidden_ND: Tensor = states_RLD.reshape(-1, states_RLD.shape[-1])[packed.state_N]
        return hidden_ND


class _Head(nn.Linear):
    softcap: float | None
    scale: float

    def forward(
        self, hidden: Tensor, targets_N: Tensor | None = None, reference: tuple[Tensor, _Head] | None = None,
    ) -> Tensor:
        if targets_N is None:
            return super().forward(hidden)
        if reference is None:
            return token_logprobs(hidden, self.weight, targets_N, bias_V=self.bias, softcap=self.softcap, scale=self.scale)
        rows = []
        parts = (torch.split(values, CHUNK) for values in (hidden, reference[0], targets_N))
        for here, there, target in zip(*parts, strict=True):
            p, q = self.log_softmax(here), reference[1].log_softmax(there)
            rows.append(torch.stack([p.gather(-1, target[:, None])[:, 0], (p.exp() * (p - q)).sum(-1)]))
        return torch.cat(rows, dim=-1)

    def log_softmax(self, hidden_CD: Tensor) -> Tensor:
        """Log-probabilities [C, V] of a few positions, float32."""
        logits_CV = super().forward(hidden_CD).float() * self.scale
        if self.softcap is not None:
            logits_CV = self.softcap * torch.tanh(logits_CV / self.softcap)
        return logits_CV.log_softmax(-1)


def _block_mask(packed: Packed) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    group, branch = packed.group_RL, packed.branch_RL

    def visible(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = group[row, query] == group[row, key]
        shown = (branch[row, key] == 0) | (branch[row, query] == branch[row, key])
        return same & shown & (query >= key)

    rows, length = group.shape
    return create_block_mask(visible, rows, None, length, length, device=str(group.device))


def attention_of(config: ModelConfig, device: torch.device) -> str:
    """The attention implementation that a config means on a device."""
    if config.attention != "auto":
        return config.attention
    return "flex_attention" if device.type == "cuda" else "sdpa"


def load_model(config: ModelConfig, *, dtype: torch.dtype, attention: str, seed: int = 0, empty: bool = False) -> Any:
    """The model of a config, with adapters if it asks for them, in training mode.

    Args:
        dtype: of the weights in memory.
        empty: on the meta device, without weights (ranks that get theirs from rank 0).

    Raises:
        ConfigError: no such model, or its weights are not safetensors.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    check_path(config.path)
    try:
        if empty:
            with torch.device("meta"):
                settings = AutoConfig.from_pretrained(config.path, revision=config.revision)
                model = AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation=attention)
        else:
            model = AutoModelForCausalLM.from_pretrained(
                config.path, revision=config.revision, dtype=dtype, attn_implementation=attention, use_safetensors=True,
            )
    except (OSError, ValueError, KeyError) as err:
        raise ConfigError(
            f"model.path={config.path!r} cannot be loaded ({_first_line(err)}); name a folder with config.json and safetensors weights, "
            "or a hub model this machine can reach"
        ) from err
    model.config.use_cache = False
    if config.lora is not None:
        model = _with_adapters(model, config.lora, seed)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if config.lora is not None:
            model.enable_input_require_grads()
    return model.train()


def check_path(path: str) -> None:
    """A path that is meant as a folder must be one; other names go to the hub.

    Raises:
        ConfigError: it looks like a folder and is none.
    """
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not (Path(path) / "config.json").is_file():
        raise ConfigError(f"model.path={path!r} is no model folder (no config.json in it)")


def model_folder(config: ModelConfig) -> Path:
    """Local folder of a model; a hub model is downloaded into the hub's cache first.

    Raises:
        ConfigError: there is no such folder, and no such hub model that this machine can reach.
    """
    check_path(config.path)
    if (folder := Path(config.path).expanduser()).is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(config.path, revision=config.revision, allow_patterns=NEEDED))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as err:
        raise ConfigError(f"model.path={config.path!r} is no folder here, and the hub does not give it ({_first_line(err)})") from err


def _with_adapters(model: Any, config: LoRAConfig, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)  # every rank starts from the same adapters
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    adapters = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets, task_type="CAUSAL_LM", bias="none",
    )
    try:
        return get_peft_model(model, adapters)
    except ValueError as err:
        raise ConfigError(f"model.lora.targets={config.targets!r}: {_first_line(err)}") from err


def merge_adapters(config: ModelConfig, adapters: Path, into: Path) -> None:
    """Write the model with a LoRA run's adapters in its weights, and its tokenizer; complete, or not there at all.

    Args:
        config: the model that the adapters were trained on; its dtype is that of the weights written.
        into: a folder in Hugging Face layout, replaced if an earlier attempt left it half done.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer

    base = load_model(config.model_copy(update={"lora": None}), dtype=getattr(torch, config.dtype), attention="sdpa")
    merged = PeftModel.from_pretrained(base, str(adapters)).merge_and_unload()
    aside = into.with_name(f".{into.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    merged.save_pretrained(aside)
    AutoTokenizer.from_pretrained(adapters).save_pretrained(aside)
    shutil.rmtree(into, ignore_errors=True)
    aside.rename(into)


def why_not_shared(scorer: TokenScorer, forward: Callable[[Packed], Tensor], device: torch.device) -> str | None:
    """Why a model cannot compute a pair's common prefix once; None where it can.

    First what its config says (sliding windows, layers that are no attention), then a probe: a small random pair must get the same
    log-probabilities in both layouts. Every rank calls it: ``forward`` is the strategy's.
    """
    model = scorer.model
    settings = model.config.get_text_config()
    kinds = set(getattr(settings, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"layers of kind {', '.join(sorted(kinds - {'full_attention'}))}"
    if getattr(settings, "sliding_window", None) and getattr(settings, "use_sliding_window", True):
        return f"a sliding window of {settings.sliding_window} positions"
    was_training = scorer.training
    scorer.eval()
    try:
        with torch.no_grad():
            pairs = [_probe_pair(settings.vocab_size, seed) for seed in range(2)]
            there, here = (_both_sides(forward, layout, device) for layout in (pad_pairs(pairs), pack_pairs(pairs)))
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as err:
        return f"its attention takes no packed rows ({_first_line(err)})"
    finally:
        scorer.train(was_training)
    difference = (there - here).abs().max().item()
    tolerance = PROBE_TOLERANCE.get(next(model.parameters()).dtype, 0.5)
    if not difference <= tolerance:
        return f"a probe pair differs by {difference:.3g} nats between the layouts (more than {tolerance:g})"
    return None


def _both_sides(forward: Callable[[Packed], Tensor], packed: Packed, device: torch.device) -> Tensor:
    packed = packed.to(device)
    logprobs_N = forward(packed)
    return torch.cat([side.side(logprobs_N).policy_BT[side.mask_BT] for side in packed.sides]).double()


def _probe_pair(vocab_size: int, seed: int) -> PairTokens:
    generator = np.random.default_rng(seed)
    prompt, common, chosen, rejected = (generator.integers(0, vocab_size, size) for size in (9, 3, 11 - seed, 6 + seed))
    chosen[0], rejected[0] = 1 % vocab_size, 0
    chosen, rejected = np.concatenate([common, chosen]), np.concatenate([common, rejected])
    return PairTokens("", prompt, chosen, rejected, np.zeros(len(chosen), bool), np.zeros(len(rejected), bool))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
