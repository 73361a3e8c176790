"""A tiny random model and random pairs for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignray.train.config import TrainConfig
from alignray.train.data import PairTokens
from alignray.train.model import TokenScorer, load_model

VOCAB = 97


def save_llama(folder: Path, **settings: Any) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    defaults = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 256,
    }
    LlamaForCausalLM(LlamaConfig(**{**defaults, **settings})).save_pretrained(folder)
    return folder


def scorer_of(folder: Path, *, dtype: torch.dtype = torch.float32, attention: str = "sdpa", **model: Any) -> TokenScorer:
    config = TrainConfig.model_validate({"model": {"path": str(folder), "dtype": "float32", **model}}).model
    return TokenScorer(load_model(config, dtype=dtype, attention=attention), attention=attention)


def random_pair(seed: int, *, shared: int | None = None) -> PairTokens:
    """A pair whose responses share their first ``shared`` tokens at least, with random lengths, marks and reference."""
    rng = np.random.default_rng(seed)
    prompt, common = rng.integers(0, VOCAB, rng.integers(1, 12)), rng.integers(0, VOCAB, rng.integers(0, 6) if shared is None else shared)
    chosen, rejected = (np.concatenate([common, rng.integers(0, VOCAB, rng.integers(1, 9))]) for _ in range(2))
    marks = [rng.random(len(side)) < 0.5 for side in (chosen, rejected)]
    references = [-5 * rng.random(len(side)).astype(np.float32) for side in (chosen, rejected)]
    return PairTokens(f"{seed:032x}", prompt, chosen, rejected, *marks, *references)
