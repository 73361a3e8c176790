"""Loss math in pure torch: values in, values out; no model, no Ray, no files."""

from alignray.objectives.config import (
    DPOConfig,
    FIGAConfig,
    IPOConfig,
    ObjectiveConfig,
    ORPOConfig,
    PreferenceConfig,
    RDPOConfig,
    SFTConfig,
    SimPOConfig,
    TokenWeightsConfig,
)
from alignray.objectives.logprobs import token_logprobs
from alignray.objectives.losses import BatchTotals, LossOutput, Side, preference_loss, sft_loss
from alignray.objectives.weights import bmc_token_weights, token_weights

__all__ = [
    "BatchTotals", "DPOConfig", "FIGAConfig", "IPOConfig", "LossOutput", "ORPOConfig", "ObjectiveConfig", "PreferenceConfig", "RDPOConfig",
    "SFTConfig", "Side", "SimPOConfig", "TokenWeightsConfig", "bmc_token_weights", "preference_loss", "sft_loss", "token_logprobs",
    "token_weights",
]
