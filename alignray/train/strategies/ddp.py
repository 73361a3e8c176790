"""A whole copy on every rank (or one process alone): float32 weights, autocast forward, gradients summed by torch's DDP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from alignray.train.config import TrainConfig
from alignray.train.model import TokenScorer, attention_of, load_model
from alignray.train.pack import Packed
from alignray.train.strategies.base import Ranks, make_optimizer, on_host, precision, set_learning_rate, trained_names


class DDP:
    """See the module."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        attention = attention_of(config.model, ranks.device)
        model = load_model(config.model, dtype=torch.float32, attention=attention, seed=config.seed).to(ranks.device)
        self.scorer = TokenScorer(model, attention=attention)
        self._ranks, self._max_norm = ranks, config.optimizer.max_grad_norm
        self._dtype: torch.dtype = getattr(torch, config.model.dtype)
        self._names = trained_names(model)
        self._optimizer = make_optimizer(model, config.optimizer)
        self._module: Any = self.scorer
        if ranks.world_size > 1:
            ids = [ranks.device.index] if ranks.device.type == "cuda" else None
            self._module = DistributedDataParallel(self.scorer, device_ids=ids)

    def forward(self, packed: Packed, reference: TokenScorer | None = None) -> Tensor:
        """See Strategy."""
        with precision(self._ranks.device, self._dtype):
            logprobs_N: Tensor = (self._module if torch.is_grad_enabled() else self.scorer)(packed, reference)
        return logprobs_N

    def begin(self, *, is_last: bool) -> None:
        """See Strategy."""
        if self._ranks.world_size > 1:
            self._module.require_backward_grad_sync = is_last

    def backward(self, loss: Tensor) -> None:
        """See Strategy."""
        torch.autograd.backward(loss * self._ranks.world_size)  # DDP averages

    def step(self, learning_rate: float) -> float:
        """See Strategy."""
        set_learning_rate(self._optimizer, learning_rate)
        limit = self._max_norm if self._max_norm is not None else float("inf")
        norm = torch.nn.utils.clip_grad_norm_([p for group in self._optimizer.param_groups for p in group["params"]], limit)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def save(self, folder: Path) -> None:
        """See Strategy."""
        if self._ranks.rank == 0:
            weights = {name: value for name, value in self.scorer.model.state_dict().items() if name in self._names}
            torch.save({"optimizer": self._optimizer.state_dict(), "weights": weights}, folder / "ddp.pt")

    def load(self, folder: Path) -> None:
        """See Strategy."""
        state = torch.load(folder / "ddp.pt", map_location=self._ranks.device, weights_only=True)
        self.scorer.model.load_state_dict(state["weights"], strict=False)
        self._optimizer.load_state_dict(state["optimizer"])

    def weights(self) -> dict[str, Tensor] | None:
        """See Strategy."""
        return on_host(self.scorer.model.state_dict().items()) if self._ranks.rank == 0 else None
