"""Rows per second of the runtime without a model: documents in a JSONL file to committed drafts, all prompt steps.

Each record is read, gets its draws, walks WebR's whole chain (3 or 4 calls to an instant fake model, each journaled
before it is used) and is committed to a part. The rate is what each further row costs, from one size to the next; what
the stage takes to start its actors is printed beside it, and Ray itself is up before the clock starts.

With --raylets N the cluster is a head without CPUs and N raylets of one CPU each, on this machine. The driver's memory is its
resident set, largest during a size less that before it.

    python bench/runtime_rows.py [--quick] [--sizes 1000,10000,100000] [--raylets 3]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import platform
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from alignray.io.run_folder import RunFolder
from alignray.pipelines import webr
from alignray.pipelines.watch import Watch
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
        "webr": {"on_length": "keep"}, "runtime": RUNTIME if engine["kind"] == "scripted" else {"part_rows": 500, "block_rows": 32},
    })
    parts: list[tuple[float, int]] = []
    splits = webr.list_splits(config.ingest)
    with ray_session(config.runtime):
        quiet_data_context()
        folder = RunFolder(config.run_dir)
        run = webr.start_run(config, folder, Watch(Console(quiet=True), folder))
        webr.ingest(run, splits)
        index = webr.page_index(run)
        started = time.perf_counter()
        run.watch.on_part = lambda number: parts.append((time.perf_counter() - started, number))
        webr.draft(run, index, index.everywhere())
        return parts, time.perf_counter() - started


def seconds_for(count: int, folder: Path) -> float:
    """Seconds of the whole ask stage at ``count`` rows, start of its actors and tasks included."""
    pages = folder / f"pages-{count}.jsonl"
    write_pages(pages, count)
    parts, took = draft_pages(pages, folder / f"run-{count}", engine={"kind": "scripted"})
    if (done := sum(number for _, number in parts)) != count:
        raise SystemExit(f"{done} of {count} rows came out")
    return took


@contextlib.contextmanager
def cluster(raylets: int) -> Iterator[str | None]:
    """The address of a head without CPUs with so many raylets; None for 0, a plain local Ray."""
    if not raylets:
        yield None
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(raylets):
            nodes.add_node(num_cpus=1, object_store_memory=1 << 30)
        yield nodes.address
    finally:
        nodes.shutdown()


class DriverMemory:
    """Growth of this process' resident set while it is entered, in bytes."""

    def __enter__(self) -> DriverMemory:
        gc.collect()
        process = psutil.Process()
        self._before = self._peak = process.memory_info().rss
        self._ended = threading.Event()

        def watch() -> None:
            while not self._ended.wait(0.1):
                self._peak = max(self._peak, process.memory_info().rss)

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self._peak - self._before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 rows")
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--raylets", type=int, default=0)
    given = parser.parse_args()
    sizes = [1000, 10_000] if given.quick else [int(size) for size in given.sizes.split(",")]
    print(f"Python {platform.python_version()}, ray {version('ray')}, alignray {version('alignray')}")
    folder = Path(tempfile.mkdtemp(prefix="alignray-bench-"))
    took, grown = {}, {}
    try:
        with cluster(given.raylets) as address, ray_session(RuntimeConfig(address=address)):
            seconds_for(300, folder)  # warm-up: code is imported and compiled
            for size in sizes:
                with DriverMemory() as memory:
                    took[size] = seconds_for(size, folder)
                grown[size] = memory.growth
                print(f"{size:>9,} rows in {took[size]:7.2f} s, start-up included: {size / took[size]:>8,.0f} rows/s; "
                      f"driver grew by {memory.growth / 2**20:.0f} MiB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rates = {}
    for small, large in itertools.pairwise(sizes):
        rates[large] = (large - small) / (took[large] - took[small])
        print(f"from {small:,} to {large:,} rows: {rates[large]:,.0f} rows/s")
    start_up = took[sizes[0]] - sizes[0] / min(rates.values())
    print(f"start-up of the stage: {start_up:.1f} s")
    print(json.dumps({
        "bench": "runtime_rows", "ratio": round(min(rates.values()) / MARK, 3), "mark": 1, "ok": min(rates.values()) >= MARK,
        "rows_per_s": {str(size): round(rate) for size, rate in rates.items()}, "start_up_s": round(start_up, 1),
        "driver_growth_mib": {str(size): round(growth / 2**20) for size, growth in grown.items()}, "raylets": given.raylets,
        "with_start_up": {str(size): round(size / seconds) for size, seconds in took.items()},
    }))


if __name__ == "__main__":
    main()
