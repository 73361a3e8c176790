"""WARC to text: alignray's whole ingest against datatrove's WarcReader and Trafilatura, and against the barest loop there is.

All read the same file: records of a few real crawls, repeated under new record ids until it is long enough. "bare" is
fastwarc and resiliparse with nothing around them: no damage handling, digests, opt-outs, language, length or accounting.
Ours runs with its default gates for any language. CPU seconds of one thread; then the order is turned round and each
one's best time counts. datatrove, which takes long, is compared once, on one copy of the records.

    python bench/warc_to_text.py [--quick] [--peer-python PYTHON] [--rounds N]

ALIGNRAY_DATA names the folder with the crawls (default ../shared/data). datatrove pins libraries that do not go with
ours, so --peer-python names the python of a venv of its own (datatrove, "trafilatura<1.12", warcio, ...).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastwarc.warc import ArchiveIterator, response
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from alignray.io.gates import GatesConfig
from alignray.io.records import read_split
from alignray.io.sources import IngestConfig, SourceConfig, list_splits
from alignray.schema import WebDocument

CRAWLS = (
    "cc_resiliparse.warc.gz", "cc_dolma_0000.warc.gz", "cc_whirlwind.warc.gz", "iah_blackbook_2008.warc.gz",
    "serp_stackoverflow.warc.gz",
)
RECORD_ID = re.compile(rb"(WARC-Record-ID: <urn:uuid:)[0-9a-fA-F]{8}")
MARK, BARE_MARK = 20.0, 0.8

PEER = """
import json, sys, time
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader
folder, name, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
started, texts = time.process_time(), {}
reader, extractor = WarcReader(folder, glob_pattern=name, limit=limit), Trafilatura(timeout=60)
num_pages = 0
def counted():
    global num_pages
    for document in reader.run():
        num_pages += 1
        yield document
for document in extractor.run(counted()):
    texts[document.id] = document.text
seconds = time.process_time() - started
import resource
seconds += sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
from importlib.metadata import version
json.dump({"seconds": seconds, "num_pages": num_pages, "texts": texts,
           "versions": {name: version(name) for name in ("datatrove", "trafilatura", "warcio")}}, sys.stdout)
"""


def build(crawls: list[Path], path: Path, num_bytes: int = 1) -> None:
    """A .warc.gz of whole copies, at least ``num_bytes`` long, with every record's id its own."""
    members = [member for crawl in crawls for member in split_members(crawl.read_bytes())]
    with path.open("wb") as stream:
        copy = 0
        while stream.tell() < num_bytes:
            for number, member in enumerate(members):
                changed = RECORD_ID.sub(b"\\g<1>%08x" % (copy * len(members) + number), member, count=1)
                stream.write(gzip.compress(changed, 6, mtime=0))
            copy += 1


def split_members(stored: bytes) -> list[bytes]:
    found = []
    while stored:
        decoder = zlib.decompressobj(wbits=31)
        found.append(decoder.decompress(stored))
        stored = decoder.unused_data
    return found


def run_bare(path: Path) -> dict[str, str]:
    texts = {}
    for record in ArchiveIterator(str(path), record_types=response, parse_http=True):
        headers = record.http_headers
        if not headers or headers.status_code not in (None, 200) or "html" not in (record.http_content_type or ""):
            continue
        payload = record.reader.read()
        html = bytes_to_str(payload, detect_encoding(payload, from_html_meta=True))
        texts[record.record_id] = extract_plain_text(html, main_content=True, alt_texts=False)
    return texts


def run_alignray(path: Path, gates: GatesConfig) -> dict[str, str]:
    config = IngestConfig(sources=(SourceConfig(name="bench", paths=(str(path),)),), gates=gates)
    outcomes = (outcome for split in list_splits(config) for outcome in read_split(split, config, Counter()))
    return {outcome.record_id: outcome.text for outcome in outcomes if isinstance(outcome, WebDocument)}


def timed(run: Callable[[], dict[str, str]]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def token_f1(one: str, other: str) -> float:
    """Overlap of two texts as bags of words."""
    left, right = Counter(one.split()), Counter(other.split())
    shared = (left & right).total()
    return 2 * shared / (left.total() + right.total()) if left or right else 1.0


def run_peer(python: str, path: Path) -> dict[str, Any] | None:
    command = [python, "-c", PEER, str(path.parent), path.name, "-1"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        print(f"datatrove did not run: {found.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(found.stdout[found.stdout.index("{") :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small file, under a minute")
    parser.add_argument("--peer-python", default="", help="python of a venv with datatrove; default: this one, if it has it")
    parser.add_argument("--rounds", type=int, default=8, help="rounds, every other one in the other order")
    options = parser.parse_args()
    data = Path(os.environ.get("ALIGNRAY_DATA") or Path(__file__).resolve().parent.parent.parent / "shared" / "data") / "warc"
    versions = {name: version(name) for name in ("fastwarc", "resiliparse")} | {"python": platform.python_version()}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.warc.gz"
        build([data / name for name in CRAWLS], path, (6 if options.quick else 40) << 20)
        any_language = GatesConfig(languages=())
        times: dict[str, list[float]] = {"bare": [], "alignray": []}
        runs = {"bare": lambda: run_bare(path), "alignray": lambda: run_alignray(path, any_language)}
        for round_number in range(options.rounds):
            for name in sorted(runs, reverse=bool(round_number % 2)):
                times[name].append(timed(runs[name]))
        best = {name: min(found) for name, found in times.items()}
        bare, ours = run_bare(path), run_alignray(path, GatesConfig(languages=(), min_chars=1, max_tokens=None))
        shared = bare.keys() & ours.keys()
        same = sum(bare[key].replace("\0", "").strip() == ours[key] for key in shared) / max(1, len(shared))
        f1 = sum(token_f1(bare[key], ours[key]) for key in shared) / max(1, len(shared))
        rates = {name: len(bare) / seconds for name, seconds in best.items()}
        once = Path(folder) / "once.warc.gz"
        build([data / name for name in CRAWLS], once)
        ours_once = min(timed(lambda: run_alignray(once, any_language)) for _ in range(3))
        peer = run_peer(options.peer_python or sys.executable, once)
        own = run_alignray(once, GatesConfig(languages=(), min_chars=1, max_tokens=None))

    ratio = None
    print(f"file: {len(bare)} HTML pages; versions {versions}")
    print(f"bare fastwarc + resiliparse  {rates['bare']:9.0f} pages/s")
    print(f"alignray read_split          {rates['alignray']:9.0f} pages/s")
    print(f"texts equal to bare: {same:.4f} of {len(shared)}, token F1 {f1:.4f}")
    if peer:
        ratio = peer["seconds"] / ours_once
        peer_f1 = [token_f1(text, own[key]) for key, text in peer["texts"].items() if key in own]
        print(f"datatrove WarcReader + Trafilatura {peer['seconds']:.2f} s, alignray {ours_once:.2f} s; {peer['versions']}")
        print(f"token F1 of its texts and ours: {sum(peer_f1) / max(1, len(peer_f1)):.3f} of {len(peer_f1)}")
    bare_ratio = rates["alignray"] / rates["bare"]
    print(json.dumps({
        "bench": "warc_to_text", "ratio": ratio and round(ratio, 2), "mark": MARK,
        "ok": bool(ratio and ratio >= MARK and bare_ratio >= BARE_MARK),
        "bare_ratio": round(bare_ratio, 3), "bare_mark": BARE_MARK, "texts_equal": round(same, 4), "token_f1": round(f1, 4),
        "pages_per_s": {name: round(rate) for name, rate in rates.items()}, "quick": options.quick,
    }))


if __name__ == "__main__":
    main()
