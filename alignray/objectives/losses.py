"""Losses of one pair or one example from its tokens' log-probabilities.

Shapes: B pairs, T response tokens (padded; ``mask_BT`` says which count). Every loss is a sum over the pairs given, already divided by what
the *global* batch holds, so the parts of a batch, however it is cut, add up to its loss and gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from alignray.objectives.config import DPOConfig, FIGAConfig, IPOConfig, ORPOConfig, PreferenceConfig, RDPOConfig, SimPOConfig
from alignray.objectives.weights import token_weights

MAX_MEAN_LOGPROB = -1e-6
"""Log-odds of a probability of 1 are infinite; averages are held below this."""


@dataclass(frozen=True)
class Side:
    """The chosen or the rejected responses of B pairs."""

    policy_BT: Tensor
    """Log-probability of each response token under the model being trained."""
    mask_BT: Tensor
    """bool: a token of the response, its end token included."""
    edited_BT: Tensor
    """bool: a token that the two responses do not share."""
    reference_BT: Tensor | None = None
    """The same under the reference model, where the objective needs one."""

    @property
    def lengths_B(self) -> Tensor:
        """Tokens of each response."""
        return self.mask_BT.sum(-1).to(self.policy_BT.dtype)


@dataclass(frozen=True)
class BatchTotals:
    """What the global batch holds, known to every rank before its first forward pass."""

    pairs: int
    tokens: int
    """Target tokens: of the chosen responses for pairs, of the examples for sft."""


@dataclass(frozen=True)
class LossOutput:
    """A loss and what to log of it."""

    loss: Tensor
    """Scalar with gradient: this part's share of the global batch's loss."""
    metrics: dict[str, Tensor]
    """Per pair [B] or per example, without gradient: loss, rewards, margin, accuracy, weights."""


def sft_loss(policy_BT: Tensor, mask_BT: Tensor, totals: BatchTotals) -> LossOutput:
    """Negative log-likelihood, mean over the target tokens of the global batch."""
    nll_BT = torch.where(mask_BT, -policy_BT, 0)
    return LossOutput(nll_BT.sum() / totals.tokens, {"loss": nll_BT.detach().sum(-1) / mask_BT.sum(-1).clamp(min=1)})


def preference_loss(chosen: Side, rejected: Side, config: PreferenceConfig, totals: BatchTotals) -> LossOutput:
    """The loss of a config, plain or with token weights (thesis Eq. 6.3 to 6.6, Tables 6.7 and D.2).

    Raises:
        ValueError: the objective needs reference log-probabilities and a side has none.
    """
    weighted_w, weighted_l = _weighted(chosen, config), _weighted(rejected, config)
    loss_B = _loss_of(chosen, rejected, weighted_w, weighted_l, config, totals)
    with torch.no_grad():
        metrics = _metrics(chosen, rejected, weighted_w, weighted_l, config)
    return LossOutput(loss_B.sum() / totals.pairs, {"loss": loss_B.detach(), **metrics})


@dataclass(frozen=True)
class _Weighted:
    policy_B: Tensor
    """Weighted sum of log-probabilities over the response."""
    ratio_B: Tensor
    """The same of log pi - log pi_ref; equal to ``policy_B`` without a reference."""
    weights_BT: Tensor


def _weighted(side: Side, config: PreferenceConfig) -> _Weighted:
    weights_BT = token_weights(side.policy_BT, side.edited_BT, config.weights)
    policy_B = _sum(weights_BT * side.policy_BT, side.mask_BT)
    if not config.needs_reference:
        return _Weighted(policy_B, policy_B, weights_BT)
    if side.reference_BT is None:
        raise ValueError(f"objective {config.kind} needs reference log-probabilities")
    reference_weights_BT = weights_BT
    if config.weights.reference == "own":
        reference_weights_BT = token_weights(side.reference_BT, side.edited_BT, config.weights)
    return _Weighted(policy_B, policy_B - _sum(reference_weights_BT * side.reference_BT, side.mask_BT), weights_BT)


def _loss_of(
    chosen: Side, rejected: Side, weighted_w: _Weighted, weighted_l: _Weighted, config: PreferenceConfig, totals: BatchTotals,
) -> Tensor:
    z_B = weighted_w.ratio_B - weighted_l.ratio_B
    match config:
        case DPOConfig():
            return -F.logsigmoid(config.beta * z_B)
        case IPOConfig():
            if config.length_normalise:
                z_B = weighted_w.ratio_B / chosen.lengths_B - weighted_l.ratio_B / rejected.lengths_B
            return (z_B - 1 / (2 * config.tau)) ** 2
        case RDPOConfig():
            alpha = config.beta if config.alpha is None else config.alpha
            longer_B = alpha * (chosen.lengths_B - rejected.lengths_B)
            return -F.logsigmoid(config.beta * z_B + (longer_B if config.length_sign == "plus" else -longer_B))
        case SimPOConfig():
            mean_z_B = weighted_w.policy_B / chosen.lengths_B - weighted_l.policy_B / rejected.lengths_B
            return -F.logsigmoid(config.beta * mean_z_B - config.gamma)
        case ORPOConfig():
            return _orpo(chosen, rejected, weighted_w, weighted_l, config, totals)
        case FIGAConfig():
            edited_w_B = _sum(weighted_w.weights_BT * chosen.policy_BT, chosen.mask_BT & chosen.edited_BT)
            edited_l_B = _sum(weighted_l.weights_BT * rejected.policy_BT, rejected.mask_BT & rejected.edited_BT)
            return -config.alpha * edited_w_B + config.beta * edited_l_B


def _orpo(
    chosen: Side, rejected: Side, weighted_w: _Weighted, weighted_l: _Weighted, config: ORPOConfig, totals: BatchTotals,
) -> Tensor:
    mean_w_B = (weighted_w.policy_B / chosen.lengths_B).clamp(max=MAX_MEAN_LOGPROB)
    mean_l_B = (weighted_l.policy_B / rejected.lengths_B).clamp(max=MAX_MEAN_LOGPROB)
    log_odds_B = (mean_w_B - mean_l_B) - (_log1mexp(mean_w_B) - _log1mexp(mean_l_B))
    nll_B = -(weighted_w.policy_B if config.weighted_nll else _sum(chosen.policy_BT, chosen.mask_BT))
    nll_B = nll_B / chosen.lengths_B if config.nll == "example" else nll_B * (totals.pairs / totals.tokens)
    return nll_B - config.lambda_ * F.logsigmoid(log_odds_B)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact near 0 and far from it."""
    near = x > -0.6931471805599453
    # each branch sees only values it can take, or the other's NaN would reach the gradient
    return torch.where(near, torch.log(-torch.expm1(torch.where(near, x, -1.0))), torch.log1p(-torch.exp(torch.where(near, -1.0, x))))


def _metrics(chosen: Side, rejected: Side, weighted_w: _Weighted, weighted_l: _Weighted, config: PreferenceConfig) -> dict[str, Tensor]:
    """Rewards are beta times the plain log-ratio (plain mean for SimPO, ORPO), so plain and BMC runs compare; ``weighted_*`` as trained."""
    beta = getattr(config, "beta", 1.0) if config.kind in {"dpo", "r_dpo", "simpo"} else 1.0

    def reward_B(side: Side) -> Tensor:
        if config.needs_reference and side.reference_BT is not None:
            return beta * _sum(side.policy_BT - side.reference_BT, side.mask_BT)
        total_B = _sum(side.policy_BT, side.mask_BT)
        return beta * (total_B / side.lengths_B if config.kind in {"simpo", "orpo"} else total_B)

    reward_w_B, reward_l_B = reward_B(chosen), reward_B(rejected)
    weighted_margin_B = beta * (weighted_w.ratio_B - weighted_l.ratio_B)
    return {
        "chosen_reward": reward_w_B, "rejected_reward": reward_l_B, "margin": reward_w_B - reward_l_B,
        "accuracy": (reward_w_B > reward_l_B).to(reward_w_B.dtype), "weighted_margin": weighted_margin_B,
        "chosen_logprob": _sum(chosen.policy_BT, chosen.mask_BT) / chosen.lengths_B,
        "rejected_logprob": _sum(rejected.policy_BT, rejected.mask_BT) / rejected.lengths_B,
        "chosen_weight": _mean_edited(weighted_w.weights_BT, chosen), "rejected_weight": _mean_edited(weighted_l.weights_BT, rejected),
    }


def _mean_edited(weights_BT: Tensor, side: Side) -> Tensor:
    """Mean weight of the edited tokens; 1 where there is none."""
    edited_BT = side.mask_BT & side.edited_BT
    count_B = edited_BT.sum(-1)
    return torch.where(count_B > 0, _sum(weights_BT, edited_BT) / count_B.clamp(min=1), 1.0)


def _sum(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return torch.where(mask_BT, values_BT, 0).sum(-1)


def part_of(side: Side, rows: slice) -> Side:
    """Some pairs of a side."""
    reference_BT = None if side.reference_BT is None else side.reference_BT[rows]
    return replace(
        side, policy_BT=side.policy_BT[rows], mask_BT=side.mask_BT[rows], edited_BT=side.edited_BT[rows], reference_BT=reference_BT,
    )
