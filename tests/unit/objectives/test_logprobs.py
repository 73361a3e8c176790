import pytest
import torch
from torch import Tensor

from alignray.objectives import token_logprobs


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None, scale: float) -> Tensor:
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
@pytest.mark.parametrize(("has_bias", "softcap", "scale"), [(False, None, 1.0), (True, None, 1.0), (False, 3.0, 1.0), (True, 2.0, 0.25)])
def test_values_and_gradients_are_those_of_a_log_softmax(chunk: int, has_bias: bool, softcap: float | None, scale: float) -> None:
    generator = torch.Generator().manual_seed(chunk)
    hidden, weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((11, 5), (13, 5), (13,)))
    targets = torch.randint(13, (11,), generator=generator)
    upstream = torch.randn(11, generator=generator, dtype=torch.float64)
    grads = []
    for function in ("naive", "chunked"):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        b = leaves[2] if has_bias else None
        if function == "naive":
            got = naive(leaves[0], leaves[1], targets, b, softcap, scale)
        else:
            got = token_logprobs(leaves[0], leaves[1], targets, bias_V=b, softcap=softcap, scale=scale, chunk=chunk)
        (got * upstream).sum().backward()
        grads.append([got.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    for expected, seen in zip(*grads, strict=True):
        torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    hidden, weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 6, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, targets, softcap=4.0, chunk=2), (hidden, weight))


def test_low_precision_states_give_float32_logprobs() -> None:
    hidden, weight = torch.randn(6, 4).bfloat16().requires_grad_(), torch.randn(9, 4).bfloat16()
    got = token_logprobs(hidden, weight, torch.arange(6), chunk=4)
    assert got.dtype == torch.float32
    got.sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16 and weight.grad is None


def test_no_positions_are_no_trouble() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    got = token_logprobs(hidden, torch.zeros(9, 4), torch.zeros(0, dtype=torch.int64))
    assert got.shape == (0,)
    got.sum().backward()
