"""The error family. A caller's mistake or broken machinery raises one of these; what a model says never does.

None has an ``__init__`` of its own: they cross processes, so they must pickle. A message is one lower-case
sentence that says what, which, the value seen, and the way out.
"""

from __future__ import annotations


class AlignrayError(Exception):
    """Base of every error that alignray raises on purpose."""


class ConfigError(AlignrayError, ValueError):
    """A config file, an override or a command-line value is wrong."""


class RecordError(AlignrayError, ValueError):
    """Input data cannot be used: no file matches, a column is missing, nothing is left."""


class EngineError(AlignrayError, RuntimeError):
    """A model call or an engine failed."""


class CallRefused(EngineError):
    """The endpoint refused this one request for good (HTTP 4xx, context too long): the row is rejected."""


class EngineDown(EngineError):
    """The engine or endpoint cannot be used at all (unreachable, wrong key, weights missing): the run stops, resumable."""


class StorageError(AlignrayError, RuntimeError):
    """The run folder's disk is full or its object store fails: the run stops, resumable."""


class ResumeError(AlignrayError, RuntimeError):
    """A run folder cannot be continued with this config or this data."""


class TrainingError(AlignrayError, RuntimeError):
    """Training cannot go on: a loss that is no number, with the rows that gave it."""
