"""WebR on a real vLLM through the command: a whole run, and one that loses its model's core and then its engine actor."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ray.processes import child_named, start
from tests.ray.run_files import assert_nothing_is_lost, journal_of, rows_of
from tests.vllm.conftest import ROOT

pytestmark = pytest.mark.vllm
CONFIG = ROOT / "configs" / "webr" / "smoke-vllm.yaml"


MINUTES = 60.0


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=7 * MINUTES)
    assert process.returncode == 0, output
    return output


def wait_for_calls(number: int, run_dir: Path, process: subprocess.Popen[str]) -> None:
    """Until so many completions are journaled; a vLLM takes half a minute to load, or two on a busy machine."""
    deadline = time.monotonic() + 4 * MINUTES
    while len(completions(run_dir)) < number:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{len(completions(run_dir))} calls were journaled, {number} are waited for"
        time.sleep(0.1)


def completions(run_dir: Path) -> list[dict[str, Any]]:
    return [event for event in journal_of(run_dir) if "text" in event] if run_dir.exists() else []


def options(model_dir: Path) -> list[str]:
    return ["--set", f"engines.smollm2.model={model_dir}", "--set", "runtime.num_cpus=2", "--set", "plan.sample_pages=1"]


def test_pages_become_rows_by_vllm(model_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    output = finish(start(CONFIG, run_dir, *options(model_dir)))
    assert "6 rows kept (4 web-as-instruction, 2 web-as-response)" in output
    manifest = assert_nothing_is_lost(run_dir)
    assert manifest["status"] == "done"
    rows = rows_of(run_dir)
    assert len(rows) == 6 and len({row["messages"][1]["content"] for row in rows}) == 6
    calls = completions(run_dir)
    assert {event["model"] for event in calls} == {"SmolLM2-135M-Instruct"}
    assert all(event["pt"] > 0 and 0 < event["ct"] <= 96 and event["usd"] == 0 for event in calls)


def test_a_lost_core_and_a_lost_actor_cost_nothing(model_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(CONFIG, run_dir, *options(model_dir), "--set", "engines.smollm2.max_num_seqs=2")
    wait_for_calls(4, run_dir, process)
    core = child_named(process, "VLLM::EngineCore")
    assert core is not None
    core.kill()
    journaled = len(completions(run_dir))
    wait_for_calls(journaled + 4, run_dir, process)
    actor, core = child_named(process, "MapWorker"), child_named(process, "VLLM::EngineCore")
    assert actor is not None and core is not None
    actor.kill()
    gone, _ = psutil.wait_procs([core], timeout=30)
    assert gone, "the core ended with its actor, so that its memory is free for the next one"
    finish(process)
    assert_nothing_is_lost(run_dir)
    assert json.loads((run_dir / "manifest.json").read_text())["status"] == "done" and len(rows_of(run_dir)) == 6
    keys = [event["key"] for event in completions(run_dir)]
    assert len(keys) == len(set(keys)), "what was journaled was not asked again"
