"""Token weights of preference losses. B pairs, T response tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from alignray.objectives.config import TokenWeightsConfig


def bmc_token_weights(logprobs_BT: Tensor, edited_BT: Tensor, *, delta: float) -> Tensor:
    """Weights [B, T]: 1 on untouched tokens, ``1 + min(1/p, delta)`` on edited ones, p being the model's probability.

    Source: BMC, arXiv:2408.07471; thesis Eq. 6.5 and 6.6. No gradient flows through a weight; ``delta=0`` is the plain loss. As 1/p is
    never below 1, an edited token weighs at least 2 once delta is 1 or more.

    Args:
        logprobs_BT: natural log of p for each response token.
        edited_BT: True where the targeted modification changed the token.
        delta: cap on 1/p, >= 0; the authors use 1.5 to 3, by task.
    """
    # exp(-logp) overflows for hopeless tokens; the cap is the answer there, so it is taken before the exponential
    ceiling = torch.log(torch.tensor(max(delta, 1e-300), dtype=torch.float64)).item()
    boost_BT = torch.where(-logprobs_BT.detach() >= ceiling, delta, (-logprobs_BT.detach()).clamp(max=ceiling).exp())
    return 1 + edited_BT * boost_BT


def token_weights(logprobs_BT: Tensor, edited_BT: Tensor, config: TokenWeightsConfig) -> Tensor:
    """Weights [B, T] of a config: all 1 (``none``), BMC's, or one of its two baselines (constant, every)."""
    if config.kind == "none":
        return torch.ones_like(logprobs_BT)
    if config.kind == "constant":
        return 1 + edited_BT * torch.full_like(logprobs_BT, config.delta)
    emphasised_BT = edited_BT if config.kind == "bmc" else torch.ones_like(edited_BT)
    return bmc_token_weights(logprobs_BT, emphasised_BT, delta=config.delta)
