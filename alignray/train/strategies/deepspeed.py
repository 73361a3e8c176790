"""DeepSpeed ZeRO, stages 0 to 3, with offload. Its checkpoints load at the same number of ranks only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignray.errors import ConfigError
from alignray.train.config import TrainConfig
from alignray.train.model import TokenScorer, attention_of, load_model
from alignray.train.pack import Packed
from alignray.train.strategies.base import Ranks, ensure_group, make_optimizer, on_host, set_learning_rate, trained_names


def deepspeed_config(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's own config of ours. Batches are cut by us, so it is told of one pass per step and where the step ends."""
    strategy, stage = config.strategy, config.strategy.zero_stage
    zero: dict[str, Any] = {"stage": stage}
    if stage >= 2:
        # overlapping and bucketing reorder nothing here: one bucket order, the same curve on every run
        zero |= {"contiguous_gradients": True, "overlap_comm": torch.cuda.is_available()}
    if stage == 3:
        zero |= {"stage3_gather_16bit_weights_on_model_save": True}
    if strategy.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if strategy.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_batch_size": world_size, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1,
        "zero_optimization": zero, "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "gradient_clipping": config.optimizer.max_grad_norm or 0.0,
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, "wall_clock_breakdown": False,
        "steps_per_print": 10**9,
    }


class DeepSpeed:
    """See the module."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        if ranks.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        try:
            import deepspeed
        except ImportError as err:
            raise ConfigError("strategy.kind=deepspeed needs the extra: pip install 'alignray[train]'") from err
        from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it, alone too
        ensure_group(ranks)
        deepspeed.init_distributed("nccl" if ranks.device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False)
        settings = deepspeed_config(config, ranks.world_size)
        # must exist before the weights are read, or every rank holds the whole model
        sharded = HfDeepSpeedConfig(settings) if config.strategy.zero_stage == 3 else None
        attention = attention_of(config.model, ranks.device)
        dtype: torch.dtype = getattr(torch, config.model.dtype)
        model = load_model(config.model, dtype=dtype, attention=attention, seed=config.seed)
        if sharded is not None:
            unset_hf_deepspeed_config()  # what is loaded later, such as a reference model, is not sharded
        self.scorer = TokenScorer(model, attention=attention)
        self._ranks, self._stage, self._names = ranks, config.strategy.zero_stage, trained_names(model)
        self._engine, *_ = deepspeed.initialize(model=self.scorer, optimizer=make_optimizer(model, config.optimizer), config=settings)

    def forward(self, packed: Packed, reference: TokenScorer | None = None) -> Tensor:
        """See Strategy."""
        logprobs_N: Tensor = self._engine(packed, reference)
        return logprobs_N

    def begin(self, *, is_last: bool) -> None:
        """See Strategy."""
        self._engine.set_gradient_accumulation_boundary(is_last)

    def backward(self, loss: Tensor) -> None:
        """See Strategy."""
        self._engine.backward(loss * self._ranks.world_size)  # it averages

    def step(self, learning_rate: float) -> float:
        """See Strategy."""
        set_learning_rate(self._engine.optimizer, learning_rate)
        # stage 0 in float32 clips without telling the norm
        gradients = [parameter.grad for parameter in self.scorer.parameters() if parameter.grad is not None] if self._stage == 0 else []
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else None
        self._engine.step()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else 0.0

    def save(self, folder: Path) -> None:
        """See Strategy."""
        self._engine.save_checkpoint(str(folder / "deepspeed"), tag="state", exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """See Strategy."""
        found, _ = self._engine.load_checkpoint(str(folder / "deepspeed"), tag="state", load_module_strict=False)
        if found is None:
            raise ConfigError(f"{folder} holds no DeepSpeed state of {self._ranks.world_size} ranks; resume with as many as wrote it")

    def weights(self) -> dict[str, Tensor] | None:
        """See Strategy."""
        state = self._engine._zero3_consolidated_16bit_state_dict() if self._stage == 3 else self._engine.module.state_dict()
        if self._ranks.rank != 0:
            return None
        return on_host((name.removeprefix("model."), value) for name, value in state.items())
