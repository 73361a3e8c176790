"""Log-probabilities of given tokens from hidden states, without ever holding a float32 [N, V].

Shapes: N positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 512
"""Positions whose logits exist at a time: 512 x 128k x 4 bytes are 0.25 GiB, and as much again for a moment."""


def token_logprobs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, bias_V: Tensor | None = None, softcap: float | None = None,
    scale: float = 1.0, chunk: int = CHUNK,
) -> Tensor:
    """Natural log-probabilities [N] of ``targets_N``, float32 (float64 where the hidden states are).

    The logits of ``chunk`` positions exist at a time, forward and backward (they are computed again there); what is kept between is one
    number per position. Gradients flow to the hidden states, the weight and the bias.

    Args:
        hidden_ND: last hidden states of the positions that predict the targets.
        weight_VD: output embedding.
        targets_N: token ids.
        softcap: logits become ``softcap * tanh(logits / softcap)`` (Gemma).
        scale: factor on the logits before that (Cohere, Granite).
    """
    return _TokenLogprobs.apply(hidden_ND, weight_VD, bias_V, targets_N, softcap, scale, chunk)  # type: ignore[no-untyped-call]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, softcap: float | None, scale: float,
        chunk: int,
    ) -> Tensor:
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        logprobs_N = torch.empty(len(hidden_ND), dtype=wide, device=hidden_ND.device)
        normalizer_N = torch.empty_like(logprobs_N)
        cast_VD = weight_VD.to(hidden_ND.dtype)
        for start in range(0, len(hidden_ND), chunk):
            here = slice(start, start + chunk)
            logits_CV = _logits(hidden_ND[here], cast_VD, bias_V, softcap, scale, wide)
            normalizer_N[here] = logits_CV.logsumexp(dim=-1)
            logprobs_N[here] = logits_CV.gather(-1, targets_N[here, None])[:, 0] - normalizer_N[here]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N, normalizer_N)
        ctx.settings = softcap, scale, chunk, wide
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_N,) = grads
        hidden_ND, weight_VD, bias_V, targets_N, normalizer_N = ctx.saved_tensors
        softcap, scale, chunk, wide = ctx.settings
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD) if wants_weight else None
        grad_bias_V = torch.zeros(len(weight_VD), dtype=wide, device=weight_VD.device) if wants_bias and bias_V is not None else None
        cast_VD = weight_VD.to(hidden_ND.dtype)
        for start in range(0, len(hidden_ND), chunk):
            here = slice(start, start + chunk)
            logits_CV = _logits(hidden_ND[here], cast_VD, bias_V, softcap, scale, wide)
            slope_CV = None if softcap is None else 1 - (logits_CV / softcap) ** 2
            # d logp / d logits = onehot - softmax
            grad_CV = logits_CV.sub_(normalizer_N[here, None]).exp_().mul_(-grad_N[here, None])
            grad_CV.scatter_add_(-1, targets_N[here, None], grad_N[here, None].to(wide))
            if slope_CV is not None:
                grad_CV.mul_(slope_CV)
            if scale != 1.0:
                grad_CV.mul_(scale)
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(0)
            grad_CV = grad_CV.to(hidden_ND.dtype)
            if grad_hidden_ND is not None:
                grad_hidden_ND[here] = grad_CV @ cast_VD
            if grad_weight_VD is not None:
                grad_weight_VD.addmm_(grad_CV.T.to(weight_VD.dtype), hidden_ND[here].to(weight_VD.dtype))
        return grad_hidden_ND, grad_weight_VD, None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype), None, None, None, None


def _logits(
    hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, softcap: float | None, scale: float, wide: torch.dtype,
) -> Tensor:
    logits_CV = (hidden_CD @ weight_VD.T).to(wide)
    if bias_V is not None:
        logits_CV = logits_CV + bias_V.to(wide)
    if scale != 1.0:
        logits_CV = logits_CV * scale
    return logits_CV if softcap is None else softcap * torch.tanh(logits_CV / softcap)
