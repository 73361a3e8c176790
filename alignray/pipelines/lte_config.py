"""The config of ``alignray lte``: files of edits, the method's switches, and who writes what the files do not have."""

from __future__ import annotations

from typing import Any

import pydantic

from alignray.config import Config
from alignray.engine import EngineConfig, without_transport
from alignray.engine.budget import BudgetConfig
from alignray.io.edits import EditFile
from alignray.io.fetch import FetchConfig
from alignray.methods.lte.config import LTEConfig
from alignray.pipelines.webr_config import PromptsConfig
from alignray.runtime.ask import RoleConfig
from alignray.runtime.session import RuntimeConfig


class EditFileConfig(Config):
    """Files of one form."""

    form: EditFile
    """How the files are laid out."""
    paths: tuple[str, ...] = pydantic.Field(min_length=1)
    """JSON or JSON lines files or URLs, each with .gz too."""


class LTEInputConfig(Config):
    """What training examples are made of."""

    edits: tuple[EditFileConfig, ...] = pydantic.Field(min_length=1)
    """Edits to train on: training parts, never what you test on."""
    plain: tuple[str, ...] = ()
    """Chats or questions that no edit bears on, such as Evol-Instruct's, as out-of-scope queries."""
    test: tuple[EditFileConfig, ...] = ()
    """What you will test on; training edits that share something with it are dealt with by ``lte.on_leakage``."""
    fetch: FetchConfig = FetchConfig()
    """How HTTP files are read."""

    @pydantic.model_validator(mode="after")
    def _each_file_once(self) -> LTEInputConfig:
        paths = [path for group in self.edits for path in group.paths]
        if twice := [path for path in paths if paths.count(path) > 1]:
            raise ValueError(f"edits names {twice[0]!r} twice; a file has one form")
        return self

    def files(self) -> dict[str, str]:
        """Every file that edits to train on are read from, with its form."""
        return {path: group.form for group in self.edits for path in group.paths}


class LTEJobConfig(Config):
    """Training data that teaches a model to answer by the edits in its prompt (thesis chapter 5, arXiv:2402.11905)."""

    run_dir: str = "runs/lte"
    """Run folder, a local path or an fsspec URL."""
    seed: int = 0
    """Decides which queries are taken, what stands beside an edit and where, and the seeds of sampling."""
    input: LTEInputConfig
    """Edits and plain queries."""
    lte: LTEConfig = LTEConfig()
    """The method's switches."""
    embedder: str = "multi-qa-mpnet-base-dot-v1"
    """A sentence-transformers model by hub name or local folder, with which neighbours are found; or hash, for a try."""
    drop_rate: float = pydantic.Field(default=0.15, ge=0, lt=1)
    """Share of the pairs that a model is asked for that will be lost, mostly at verification; so many more are asked for."""
    engines: dict[str, EngineConfig] = {}
    """Models by a name of your choice; none where the files have all answers."""
    roles: dict[str, RoleConfig] = {}
    """Which engine answers as author and as verifier (the thesis: GPT-4 as both); "default" for those not named."""
    prompts: PromptsConfig = PromptsConfig()
    """Prompt texts."""
    budget: BudgetConfig = BudgetConfig()
    """Caps."""
    max_reject_rate: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Stop, resumable, when more than this share of the pairs is rejected (judged from 200 on)."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Ray."""


_NOT_IDENTITY = ("run_dir", "budget", "max_reject_rate", "runtime")


def identity_of(config: LTEJobConfig) -> dict[str, Any]:
    """The part of the config that decides the rows; a run folder holds one identity."""
    data = config.model_dump(mode="json", exclude=set(_NOT_IDENTITY))
    data["engines"] = without_transport(data["engines"])
    data["input"].pop("fetch")
    data["prompts"].pop("dir")
    for name in ("single_edit_form", "stream_form", "top_k", "similarity_floor", "memory_key", "evaluation"):
        data["lte"].pop(name)  # how edits are put to a model later decides no training row
    return data
