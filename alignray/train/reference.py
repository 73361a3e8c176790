"""Log-probabilities of responses under the untrained model: one forward pass per pair, ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from alignray.train.config import TrainConfig
from alignray.train.data import Floats, PairTokens, share
from alignray.train.model import TokenScorer, attention_of, load_model, why_not_shared
from alignray.train.pack import pack_pairs, pad_pairs


class ReferenceScorer:
    """The reference model of a run, ready to score pairs."""

    def __init__(self, config: TrainConfig) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._attention = attention_of(config.model, self._device)
        plain = config.model.model_copy(update={"lora": None, "gradient_checkpointing": False})
        dtype: torch.dtype = getattr(torch, config.model.dtype)
        model: Any = load_model(plain, dtype=dtype, attention=self._attention)
        self._scorer = TokenScorer(model.to(self._device).eval().requires_grad_(False), attention=self._attention)
        self._max_tokens = config.max_tokens_per_device
        self._shares = config.layout != "padded" and why_not_shared(self._scorer, self._scorer, self._device) is None

    def score(self, pairs: Sequence[PairTokens]) -> list[tuple[Floats, Floats]]:
        """Log-probabilities of chosen and rejected of each pair, float32, in the order given."""
        lengths = [len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs]
        found: list[tuple[Floats, Floats]] = [(np.zeros(0, np.float32), np.zeros(0, np.float32))] * len(pairs)
        (passes,) = share(np.arange(len(pairs)), lengths, world_size=1, max_tokens=self._max_tokens)
        row_tokens = None if self._attention == "flex_attention" else 1
        for positions in passes:
            chosen = [pairs[position] for position in positions]
            packed = (pack_pairs(chosen, row_tokens=row_tokens) if self._shares else pad_pairs(chosen)).to(self._device)
            with torch.no_grad():
                logprobs_N = self._scorer(packed)
            sides = [layout.side(logprobs_N) for layout in packed.sides]
            for number, position in enumerate(positions):
                one, other = (side.policy_BT[number][side.mask_BT[number]].float().cpu().numpy() for side in sides)
                found[position] = one, other
        return found


def reference_logprobs(config: TrainConfig, pairs: Sequence[PairTokens]) -> list[tuple[Floats, Floats]]:
    """``ReferenceScorer`` for one batch of pairs."""
    return ReferenceScorer(config).score(pairs) if pairs else []
