"""The config of ``alignray construct``: initial instructions, how they grow, and who writes."""

from __future__ import annotations

from typing import Any

import pydantic

from alignray.config import Config
from alignray.engine import EngineConfig, without_transport
from alignray.engine.budget import BudgetConfig
from alignray.evals.followbench.construct import ConstructConfig
from alignray.io.fetch import FetchConfig
from alignray.pipelines.webr_config import PromptsConfig
from alignray.runtime.ask import RoleConfig
from alignray.runtime.session import RuntimeConfig


class ConstructInputConfig(Config):
    """Initial instructions."""

    paths: tuple[str, ...] = pydantic.Field(min_length=1)
    """JSON lines files or URLs (JSON too, and each with .gz), rows with ``instruction`` and ``category``; ``source`` may be there, of
    mixed rows ``kinds`` (content, situation, style or format for each of the five levels; else drawn). Example rows also have
    ``answer``, ``templates`` (five or more of {"question": "Text: {instruction}", "answer": "Mood: {answer}"}) and ``shots`` (five or
    more of {"instruction": ..., "answer": ...})."""
    fetch: FetchConfig = FetchConfig()
    """How HTTP files are read."""


class ConstructJobConfig(Config):
    """A benchmark of one's own in FollowBench's form (thesis 7.2 and appendix E.1)."""

    run_dir: str = "runs/construct"
    """Run folder, a local path or an fsspec URL."""
    seed: int = 0
    """Decides templates, shots and kinds, and the seeds of sampling."""
    input: ConstructInputConfig
    """What is grown."""
    grow: ConstructConfig = ConstructConfig()
    """The method's switches."""
    review: str | None = None
    """JSON lines of what people decided: category, example_id, level and review (accepted or rejected), such as a filled-in
    to_review.jsonl of the run folder. With it the benchmark's files hold accepted items alone; without it all, each with its status.
    May be set or changed later: running again then writes the files anew and asks no model."""
    engines: dict[str, EngineConfig] = {}
    """Models by a name of your choice; example rows need none."""
    roles: dict[str, RoleConfig] = {}
    """Which engine answers as generator."""
    prompts: PromptsConfig = PromptsConfig()
    """Prompt texts."""
    budget: BudgetConfig = BudgetConfig()
    """Caps."""
    max_reject_rate: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Stop, resumable, when more than this share of the instructions is rejected (judged from 200 on)."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Ray."""


_NOT_IDENTITY = ("run_dir", "review", "budget", "max_reject_rate", "runtime")


def identity_of(config: ConstructJobConfig) -> dict[str, Any]:
    """The part of the config that decides the items, review aside; a run folder holds one identity."""
    data = config.model_dump(mode="json", exclude=set(_NOT_IDENTITY))
    data["engines"] = without_transport(data["engines"])
    data["input"].pop("fetch")
    data["prompts"].pop("dir")
    return data
