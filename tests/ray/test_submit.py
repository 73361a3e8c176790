"""``alignray submit`` against real clusters with token authentication."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.conftest import ROOT
from tests.ray.heads import BIN, Head, submit
from tests.ray.processes import finish, start, wait_for
from tests.ray.run_files import assert_nothing_is_lost, rows_of
from tests.ray.test_kill_and_resume import completions, endpoint, write_config

SMOKE = ROOT / "configs" / "webr" / "smoke.yaml"
CANARY = "sk-canary-of-the-submitter"
OF_THE_CLUSTER = "sk-of-the-cluster"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    head = Head(2, OPENAI_API_KEY=OF_THE_CLUSTER)
    yield head
    head.close()


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    """Its stdout and stderr."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + (err or "")
    return out, err


def jobs_of(head: Head) -> list[dict[str, object]]:
    return [job for job in json.loads(head.get("/api/jobs/")) if job["type"] == "SUBMISSION"]


def job_on(head: Head, run_dir: Path) -> dict[str, object]:
    [job] = [job for job in jobs_of(head) if job["metadata"]["run_dir"] == str(run_dir)]  # type: ignore[index]
    return job


def test_a_job_is_followed_to_its_rows_and_no_secret_is_stored_anywhere(head: Head, tmp_path: Path) -> None:
    run_dir = tmp_path / "my run"
    out, err = ended(submit(head, "webr", SMOKE, "--run", str(run_dir), "--env", "OPENAI_API_KEY", OPENAI_API_KEY=CANARY), 0)
    assert "18 rows kept" in out and f"run folder {run_dir}" in out
    assert "MB), run folder" in err
    assert len(rows_of(run_dir)) == 18
    assert_nothing_is_lost(run_dir)
    job = job_on(head, run_dir)
    assert job["status"] == "SUCCEEDED" and job["driver_exit_code"] == 0
    assert str(job["submission_id"]).startswith("webr-my-run-")
    assert {"method": "webr", "run_dir": str(run_dir), "alignray": "0.1.0"}.items() <= job["metadata"].items()  # type: ignore[attr-defined]
    stored = head.get("/api/jobs/") + head.get(f"/api/jobs/{job['submission_id']}/logs")
    assert CANARY not in stored and OF_THE_CLUSTER not in stored
    files = [path for folder in (run_dir, head.temp_dir) for path in folder.rglob("*") if path.is_file()]
    assert any("runtime_resources" in str(path) and path.name == "job.yaml" for path in files)
    for path in files:
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # Ray renames what it has just written: it stands there under the other name
            continue
        assert CANARY.encode() not in content, path
        assert OF_THE_CLUSTER.encode() not in content or run_dir not in path.parents, path


def test_a_variable_the_cluster_lacks_ends_the_job_before_it_begins(head: Head, tmp_path: Path) -> None:
    process = submit(head, "webr", SMOKE, "--run", str(tmp_path / "run"), "--env", "NOT_THERE", "--json", NOT_THERE=CANARY)
    out, err = ended(process, 2)
    assert "$NOT_THERE not set on node(s)" in err
    assert json.loads(out)["status"] == "failed" and json.loads(out)["exit_code"] == 2
    assert not (tmp_path / "run").exists()


def test_without_or_with_a_wrong_token_the_refusal_says_what_to_set(head: Head, tmp_path: Path) -> None:
    options = ("--run", str(tmp_path / "run"))
    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "f" * 64}):
        _, err = ended(submit(head, "webr", SMOKE, *options, **variables), 2)
        assert f"{head.address} refuses the request" in err and "export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in err
        assert "Traceback" not in err


def test_what_is_wrong_here_is_found_without_asking_the_cluster(head: Head, tmp_path: Path) -> None:
    num_before = len(jobs_of(head))
    nowhere = ("--address", "http://127.0.0.1:1")
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (tmp_path / "big.jsonl").write_bytes(b"x" * 3_000_000)
    run = ("--run", str(tmp_path / "run"))
    started = {
        message: submit(head, "webr", SMOKE, *options, *nowhere, cwd=tmp_path) for message, options in {
            'did you mean "budget"?': (*run, "--set", "budgt.usd=1"),
            "run_dir = 'runs/mine' is relative": ("--run", "runs/mine"),
            "the biggest are big.jsonl (3.0 MB)": (*run, "--set", 'ingest.sources.0.paths=["big.jsonl"]', "--max-mb", "2"),
            "http://127.0.0.1:1: no Ray dashboard answers": run,
        }.items()
    }
    for message, process in started.items():
        _, err = ended(process, 2)
        assert message in err and "Traceback" not in err
    assert len(jobs_of(head)) == num_before


@pytest.mark.slow  # the submission above, of another method
def test_dedup_is_submitted_the_same_way(head: Head, tmp_path: Path) -> None:
    out, _ = ended(submit(head, "dedup", ROOT / "configs" / "dedup" / "smoke.yaml", "--run", str(tmp_path / "run")), 0)
    assert "rows kept" in out and (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow  # alignray submit does the same in make test
def test_a_plain_ray_job_submit_of_the_sources_works_too(head: Head, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | head.client_variables
    command = [
        str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir", ".", "--",
        "python", "jobs/webr.py", "configs/webr/smoke.yaml", "--run", str(tmp_path / "run"),
    ]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(rows_of(tmp_path / "run")) == 18


def test_a_run_goes_on_after_ctrl_c_and_on_another_cluster_when_its_own_dies(head: Head, tmp_path: Path) -> None:
    """Comes last: it kills the cluster."""
    with endpoint() as mock:
        finish(start(write_config(tmp_path, mock.url), tmp_path / "undisturbed"))
    run_dir = tmp_path / "run"
    with endpoint("--latency", "2") as mock:
        config, port = write_config(tmp_path, mock.url), mock.url.split(":")[2].split("/")[0]
        first = submit(head, "webr", config, "--run", str(run_dir), stderr=subprocess.STDOUT)
        wait_for(lambda: len(completions(run_dir)) >= 9, first)
        first.send_signal(signal.SIGINT)
        out, _ = ended(first, 130)
        job_id = str(job_on(head, run_dir)["submission_id"])
        assert f"job {job_id} goes on" in out and f"ray job stop {job_id} --address {head.address}" in out
        _, err = ended(submit(head, "webr", config, "--run", str(run_dir)), 2)
        assert f"job {job_id} already works on {run_dir}" in err
        assert job_on(head, run_dir)["status"] == "RUNNING"
        head.kill()
    journaled = {event["key"] for event in completions(run_dir)}
    again = Head(1)
    try:
        with endpoint("--port", port):
            out, _ = ended(submit(again, "webr", config, "--run", str(run_dir), "--set", "runtime.max_actors=2"), 0)
    finally:
        again.close()
    assert "(resumed)" in out
    assert rows_of(run_dir) == rows_of(tmp_path / "undisturbed")
    assert rows_of(run_dir, "rejects") == rows_of(tmp_path / "undisturbed", "rejects")
    assert_nothing_is_lost(run_dir)
    assert journaled < {event["key"] for event in completions(run_dir)}
    # both clusters are gone
    for command in ("status", "report"):
        ran = subprocess.run(
            [sys.executable, "-m", "alignray.cli", command, str(run_dir)], cwd=tmp_path, capture_output=True, text=True, check=True,
        )
        assert "done" in ran.stdout or str(run_dir / "report.html") in ran.stdout
