"""The config of ``alignray train``: what every rank does, and around it the data, the workers and the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pydantic

from alignray.config import Config
from alignray.objectives import SFTConfig
from alignray.pipelines.table_input import TableInputConfig
from alignray.runtime.session import RuntimeConfig
from alignray.runtime.training import WorkersConfig
from alignray.train.config import TrainConfig
from alignray.train.tokenize import TokenizeConfig


class TrainInputConfig(TableInputConfig):
    """The rows to train on, in any form that `alignray.io.preferences` reads."""

    eval_rate: float = pydantic.Field(0.02, ge=0, lt=1)
    """Share of the rows that is held out for evaluation, by the hash of their ids."""

    METHOD: ClassVar[str] = "train"


class ReferenceConfig(Config):
    """Log-probabilities of the untrained model, computed once."""

    store: str = "runs/reference-store"
    """Folder or URL shared by runs: rows with the same tokens and the same model are never computed again."""
    block_rows: int = pydantic.Field(256, ge=1)
    """Rows handed to an actor at a time."""


class TrainJobConfig(TrainConfig):
    """Supervised or preference training on Ray Train (DESIGN section 4; thesis chapter 6)."""

    run_dir: str = "runs/train"
    """Run folder, a local path or an fsspec URL."""
    input: TrainInputConfig
    """The rows."""
    tokens: TokenizeConfig = TokenizeConfig()
    """How they become tokens."""
    reference: ReferenceConfig = ReferenceConfig()
    """Where reference log-probabilities are kept."""
    workers: WorkersConfig = WorkersConfig()
    """Ranks, and what each of them gets."""
    runtime: RuntimeConfig = RuntimeConfig()
    """The Ray cluster; tokenizing uses its CPUs."""
    max_reject_rate: float = pydantic.Field(0.5, ge=0, le=1)
    """Above this share of unusable rows nothing is trained."""

    def training(self) -> TrainConfig:
        """What every rank needs of it."""
        return TrainConfig.model_validate({name: getattr(self, name) for name in TrainConfig.model_fields})

    def with_model_at(self, folder: Path) -> TrainJobConfig:
        """The same with the model's folder in full, for processes that start elsewhere; a hub model keeps its name."""
        if not Path(self.model.path).expanduser().is_dir():
            return self
        return self.model_copy(update={"model": self.model.model_copy(update={"path": str(folder.absolute())})})

    @property
    def is_sft(self) -> bool:
        """Supervised rather than preference training."""
        return isinstance(self.objective, SFTConfig)

    @property
    def needs_reference(self) -> bool:
        """Whether the objective compares with the untrained model."""
        return not isinstance(self.objective, SFTConfig) and self.objective.needs_reference


def identity_of(config: TrainJobConfig) -> dict[str, Any]:
    """What decides the weights; where the work is done does not."""
    elsewhere = {"run_dir", "workers", "runtime", "reference", "max_reject_rate", "log_every_steps", "checkpoint_every_steps"}
    data = config.model_dump(mode="json", exclude=elsewhere)
    data["input"].pop("fetch")
    return data
