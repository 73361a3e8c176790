"""WebR end to end on a real local Ray with the scripted model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from alignray.engine.scripted import REFUSALS
from alignray.errors import ConfigError, RecordError, ResumeError
from alignray.pipelines.inspect_run import status_of, trace
from alignray.pipelines.webr import Outcome
from tests.ray.conftest import SAMPLE
from tests.ray.run_files import assert_nothing_is_lost, journal_of, rows_of

Run = Callable[..., Outcome]


def test_pages_become_exactly_the_rows_wanted(run_webr: Run, tmp_path: Path) -> None:
    outcome = run_webr(tmp_path / "run", num_rows=18)
    assert outcome.status == "done" and outcome.branches == {"instruction": 12, "response": 6}
    rows = rows_of(tmp_path / "run")
    assert len(rows) == len({row["row_id"] for row in rows}) == 18
    assert Counter(row["branch"] for row in rows) == {"instruction": 12, "response": 6}
    for row in rows:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant") and assistant["content"].strip()
        assert row["url"].startswith("http") and row["digest"] and row["file"] == SAMPLE and row["offset"] > 0
        if row["branch"] == "response":
            assert user["content"] == row["instruction"]
        else:
            assert row["instruction"] in user["content"] and len(user["content"]) > len(row["instruction"]) + 50
    manifest = assert_nothing_is_lost(tmp_path / "run")
    assert manifest["result"]["rows"] == 18
    assert sum(event["ct"] for event in journal_of(tmp_path / "run")) == sum(
        step["completion_tokens"] for step in outcome.usage["steps"].values()
    )


def test_one_block_and_seven_blocks_give_the_same_rows(run_webr: Run, tmp_path: Path) -> None:
    one = {"block_rows": 1000, "part_rows": 1000, "max_actors": 1}
    seven = {"block_rows": 7, "part_rows": 5, "min_actors": 2, "max_actors": 2, "cpus_per_actor": 0.25}
    run_webr(tmp_path / "one", runtime=one)
    run_webr(tmp_path / "seven", runtime=seven)
    assert len(list((tmp_path / "one" / "parts").iterdir())) == 1 < len(list((tmp_path / "seven" / "parts").iterdir()))
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "seven")
    assert rows_of(tmp_path / "one", "rejects") == rows_of(tmp_path / "seven", "rejects")
    assert_nothing_is_lost(tmp_path / "seven")


def test_a_finished_run_asks_nothing_again_and_can_be_extended(run_webr: Run, tmp_path: Path) -> None:
    run_webr(tmp_path / "run", num_rows=6)
    before, calls = rows_of(tmp_path / "run"), len(journal_of(tmp_path / "run"))
    run_webr(tmp_path / "run", num_rows=6)
    assert rows_of(tmp_path / "run") == before and len(journal_of(tmp_path / "run")) == calls
    run_webr(tmp_path / "run", num_rows=15)
    extended = rows_of(tmp_path / "run")
    assert len(extended) == 15 and len(journal_of(tmp_path / "run")) > calls
    run_webr(tmp_path / "fresh", num_rows=15)
    assert {row["row_id"] for row in rows_of(tmp_path / "fresh")} == {row["row_id"] for row in extended}


def test_another_config_is_refused_with_what_changed(run_webr: Run, tmp_path: Path) -> None:
    run_webr(tmp_path / "run", num_rows=3)
    with pytest.raises(ResumeError, match=r"config\.seed: 0 -> 1.*--new-run"):
        run_webr(tmp_path / "run", num_rows=3, seed=1)
    run_webr(tmp_path / "run", num_rows=3, seed=1, new_run=True)
    assert len(rows_of(tmp_path / "run")) == 3 and len(rows_of(tmp_path / "run.old-1")) == 3


def test_missing_rows_are_topped_up_from_further_pages(run_webr: Run, tmp_path: Path) -> None:
    refusing = {"fake": {"kind": "scripted", "refusal_rate": 0.25}}
    outcome = run_webr(tmp_path / "run", num_rows=9, oversample=1.0, engines=refusing)
    assert outcome.rows == 9 and sum(count for name, count in outcome.rejected.items() if "refusal" in name) > 0
    assert_nothing_is_lost(tmp_path / "run")


def test_failed_cut_and_refused_answers_are_counted_and_written(run_webr: Run, tmp_path: Path) -> None:
    engines = {"fake": {"kind": "scripted", "refusal_rate": 0.1, "fail_rate": 0.1, "length_rate": 0.1}}
    outcome = run_webr(tmp_path / "run", engines=engines)
    assert {name.rpartition("/")[2] for name in outcome.rejected} >= {"refusal", "scripted", "cut_at_max_tokens"}
    rejects = [row for row in rows_of(tmp_path / "run", "rejects") if row["reason"] == "refusal"]
    assert rejects and all(any(refusal.startswith(row["raw"]) for refusal in REFUSALS) for row in rejects)
    assert_nothing_is_lost(tmp_path / "run")


@pytest.mark.parametrize(("switches", "branches"), [
    ({"persona": False}, {"instruction", "response"}),
    pytest.param({"refine": False}, {"instruction", "response"}, marks=pytest.mark.slow),
    pytest.param({"part_share": 0.0}, {"instruction", "response"}, marks=pytest.mark.slow),
    pytest.param({"instruction_share": 1.0}, {"instruction"}, marks=pytest.mark.slow),
    ({"instruction_share": 0.0}, {"response"}),
])
def test_each_ablation_is_one_setting(run_webr: Run, tmp_path: Path, switches: dict[str, object], branches: set[str]) -> None:
    outcome = run_webr(tmp_path / "run", num_rows=6, webr=switches)
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 6 and {row["branch"] for row in rows} == branches
    steps = outcome.usage["steps"]
    assert ("webr/persona" in steps) == ("persona" not in switches)
    assert ("webr/refine" in steps) == ("refine" not in switches and "response" in branches)
    if "part_share" in switches:
        assert not any(row["part"] for row in rows)


def test_without_dedup_near_duplicates_stay(run_webr: Run, tmp_path: Path) -> None:
    # answers that repeat the same words over and over are near-duplicates of each other at a threshold near 0
    close = {"n": 1, "threshold": 0.05, "recall": 0.5}
    with_dedup = run_webr(tmp_path / "with", dedup=close)
    without = run_webr(tmp_path / "without", dedup={**close, "enabled": False})
    assert with_dedup.rejected["webr/dedup/near_duplicate"] > 0
    assert "webr/dedup/near_duplicate" not in without.rejected and without.rows > with_dedup.rows
    assert_nothing_is_lost(tmp_path / "with")


def test_sources_are_mixed_by_weight(run_webr: Run, tmp_path: Path) -> None:
    math, web = tmp_path / "math.jsonl", tmp_path / "web.jsonl"
    words = "the quick brown fox jumps over a lazy dog while rain falls on old stone roofs near the quiet harbour town"
    for path, count in ((math, 30), (web, 60)):
        path.write_text("".join(json.dumps({
            "text": f"Page {number} of {path.stem}. " + " ".join([words] * 4), "url": f"https://{path.stem}.example/{number}",
        }) + "\n" for number in range(count)))
    sources = [
        {"name": "math", "paths": [str(math)], "weight": 15}, {"name": "web", "paths": [str(web)], "weight": 85},
    ]
    run_webr(
        tmp_path / "run", num_rows=30, oversample=1.0, ingest={"sources": sources}, dedup={"enabled": False},
        webr={"on_length": "keep"},
    )
    mixed = Counter(row["source"] for row in rows_of(tmp_path / "run"))
    assert mixed == {"web": 26, "math": 4} or mixed == {"web": 25, "math": 5}


def test_input_without_pages_says_why(run_webr: Run, tmp_path: Path) -> None:
    empty = tmp_path / "none.jsonl"
    empty.write_text('{"text": "too short"}\n{"other": 1}\nnot json\n')
    with pytest.raises(RecordError, match=r"no page is left.*too_short 1"):
        run_webr(tmp_path / "run", ingest={"sources": [{"name": "none", "paths": [str(empty)]}]})


def test_a_role_without_an_engine_is_refused_before_anything_starts(run_webr: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"roles\.author\.engine = 'nobody'"):
        run_webr(tmp_path / "run", roles={"default": {"engine": "nobody"}})
    assert not (tmp_path / "run").exists()


def test_status_and_trace_need_only_files(run_webr: Run, tmp_path: Path) -> None:
    run_webr(tmp_path / "run", num_rows=3, analysis={"embedder": "hash", "num_rated": 3})
    status = status_of(str(tmp_path / "run"))
    assert status["status"] == "done" and status["rows"].startswith("3 kept")
    row = rows_of(tmp_path / "run")[0]
    story = trace(str(tmp_path / "run"), row["row_id"])
    assert story["page"]["digest"] == row["digest"] and story["row"]["messages"][1]["content"] == row["messages"][1]["content"]
    steps = [call["step"] for call in story["calls"]]
    assert steps[0] == "webr/persona" and steps[1] == "webr/instruction"
    analysis = json.loads((tmp_path / "run" / "analysis.json").read_text())
    assert analysis["ratings"]["quality"]["scored"] + analysis["ratings"]["quality"]["unscored"] == 3


def test_the_folder_loads_with_datasets(run_webr: Run, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    run_webr(tmp_path / "run", num_rows=6)
    by_folder = datasets.load_dataset(str(tmp_path / "run"), split="train", cache_dir=str(tmp_path / "cache"))
    by_files = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "run" / "parts" / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache"),
    )
    assert len(by_folder) == len(by_files) == 6
    assert by_folder[0]["messages"][0]["role"] == "user"


def test_an_error_of_ours_in_a_task_comes_out_as_itself_and_the_manifest_says_failed(run_webr: Run, tmp_path: Path) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Closed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Closed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        ingest = {
            "sources": [{"name": "gone", "paths": [f"http://127.0.0.1:{server.server_port}/pages.warc.gz"]}],
            "fetch": {"attempts": 2, "backoff_s": 0.01},
        }
        with pytest.raises(RecordError, match=r"127\.0\.0\.1.*503"):
            run_webr(tmp_path / "run", ingest=ingest)
    finally:
        server.shutdown()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed" and "503" in manifest["message"]
