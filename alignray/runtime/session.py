"""A Ray cluster to run on: the one named, or a local one for the length of the run."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pydantic
import ray
from ray.data import DataContext
from ray.job_config import JobConfig

from alignray.config import Config
from alignray.errors import ConfigError
from alignray.runtime.job_card import tell_job


class RuntimeConfig(Config):
    """Where and how wide a run works. Changing any of it never changes the rows."""

    address: str | None = None
    """Ray cluster: "auto", HOST:PORT or ray://...; None takes RAY_ADDRESS if that is set, else starts a local one."""
    dashboard: bool = False
    """Start the dashboard with a local cluster."""
    num_cpus: int | None = None
    """CPUs of a local cluster; None: all."""
    min_actors: int = pydantic.Field(default=1, ge=1)
    """Fewest engine actors."""
    max_actors: int = pydantic.Field(default=1, ge=1)
    """Most engine actors; Ray Data adds them as the queue grows."""
    cpus_per_actor: float = pydantic.Field(default=0.5, ge=0)
    """CPUs that Ray sets aside for an engine actor; not set: with vLLM on a cluster without GPUs one per device, else 0.5."""
    gpus_per_actor: float = pydantic.Field(default=0.0, ge=0)
    """GPUs that Ray sets aside for an engine actor; not set: with vLLM, on a cluster that has some, one per device, else none."""
    block_rows: int = pydantic.Field(default=128, ge=1)
    """Records handed to an engine actor at a time."""
    part_rows: int = pydantic.Field(default=1000, ge=1)
    """Rows per committed part; what is in flight below that is held by the journal."""

    private: bool = False
    """A local run folder that only its owner can look into (mode 0700, also where it exists already). Else files get what the
    umask says. Workers must then run as the same user; an object store has its own access rules."""

    @pydantic.model_validator(mode="after")
    def _bounds(self) -> RuntimeConfig:
        if self.max_actors < self.min_actors:
            raise ValueError(f"max_actors = {self.max_actors} is below min_actors = {self.min_actors}")
        return self


@contextlib.contextmanager
def native_stderr_to(path: Path) -> Iterator[None]:
    """What C++ code writes to file descriptor 2 goes to a file; Python's own stderr stays where it was.

    Ray's core draws lines over the progress display whenever Ray Data starts an actor. The file is removed when empty.
    """
    try:
        is_real = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        is_real = False
    if not is_real:
        yield
        return
    before = sys.stderr
    before.flush()
    terminal, log = os.dup(2), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=before.encoding, errors="backslashreplace")
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(log)
        if path.stat().st_size == 0:
            path.unlink()


@contextlib.contextmanager
def ray_session(config: RuntimeConfig, about: Mapping[str, str] | None = None) -> Iterator[None]:
    """A connected Ray; a cluster that was up before stays up after.

    Args:
        about: goes into the job's metadata, for Ray's dashboard and ``ray list jobs``.

    Raises:
        ConfigError: the address named does not answer.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    job = JobConfig(metadata=dict(about or {}))
    address = config.address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, job_config=job, logging_level=logging.ERROR, log_to_driver=False)
        else:
            ray.init(
                address="local", num_cpus=config.num_cpus, include_dashboard=config.dashboard, job_config=job,
                logging_level=logging.ERROR, log_to_driver=False,
            )
    except (ConnectionError, TimeoutError, ValueError) as err:
        raise ConfigError(f"runtime.address = {address!r}: no Ray cluster answers ({err}); start one or leave it out") from err
    tell_job(**(about or {}))
    try:
        yield
    finally:
        # object ids start over with the next session in this process: a reference freed only then would free its object
        gc.collect()
        ray.shutdown()


def quiet_data_context() -> None:
    """Ray Data with our progress instead of its own, and reads that follow our block counts."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    # an error of ours has to cross from task to driver as itself: of one that is wrapped only the text gets through
    context.raise_original_map_exception = True
    # what goes wrong in a task is raised on the driver; Ray Data's own traceback of it would come on top
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # its detectors ask for the arguments of an actor that they do not start, and each asking takes a placement group
    # (devices.py) which nothing gives back; what they find would go to that logger
    context.issue_detectors_config.detectors = []
