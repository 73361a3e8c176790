"""What one training run does, as every rank sees it."""

from __future__ import annotations

from typing import Literal

import pydantic

from alignray.config import Config
from alignray.objectives.config import DPOConfig, ObjectiveConfig


class LoRAConfig(Config):
    """Low-rank adapters (peft) instead of all weights."""

    rank: int = pydantic.Field(16, ge=1)
    """Rank of the update."""
    alpha: int = pydantic.Field(32, ge=1)
    """The update is scaled by alpha / rank."""
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    """On the adapter's input."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Module names that get an adapter."""


class ModelConfig(Config):
    """The model to train."""

    path: str
    """Folder or hub name, with safetensors weights."""
    revision: str | None = None
    """Commit or tag of a hub model; pin it for a run that others should be able to repeat."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of forward and backward; optimizer states and master weights are float32."""
    attention: Literal["auto", "sdpa", "flex_attention", "eager"] = "auto"
    """auto: flex_attention on a GPU when pairs share prefixes, else sdpa."""
    gradient_checkpointing: bool = True
    """Activations are computed again in the backward pass."""
    lora: LoRAConfig | None = None
    """null: all weights are trained."""


class OptimizerConfig(Config):
    """AdamW with warm-up and a schedule."""

    learning_rate: float = pydantic.Field(5e-7, gt=0)
    """Peak."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    eps: float = pydantic.Field(1e-8, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = pydantic.Field(0.0, ge=0)
    """Decoupled; not applied to vectors (norms, biases)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """After warm-up, down to 0; constant stays."""
    warmup_rate: float = pydantic.Field(0.1, ge=0, le=1)
    """Share of all steps during which the rate rises from 0."""
    max_grad_norm: float | None = pydantic.Field(1.0, gt=0)
    """Gradients are scaled down to this norm; null: never."""


class StrategyConfig(Config):
    """How model, gradients and optimizer states are spread over ranks."""

    kind: Literal["ddp", "deepspeed", "fsdp2"] = "ddp"
    """ddp: a copy on every rank; deepspeed: ZeRO; fsdp2: torch's fully_shard."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """deepspeed: 1 shards optimizer states, 2 gradients too, 3 parameters too."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """deepspeed: optimizer states (stages 1 to 3) or parameters too (stage 3) live in host memory."""

    @pydantic.model_validator(mode="after")
    def _offload_fits(self) -> StrategyConfig:
        needed = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.offload != "none" and (self.kind != "deepspeed" or self.zero_stage < needed):
            raise ValueError(f"offload={self.offload} needs kind deepspeed and zero_stage >= {needed}; got {self.kind}, {self.zero_stage}")
        return self


class EvalConfig(Config):
    """Looking at the held-out rows."""

    every_steps: int = pydantic.Field(100, ge=1)
    """Steps between evaluations; there is one before the first step and one after the last."""
    watch_rows: int = pydantic.Field(4, ge=0)
    """Pairs whose token log-probabilities and weights are written at every evaluation (Figure 6.6 over training)."""
    kl_rows: int = pydantic.Field(0, ge=0)
    """Rows for the KL divergence from the reference model on held-out responses; above 0 keeps the reference model in memory."""


class TrainConfig(Config):
    """One run of supervised or preference training."""

    model: ModelConfig
    """The model to train; it is also the reference model."""
    objective: ObjectiveConfig = DPOConfig()
    """kind: sft, dpo, ipo, orpo, r_dpo, simpo or figa."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW."""
    strategy: StrategyConfig = StrategyConfig()
    """How the work is spread."""
    batch_size: int = pydantic.Field(128, ge=1)
    """Pairs or examples per optimizer step over all ranks; what one device sees follows from it and is printed."""
    max_tokens_per_device: int = pydantic.Field(8192, ge=16)
    """Tokens of one forward pass; batches are cut into as many passes as that takes."""
    epochs: int = pydantic.Field(1, ge=1)
    """Times every row is seen."""
    max_steps: int | None = pydantic.Field(None, ge=1)
    """Stop earlier, and let the schedule end there."""
    layout: Literal["auto", "shared_prefix", "padded"] = "auto"
    """shared_prefix: what chosen and rejected have in common is computed once, and rows are packed; padded: two rows per pair. auto: shared
    where a probe of the model gives the same numbers both ways, else padded, with the reason."""
    eval: EvalConfig = EvalConfig()
    """Held-out rows."""
    checkpoint_every_steps: int = pydantic.Field(200, ge=1)
    """Steps between checkpoints; there is one at the end, and one when Ray announces a preemption."""
    log_every_steps: int = pydantic.Field(1, ge=1)
    """Steps between lines of metrics.jsonl."""
    seed: int = 0
    """Order of rows, adapters and dropout."""
