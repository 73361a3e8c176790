"""``alignray dedup`` from Parquet files to kept rows at 1e5 to 3e6 short documents: is time linear, does memory stay flat.

Documents are 100 Zipf words; every other one is a copy of the one before it with 0 to 9 words replaced. Each size runs in a
fresh process, as a user would run it. Memory is the proportional set size of every process of the run (driver, Ray's own
processes, workers; shared memory counted once), sampled twice a second. Recall is over the copies whose true Jaccard
similarity reaches the threshold, by their word 5-grams.

    python bench/dedup_scale.py [--quick] [--sizes 100000 300000 1000000 3000000] [--chart FILE.svg]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from alignray.dedup.config import MinHashConfig
from alignray.dedup.shingles import shingle_hashes
from alignray.dedup.signatures import exact_jaccard

FILE_ROWS = 50_000
SECONDS_MARK, ROWS_MARK, GIB_MARK = 180.0, 1_000_000, 4.0
MARKER = "ALIGNRAY_BENCH_RUN"


def generate(folder: Path, num_rows: int, seed: int) -> None:
    """Files of FILE_ROWS documents: id, text."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array(["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 11))) for _ in range(20_000)], object)
    weights = np.cumsum(1 / np.arange(1, len(vocabulary) + 1))
    weights /= weights[-1]
    for start in range(0, num_rows, FILE_ROWS):
        count = min(FILE_ROWS, num_rows - start)
        words = np.searchsorted(weights, rng.random((-(-count // 2), 100), np.float32))
        copies = words.copy()
        for row, num_edits in enumerate(rng.integers(0, 10, len(copies))):
            copies[row, rng.choice(100, num_edits, replace=False)] = rng.integers(0, len(vocabulary), num_edits)
        texts = [" ".join(vocabulary[row]) for pair in zip(words, copies, strict=True) for row in pair][:count]
        ids = [f"{number:010d}" for number in range(start, start + count)]
        pq.write_table(pa.table({"id": ids, "text": texts}), folder / f"{start:010d}.parquet")


class Memory:
    """Peak of a run's processes, found by a variable in their environment."""

    def __init__(self, marker: str) -> None:
        self._entry = f"{MARKER}={marker}".encode()
        self.peak = 0
        self.peak_worker = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            sizes = [size for pid in psutil.pids() if (size := self._size(pid))]
            self.peak = max(self.peak, sum(sizes))
            self.peak_worker = max([self.peak_worker, *sizes])

    def _size(self, pid: int) -> int:
        try:
            if self._entry not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return 0
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return 0


def run(folder: Path, num_rows: int) -> dict[str, float]:
    config = folder / "dedup.yaml"
    config.write_text(json.dumps({"run_dir": str(folder / "run"), "input": {"paths": [str(folder / "input")], "id_column": "id"}}))
    marker = uuid.uuid4().hex
    memory = Memory(marker)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "alignray.cli", "dedup", str(config), "--json"], stdout=subprocess.PIPE, check=True,
        env=os.environ | {MARKER: marker, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    seconds = time.perf_counter() - start
    memory.stop()
    outcome = json.loads(done.stdout)
    recall = recall_of(folder, num_rows)
    quality = outcome["stats"]["quality"]
    stages = json.loads((folder / "run" / "manifest.json").read_bytes())["seconds"]
    print(
        f"{num_rows:>9,} rows: {seconds:6.1f} s ({num_rows / seconds:8,.0f} rows/s; "
        + ", ".join(f"{name} {took:.1f}" for name, took in stages.items())
        + f"), peak {memory.peak / 2**30:.2f} GiB, largest process {memory.peak_worker / 2**30:.2f} GiB, "
        f"kept {outcome['kept']:,}; recall {recall:.4f}, planted pairs found at the threshold "
        f"{quality['found_at']}/{quality['num_at']}, precision {quality['precision']:.3f}",
        flush=True,
    )
    return {"rows": num_rows, "seconds": round(seconds, 1), "peak_gib": round(memory.peak / 2**30, 2), "recall": round(recall, 5)}


def recall_of(folder: Path, num_rows: int) -> float:
    """Share of the copies with a true Jaccard similarity from the threshold on that are gone, or whose original is."""
    config = MinHashConfig()
    parts = (folder / "run" / "parts").glob("*.parquet")
    kept = {row_id for path in parts for row_id in pq.read_table(path, columns=["id"])["id"].to_pylist()}
    due = found = 0
    for path in sorted((folder / "input").glob("*.parquet")):
        table = pq.read_table(path).slice(0, 20_000)
        flat, offsets = shingle_hashes(table["text"].to_pylist(), config)
        pairs = np.arange(len(table) // 2 * 2).reshape(-1, 2)
        ids = table["id"].to_pylist()
        for one, other in pairs[exact_jaccard(flat, offsets, pairs) >= config.threshold]:
            due += 1
            found += not (ids[one] in kept and ids[other] in kept)
    return found / due


def chart(results: list[dict[str, float]], path: Path) -> None:
    """Time and memory against rows on one chart, as an SVG: each axis from 0, so that a straight line is linear and a level one flat."""
    width, height, left, right, top, bottom = 560, 300, 60, 60, 30, 40
    limits = {"rows": max(r["rows"] for r in results), "seconds": max(r["seconds"] for r in results) * 1.05, "peak_gib": GIB_MARK}

    def at(result: dict[str, float], name: str) -> tuple[float, float]:
        x = left + (width - left - right) * result["rows"] / limits["rows"]
        return x, height - bottom - (height - top - bottom) * result[name] / limits[name]

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<path d="M{left} {top}V{height - bottom}H{width - right}V{top}" fill="none" stroke="#888"/>',
        f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">rows</text>',
    ]
    for name, color, title, tick_x, sides in (
        ("seconds", "#0b6e99", "seconds (left)", left - 6, ("end", "start")),
        ("peak_gib", "#b5471b", "peak memory, GiB (right)", width - right + 6, ("start", "end")),
    ):
        places = [at(result, name) for result in results]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<g fill="{color}"><polyline fill="none" stroke="{color}" stroke-width="2" points="{line}"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
        for share in (0, 0.5, 1):
            y = height - bottom - (height - top - bottom) * share + 4
            drawn.append(f'<text x="{tick_x}" y="{y:.0f}" text-anchor="{sides[0]}">{limits[name] * share:.3g}</text>')
        title_x = left if sides[1] == "start" else width - right
        drawn.append(f'<text x="{title_x}" y="{top - 12}" text-anchor="{sides[1]}">{title}</text></g>')
    for result in results[1:]:
        x = at(result, "seconds")[0]
        drawn.append(f'<text x="{x:.0f}" y="{height - bottom + 15}" text-anchor="middle">{result["rows"]:.0e}</text>')
    path.write_text("\n".join([*drawn, "</svg>\n"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50,000 and 100,000 rows")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chart", type=Path)
    args = parser.parse_args()
    sizes = args.sizes or ([50_000, 100_000] if args.quick else [100_000, 300_000, 1_000_000, 3_000_000])
    names = ("ray", "pyarrow", "numpy", "numba")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names) + f", {os.cpu_count()} cores")
    results = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="dedup-scale-") as name:
            folder = Path(name)
            (folder / "input").mkdir()
            generate(folder / "input", size, args.seed)
            results.append(run(folder, size))
    if args.chart:
        chart(results, args.chart)
    # what a further row costs, and what the mark's million would take at that price
    first, last = results[0], results[-1]
    per_row = (last["seconds"] - first["seconds"]) / (last["rows"] - first["rows"])
    at_mark = {result["rows"]: result["seconds"] for result in results}.get(
        ROWS_MARK, first["seconds"] + per_row * (ROWS_MARK - first["rows"])
    )
    steps = [(later["seconds"] - before["seconds"]) / (later["rows"] - before["rows"]) for before, later in itertools.pairwise(results)]
    peak = max(result["peak_gib"] for result in results)
    ratio = min(SECONDS_MARK / at_mark, GIB_MARK / peak)
    is_met = ratio >= 1 and min(result["recall"] for result in results) >= 0.99
    print(json.dumps({
        "bench": "dedup_scale", "ratio": round(ratio, 2), "mark": 1.0, "ok": is_met, "seconds_at_1e6": round(at_mark, 1),
        "peak_gib": peak, "us_per_further_row": [round(step * 1e6, 1) for step in steps], "runs": results,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
