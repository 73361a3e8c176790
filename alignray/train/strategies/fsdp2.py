"""torch's fully_shard (FSDP2): parameters, gradients and optimizer states sharded; checkpoints load at any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from alignray.train.config import TrainConfig
from alignray.train.model import TokenScorer, attention_of, load_model
from alignray.train.pack import Packed
from alignray.train.strategies.base import Ranks, ensure_group, make_optimizer, set_learning_rate, trained_names


class FSDP2:
    """See the module."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        ensure_group(ranks)
        attention = attention_of(config.model, ranks.device)
        model = load_model(config.model, dtype=torch.float32, attention=attention, seed=config.seed)
        self.scorer = TokenScorer(model, attention=attention)
        self._ranks, self._max_norm = ranks, config.optimizer.max_grad_norm
        self._only_adapters = config.model.lora is not None
        mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
        dtype: torch.dtype = getattr(torch, config.model.dtype)
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for layer in layers_of(model):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        # inputs are token ids and positions, which must stay integers
        self._module: Any = fully_shard(self.scorer, mesh=mesh, mp_policy=MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False,
        ))
        self._names = trained_names(model)
        self._optimizer = make_optimizer(self.scorer, config.optimizer)

    def forward(self, packed: Packed, reference: TokenScorer | None = None) -> Tensor:
        """See Strategy."""
        logprobs_N: Tensor = self._module(packed, reference)
        return logprobs_N

    def begin(self, *, is_last: bool) -> None:
        """See Strategy."""
        self._module.set_requires_gradient_sync(is_last)

    def backward(self, loss: Tensor) -> None:
        """See Strategy."""
        torch.autograd.backward(loss * self._ranks.world_size)  # it averages

    def step(self, learning_rate: float) -> float:
        """See Strategy."""
        set_learning_rate(self._optimizer, learning_rate)
        limit = self._max_norm if self._max_norm is not None else float("inf")
        norm: Any = torch.nn.utils.clip_grad_norm_([p for group in self._optimizer.param_groups for p in group["params"]], limit)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def save(self, folder: Path) -> None:
        """See Strategy."""
        model, optimizer = get_state_dict(self.scorer, self._optimizer, options=self._options())
        state_dict_saver.save({"model": model, "optimizer": optimizer}, checkpoint_id=str(folder / "fsdp2"))

    def load(self, folder: Path) -> None:
        """See Strategy."""
        model, optimizer = get_state_dict(self.scorer, self._optimizer, options=self._options())
        state: dict[str, Any] = {"model": model, "optimizer": optimizer}
        state_dict_loader.load(state, checkpoint_id=str(folder / "fsdp2"))
        set_state_dict(
            self.scorer, self._optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"],
            options=StateDictOptions(strict=not self._only_adapters, ignore_frozen_params=self._only_adapters),
        )

    def weights(self) -> dict[str, Tensor] | None:
        """See Strategy."""
        state: dict[str, Any] = get_model_state_dict(self.scorer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self._ranks.rank != 0:
            return None
        return {name.removeprefix("model."): value for name, value in state.items()}

    def _options(self) -> StateDictOptions:
        return StateDictOptions(ignore_frozen_params=self._only_adapters)


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The decoder's blocks: the longest list of modules in the model."""
    lists = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len, default=[])
