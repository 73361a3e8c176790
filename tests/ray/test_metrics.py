"""A real Prometheus, a real Ray with token authentication, a run that is killed and resumed: every panel of the dashboard has data."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from alignray.train.tiny import write_tiny_model
from tests.ray.conftest import ROOT
from tests.ray.heads import Head
from tests.ray.processes import finish, kill_tree, start, wait_for
from tests.ray.run_files import journal_of
from tests.ray.test_kill_and_resume import endpoint
from tests.ray.test_training import settings

NUM_PAGES = 500
RATE_INTERVAL = "15s"
IN_FLIGHT = 2 * 64
NOUNS = "harbour tide ferry lantern market bridge cargo winter storm pilot rope anchor island village captain map journey letter"
CONFIG = """
ingest: {{sources: [{{name: pages, paths: [{pages}], text_column: text}}]}}
engines:
  fake: {{kind: scripted, latency_s: 0.2, max_in_flight: 64, fail_rate: 0.02, refusal_rate: 0.02}}
  paid: {{kind: openai, model: mock, base_url: "{url}", api_key_env: null, max_in_flight: 64, price: {{prompt: 0.5, completion: 2.0}}}}
roles:
  default: {{engine: fake, max_new_tokens: 200}}
  teacher: {{engine: paid, max_new_tokens: 200}}
budget: {{usd: 50}}
analysis: {{embedder: null}}
plan: {{sample_pages: 1}}
runtime: {{block_rows: 64, part_rows: 100}}
"""


def require_prometheus() -> str:
    """Path of Prometheus; skips, or fails with ALIGNRAY_REQUIRE_PROMETHEUS=1."""
    found = shutil.which("prometheus")
    if found is None:
        message = "no prometheus found; apt-get install prometheus"
        if os.environ.get("ALIGNRAY_REQUIRE_PROMETHEUS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    require_prometheus()
    head = Head(2, RAY_metrics_report_interval_ms="1000")
    try:
        yield head
    finally:
        head.close()


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus on loopback that scrapes the cluster by the project's own config."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result vector; an empty one is no data."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=20) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success", answer
        return [row for row in answer["data"]["result"] if row["value"][1] != "NaN"]


@pytest.fixture(scope="module")
def prometheus(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((ROOT / "cluster" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        for discovery in job["file_sd_configs"]:
            discovery["files"] = [path.replace("/tmp/ray/", f"{head.temp_dir}/ray/") for path in discovery["files"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        require_prometheus(), f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 30
            while not _is_ready(url):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            yield Prometheus(url)
        finally:
            process.kill()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
            return True
    except OSError:
        return False


def panels(kind: str = "") -> dict[str, str]:
    """Expression by panel and target, as Grafana would send it: those of a kind, "[gpu]" or "[train]", else those of neither."""
    dashboard = json.loads((ROOT / "cluster" / "grafana" / "alignray.json").read_text())
    return {
        f"{panel['title']}/{target['refId']}":
            target["expr"].replace("$run", "run|other").replace("$__rate_interval", RATE_INTERVAL)
        for panel in dashboard["panels"] for target in panel.get("targets", ())
        if panel["description"].startswith(("[gpu]", "[train]")) == bool(kind) and panel["description"].startswith(kind)
    }


@dataclass(frozen=True)
class Watched:
    """What a killed and resumed run has shown."""

    missing: set[str]
    outcome: dict[str, Any]
    jobs: dict[str, dict[str, Any]]
    progress: list[tuple[str, str]]
    operators: set[str]
    actors: set[str]
    answered_before: int


@pytest.fixture(scope="module")
def watched(head: Head, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder = tmp_path_factory.mktemp("watched")
    pages, config, run_dir = folder / "pages.jsonl", folder / "config.yaml", folder / "run"
    nouns = NOUNS.split()
    pages.write_text("".join(
        json.dumps({"text": " ".join(f"The {nouns[number % 18]} of the {nouns[(number // 18 + place) % 18]} is number {number}."
                                     for place in range(14))}) + "\n" for number in range(NUM_PAGES)
    ))
    found = head.temp_dir / "ray" / "ray_current_cluster"
    wait_for(lambda: found.exists() and bool(found.read_text()), head.process)
    address = found.read_text().strip()
    with endpoint("--latency", "0.2", "--fault-rate", "cut=0.03") as mock:
        config.write_text(CONFIG.format(pages=pages, url=mock.url))
        first = start(config, run_dir, RAY_ADDRESS=address, **head.client_variables)
        wait_for(lambda: run_dir.exists() and len(journal_of(run_dir)) > 300, first)
        first.kill()
        first.wait()
        answered_before = sum("text" in event for event in journal_of(run_dir))
        _submit(head, "-m", "alignray.cli", "webr", str(config), "--run", str(run_dir), "--json")
        missing, operators, actors, progress = dict(panels()), set[str](), set[str](), list[tuple[str, str]]()
        deadline = time.monotonic() + 240
        while (job := json.loads(head.get("/api/jobs/resumed")))["status"] in ("PENDING", "RUNNING"):
            assert time.monotonic() < deadline
            missing = {name: expression for name, expression in missing.items() if not prometheus.query(expression)}
            operators |= {row["metric"]["operator"] for row in prometheus.query("ray_data_output_rows")}
            actors |= {row["metric"]["Name"] for row in prometheus.query('ray_actors{State="ALIVE"}')}
            told = (job["metadata"].get("stage", ""), job["metadata"].get("progress", ""))
            progress += [told] if told not in progress else []
            time.sleep(0.5)
        logs = json.loads(head.get("/api/jobs/resumed/logs"))["logs"]
    assert job["status"] == "SUCCEEDED", logs
    jobs = {job["type"]: job for job in json.loads(head.get("/api/jobs/"))}
    outcome, _ = json.JSONDecoder().raw_decode(logs[logs.index("\n{") + 1 :])
    return Watched(set(missing), outcome, jobs, progress, operators, actors, answered_before)


def _submit(head: Head, *command: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | head.client_variables
    submit = ["job", "submit", "--address", head.address, "--submission-id", "resumed", "--no-wait", "--metadata-json", '{"team": "tides"}']
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *submit, "--", sys.executable, *command],
        check=True, env=environment, stdout=subprocess.DEVNULL, timeout=60,
    )


def test_every_panel_has_data_while_a_run_goes(watched: Watched) -> None:
    assert watched.missing == set()


def test_counters_agree_with_what_the_run_says(watched: Watched, prometheus: Prometheus) -> None:
    time.sleep(2.5)  # one export, one scrape
    rows = {
        (row["metric"]["outcome"], row["metric"].get("reason", "")): float(row["value"][1])
        for row in prometheus.query('sum by (outcome, reason) (max_over_time(ray_alignray_rows_total{stage="rows"}[15m]))')
    }
    assert rows["kept", ""] == watched.outcome["rows"]
    # the worker that read the pages may have ended, and its series with it
    (ingested,) = prometheus.query('sum(max_over_time(ray_alignray_rows_total{stage="pages"}[15m]))')
    assert float(ingested["value"][1]) == NUM_PAGES
    (replayed,) = prometheus.query("sum(ray_alignray_replayed_calls_total)")
    assert 0 < float(replayed["value"][1]) <= watched.answered_before + IN_FLIGHT
    (answered,) = prometheus.query("sum(ray_alignray_answered_calls_total)")
    num_calls = sum(step["calls"] for step in watched.outcome["usage"]["steps"].values())
    # of the killed session what Ray had not exported yet is lost, a second at most; its actor answered some more when we had counted
    assert num_calls - watched.answered_before - IN_FLIGHT <= float(answered["value"][1]) <= num_calls


def test_a_job_s_metadata_say_which_run_it_is_and_how_far(watched: Watched) -> None:
    driver, submission = (watched.jobs[kind]["metadata"] for kind in ("DRIVER", "SUBMISSION"))
    for metadata, session in ((driver, "1"), (submission, "2")):
        assert metadata["run_dir"].endswith("/run")
        assert (metadata["job_name"], metadata["run"], metadata["method"], metadata["session"]) == ("webr run", "run", "webr", session)
    assert submission["team"] == "tides"  # what the user gave stays
    drafts = [progress for stage, progress in watched.progress if stage == "drafts"]
    assert drafts and all(" of " in progress for progress in drafts)
    assert watched.jobs["SUBMISSION"]["status"] == "SUCCEEDED"


def test_operators_and_actors_have_names(watched: Watched) -> None:
    names = {operator.rpartition("_")[0] for operator in watched.operators}
    asking = "ask webr: persona, instruction, response, refine"
    assert {"MapBatches(read pages)", f"MapBatches({asking})", "MapBatches(commit drafts)"} <= names
    assert f"MapWorker(MapBatches({asking}))" in watched.actors
    assert not any("lambda" in name or "Asker" in name for name in names)


def test_every_panel_of_training_has_data_while_a_model_is_trained(
    watched: Watched, head: Head, prometheus: Prometheus, tmp_path: Path,
) -> None:
    config, run_dir = tmp_path / "train.yaml", tmp_path / "other"
    tiny = write_tiny_model(tmp_path / "tiny", hidden_size=32)
    changes = {"epochs": 400, "max_steps": 120, "checkpoint_every_steps": 1000, "eval": {"every_steps": 20, "kl_rows": 4, "watch_rows": 0}}
    config.write_text(yaml.safe_dump(settings(run_dir, tiny, tmp_path / "store", **changes)))
    address = (head.temp_dir / "ray" / "ray_current_cluster").read_text().strip()
    process = start(config, run_dir, method="train", RAY_ADDRESS=address, **head.client_variables)
    missing = panels("[train]")
    assert len(missing) >= 5
    while missing and process.poll() is None:
        missing = {name: expression for name, expression in missing.items() if not prometheus.query(expression)}
        time.sleep(0.3)
    if missing:
        raise AssertionError((missing, finish(process)))
    kill_tree(process)


def test_nobody_gets_in_without_the_token(head: Head) -> None:
    for path in ("/api/jobs/", "/api/v0/actors", "/api/cluster_status"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(head.address + path, timeout=20)
        assert refused.value.code in (401, 403)
    port = int(head.address.rpartition(":")[2])
    sockets = [each.laddr for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    assert {address.ip for address in sockets if address.port == port} == {"127.0.0.1"}
