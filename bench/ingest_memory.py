"""A long WARC in steady memory: one process reads all its ranges, one after another, and its resident memory is watched.

The file holds the records of a few real crawls, repeated under new record ids and URLs until it is long enough, one gzip
member each. Memory is sampled every 64 MB of it. What counts is the growth from the end of the warm-up (the first eighth,
at least one range) to the peak behind it; a leak, or anything kept per record, would show as a slope.

    python bench/ingest_memory.py [--quick] [--size-gb 1] [--split-mb 128]

ALIGNRAY_DATA names the folder with the crawls (default ../shared/data).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
from warc_to_text import CRAWLS, RECORD_ID, split_members

from alignray.io.records import read_split
from alignray.io.sources import IngestConfig, list_splits
from alignray.schema import WebDocument

ALLOWED_MB = 64.0
SAMPLE_BYTES = 64_000_000
TARGET_URI = re.compile(rb"(WARC-Target-URI: <?[a-z]+://)")


def build(path: Path, crawls: list[Path], num_bytes: int) -> None:
    members = [member for crawl in crawls for member in split_members(crawl.read_bytes())]
    packed: list[tuple[bytes, bytes]] = []  # the header, and the block deflated once
    for member in members:
        head, _, block = member.partition(b"\r\n\r\n")
        packed.append((head + b"\r\n\r\n", block))
    with path.open("wb") as stream:
        number = 0
        while stream.tell() < num_bytes:
            head, block = packed[number % len(packed)]
            head = RECORD_ID.sub(b"\\g<1>%08x" % number, head, count=1)
            head = TARGET_URI.sub(b"\\g<1>copy%d." % number, head, count=1)
            stream.write(gzip.compress(head + block, 1, mtime=0))
            number += 1


def sampled(path: Path, split_bytes: int) -> Iterator[tuple[int, float, Counter[str]]]:
    """(Bytes read, resident MB, counts) every ``SAMPLE_BYTES`` and at the end."""
    sources = ({"name": "bench", "paths": (str(path),)},)
    config = IngestConfig.model_validate({"sources": sources, "gates": {"languages": ()}, "split_bytes": split_bytes})
    process, counts, due = psutil.Process(), Counter[str](), 0
    for split in list_splits(config):
        for outcome in read_split(split, config, counts):
            counts["documents"] += isinstance(outcome, WebDocument)
            if isinstance(outcome, WebDocument) and outcome.offset >= due:
                due += SAMPLE_BYTES
                yield outcome.offset, process.memory_info().rss / 1e6, counts
    yield path.stat().st_size, process.memory_info().rss / 1e6, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="0.15 GB")
    parser.add_argument("--size-gb", type=float, default=1.0)
    parser.add_argument("--split-mb", type=int, default=0, help="bytes of a range; default 128, with --quick 16")
    options = parser.parse_args()
    data = Path(os.environ.get("ALIGNRAY_DATA") or Path(__file__).resolve().parent.parent.parent / "shared" / "data") / "warc"
    num_bytes = int((0.15 if options.quick else options.size_gb) * 1e9)
    split_bytes = (options.split_mb or (16 if options.quick else 128)) << 20
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.warc.gz"
        build(path, [data / name for name in CRAWLS], num_bytes)
        started, samples = time.perf_counter(), []
        for num_read, resident, counts in sampled(path, split_bytes):
            samples.append((num_read, resident, time.perf_counter() - started))
            print(f"  {num_read / 1e6:7.0f} MB read  {resident:7.1f} MB resident  {counts['documents']:8,} documents", flush=True)
        seconds, size = time.perf_counter() - started, path.stat().st_size
    warm = max(num_bytes / 8, split_bytes)
    curve = [resident for num_read, resident, _ in samples if num_read >= warm] or [samples[-1][1]]
    growth = max(curve) - curve[0]
    peak = max(resident for _, resident, _ in samples)
    quartiles = ", ".join(f"{samples[round(share * (len(samples) - 1))][1]:.0f}" for share in (0.25, 0.5, 0.75))
    rates = f"{counts['records'] / seconds:.0f} records/s, {counts['documents'] / seconds:.0f} documents/s"
    print(f"resident MB: start {samples[0][1]:.0f}, quartiles {quartiles}, peak {peak:.0f}")
    print(f"{rates}, {size / 1e6 / seconds:.1f} MB/s of the file")
    ratio = ALLOWED_MB / max(growth, 0.1)
    print(json.dumps({
        "bench": "ingest_memory", "ratio": round(ratio, 2), "mark": 1, "ok": ratio >= 1,
        "growth_mb": round(growth, 1), "allowed_mb": ALLOWED_MB, "peak_mb": round(peak, 1),
        "size_gb": round(size / 1e9, 3), "ranges": -(-size // split_bytes), "records": counts["records"],
        "documents": counts["documents"], "documents_per_s": round(counts["documents"] / seconds), "quick": options.quick,
    }))


if __name__ == "__main__":
    main()
