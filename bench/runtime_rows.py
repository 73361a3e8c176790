"""Rows per second of the runtime without a model: documents in a JSONL file to committed drafts, all prompt steps.

Each record is read, gets its draws, walks WebR's whole chain (3 or 4 calls to an instant fake model, each journaled
before it is used) and is committed to a part. Measured from the first committed part to the last, and over the whole
stage; Ray itself is up before the clock starts.

    python bench/runtime_rows.py [--quick] [--sizes 1000,10000,100000]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from alignray.io.run_folder import RunFolder
from alignray.pipelines import webr
from alignray.pipelines.webr_config import WebRJobConfig
from alignray.runtime.session import RuntimeConfig, quiet_data_context, ray_session

MARK = 2000
RUNTIME = {"max_actors": 2, "min_actors": 2, "cpus_per_actor": 0.5}
WORDS = ["time", "year", "people", "way", "day", "thing", "woman", "life", "child", "world", "school", "state", "family", "group"]


def write_pages(path: Path, count: int) -> None:
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            text = f"Page {number}. The " + " ".join(rng.choices(WORDS, k=120)) + "."
            file.write(json.dumps({"text": text, "url": f"https://bench.example/{number}"}) + "\n")


def draft_pages(pages: Path, run_dir: Path, *, engine: dict[str, Any]) -> tuple[list[tuple[float, int]], float]:
    """The ask stage over a file of pages: (seconds, rows) of each committed part, and seconds in all."""
    config = WebRJobConfig.model_validate({
        "run_dir": str(run_dir),
        "ingest": {"sources": [{"name": "bench", "paths": [str(pages)]}], "gates": {"languages": []}},
        "engines": {"one": engine}, "roles": {"default": {"engine": "one", "max_new_tokens": 64}},
        "webr": {"on_length": "keep"}, "runtime": RUNTIME if engine["kind"] == "scripted" else {"part_rows": 500},
    })
    parts: list[tuple[float, int]] = []
    splits = webr.list_splits(config.ingest)
    with ray_session(config.runtime):
        quiet_data_context()
        run = webr.start_run(config, RunFolder(config.run_dir), Console(quiet=True))
        webr.ingest(run, splits)
        index = webr.page_index(run)
        started = time.perf_counter()
        run.watch.on_part = lambda number: parts.append((time.perf_counter() - started, number))
        webr.draft(run, index, list(range(len(index.ids))))
        return parts, time.perf_counter() - started


def rows_per_second(count: int, folder: Path) -> tuple[float, float]:
    """(rows/s in steady state, rows/s over the whole ask stage) at ``count`` rows."""
    pages = folder / f"pages-{count}.jsonl"
    write_pages(pages, count)
    parts, took = draft_pages(pages, folder / f"run-{count}", engine={"kind": "scripted"})
    done = sum(number for _, number in parts)
    if done != count:
        raise SystemExit(f"{done} of {count} rows came out")
    first, first_rows = parts[0]
    steady = (done - first_rows) / (parts[-1][0] - first) if len(parts) > 3 else done / took
    return steady, done / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 rows")
    parser.add_argument("--sizes", default="1000,10000,100000")
    given = parser.parse_args()
    sizes = [1000, 10_000] if given.quick else [int(size) for size in given.sizes.split(",")]
    print(f"Python {platform.python_version()}, ray {version('ray')}, alignray {version('alignray')}")
    folder = Path(tempfile.mkdtemp(prefix="alignray-bench-"))
    results = {}
    try:
        with ray_session(RuntimeConfig()):
            rows_per_second(300, folder)  # warm-up: worker processes start, code is imported
            for size in sizes:
                results[size] = rows_per_second(size, folder)
                print(f"{size:>9,} rows: {results[size][0]:>8,.0f} rows/s steady, {results[size][1]:>8,.0f} rows/s with start-up")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    steady = [results[size][0] for size in sizes if size > 1000] or [results[sizes[-1]][0]]
    slowest = min(steady)
    print(json.dumps({
        "bench": "runtime_rows", "ratio": round(slowest / MARK, 3), "mark": 1, "ok": slowest >= MARK,
        "rows_per_s": {str(size): [round(value) for value in pair] for size, pair in results.items()},
    }))


if __name__ == "__main__":
    main()
