"""Rows of tables as a method's input: Parquet and JSON lines."""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic

from alignray.config import Config
from alignray.errors import ConfigError
from alignray.io.fetch import FetchConfig
from alignray.io.run_inputs import with_run_folders
from alignray.io.sources import IngestConfig, SourceConfig, Split, list_splits
from alignray.io.tables import FORMATS


class TableInputConfig(Config):
    """The rows to work on."""

    paths: tuple[str, ...] = pydantic.Field(min_length=1)
    """Parquet and JSON lines files (.gz and .zst too), globs, folders or URLs; of a run folder of alignray the finished rows."""
    format: Literal["auto", "parquet", "jsonl"] = "auto"
    """auto: by suffix."""
    split_bytes: int | None = pydantic.Field(128 << 20, ge=1)
    """Longer files are read in ranges, each by a task of its own."""
    fetch: FetchConfig = FetchConfig()
    """How HTTP inputs are read."""

    METHOD: ClassVar[str]

    def splits(self) -> list[Split]:
        """The input as units of work.

        Raises:
            ConfigError: a file is no table.
            RecordError: no file is there, or a run folder has no rows.
        """
        source = SourceConfig(name="input", paths=with_run_folders(self.paths), format=self.format)
        splits = list_splits(IngestConfig(sources=(source,), split_bytes=self.split_bytes, fetch=self.fetch))
        for split in splits:
            if split.format not in FORMATS:
                readable = " and ".join(FORMATS)
                raise ConfigError(f"{split.shown}: {self.METHOD} reads {readable}, not {split.format}; set input.format, or convert it")
        return splits
