"""The config of ``alignray dedup``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pydantic

from alignray.config import Config
from alignray.dedup.config import MinHashConfig
from alignray.pipelines.table_input import TableInputConfig
from alignray.runtime.linking import Limits
from alignray.runtime.session import RuntimeConfig


class InputConfig(TableInputConfig):
    """The rows to work on."""

    text_columns: tuple[str, ...] = pydantic.Field(("text",), min_length=1)
    """What is compared; several are joined by a newline. With minhash.unit token_id, one column of lists of integers."""
    id_column: str | None = None
    """Row ids; null: the digest of the text is the id."""
    score_column: str | None = None
    """The row with the highest score of a cluster stays; null, or equal scores: the one with the least id."""

    METHOD: ClassVar[str] = "dedup"


class BenchmarkConfig(Config):
    """A benchmark whose items must not be in the data."""

    name: str
    """How hits call it."""
    paths: tuple[str, ...] = pydantic.Field(min_length=1)
    """JSON or JSON lines files (.gz too), globs or folders."""
    text_fields: tuple[str, ...] = pydantic.Field(min_length=1)
    """Fields of an item that are compared, each by itself."""
    id_field: str | None = None
    """Where an item's id is; null: its number."""


class DecontaminationConfig(Config):
    """Overlap with benchmarks by word n-grams."""

    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """None: no check."""
    n: int = pydantic.Field(13, ge=2)
    """Words in a row that make a hit."""
    min_words: int = pydantic.Field(8, ge=2)
    """Items with fewer than n words are compared whole, from this many words on; shorter ones are counted and left out."""
    action: Literal["report", "drop"] = "report"
    """drop: rows with a hit become rejects; report: they stay, and hits/ lists them."""


class DedupJobConfig(Config):
    """Near-duplicate removal of any text column (thesis 4.2.3)."""

    run_dir: str = "runs/dedup"
    """Run folder, a local path or an fsspec URL."""
    seed: int = 0
    """Decides which pairs are planted how."""
    input: InputConfig
    """Rows."""
    minhash: MinHashConfig = MinHashConfig()
    """What a near-duplicate is, and how surely it is found."""
    against: tuple[str, ...] = ()
    """Run folders of earlier dedup or webr runs: their signature tables are compared with, their text is not read."""
    prefer: Literal["best", "earlier"] = "best"
    """best: a better row replaces one of an earlier run (retracted/ lists those), as if all had come at once;
    earlier: rows of earlier runs stay, whatever comes."""
    num_planted: int = pydantic.Field(500, ge=0, le=500)
    """Pairs of known similarity that are planted to measure recall and precision; 0: not measured."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """Benchmarks."""
    max_reject_rate: float = pydantic.Field(1.0, ge=0, le=1)
    """Stop when more than this share of the rows cannot be used (duplicates do not count)."""
    limits: Limits = Limits()
    """How much one task may hold; for machines with little memory."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Ray."""


_NOT_IDENTITY = ("run_dir", "max_reject_rate", "runtime")


def identity_of(config: DedupJobConfig) -> dict[str, Any]:
    """The part of the config that decides which rows stay; a run folder holds one identity."""
    data = config.model_dump(mode="json", exclude=set(_NOT_IDENTITY))
    data["input"].pop("fetch")
    return data
