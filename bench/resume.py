"""Kill -9 and resume: rows lost or doubled, and journaled calls asked again, after seeded kills of the whole process tree.

A run over the sample crawl through a mock endpoint is killed at random moments until one gets through, then compared
with an undisturbed run.

    python bench/resume.py [--quick] [--schedules N] [--seed S]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

SAMPLE = Path(__file__).parents[1] / "samples" / "sample.warc.gz"


@contextlib.contextmanager
def mock_endpoint(latency_s: float) -> Iterator[str]:
    command = [sys.executable, "-m", "alignray.engine.mock_server", "--latency", str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def start(url: str, run_dir: Path) -> subprocess.Popen[str]:
    config = run_dir.with_suffix(".json")
    config.write_text(json.dumps({
        "ingest": {"sources": [{"name": "sample", "paths": [str(SAMPLE)]}]},
        "engines": {"mock": {"kind": "openai", "model": "mock", "base_url": url, "api_key_env": None, "max_in_flight": 4}},
        "roles": {"default": {"engine": "mock", "max_new_tokens": 100}}, "analysis": {"embedder": None},
        "runtime": {"num_cpus": 2, "block_rows": 8, "part_rows": 4},
    }))
    command = [sys.executable, "-m", "alignray.cli", "webr", str(config), "--run", str(run_dir)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_tree(process: subprocess.Popen[str]) -> None:
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(tree[1:], timeout=20)


def rows_of(run_dir: Path) -> list[str]:
    rows: list[dict[str, Any]] = []
    for path in sorted((run_dir / "parts").glob("*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def keys_of(run_dir: Path) -> list[str]:
    lines = [line for path in (run_dir / "calls").glob("*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]
    return [event["key"] for event in map(json.loads, lines) if "key" in event]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one schedule")
    parser.add_argument("--schedules", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, ray {version('ray')}, alignray {version('alignray')}")
    lost = doubled = repeated = kills = 0
    with tempfile.TemporaryDirectory(prefix="alignray-bench-") as name:
        folder = Path(name)
        with mock_endpoint(0.0) as url:
            start(url, folder / "undisturbed").communicate()
        expected = rows_of(folder / "undisturbed")
        for schedule in range(1 if given.quick else given.schedules):
            rng, run_dir = random.Random(f"{given.seed}/{schedule}"), folder / f"run-{schedule}"
            with mock_endpoint(0.2) as url:
                for _ in range(2):
                    process = start(url, run_dir)
                    time.sleep(rng.uniform(4, 14))
                    if process.poll() is None:
                        kill_tree(process)
                        kills += 1
                start(url, run_dir).communicate()
            rows, keys = rows_of(run_dir), keys_of(run_dir)
            lost += len(set(expected) - set(rows))
            doubled += len(rows) - len(set(rows)) + len(set(rows) - set(expected))
            repeated += len(keys) - len(set(keys))
            print(f"schedule {schedule}: {len(rows)} of {len(expected)} rows, {len(keys)} calls, {len(keys) - len(set(keys))} repeated")
    ok = bool(expected) and not (lost or doubled or repeated)
    print(json.dumps({
        "bench": "resume", "ratio": float(ok), "mark": 1.0, "ok": ok, "kills": kills, "rows": len(expected),
        "lost": lost, "doubled": doubled, "repeated_calls": repeated,
    }))


if __name__ == "__main__":
    main()
