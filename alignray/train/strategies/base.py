"""What the training loop asks of a strategy, and the few collectives it uses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from alignray.train.config import OptimizerConfig
from alignray.train.model import TokenScorer
from alignray.train.pack import Packed


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int
    world_size: int
    device: torch.device

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over all ranks."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values.cpu()

    def gather(self, value: Any) -> list[Any]:
        """What every rank has, on every rank; values that pickle."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until all are here."""
        if self.world_size > 1:
            dist.barrier()


class Strategy(Protocol):
    """A model spread over ranks, with its optimizer."""

    scorer: TokenScorer

    def forward(self, packed: Packed, reference: TokenScorer | None = None) -> Tensor:
        """Log-probabilities [N] of the packed targets; see TokenScorer for what a reference adds."""
        ...

    def begin(self, *, is_last: bool) -> None:
        """Before each training pass; ranks are summed in the backward of the step's last one."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this rank's share of the global loss."""
        ...

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear the gradients; their norm over all ranks, before clipping."""
        ...

    def save(self, folder: Path) -> None:
        """What an exact resume needs. Every rank calls it."""
        ...

    def load(self, folder: Path) -> None:
        """The inverse of ``save``. Every rank calls it."""
        ...

    def weights(self) -> dict[str, Tensor] | None:
        """All weights (or all adapters) by name on rank 0's host memory, None on the others. Every rank calls it."""
        ...


def find_ranks() -> Ranks:
    """This process's place as torchrun or Ray Train has set it up, alone where neither has."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if not dist.is_initialized():
        return Ranks(0, 1, device)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def ensure_group(ranks: Ranks) -> None:
    """A process group, for strategies that want one even for a process alone."""
    if not dist.is_initialized():
        backend = "nccl" if ranks.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=ranks.rank, world_size=ranks.world_size)


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW; weight decay is for matrices only."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # ZeRO-3 empties parameters and keeps their shape aside
    shapes = {id(parameter): getattr(parameter, "ds_shape", parameter.shape) for parameter in trained}
    groups = [
        {"params": [parameter for parameter in trained if len(shapes[id(parameter)]) >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if len(shapes[id(parameter)]) < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas, eps=config.eps,
    )


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """The rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def trained_names(model: nn.Module) -> set[str]:
    """Parameters that are trained: all, or the adapters."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@contextmanager
def precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Forward passes of float32 weights in another precision."""
    if dtype == torch.float32:
        yield
    else:
        with torch.autocast(device.type, dtype=dtype):
            yield


def on_host(state: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors copied to host memory."""
    return {name: value.detach().cpu() for name, value in state}
