"""A run as a Ray job: packed, sent, followed until its end. The job outlives whoever follows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import alignray
from alignray.config import Config
from alignray.errors import AlignrayError, ConfigError
from alignray.runtime.job_package import CONFIG, JobPackage, build_package, code_digest, extras_of, locked, required_variables

LOST_AFTER_S = 30.0
"""A cluster that does not answer for this long is given up on; the job may go on."""
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_STATUS = {1: "failed", 2: "failed", 3: "stopped_at_budget", 4: "empty"}
_TROUBLE = (RuntimeError, ValueError, KeyError, OSError, aiohttp.ClientError)  # requests' errors are OSErrors


@dataclass(frozen=True)
class Job:
    """A job that was sent."""

    submission_id: str
    address: str
    run_dir: str
    num_bytes: int
    """Size of what was packed, before compression."""


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended."""

    submission_id: str
    run_dir: str
    status: str
    """done, failed, stopped_at_budget, empty, or stopped (by someone); submitted where nobody waited."""
    exit_code: int
    message: str = ""


def submit(
    method: str, config: Config, *, address: str, new_run: bool = False, env: Sequence[str] = (), pip: bool = False,
    max_bytes: int = 50_000_000, root: Path | None = None,
) -> Job:
    """Send a run to a cluster. Everything that can be wrong with it here is found before the cluster is asked.

    Args:
        address: URL of the cluster's dashboard.
        env: environment variables that must be set on the cluster, besides those that the config names.
        pip: have Ray install the locked requirements first, for clusters without alignray's image.
        max_bytes: more than this is not sent.
        root: where relative paths of the config start; the working directory unless given.

    Raises:
        ConfigError: the config cannot be sent as it is, the package is too big, the cluster does not answer or refuses,
            or a job of it already works on the run folder.
    """
    package = build_package(method, config, root=(root or Path.cwd()).absolute())
    package.check_size(max_bytes)
    names = sorted({*required_variables(config), *map(_variable_name, env)})
    runtime_env = {"pip": pip_requirements(config)} if pip else {}
    run_dir = str(config.run_dir)  # type: ignore[attr-defined]  # build_package has looked at it
    client = connect(address)
    _refuse_second_job(client, run_dir, address)
    run = run_dir.rstrip("/").rpartition("/")[2]
    submission_id = f"{method}-{re.sub(r'[^A-Za-z0-9_-]+', '-', run)[:40]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    with tempfile.TemporaryDirectory(prefix="alignray-submit-") as folder:
        archive = Path(folder, "job.zip")
        package.write_zip(archive)
        with _refusals_explained(address):
            client.submit_job(
                entrypoint=entrypoint(method, names, new_run=new_run), submission_id=submission_id,
                runtime_env={"working_dir": str(archive), **runtime_env}, metadata=facts(method, run_dir, package),
            )
    return Job(submission_id, address, run_dir, package.num_bytes)


def entrypoint(method: str, names: Sequence[str], *, new_run: bool) -> str:
    """The job's shell command; the variables it needs are looked for first."""
    check = f"python -m alignray.runtime.required_env {shlex.join(names)} && " if names else ""
    return f"{check}python jobs/{method}.py {CONFIG}{' --new-run' if new_run else ''}"


def facts(method: str, run_dir: str, package: JobPackage) -> dict[str, str]:
    """The job's metadata, as Ray's dashboard and ``ray job list`` show it."""
    return {"method": method, "run_dir": run_dir, "alignray": alignray.__version__, "code": code_digest(package)}


def pip_requirements(config: Config) -> list[str]:
    """Exact versions of what the run needs, as installed here; Ray itself is the cluster's.

    Raises:
        ConfigError: something of it is not installed here, so that there is no version to lock it to.
    """
    pins, missing = locked(extras_of(config))
    if missing:
        raise ConfigError(f"--pip: {', '.join(missing)} is not installed here, so no version is known; install it, or leave --pip out")
    return [pin for pin in pins if not pin.startswith("ray==")]


def connect(address: str) -> JobSubmissionClient:
    """The cluster's job server, which has answered.

    Raises:
        ConfigError: it does not, or it refuses us.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigError(f"--address {address!r}: write the URL of the cluster's dashboard, such as http://HEAD:8265")
    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("dashboard_sdk", "job.sdk"):  # they set their own level
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    with _refusals_explained(address), _without(_ADDRESS_VARIABLES):
        return JobSubmissionClient(address)


@contextlib.contextmanager
def _refusals_explained(address: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationError as err:
        why = str(err).splitlines()[0]
        raise ConfigError(
            f"{address} refuses the request ({why}); export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH with its token"
        ) from err
    except (ConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout) as err:
        raise ConfigError(f"{address}: no Ray dashboard answers; name the URL of a running cluster's, such as http://HEAD:8265") from err
    except _TROUBLE as err:
        raise ConfigError(f"{address}: not answered as Ray's job server does ({err}); name the URL of a Ray 2.60 dashboard") from err


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Ray's client lets these variables win over the address it is given."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _variable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        hint = "; values are never sent, set them on the cluster" if "=" in name else ""
        shown = name.partition("=")[0]
        raise ConfigError(f"--env takes the name of an environment variable, got something else after {shown[:20]!r}{hint}")
    return name


def _refuse_second_job(client: JobSubmissionClient, run_dir: str, address: str) -> None:
    with _refusals_explained(address):
        jobs = client.list_jobs()
    for job in jobs:
        if job.submission_id and (job.metadata or {}).get("run_dir") == run_dir and not job.status.is_terminal():
            raise ConfigError(
                f"job {job.submission_id} already works on {run_dir}; wait for it, stop it with "
                f"ray job stop {job.submission_id} --address {address}, or take another --run folder"
            )


# ---- following


def follow(job: Job, write: Callable[[str], Any]) -> JobOutcome:
    """Hand the job's log to ``write`` as it grows, until the job ends.

    Raises:
        AlignrayError: the cluster does not answer any more.
    """
    return outcome_of(job, asyncio.run(_follow(connect(job.address), job, write)))


def outcome_of(job: Job, details: JobDetails) -> JobOutcome:
    """What an ended job comes to: the exit code of its entry where that is one of ours, else 1."""
    if details.status == JobStatus.SUCCEEDED:
        return JobOutcome(job.submission_id, job.run_dir, "done", 0)
    if details.status == JobStatus.STOPPED:
        return JobOutcome(job.submission_id, job.run_dir, "stopped", 1, "the job was stopped; submit again to go on")
    code = details.driver_exit_code
    if code is None:  # it never began, or its node died
        return JobOutcome(job.submission_id, job.run_dir, "failed", 1, details.message or "")
    # the message would repeat the end of the log
    return JobOutcome(job.submission_id, job.run_dir, _STATUS.get(code, "failed"), code if code in _STATUS else 1, f"exit code {code}")


async def _follow(client: JobSubmissionClient, job: Job, write: Callable[[str], Any]) -> JobDetails:
    num_shown, answered = 0, time.monotonic()
    this = asyncio.current_task()
    while True:
        if this is not None and this.cancelling():  # Ctrl-C, which a library took for a connection that broke
            raise asyncio.CancelledError
        num_seen = 0
        try:
            # a connection that broke is opened again, and the log comes from its beginning
            async for text in client.tail_job_logs(job.submission_id):
                answered = time.monotonic()
                if num_seen + len(text) > num_shown:
                    write(text[max(0, num_shown - num_seen):])
                num_seen += len(text)
                num_shown = max(num_shown, num_seen)
        except _TROUBLE:
            pass  # whether that is the end of it, the job's state tells
        try:
            details = await asyncio.to_thread(client.get_job_info, job.submission_id)
            answered = time.monotonic()
        except _TROUBLE as err:
            if time.monotonic() - answered > LOST_AFTER_S:
                raise AlignrayError(
                    f"{job.address} has not answered for {LOST_AFTER_S:g} s ({type(err).__name__}); what was done is in {job.run_dir}: "
                    "submit again, to this cluster or another, to go on"
                ) from err
        else:
            if details.status.is_terminal():
                return details
        await asyncio.sleep(1)
