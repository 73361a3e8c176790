"""The config of ``alignray lion``: seeds, the method's switches, the student, and who plays the other roles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pydantic

from alignray.config import Config
from alignray.engine import EngineConfig, ScriptedConfig, TransformersConfig, VLLMConfig, without_transport
from alignray.engine.base import Sampling
from alignray.engine.budget import BudgetConfig
from alignray.evals.kinds import AnyBenchmark
from alignray.io.fetch import FetchConfig
from alignray.io.run_inputs import with_run_folders
from alignray.io.storage import Storage
from alignray.methods.lion.config import LionConfig
from alignray.objectives import SFTConfig
from alignray.objectives.config import ObjectiveConfig
from alignray.pipelines.train_config import TrainInputConfig, TrainJobConfig
from alignray.pipelines.train_config import identity_of as train_identity
from alignray.pipelines.webr_config import PromptsConfig
from alignray.runtime.ask import RoleConfig, SharedAnswersConfig
from alignray.runtime.session import RuntimeConfig
from alignray.runtime.training import WorkersConfig
from alignray.train.config import ModelConfig, TrainConfig
from alignray.train.tokenize import TokenizeConfig

STUDENT = "student"
"""Role that the student of the round plays; its engine is made from the round's checkpoint."""


class LionInputConfig(Config):
    """Seed instructions."""

    paths: tuple[str, ...] = pydantic.Field(min_length=1)
    """Files or URLs: JSON, JSON lines (each with .gz too), CSV or Parquet with Alpaca rows, Self-Instruct seeds, chats or questions; of a
    run folder of alignray the finished rows, such as those of webr."""
    max_seeds: int | None = pydantic.Field(default=None, ge=1)
    """At most so many, drawn by seed and row id; null: all."""
    fetch: FetchConfig = FetchConfig()
    """How HTTP files are read."""

    def files(self) -> Iterator[str]:
        """The files, run folders replaced by those of their rows."""
        return iter(with_run_folders(self.paths))


class StudentConfig(TrainConfig):
    """The student: the model to begin with, and how it is trained in each round."""

    objective: ObjectiveConfig = SFTConfig()
    """sft."""
    tokens: TokenizeConfig = TokenizeConfig()
    """How chats become tokens; the student is asked with the same template."""
    eval_rate: float = pydantic.Field(0.0, ge=0, lt=1)
    """Share of a round's Train Pool that is held out to watch the loss."""
    workers: WorkersConfig = WorkersConfig()
    """Ranks, and what each of them gets."""
    max_reject_rate: float = pydantic.Field(0.5, ge=0, le=1)
    """Above this share of rows that cannot be tokenized nothing is trained."""

    @pydantic.model_validator(mode="after")
    def _is_imitation(self) -> StudentConfig:
        if not isinstance(self.objective, SFTConfig):
            raise ValueError(f"student.objective.kind = {self.objective.kind!r}; imitation is supervised, leave it out or write sft")
        return self

    def from_model(self, path: str) -> ModelConfig:
        """The model to begin a round with: the one named, or an earlier round's."""
        return self.model if path == self.model.path else self.model.model_copy(update={"path": path, "revision": None})

    def training(self, rows: str, *, run_dir: str, model: str, seed: int, runtime: RuntimeConfig) -> TrainJobConfig:
        """The training run of one round.

        Args:
            rows: file of the Train Pool.
            model: folder or hub name that the round begins with.
        """
        own = {name: getattr(self, name) for name in TrainConfig.model_fields} | {"seed": seed}
        own["model"] = self.from_model(model)
        return TrainJobConfig(
            **own, run_dir=run_dir, input=TrainInputConfig(paths=(rows,), eval_rate=self.eval_rate), tokens=self.tokens,
            workers=self.workers, runtime=runtime, max_reject_rate=self.max_reject_rate,
        )


class StopConfig(Config):
    """When the loop ends before ``rounds``."""

    hard_share: float = pydantic.Field(default=0.0, ge=0, le=1)
    """After a round in which less than this share of the Cache Pool is hard for the student."""
    min_gain: float | None = None
    """After a round in which relative quality (percent of the teacher's scores) rose by less than this over the last round; null: never."""


class LionBenchmarksConfig(Config):
    """What every round's student is measured on (thesis Figure 3.5)."""

    benchmarks: tuple[AnyBenchmark, ...] = ()
    """As in ``alignray evaluate``; empty: none."""
    sampling: Sampling = Sampling(temperature=0.0, max_new_tokens=1024)
    """How the student answers there."""
    budget: BudgetConfig = BudgetConfig()
    """Caps of the judge's calls in each round, beside the run's own budget."""


class LionPlanConfig(Config):
    """What ``alignray plan lion`` assumes."""

    sample_seeds: int = pydantic.Field(default=500, ge=1)
    """Seeds whose requests are built; all are counted."""
    completion_tokens: dict[str, pydantic.NonNegativeFloat] = {}
    """Measured mean completion tokens by step: lion/teacher, lion/student, lion/referee, lion/generator."""


def _without_model(value: Any) -> Any:
    """The student's engine as its class wants it; the checkpoint comes in each round."""
    if isinstance(value, dict) and value.get("kind") in ("transformers", "vllm"):
        if value.get("model", STUDENT) != STUDENT:
            raise ValueError(f"student_engine.model = {value['model']!r}; each round's checkpoint goes there, leave it out")
        return value | {"model": STUDENT}
    return value


StudentEngine = Annotated[
    TransformersConfig | VLLMConfig | ScriptedConfig, pydantic.Field(discriminator="kind"), pydantic.BeforeValidator(_without_model),
]


class LionJobConfig(Config):
    """Adversarial distillation (thesis chapter 3, arXiv:2305.12870)."""

    run_dir: str = "runs/lion"
    """Run folder; a local or shared path where a student is trained."""
    seed: int = 0
    """Decides seeds, drawings, training order and the seeds of sampling."""
    rounds: int = pydantic.Field(default=3, ge=1)
    """Rounds of imitation, discrimination and generation; a last imitation follows. May be raised later to extend a run."""
    input: LionInputConfig
    """Seeds."""
    lion: LionConfig = LionConfig()
    """The method's switches."""
    student: StudentConfig | None
    """What is trained; null: nothing, the student stays the engine that it is (with student_engine scripted, or roles.student)."""
    student_engine: StudentEngine = pydantic.Field(default=TransformersConfig(model=STUDENT))
    """How the round's checkpoint answers: transformers or vllm, without a model."""
    engines: dict[str, EngineConfig] = {}
    """Models by a name of your choice."""
    roles: dict[str, RoleConfig] = {}
    """Which engine answers as teacher, referee, generator and (for benchmarks) judge, and how it samples; "default" for those not named.
    roles.student sets the student's sampling (engine "student")."""
    benchmarks: LionBenchmarksConfig = LionBenchmarksConfig()
    """Learning curve."""
    answers: SharedAnswersConfig | None = None
    """Where answers are kept by content for several runs, such as {root: runs/answers, roles: [teacher]}."""
    plan: LionPlanConfig = LionPlanConfig()
    """Forecast."""
    stop: StopConfig = StopConfig()
    """Ending early."""
    prompts: PromptsConfig = PromptsConfig()
    """Prompt texts."""
    budget: BudgetConfig = BudgetConfig()
    """Caps over all rounds."""
    max_reject_rate: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Stop, resumable, when more than this share of the records that walked is rejected (judged from 200 on)."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Ray."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> LionJobConfig:
        if STUDENT in self.engines:
            raise ValueError("engines.student is made from the round's checkpoint; set student_engine instead")
        bound = self.roles.get(STUDENT)
        if self.student is not None and bound is not None and bound.engine != STUDENT:
            raise ValueError(f"roles.student.engine = {bound.engine!r}; a student that is trained answers by itself: write student")
        if self.student is not None and isinstance(self.student_engine, ScriptedConfig):
            raise ValueError("student_engine.kind = 'scripted' cannot hold a trained student; take transformers or vllm")
        if self.student is None and not isinstance(self.student_engine, ScriptedConfig) and (bound is None or bound.engine == STUDENT):
            raise ValueError("student is null, so nothing is trained; bind roles.student to an engine, or take student_engine scripted")
        others = [name for name, role in self.roles.items() if name != STUDENT and role.engine == STUDENT]
        if others and self.student is not None:
            raise ValueError(f"roles.{others[0]}.engine = 'student': the student answers for itself alone; name one of engines")
        if self.student is not None and "seed" in self.student.model_fields_set and self.student.seed != 0:
            raise ValueError(f"student.seed = {self.student.seed}: every round's training follows from seed; set that")
        if self.student is not None and not Storage(self.run_dir).is_local:
            raise ValueError(f"run_dir = {self.run_dir!r}: the students' checkpoints need a local path, or one that all nodes share")
        if self.answers is not None and Storage(self.answers.root).root == Storage(self.run_dir).root:
            raise ValueError(f"answers.root = {self.answers.root!r} is the run folder; it is a folder of its own, which runs share")
        return self

    def roles_of_round(self) -> dict[str, RoleConfig]:
        """Every role's binding, the student's with it."""
        own = self.roles.get(STUDENT)
        return self.roles | {STUDENT: own if own is not None else RoleConfig(engine=STUDENT, temperature=0.7, max_new_tokens=1024)}

    def engines_with(self, checkpoint: str | Path | None) -> dict[str, EngineConfig]:
        """Every engine, with the student's of a checkpoint; None: of no round yet."""
        engine: Any = self.student_engine
        if checkpoint is not None and not isinstance(engine, ScriptedConfig):
            engine = engine.model_copy(update={"model": str(checkpoint)})
        return self.engines | {STUDENT: engine}


_NOT_IDENTITY = ("run_dir", "rounds", "budget", "max_reject_rate", "plan", "stop", "runtime", "answers")


def identity_of(config: LionJobConfig) -> dict[str, Any]:
    """The part of the config that decides the rows; a run folder holds one identity. Benchmarks have their own runs inside."""
    data = config.model_dump(mode="json", exclude={*_NOT_IDENTITY, "student", "benchmarks"})
    data["engines"] = without_transport(data["engines"])
    data["student_engine"] = without_transport({STUDENT: data["student_engine"]})[STUDENT]
    data["input"].pop("fetch")
    data["prompts"].pop("dir")
    if config.student is not None:
        student = config.student.training("", run_dir="", model=config.student.model.path, seed=config.seed, runtime=config.runtime)
        data["student"] = train_identity(student)
    return data
