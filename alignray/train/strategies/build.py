"""The strategy of a config."""

from __future__ import annotations

from alignray.train.config import TrainConfig
from alignray.train.strategies.base import Ranks, Strategy


def build_strategy(config: TrainConfig, ranks: Ranks) -> Strategy:
    """Load the model and spread it.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    match config.strategy.kind:
        case "ddp":
            from alignray.train.strategies.ddp import DDP

            return DDP(config, ranks)
        case "deepspeed":
            from alignray.train.strategies.deepspeed import DeepSpeed

            return DeepSpeed(config, ranks)
        case "fsdp2":
            from alignray.train.strategies.fsdp2 import FSDP2

            return FSDP2(config, ranks)
