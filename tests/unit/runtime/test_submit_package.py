"""What a job is sent, and what is refused before anything is sent; no cluster."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.job_submission import JobDetails, JobStatus

from alignray.config import load_config
from alignray.errors import ConfigError
from alignray.pipelines.dedup_config import DedupJobConfig
from alignray.pipelines.evaluate_config import CandidateConfig, EvaluateJobConfig
from alignray.pipelines.jobs import JOBS, job_config
from alignray.pipelines.webr_config import WebRJobConfig, identity_of
from alignray.runtime.job_package import (
    CONFIG,
    ENTRY,
    JobPackage,
    build_package,
    extras_of,
    local_inputs,
    locked,
    portable,
    required_variables,
    wheel_content,
)
from alignray.runtime.required_env import complaint
from alignray.runtime.submit import Job, connect, entrypoint, outcome_of, pip_requirements, submit

ROOT = Path(__file__).parents[3]
OPENAI = {"kind": "openai", "model": "gpt-4o-mini"}


def webr(root: Path, **changes: Any) -> WebRJobConfig:
    (root / "in").mkdir(parents=True, exist_ok=True)
    (root / "in" / "a.jsonl").write_text("{}\n")
    (root / "in" / "b.jsonl").write_text("{}\n{}\n")
    data: dict[str, Any] = {
        "run_dir": "/shared/run", "ingest": {"sources": [{"name": "web", "paths": ["in/*.jsonl"]}]},
        "engines": {"main": {"kind": "scripted"}}, "roles": {"default": {"engine": "main", "max_new_tokens": 50}},
    }
    return WebRJobConfig.model_validate({**data, **changes})


@pytest.mark.parametrize("method", JOBS)
def test_each_method_has_its_entry_in_jobs(method: str) -> None:
    assert (ROOT / "jobs" / f"{method}.py").read_text() == ENTRY.format(method=method)


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no method 'weber' to submit; choose webr or dedup"):
        job_config("weber")


def test_a_package_holds_code_config_lock_entry_and_relative_inputs(tmp_path: Path) -> None:
    package = build_package("webr", webr(tmp_path), root=tmp_path)
    assert {"jobs/webr.py", CONFIG, "constraints.txt", "in/a.jsonl", "in/b.jsonl", "alignray/cli.py"} <= package.files.keys()
    assert "alignray/prompts/webr/persona.txt" in package.files
    assert not [name for name in package.files if "__pycache__" in name]
    assert re.search(rb"^ray==2\.60\.", package.files["constraints.txt"], re.MULTILINE)  # type: ignore[arg-type]


def test_the_same_package_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("1.zip", "2.zip"):
        build_package("webr", webr(tmp_path), root=tmp_path).write_zip(tmp_path / name)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_the_code_runs_from_the_unpacked_package_and_not_from_elsewhere(tmp_path: Path) -> None:
    build_package("webr", webr(tmp_path), root=tmp_path).write_zip(tmp_path / "job.zip")
    zipfile.ZipFile(tmp_path / "job.zip").extractall(tmp_path / "there")
    code = "import alignray.cli, importlib.metadata as m; print(alignray.cli.__file__, m.version('alignray'))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "there")}, capture_output=True, text=True, check=True,
    )
    assert ran.stdout.split() == [str(tmp_path / "there" / "alignray" / "cli.py"), "0.1.0"]


def test_record_names_every_file_of_the_wheel() -> None:
    content = wheel_content()
    record = next(text for name, text in content.items() if name.endswith("/RECORD")).decode()
    assert {line.split(",")[0] for line in record.splitlines()} == set(content)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_is_the_same_after_the_journey(path: Path, tmp_path: Path) -> None:
    if path.parent.name not in JOBS:
        pytest.skip("no job of its own")
    kind = job_config(path.parent.name)
    before = load_config(kind, path, overrides=["run_dir=/shared/run"])
    (tmp_path / "there.yaml").write_text(yaml.safe_dump(portable(before)))
    after = load_config(kind, tmp_path / "there.yaml")
    changed = {"runtime": {"address"}}
    assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)
    if isinstance(before, WebRJobConfig) and isinstance(after, WebRJobConfig):
        assert identity_of(after) == identity_of(before)
        assert [source.model_fields_set for source in after.ingest.sources] == [source.model_fields_set for source in before.ingest.sources]


def test_the_address_stays_behind(tmp_path: Path) -> None:
    config = webr(tmp_path, runtime={"address": "ray://elsewhere:10001", "max_actors": 3})
    assert portable(config)["runtime"] == {"max_actors": 3}


@pytest.mark.parametrize("run_dir", ["runs/mine", "./run", "~/run"])
def test_a_relative_run_folder_is_refused(run_dir: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"run_dir = '{run_dir}' is relative.*lost with it.*s3://bucket/run"):
        portable(webr(tmp_path, run_dir=run_dir))


@pytest.mark.parametrize("run_dir", ["/shared/run", "s3://bucket/run", "file:///shared/run"])
def test_a_run_folder_that_outlives_the_cluster_is_taken(run_dir: str, tmp_path: Path) -> None:
    assert portable(webr(tmp_path, run_dir=run_dir))["run_dir"] == run_dir


@pytest.mark.parametrize("changes", [
    {"engines": {"main": {**OPENAI, "extra_body": {"api_key": "sk-canary"}}}},
    {"ingest": {"sources": [{"name": "web", "paths": ["https://host/a.warc.gz?X-Amz-Signature=sk-canary"]}]}},
])
def test_a_secret_in_the_config_is_refused_and_not_repeated(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="may hold a secret") as caught:
        portable(webr(tmp_path, **changes))
    assert "sk-canary" not in str(caught.value)


def test_too_big_a_package_names_what_makes_it_big() -> None:
    package = JobPackage({"in/huge.warc.gz": b"x" * 3_000_000, "in/large.jsonl": b"x" * 1_500_000, "job.yaml": b"x"})
    with pytest.raises(ConfigError, match=re.escape(
        "the job's files are 4.5 MB, over the limit of 2.0 MB; the biggest are in/huge.warc.gz (3.0 MB), in/large.jsonl (1.5 MB)",
    )):
        package.check_size(2_000_000)
    package.check_size(4_500_001)


@pytest.mark.parametrize(("path", "message"), [
    ("../a.jsonl", "is not below"), ("~/a.jsonl", "is not below"), ("in/nothing*.gz", "matches no file"), ("in/nothing", "matches no file"),
])
def test_an_input_that_cannot_be_sent_is_refused(path: str, message: str, tmp_path: Path) -> None:
    config = webr(tmp_path, ingest={"sources": [{"name": "web", "paths": [path]}]})
    with pytest.raises(ConfigError, match=rf"ingest\.sources\.0\.paths\.0 = .*{message}.*absolute path"):
        local_inputs(config, tmp_path)


def test_inputs_are_found_wherever_the_config_names_them(tmp_path: Path) -> None:
    for name in ("in/a.jsonl", "in/sub/c.jsonl", "in/.hidden", "exam.jsonl", "old/manifest.json", "p/webr/persona.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    dedup = DedupJobConfig.model_validate({
        "input": {"paths": ["in", "/shared/x.jsonl", "s3://bucket/y.jsonl"]}, "against": ["old"],
        "decontamination": {"benchmarks": [{"name": "exam", "paths": ["./exam.jsonl"], "text_fields": ["q"]}]},
    })
    assert set(local_inputs(dedup, tmp_path)) == {"in/a.jsonl", "in/sub/c.jsonl", "exam.jsonl", "old/manifest.json"}
    assert "p/webr/persona.txt" in local_inputs(webr(tmp_path, prompts={"dir": "p"}), tmp_path)


def test_an_input_must_not_replace_a_file_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "alignray").mkdir()
    (tmp_path / "alignray" / "cli.py").write_text("{}\n")
    config = webr(tmp_path, ingest={"sources": [{"name": "web", "paths": ["alignray/cli.py"]}]})
    with pytest.raises(ConfigError, match=r"alignray/cli\.py has the name of a file of the job"):
        build_package("webr", config, root=tmp_path)


def test_variables_are_those_of_remote_endpoints(tmp_path: Path) -> None:
    engines = {
        "cloud": OPENAI, "other": {**OPENAI, "api_key_env": "OTHER_KEY"}, "none": {**OPENAI, "api_key_env": None},
        "here": {**OPENAI, "api_key_env": "LOCAL_KEY", "base_url": "http://127.0.0.1:8000/v1"},
    }
    config = webr(tmp_path, engines=engines, roles={"default": {"engine": "cloud"}})
    assert required_variables(config) == ["OPENAI_API_KEY", "OTHER_KEY"]
    assert required_variables(webr(tmp_path)) == []


def test_the_command_looks_for_the_variables_first() -> None:
    assert entrypoint("webr", [], new_run=False) == "python jobs/webr.py job.yaml"
    assert entrypoint("dedup", ["A_KEY", "B"], new_run=True) == (
        "python -m alignray.runtime.required_env A_KEY B && python jobs/dedup.py job.yaml --new-run"
    )


def test_what_is_missing_is_named_with_its_nodes() -> None:
    told = complaint({"10.0.0.2": ["A_KEY"], "10.0.0.1": ["A_KEY", "B"]})
    assert told.startswith("$A_KEY, $B not set on node(s) 10.0.0.1, 10.0.0.2; set it")


def test_a_value_given_to_env_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--env takes the name") as caught:
        submit("webr", webr(tmp_path), address="http://127.0.0.1:1", env=["A_KEY=sk-canary"], root=tmp_path)
    assert "sk-canary" not in str(caught.value) and "values are never sent" in str(caught.value)


def test_the_lock_is_exact_and_follows_the_extras(tmp_path: Path) -> None:
    pins, _ = locked([])
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+", pin) for pin in pins) and not any(pin.startswith(("torch==", "s3fs==")) for pin in pins)
    config = webr(tmp_path, run_dir="s3://bucket/run")
    assert extras_of(config) == ["s3"]
    assert extras_of(webr(tmp_path, engines={"main": {"kind": "transformers", "model": "org/model"}})) == ["train"]
    assert not [pin for pin in pip_requirements(webr(tmp_path)) if pin.startswith("ray==")]


@pytest.mark.parametrize("address", ["auto", "head:8265", "ray://head:10001"])
def test_an_address_that_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="write the URL of the cluster's dashboard, such as http://HEAD:8265"):
        connect(address)


@pytest.mark.parametrize(("state", "driver_exit_code", "status", "exit_code"), [
    ("SUCCEEDED", 0, "done", 0), ("FAILED", 1, "failed", 1), ("FAILED", 2, "failed", 2), ("FAILED", 3, "stopped_at_budget", 3),
    ("FAILED", 4, "empty", 4), ("FAILED", -9, "failed", 1), ("FAILED", 137, "failed", 1), ("FAILED", None, "failed", 1),
    ("STOPPED", None, "stopped", 1),
])
def test_the_exit_code_of_a_run_comes_through(state: str, driver_exit_code: int | None, status: str, exit_code: int) -> None:
    details = JobDetails(
        type="SUBMISSION", status=JobStatus(state), entrypoint="", driver_exit_code=driver_exit_code, message="the node died",
    )
    outcome = outcome_of(Job("id", "http://head:8265", "/run", 0), details)
    assert (outcome.status, outcome.exit_code) == (status, exit_code)
    assert ("the node died" in outcome.message) == (state == "FAILED" and driver_exit_code is None)


def test_the_files_of_benchmarks_and_recorded_answers_go_along() -> None:
    config = load_config(EvaluateJobConfig, ROOT / "configs" / "evaluate" / "smoke.yaml")
    recorded = config.model_copy(update={"candidates": {"x": CandidateConfig(answers="samples/questions.jsonl")}})
    names = {"samples/benchmarks/ifeval.jsonl", "samples/benchmarks/followbench_style.json", "samples/benchmarks/followbench_example.json"}
    assert set(local_inputs(config, ROOT)) == names
    assert set(local_inputs(recorded, ROOT)) == names | {"samples/questions.jsonl"}
    assert "eval" in extras_of(config), "IFEval's language check"
