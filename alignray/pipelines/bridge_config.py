"""The config of ``alignray bridge``: every knob stands on the part that owns it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import pydantic

from alignray.config import Config
from alignray.engine import EngineConfig, without_transport
from alignray.engine.budget import BudgetConfig
from alignray.io.preferences import read_examples, read_pairs
from alignray.io.sources import Split
from alignray.methods.bmc.config import BridgeConfig
from alignray.pipelines.table_input import TableInputConfig
from alignray.pipelines.webr_config import PromptsConfig
from alignray.runtime.ask import RoleConfig
from alignray.runtime.session import RuntimeConfig
from alignray.schema import BridgeDraft, Rejected


class BridgeInputConfig(TableInputConfig):
    """The rows to work on, in any form that `alignray.io.preferences` reads."""

    kind: Literal["pairs", "questions"] = "pairs"
    """pairs: rows have a winning and a losing answer; questions: they have one answer, the true one, and the student role (such as the
    SFT model) writes the losing one."""
    originals: bool = False
    """Rows of an earlier ``alignray bridge`` are taken as they were before: with variant plain, the baseline on the same filtered pairs."""

    METHOD: ClassVar[str] = "bridge"

    def drafts(self, split: Split, counts: Counter[str]) -> Iterator[BridgeDraft | Rejected]:
        """The rows of a split as they begin the chain."""
        if self.kind == "questions":
            for example in read_examples(split, self.fetch, counts):
                if isinstance(example, Rejected):
                    yield example
                else:
                    yield BridgeDraft(example.row_id, example.messages[:-1], example.messages[-1].content, "", example.source)
            return
        for pair in read_pairs(split, self.fetch, counts, originals=self.originals):
            if isinstance(pair, Rejected):
                yield pair
            else:
                yield BridgeDraft(pair.row_id, pair.prompt, pair.chosen, pair.rejected, pair.source)


class BridgePlanConfig(Config):
    """What ``alignray plan bridge`` assumes."""

    sample_pairs: int = pydantic.Field(default=500, ge=1)
    """Pairs looked at of the real input."""
    completion_tokens: dict[str, float] = {}
    """Measured mean completion tokens by step, such as {"bmc/edit": 30}; else the length of the answer to edit, or of the true one."""


class BridgeJobConfig(Config):
    """Preference pairs whose answers are brought close to each other (thesis 6.2.1)."""

    run_dir: str = "runs/bridge"
    """Run folder, a local path or an fsspec URL."""
    seed: int = 0
    """Decides which pairs max_pairs takes, and the seeds of sampling."""
    input: BridgeInputConfig
    """Rows."""
    max_pairs: int | None = pydantic.Field(default=None, ge=1)
    """Pairs worked on, drawn by seed and row id; null: all. May be raised later to extend a run."""
    bridge: BridgeConfig
    """The method's switches."""
    engines: dict[str, EngineConfig] = {}
    """Models by a name of your choice; plain pairs need none."""
    roles: dict[str, RoleConfig] = {}
    """Which engine answers as editor and as student; "default" for those not named."""
    prompts: PromptsConfig = PromptsConfig()
    """Prompt texts."""
    budget: BudgetConfig = BudgetConfig()
    """Caps."""
    max_reject_rate: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Stop, resumable, when more than this share of the pairs is rejected (judged from 200 on); filtered ones count: the thesis lost
    31 % (QA) and 43 % (math) of its pairs to [[GOOD]]."""
    plan: BridgePlanConfig = BridgePlanConfig()
    """Forecast."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Ray."""

    @pydantic.model_validator(mode="after")
    def _originals_are_pairs(self) -> BridgeJobConfig:
        if self.input.originals and self.input.kind == "questions":
            raise ValueError('input.originals is about pairs; set input.kind = "pairs", or leave originals out')
        return self


_NOT_IDENTITY = ("run_dir", "max_pairs", "budget", "max_reject_rate", "plan", "runtime")


def identity_of(config: BridgeJobConfig) -> dict[str, Any]:
    """The part of the config that decides the rows; a run folder holds one identity."""
    data = config.model_dump(mode="json", exclude=set(_NOT_IDENTITY))
    data["engines"] = without_transport(data["engines"])
    data["input"].pop("fetch")
    data["prompts"].pop("dir")
    return data
