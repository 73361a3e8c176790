"""Real kills: a run that loses its driver, an engine actor or its ledger ends with the rows of an undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ray.conftest import SAMPLE
from tests.ray.processes import child_named, endpoint, finish, kill_tree, start, wait_for
from tests.ray.run_files import assert_nothing_is_lost, journal_of, rows_of

CONFIG = """
num_rows: 24
ingest: {{sources: [{{name: sample, paths: [{sample}]}}]}}
engines: {{mock: {{kind: openai, model: mock, base_url: "{url}", api_key_env: null, max_in_flight: 4{engine}}}}}
roles: {{default: {{engine: mock, max_new_tokens: 100}}}}
analysis: {{embedder: null}}
plan: {{sample_pages: 1}}
runtime: {{num_cpus: 2, block_rows: 8, part_rows: 4}}
{more}
"""


def write_config(folder: Path, url: str, *, engine: str = "", more: str = "") -> Path:
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(sample=SAMPLE, url=url, engine=engine, more=more))
    return path


def completions(run_dir: Path) -> list[dict[str, object]]:
    return [event for event in journal_of(run_dir) if "text" in event] if run_dir.exists() else []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    with endpoint() as mock:
        finish(start(write_config(folder, mock.url), folder / "run"))
    return folder / "run"


def assert_like_undisturbed(run_dir: Path, undisturbed: Path) -> None:
    assert rows_of(run_dir) == rows_of(undisturbed)
    assert rows_of(run_dir, "rejects") == rows_of(undisturbed, "rejects")
    assert_nothing_is_lost(run_dir)


def test_a_killed_driver_resumes_without_losing_or_repeating_anything(tmp_path: Path, undisturbed: Path) -> None:
    with endpoint("--latency", "0.15") as mock:
        config, run_dir = write_config(tmp_path, mock.url), tmp_path / "run"
        for calls in (9, 45):
            process = start(config, run_dir)
            wait_for(lambda calls=calls: len(completions(run_dir)) >= calls, process)  # type: ignore[misc]
            kill_tree(process)
        journaled = {event["key"] for event in completions(run_dir)}
        output = finish(start(config, run_dir))
        served = mock.served()
    assert "(resumed)" in output
    assert_like_undisturbed(run_dir, undisturbed)
    all_calls = [event["key"] for event in completions(run_dir)]
    assert len(all_calls) == len(set(all_calls)) and journaled <= set(all_calls)
    # at each kill at most max_in_flight calls were served and not yet written down
    assert len(all_calls) <= served <= len(all_calls) + 2 * 4


@pytest.mark.slow  # the short chaos schedule kills one too
def test_a_killed_engine_actor_costs_nothing(tmp_path: Path, undisturbed: Path) -> None:
    with endpoint("--latency", "0.15") as mock:
        run_dir = tmp_path / "run"
        process = start(write_config(tmp_path, mock.url), run_dir)
        wait_for(lambda: len(completions(run_dir)) >= 20, process)
        actor = child_named(process, "MapWorker")
        assert actor is not None
        actor.kill()
        finish(process)
    assert_like_undisturbed(run_dir, undisturbed)


@pytest.mark.slow  # the short chaos schedule kills one too
def test_a_killed_ledger_costs_nothing(tmp_path: Path, undisturbed: Path) -> None:
    with endpoint("--latency", "0.15") as mock:
        run_dir = tmp_path / "run"
        process = start(write_config(tmp_path, mock.url), run_dir)
        wait_for(lambda: len(completions(run_dir)) >= 20, process)
        ledger = child_named(process, "LedgerState")
        assert ledger is not None
        ledger.kill()
        finish(process)
    assert_like_undisturbed(run_dir, undisturbed)


def test_a_faulty_endpoint_changes_nothing_but_the_time(tmp_path: Path, undisturbed: Path) -> None:
    faults = "429:1,429,500,hang,cut,drop,bad_json,empty_choices,503:1,429:date"
    with endpoint("--faults", faults, "--fault-rate", "500=0.05", "--fault-rate", "429=0.05") as mock:
        config = write_config(tmp_path, mock.url, engine=", timeout_s: 3")
        finish(start(config, tmp_path / "run"))
    assert_like_undisturbed(tmp_path / "run", undisturbed)


def test_an_endpoint_that_is_down_stops_the_run_which_resumes_when_it_is_back(tmp_path: Path, undisturbed: Path) -> None:
    with endpoint("--latency", "0.1") as mock:
        config = write_config(tmp_path, mock.url, engine=", down_after_s: 2")
        process = start(config, tmp_path / "run")
        wait_for(lambda: len(completions(tmp_path / "run")) >= 12, process)
        port = mock.url.split(":")[2].split("/")[0]
        mock.process.kill()
        output = finish(process, code=1)
    assert "run the same command again to go on" in output and f"127.0.0.1:{port}" in output
    with endpoint("--port", port):
        finish(start(config, tmp_path / "run"))
    assert_like_undisturbed(tmp_path / "run", undisturbed)


PRICED = ", price: {prompt: 100, completion: 300}"


def test_a_budget_is_never_passed_even_when_the_driver_is_killed(tmp_path: Path, undisturbed: Path) -> None:
    with endpoint("--latency", "0.05") as mock:
        run_dir = tmp_path / "run"
        config = write_config(tmp_path, mock.url, engine=PRICED, more="budget: {usd: 2.0}")
        process = start(config, run_dir)
        wait_for(lambda: len(completions(run_dir)) >= 6, process)
        kill_tree(process)
        output = finish(start(config, run_dir), code=3)
        assert "stopped at the budget" in output
        served_calls = mock.served()
        spent = sum(float(str(event["usd"])) for event in completions(run_dir))
        manifest = json.loads((run_dir / "manifest.json").read_text())
        usage = manifest["usage"]
        assert usage["usd"] == pytest.approx(spent)
        # what the endpoint charged for calls that were lost with the driver is covered by what was set aside for them
        lost_calls = served_calls - len(completions(run_dir))
        assert 0 <= lost_calls <= 4 and (usage["lost_in_flight_usd"] > 0) == (lost_calls > 0 or usage["lost_in_flight_usd"] > 0)
        assert spent + usage["lost_in_flight_usd"] <= 2.0
        assert manifest["status"] == "stopped_at_budget"
        assert_nothing_is_lost(run_dir)
        finish(start(config, run_dir, "--set", "budget.usd=1000"))
    assert {row["row_id"] for row in rows_of(run_dir)} == {row["row_id"] for row in rows_of(undisturbed)}
    assert [row["messages"] for row in rows_of(run_dir)] == [row["messages"] for row in rows_of(undisturbed)]


def test_nothing_kept_exits_4_and_bad_config_exits_2(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"ingest: {{sources: [{{name: sample, paths: [{SAMPLE}]}}]}}\nengines: {{fake: {{kind: scripted, refusal_rate: 1.0}}}}\n"
        "roles: {default: {engine: fake}}\nanalysis: {embedder: null}\nruntime: {num_cpus: 2}\n"
    )
    finish(start(config, tmp_path / "run"), code=4)
    output = finish(start(config, tmp_path / "other", "--set", "budgt.usd=1"), code=2)
    assert 'unknown key "budgt"' in output and 'did you mean "budget"?' in output
    output = finish(start(config, tmp_path / "run", "--set", "seed=5", "--json"), code=2)
    assert "config.seed" in output
