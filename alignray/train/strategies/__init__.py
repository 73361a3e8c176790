"""How model, gradients and optimizer states are spread over ranks: one file per way, one protocol."""

from alignray.train.strategies.base import Ranks, Strategy
from alignray.train.strategies.build import build_strategy

__all__ = ["Ranks", "Strategy", "build_strategy"]
