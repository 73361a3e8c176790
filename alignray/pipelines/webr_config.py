"""The config of ``alignray webr``: every knob stands on the part that owns it."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from alignray.config import Config
from alignray.dedup.config import MinHashConfig
from alignray.engine import EngineConfig, without_transport
from alignray.engine.budget import BudgetConfig
from alignray.io.sources import IngestConfig
from alignray.methods.webr import WebRConfig
from alignray.runtime.ask import RoleConfig
from alignray.runtime.session import RuntimeConfig

# the authors' dedup: single units, 14 bands of 9 rows, candidates not verified (spec: discrepancy table of WebR)
ORIGINAL_MINHASH: dict[str, Any] = {"n": 1, "bands": 14, "verify": "none"}


class DedupConfig(MinHashConfig):
    """Near-duplicate removal of the finished drafts."""

    enabled: bool = True
    """False is an ablation of Table 4.3."""
    field: Literal["instruction", "response", "both"] = "instruction"
    """Which text is compared."""
    against: tuple[str, ...] = ()
    """Run folders of earlier webr or dedup runs: drafts that are near-duplicates of their rows go, their text is not read."""
    num_planted: int = pydantic.Field(default=500, ge=0, le=500)
    """Pairs of known similarity that are planted to measure recall and precision; 0: not measured."""


class PromptsConfig(Config):
    """Where prompts come from."""

    dir: str | None = None
    """Folder whose files shadow the package's, e.g. webr/persona.txt."""


class AnalysisConfig(Config):
    """What the report measures on the finished rows."""

    embedder: str | None = "sentence-transformers/all-mpnet-base-v2"
    """Sentence-transformers model for the diversity of 4.4.1; "hash" needs no model and is no figure to publish; null: none."""
    max_embedded: int = pydantic.Field(default=10_000, ge=2)
    """Instructions sampled for diversity (thesis: 10,000)."""
    num_rated: int = pydantic.Field(default=0, ge=0)
    """Rows whose quality and difficulty the judge role rates, two calls each; 0: none."""


class PlanConfig(Config):
    """What ``alignray plan`` assumes."""

    sample_pages: int = pydantic.Field(default=200, ge=1)
    """Pages read from the real input."""
    completion_tokens: dict[str, float] = {}
    """Measured mean completion tokens by step, such as {"webr/persona": 30}; the figures of Table 4.5 else."""


class WebRJobConfig(Config):
    """Common Crawl shards into instruction data (thesis chapter 4)."""

    run_dir: str = "runs/webr"
    """Run folder, a local path or an fsspec URL."""
    seed: int = 0
    """Decides every random choice, together with the row's id."""
    num_rows: int | None = pydantic.Field(default=None, ge=1)
    """Rows wanted, split exactly by instruction_share; null: as many as the pages give. May be raised later to extend a run."""
    oversample: float = pydantic.Field(default=1.2, ge=1)
    """Pages worked on first per wanted row; more follow where rows are still missing."""
    ingest: IngestConfig
    """Pages: sources, gates, opt-outs."""
    webr: WebRConfig = WebRConfig()
    """The method's switches."""
    dedup: DedupConfig = DedupConfig()
    """Near-duplicates."""
    engines: dict[str, EngineConfig]
    """Models by a name of your choice."""
    roles: dict[str, RoleConfig]
    """Which engine answers as author, teacher, rewriter and judge; "default" for those not named."""
    prompts: PromptsConfig = PromptsConfig()
    """Prompt texts."""
    budget: BudgetConfig = BudgetConfig()
    """Caps."""
    max_reject_rate: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Stop, resumable, when more than this share of the drafts is rejected (judged from 200 drafts on)."""
    analysis: AnalysisConfig = AnalysisConfig()
    """Report."""
    plan: PlanConfig = PlanConfig()
    """Forecast."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Ray."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _original_dedup(cls, data: Any) -> Any:
        webr = data.get("webr") if isinstance(data, dict) else None
        if isinstance(webr, dict) and webr.get("preset") == "original":
            return {**data, "dedup": {**ORIGINAL_MINHASH, **(data.get("dedup") or {})}}
        return data

    @pydantic.model_validator(mode="after")
    def _only_units_of_text(self) -> WebRJobConfig:
        if self.dedup.unit == "token_id":
            raise ValueError('dedup.unit = "token_id" compares lists of token ids, and a draft has text; use "word" or "character"')
        return self


# keys that never change a row: where the run works and what it may cost, not what it makes
_NOT_IDENTITY = ("run_dir", "num_rows", "oversample", "budget", "max_reject_rate", "analysis", "plan", "runtime")


def identity_of(config: WebRJobConfig) -> dict[str, Any]:
    """The part of the config that decides the rows; a run folder holds one identity."""
    data = config.model_dump(mode="json", exclude=set(_NOT_IDENTITY))
    data["engines"] = without_transport(data["engines"])
    data["ingest"].pop("fetch")
    data["prompts"].pop("dir")
    return data
