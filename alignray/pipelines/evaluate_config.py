"""The config of ``alignray evaluate`` and ``alignray followbench``: benchmarks, candidates, and who answers as judge."""

from __future__ import annotations

from typing import Any

import pydantic

from alignray.config import Config
from alignray.engine import EngineConfig, without_transport
from alignray.engine.base import Sampling
from alignray.engine.budget import BudgetConfig
from alignray.evals.benchmark import CANDIDATE
from alignray.evals.kinds import AnyBenchmark
from alignray.io.fetch import FetchConfig
from alignray.io.storage import Storage
from alignray.pipelines.webr_config import PromptsConfig
from alignray.runtime.ask import RoleConfig
from alignray.runtime.session import RuntimeConfig

_OF_ONE_CANDIDATE = ("annotations", "judgments", "human_labels", "labels", "coefficients_of")
"""What a benchmark may be given of recorded judgements: they are about one candidate's answers."""


class CandidateConfig(Sampling):
    """A model to measure, or the answers that one gave elsewhere."""

    temperature: float = pydantic.Field(default=0.0, ge=0)
    """0 is greedy, as the thesis evaluates; a benchmark that says otherwise for an item (MT-Bench by category) is followed."""
    max_new_tokens: int = pydantic.Field(default=2048, ge=1)
    """Cap on an answer."""
    engine: str = ""
    """Name under ``engines``."""
    answers: str | None = None
    """File of recorded answers (JSON or JSON lines) in place of an engine: rows with ``key`` or the prompt, and the answer."""

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> CandidateConfig:
        if bool(self.engine) == bool(self.answers):
            raise ValueError("a candidate has either engine (a name under engines) or answers (a file of recorded answers)")
        return self

    def role(self) -> RoleConfig:
        """As the chain runner wants it."""
        return RoleConfig(**{name: getattr(self, name) for name in RoleConfig.model_fields})


class EvaluatePlanConfig(Config):
    """What ``alignray plan evaluate`` and ``alignray plan followbench`` assume."""

    sample_items: int = pydantic.Field(default=200, ge=1)
    """Items of each benchmark whose requests are built; all are counted."""
    completion_tokens: dict[str, pydantic.NonNegativeFloat] = {}
    """Measured mean completion tokens by step, such as {"followbench/judge": 190}; the beginning of a name ("vicuna/judge") stands for
    all steps that begin so, and the longest that fits counts. Else lengths of published answers and judgements."""


class EvaluateJobConfig(Config):
    """Models on benchmarks: answers, verdicts, scores with intervals, paired comparisons."""

    run_dir: str = "runs/evaluate"
    """Run folder, a local path or an fsspec URL."""
    seed: int = 0
    """Decides resampling and the seeds of sampling."""
    benchmarks: tuple[AnyBenchmark, ...]
    """What is measured; each names its official files."""
    candidates: dict[str, CandidateConfig] = pydantic.Field(min_length=1)
    """Who is measured, by a name of your choice."""
    temperatures: tuple[pydantic.NonNegativeFloat, ...] = ()
    """Each candidate with an engine is measured at each of these, as NAME@T (thesis 7.4.4); empty: at its own."""
    engines: dict[str, EngineConfig] = {}
    """Models by a name of your choice."""
    roles: dict[str, RoleConfig] = {}
    """Which engine answers as judge; not needed where nothing is judged."""
    verdicts: str | None = None
    """Folder or URL that keeps judges' replies by content: runs that name the same one never pay for the same verdict twice."""
    fetch: FetchConfig = FetchConfig()
    """How HTTP files are read."""
    prompts: PromptsConfig = PromptsConfig()
    """Prompt texts."""
    budget: BudgetConfig = BudgetConfig()
    """Caps."""
    max_reject_rate: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Stop, resumable, when more than this share of the items is rejected (judged from 200 on)."""
    plan: EvaluatePlanConfig = EvaluatePlanConfig()
    """Forecast."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Ray."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> EvaluateJobConfig:
        if not self.benchmarks:  # here and not on the field, where one bad entry would be reported as none too
            raise ValueError("benchmarks is empty; name at least one")
        if CANDIDATE in self.roles:
            raise ValueError("roles.candidate is set by candidates; remove it")
        for name, candidate in self.candidates.items():
            if candidate.engine and candidate.engine not in self.engines:
                known = ", ".join(sorted(self.engines)) or "nothing"
                raise ValueError(f"candidates.{name}.engine = {candidate.engine!r} is not under engines; it has: {known}")
            if not name or "@" in name or "/" in name:
                raise ValueError(f'candidate {name!r}: a name has no "@" and no "/", and is not empty')
        recorded = [f"{each.kind}.{name}" for each in self.benchmarks for name in _OF_ONE_CANDIDATE if getattr(each, name, None)]
        if recorded and (number := len(self.measured())) > 1:
            raise ValueError(f"{recorded[0]} is about one candidate's answers, and {number} are measured; give it a run of its own")
        if self.verdicts is not None and Storage(self.verdicts).root == Storage(self.run_dir).root:
            raise ValueError(f"verdicts = {self.verdicts!r} is the run folder; it is a folder of its own, which runs share")
        return self

    def input_files(self) -> dict[str, str]:
        """Every file that the run reads, by its key."""
        files = {f"benchmarks.{each.kind}.{name}": uri for each in self.benchmarks for name, uri in each.files().items()}
        return files | {f"candidates.{name}.answers": one.answers for name, one in self.candidates.items() if one.answers is not None}

    def measured(self) -> dict[str, CandidateConfig]:
        """Candidates, one for each temperature of the sweep."""
        found: dict[str, CandidateConfig] = {}
        for name, candidate in self.candidates.items():
            if not candidate.engine or not self.temperatures:
                found[name] = candidate
                continue
            for temperature in self.temperatures:
                found[f"{name}@{temperature:g}"] = candidate.model_copy(update={"temperature": temperature})
        return found


class FollowBenchJobConfig(EvaluateJobConfig):
    """The same with FollowBench alone (thesis chapter 7)."""

    run_dir: str = "runs/followbench"
    """Run folder, a local path or an fsspec URL."""

    @pydantic.model_validator(mode="after")
    def _only_followbench(self) -> FollowBenchJobConfig:
        others = [benchmark.kind for benchmark in self.benchmarks if benchmark.kind != "followbench"]
        if others:
            raise ValueError(f"benchmarks has kind {others[0]!r}; alignray followbench measures FollowBench alone, use alignray evaluate")
        return self


_NOT_IDENTITY = ("run_dir", "budget", "max_reject_rate", "plan", "runtime", "verdicts", "fetch")


def identity_of(config: EvaluateJobConfig) -> dict[str, Any]:
    """The part of the config that decides the scores; a run folder holds one identity."""
    data = config.model_dump(mode="json", exclude=set(_NOT_IDENTITY))
    data["engines"] = without_transport(data["engines"])
    data["prompts"].pop("dir")
    return data
