"""``alignray dedup`` for real: formats, real near-duplicates, two runs one after the other, and kills in the middle of the join."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import pytest
from rich.console import Console

from alignray.errors import ConfigError, RecordError
from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.pipelines.dedup import Outcome, deduplicate
from alignray.pipelines.dedup_config import DedupJobConfig
from tests.ray.processes import finish, kill_tree, start, wait_for
from tests.ray.run_files import rows_of

MANY_TASKS = {
    "group_rows": 300, "exact_rows": 1000, "range_records": 800, "range_pairs": 150, "range_shingles": 20000, "small_rows": 0,
    "small_shingles": 0,
}


@pytest.fixture
def run_dedup(local_ray: None) -> Callable[..., Outcome]:
    def run(run_dir: Path, paths: list[str], *, input_: dict[str, Any] | None = None, **changes: Any) -> Outcome:
        config = DedupJobConfig.model_validate({"run_dir": str(run_dir), "input": {"paths": paths, **(input_ or {})}, **changes})
        return deduplicate(config, console=Console(quiet=True))

    return run


def texts_of(num: int) -> list[str]:
    """Every third text is the one before it with a word or two replaced, every seventh a plain copy."""
    rng = np.random.default_rng(0)
    texts: list[str] = []
    for row in range(num):
        words = [f"w{word}" for word in rng.integers(0, 2000, 60)]
        if row % 3 == 2:
            words = texts[-1].split()
            words[rng.integers(0, len(words))] = "other"
        texts.append(texts[-1] if row % 7 == 6 else " ".join(words))
    return texts


def kept_ids(run_dir: Path) -> list[str]:
    return sorted(str(row["id"]) for row in rows_of(run_dir))


def test_parquet_rows_come_out_whole_and_every_other_row_is_accounted_for(tmp_path: Path, run_dedup: Callable[..., Outcome]) -> None:
    texts = [*texts_of(300), "", None, "?!"]
    table = pa.table({
        "id": [f"{row:04d}" for row in range(303)], "note": [[row, row] for row in range(303)], "body": texts,
        "stars": [float(row) for row in range(303)],
    })
    pq.write_table(table.slice(0, 150), tmp_path / "a.parquet", row_group_size=40)
    pq.write_table(table.slice(150), tmp_path / "b.parquet")
    outcome = run_dedup(
        tmp_path / "run", [str(tmp_path / "*.parquet")],
        input_={"text_columns": ["body"], "id_column": "id", "score_column": "stars", "split_bytes": 4000},
    )
    rejects = rows_of(tmp_path / "run", "rejects")
    assert outcome.rows == 303 == outcome.kept + len(rejects)
    assert Counter(row["reason"] for row in rejects) == {name.removeprefix("dedup/"): count for name, count in outcome.rejected.items()}
    assert outcome.rejected["dedup/empty_text"] == 2 and outcome.rejected["dedup/missing_column"] == 1
    assert outcome.rejected["dedup/exact_duplicate"] > 20 and outcome.rejected["dedup/near_duplicate"] > 60
    kept = rows_of(tmp_path / "run")
    by_id = {row["id"]: row for row in table.to_pylist()}
    assert all(by_id[row["id"]] == row for row in kept)
    # the best score stays: every reject names a keeper with a greater one
    for reject in rejects:
        if reject["reason"].endswith("duplicate"):
            detail = json.loads(reject["detail"])
            assert by_id[detail["keeper"]]["stars"] > by_id[reject["row_id"]]["stars"] and detail["file"].startswith(str(tmp_path))
    assert Path(outcome.report).exists()


def test_json_lines_come_out_as_they_were_and_bad_lines_are_rejects(tmp_path: Path, run_dedup: Callable[..., Outcome]) -> None:
    lines = [json.dumps({"q": text, "nested": {"row": row}}) for row, text in enumerate(texts_of(60))]
    lines[10] = '{"q": broken'
    lines[20] = '[1, 2]'
    lines[30] = '{"q": 5}'
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    outcome = run_dedup(tmp_path / "run", [str(tmp_path / "a.jsonl.gz")], input_={"text_columns": ["q"]})
    written = [line for path in (tmp_path / "run" / "parts").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(written) == outcome.kept and set(written) <= set(lines)
    assert outcome.rejected["dedup/bad_row"] == 3
    assert outcome.rows == 60 == outcome.kept + sum(outcome.rejected.values())


def test_real_near_duplicates_are_found_and_only_they(tmp_path: Path, data_dir: Path, run_dedup: Callable[..., Outcome]) -> None:
    truth = json.loads((data_dir / "neardup" / "articles_1000.truth.json").read_text())
    run_dedup(
        tmp_path / "run", [str(data_dir / "neardup" / "articles_1000.jsonl.gz")], input_={"id_column": "id"},
        minhash={"n": 3, "threshold": 0.5}, limits=MANY_TASKS,
    )
    detail = {row["row_id"]: json.loads(row["detail"])["keeper"] for row in rows_of(tmp_path / "run", "rejects")}
    assert {frozenset(pair) for pair in detail.items()} == {frozenset(pair) for pair in truth}


def test_token_ids_are_compared_as_they_are(tmp_path: Path, run_dedup: Callable[..., Outcome]) -> None:
    rows = [{"ids": list(range(100))}, {"ids": [*range(99), 500]}, {"ids": list(range(300, 400))}, {"ids": ["x"]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    outcome = run_dedup(tmp_path / "run", [str(tmp_path / "a.jsonl")], input_={"text_columns": ["ids"]}, minhash={"unit": "token_id"})
    assert outcome.kept == 2 and outcome.rejected == {"dedup/near_duplicate": 1, "dedup/bad_row": 1}


def test_benchmark_items_are_reported_and_go_only_when_asked(tmp_path: Path, data_dir: Path, run_dedup: Callable[..., Outcome]) -> None:
    item = json.loads((data_dir / "ifeval" / "input_data.jsonl").read_text().splitlines()[3])["prompt"]
    rows = [*texts_of(9), f"Here is what I was asked today. {item} That was all."]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in rows))
    benchmark = {"name": "ifeval", "paths": [str(data_dir / "ifeval" / "input_data.jsonl")], "text_fields": ["prompt"], "id_field": "key"}
    kept = []
    for action in ("report", "drop"):
        outcome = run_dedup(
            tmp_path / action, [str(tmp_path / "a.jsonl")], decontamination={"benchmarks": [benchmark], "action": action},
        )
        kept.append(outcome.kept)
        hits = rows_of(tmp_path / action, "hits")
        assert outcome.contaminated == {"ifeval": 1}
        assert any(hit["matched"] in rows[-1] and len(hit["matched"].split()) >= 13 for hit in hits)
    assert outcome.rejected["dedup/contaminated"] == 1 and kept[1] == kept[0] - 1


def test_a_new_crawl_is_compared_with_an_earlier_run_whose_text_is_gone(tmp_path: Path, run_dedup: Callable[..., Outcome]) -> None:
    texts = texts_of(300)
    for name, rows in (("old", range(0, 150)), ("new", range(150, 300)), ("all", range(300))):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"id": f"{row:04d}", "text": texts[row]}) for row in rows))
    by_id = {"id_column": "id"}
    at_once = run_dedup(tmp_path / "all", [str(tmp_path / "all.jsonl")], input_=by_id)
    old = run_dedup(tmp_path / "first", [str(tmp_path / "old.jsonl")], input_=by_id)
    (tmp_path / "old.jsonl").unlink()
    new = run_dedup(tmp_path / "second", [str(tmp_path / "new.jsonl")], input_=by_id, against=[str(tmp_path / "first")])
    assert old.kept + new.kept - new.retracted == at_once.kept
    assert sum("_duplicate" in name and count for name, count in new.rejected.items()) > 0


def test_what_is_wrong_is_said_before_any_work(tmp_path: Path, run_dedup: Callable[..., Outcome]) -> None:
    pq.write_table(pa.table({"text": ["a b c"]}), tmp_path / "a.parquet")
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(RecordError, match='no column "body"; there are: text'):
        run_dedup(tmp_path / "one", [str(tmp_path / "a.parquet")], input_={"text_columns": ["body"]})
    with pytest.raises(ConfigError, match="dedup reads parquet and jsonl, not json"):
        run_dedup(tmp_path / "two", [str(tmp_path / "b.json")])
    with pytest.raises(pydantic.ValidationError, match="nearest possible recall"):
        run_dedup(tmp_path / "three", [str(tmp_path / "a.parquet")], minhash={"num_perm": 4, "recall": 0.9999, "threshold": 0.3})


# ---- kills


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    texts = texts_of(6000)
    for start_row in range(0, 6000, 1000):
        ids = [f"{row:05d}" for row in range(start_row, start_row + 1000)]
        pq.write_table(pa.table({"id": ids, "text": texts[start_row : start_row + 1000]}), folder / f"{start_row}.parquet")
    config = {"input": {"paths": [str(folder)], "id_column": "id"}, "limits": MANY_TASKS, "runtime": {"num_cpus": 2}}
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def told(many_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``alignray dedup --json`` says of an undisturbed run."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "alignray.cli", "dedup", str(many_rows / "config.yaml"), "--run", str(run_dir), "--json"],
        capture_output=True, text=True, check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def undisturbed(told: dict[str, Any]) -> list[str]:
    kept = kept_ids(Path(told["run_dir"]))
    assert 2000 < len(kept) < 5000
    return kept


def commits_of(run_dir: Path, stage: str) -> int:
    return len(CommitLog(Storage(str(run_dir))).names(f"dedup-{stage}"))


def test_a_driver_killed_in_the_join_resumes_with_the_same_kept_rows(tmp_path: Path, many_rows: Path, undisturbed: list[str]) -> None:
    run_dir = tmp_path / "run"
    for stage in ("pairs", "links"):
        process = start(many_rows / "config.yaml", run_dir, method="dedup")
        wait_for(lambda stage=stage: commits_of(run_dir, stage) >= 3, process)  # type: ignore[misc]
        kill_tree(process)
        assert commits_of(run_dir, stage) >= 3 and not commits_of(run_dir, "clusters-done")
    assert "(resumed)" in finish(start(many_rows / "config.yaml", run_dir, method="dedup"))
    assert kept_ids(run_dir) == undisturbed


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A head without CPUs and two raylets of one CPU each; their processes."""
    env = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    from ray.cluster_utils import Cluster

    before = {key: os.environ.get(key) for key in env}
    os.environ.update(env)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        workers = [nodes.add_node(num_cpus=1, object_store_memory=200 << 20) for _ in range(2)]
        raylets = [psutil.Process(worker.all_processes["raylet"][0].process.pid) for worker in workers]
        yield nodes.address, raylets
    finally:
        nodes.shutdown()
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)


@pytest.mark.slow  # a schedule of tests/chaos kills a raylet, and the test above a driver in this join
def test_a_raylet_killed_in_the_join_changes_no_kept_row(
    tmp_path: Path, many_rows: Path, undisturbed: list[str], cluster: tuple[str, list[psutil.Process]]
) -> None:
    address, raylets = cluster
    run_dir = tmp_path / "run"
    process = start(many_rows / "config.yaml", run_dir, "--set", f"runtime.address={address}", method="dedup")
    wait_for(lambda: commits_of(run_dir, "pairs") >= 3, process)
    raylets[0].kill()
    assert not commits_of(run_dir, "clusters-done")
    finish(process)
    assert kept_ids(run_dir) == undisturbed


def test_the_command_tells_recall_and_exits_zero(told: dict[str, Any]) -> None:
    quality = told["stats"]["quality"]
    assert quality["num_at"] > 100 and quality["recall_low"] <= quality["recall"] <= quality["recall_high"]
    assert not quality["is_missed"] and not told["warnings"]
