"""One local Ray of 2 CPUs for all tests of this folder that run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from alignray.pipelines.webr import Outcome, synthesize
from alignray.pipelines.webr_config import WebRJobConfig
from alignray.runtime.session import RuntimeConfig, ray_session

ROOT = Path(__file__).parents[2]
SAMPLE = str(ROOT / "samples" / "sample.warc.gz")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    with ray_session(RuntimeConfig(num_cpus=2)):
        yield
    assert not ray.is_initialized()


def webr_config(run_dir: Path | str, **changes: Any) -> WebRJobConfig:
    """The smoke pipeline on the sample crawl; ``changes`` replace top-level keys."""
    data: dict[str, Any] = {
        "run_dir": str(run_dir),
        "ingest": {"sources": [{"name": "sample", "paths": [SAMPLE]}]},
        "engines": {"fake": {"kind": "scripted"}},
        "roles": {"default": {"engine": "fake", "max_new_tokens": 120}},
        "analysis": {"embedder": "hash"},
    }
    return WebRJobConfig.model_validate({**data, **changes})


@pytest.fixture
def run_webr(local_ray: None) -> Callable[..., Outcome]:
    def run(run_dir: Path | str, *, new_run: bool = False, **changes: Any) -> Outcome:
        return synthesize(webr_config(run_dir, **changes), new_run=new_run, console=Console(quiet=True))

    return run
