"""The config of ``alignray edit-eval``: records to edit, the methods that edit a model by them, and how many edits at once."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pydantic

from alignray.config import Config
from alignray.io.fetch import FetchConfig
from alignray.methods.lte.config import Form, LTEConfig
from alignray.pipelines.lte_config import EditFileConfig
from alignray.runtime.session import RuntimeConfig
from alignray.train.edit_config import EditedModelConfig, FineTuneConfig


class EditEvalInputConfig(Config):
    """Records to edit models by: test parts, never what a model was trained on."""

    edits: tuple[EditFileConfig, ...] = ()
    """Files of edits."""
    sentiment: tuple[str, ...] = ()
    """Files of ConvSent: edits of opinions, out of distribution for LTE (thesis 5.4). The seed draws each one's wanted sentiment."""
    max_records: int | None = pydantic.Field(default=100, ge=1)
    """Of each data set, drawn by the seed; null: all."""
    fetch: FetchConfig = FetchConfig()
    """How HTTP files are read."""

    @pydantic.model_validator(mode="after")
    def _names_files(self) -> EditEvalInputConfig:
        if not (self.edits or self.sentiment):
            raise ValueError("input: there is nothing to edit by; name files under edits or sentiment")
        return self


class BareConfig(Config):
    """The model as it is, without any edit: what the others start from. Asked in single editing alone."""

    kind: Literal["bare"] = "bare"
    """Which method this is."""
    model: EditedModelConfig
    """The model."""


class PromptedConfig(Config):
    """Edits are looked up in the memory and stand in the prompt."""

    kind: Literal["ice", "lte"]
    """ice: in-context editing, any model with instructions in its prompt; lte: a model that was trained for it (thesis 5.1.2)."""
    model: EditedModelConfig
    """The model; of lte, what ``alignray train`` made of the examples of ``alignray lte``."""
    form: Form | None = None
    """Of the prompt; null: ice, or the form of ``lte``."""


class FineTunedConfig(Config):
    """Weights are trained on the edits: FT, and FT-L with fine_tune.max_change."""

    kind: Literal["fine_tune"]
    """Which method this is."""
    model: EditedModelConfig
    """The model to start from; in batch editing every batch starts from it anew."""
    fine_tune: FineTuneConfig = FineTuneConfig()
    """Steps, rate and which weights."""


MethodConfig = Annotated[BareConfig | PromptedConfig | FineTunedConfig, pydantic.Field(discriminator="kind")]


class EditingConfig(Config):
    """How many edits at once. Sizes above the number of records count as that number."""

    single: bool = True
    """One edit at a time."""
    batch: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = ()
    """Edits that are made together before anything is asked; the thesis has 1, 10, 100 and 1000."""
    stream: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = ()
    """Edits one after the other, none undone: of the first so many records; ``lte.evaluation.sequential`` says when they are scored."""


class WriteConfig(Config):
    """Free-running answers, which cost far more time than scores do."""

    items: Literal["none", "edits", "all"] = "edits"
    """Which questions get one; of edits fluency is measured as well."""
    modes: tuple[Literal["single", "batch", "sequential"], ...] = ("single",)
    """In which kinds of editing."""
    max_new_tokens: int = pydantic.Field(default=100, ge=1)
    """Longest answer; fluency compares texts of equal length only."""


class EditEvalJobConfig(Config):
    """Edited models measured: edit success, portability, locality, fluency (thesis 5.2) in single, batch and sequential editing (5.4)."""

    run_dir: str = "runs/edit-eval"
    """Run folder, a local path or an fsspec URL."""
    seed: int = 0
    """Decides which records are taken, their order, and draws of the authors' fluency."""
    input: EditEvalInputConfig
    """The records."""
    methods: dict[str, MethodConfig] = pydantic.Field(min_length=1)
    """By a name of your choice."""
    editing: EditingConfig = EditingConfig()
    """How many edits at once."""
    lte: LTEConfig = LTEConfig()
    """Prompt forms, retrieval (top_k, similarity_floor, memory_key) and protocol (evaluation)."""
    embedder: str = "multi-qa-mpnet-base-dot-v1"
    """A sentence-transformers model by hub name or local folder, with which edits are looked up; or hash, for a try."""
    write: WriteConfig = WriteConfig()
    """Free-running answers."""
    unit_questions: int = pydantic.Field(default=128, ge=1)
    """Different questions that one task asks of a model that is not trained."""
    cpus_per_task: float = pydantic.Field(default=1.0, gt=0)
    """CPUs that Ray sets aside for a task with a model in it."""
    gpus_per_task: float | None = pydantic.Field(default=None, ge=0)
    """GPUs of such a task; null: one where the cluster has any."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Ray."""

    @pydantic.field_validator("methods")
    @classmethod
    def _plain_names(cls, methods: dict[str, MethodConfig]) -> dict[str, MethodConfig]:
        if bad := [name for name in methods if not re.fullmatch(r"[\w.+-]{1,60}", name)]:
            raise ValueError(f"methods: {bad[0]!r} is no name; take letters, digits and . + - _")
        return methods

    @pydantic.model_validator(mode="after")
    def _asks_something(self) -> EditEvalJobConfig:
        if not (self.editing.single or self.editing.batch or self.editing.stream):
            raise ValueError("editing: nothing is to be done; set single, or sizes of batch or stream")
        if not self.editing.single and any(method.kind == "bare" for method in self.methods.values()):
            raise ValueError("editing.single is off, and the bare model is asked in single editing alone; leave it out of methods")
        return self


_NOT_IDENTITY = ("run_dir", "runtime", "cpus_per_task", "gpus_per_task")
_OF_DATA = ("quotas", "scopes", "threefold", "retries", "on_length", "on_leakage")


def identity_of(config: EditEvalJobConfig) -> dict[str, Any]:
    """The part of the config that decides the rows; a run folder holds one identity."""
    data = config.model_dump(mode="json", exclude=set(_NOT_IDENTITY))
    data["input"].pop("fetch")
    for name in _OF_DATA:
        data["lte"].pop(name)
    for method in data["methods"].values():
        for name in ("device", "max_batch", "max_batch_tokens"):
            method["model"].pop(name)
    return data
