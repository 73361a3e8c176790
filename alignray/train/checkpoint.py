"""Checkpoints: what an exact resume needs, and beside it the model in Hugging Face format.

    trainer.json    step, ranks, strategy, the lines of metrics so far
    ddp.pt | deepspeed/ | fsdp2/    weights, optimizer states
    model/          config, tokenizer and safetensors (adapters only under LoRA)

Order of rows, schedule and dropout follow from the seed and the step, so there is no other state.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import Tensor

from alignray.errors import ResumeError
from alignray.train.config import TrainConfig
from alignray.train.strategies.base import Ranks, Strategy

logger = logging.getLogger(__name__)

TRAINER = "trainer.json"
MODEL = "model"


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    """Optimizer steps done."""
    history: list[dict[str, Any]]
    """Lines of metrics so far; only rank 0 keeps them."""


def save_checkpoint(folder: Path, strategy: Strategy, config: TrainConfig, ranks: Ranks, progress: Progress) -> None:
    """Write all of it into an empty folder. Every rank calls it; rank 0 writes what there is one of."""
    folder.mkdir(parents=True, exist_ok=True)
    strategy.save(folder)
    write_model(folder / MODEL, strategy, config, ranks)
    if ranks.rank == 0:
        facts = {"step": progress.step, "world_size": ranks.world_size, "strategy": config.strategy.kind, "history": progress.history}
        (folder / TRAINER).write_bytes(orjson.dumps(facts))


def load_checkpoint(folder: Path, strategy: Strategy, config: TrainConfig, ranks: Ranks) -> Progress:
    """The inverse. Every rank calls it.

    Raises:
        ResumeError: it was written by another strategy, or by another number of ranks where that matters.
    """
    facts = read_facts(folder)
    if facts["strategy"] != config.strategy.kind:
        raise ResumeError(f"{folder} was written by strategy {facts['strategy']}, this is {config.strategy.kind}; go on with the same one")
    if config.strategy.kind == "deepspeed" and facts["world_size"] != ranks.world_size:
        raise ResumeError(f"{folder} was written by {facts['world_size']} ranks, and DeepSpeed's state loads at that number only; "
                          f"here are {ranks.world_size}. Set workers.num_workers, or start a new run from its model/")
    strategy.load(folder)
    return Progress(facts["step"], facts["history"])


def read_facts(folder: Path) -> dict[str, Any]:
    """What trainer.json says."""
    facts: dict[str, Any] = orjson.loads((folder / TRAINER).read_bytes())
    return facts


def write_model(folder: Path, strategy: Strategy, config: TrainConfig, ranks: Ranks) -> None:
    """The model (or its adapters) and its tokenizer in Hugging Face format, in the precision of the config."""
    state = strategy.weights()
    if ranks.rank != 0 or state is None:
        return
    dtype: torch.dtype = getattr(torch, config.model.dtype)
    weights: dict[str, Tensor] = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    model: Any = strategy.scorer.model
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=weights)
    _copy_tokenizer(config.model.path, config.model.revision, folder)


def _copy_tokenizer(path: str, revision: str | None, folder: Path) -> None:
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(path, revision=revision).save_pretrained(folder)
    except (OSError, ValueError) as err:
        logger.warning("the checkpoint has no tokenizer: %s has none that loads (%s)", path, str(err).splitlines()[0])
