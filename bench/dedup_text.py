# ruff: noqa: E402
"""Text to kept ids: alignray against datasketch, rensa's own deduplicator, text-dedup and datatrove, beside the exact answer.

Every tool gets the same generated texts (words by Zipf's law, half of them a copy with planted edits), word 5-grams, 128
permutations, threshold 0.7 and one thread, and is timed in CPU seconds from texts to kept ids; the order is then turned
round and each tool's better time counts. All get our split into bands, but rensa wants a divisor of 128 and gets the next
larger one, and datatrove computes no more hashes than the bands need. The exact answer comes from counting shared
shingles of all pairs in plain Python: recall is the share of the rows that are too many (all but one of each cluster of
near-duplicates) that a tool removes, precision the share of its removals that are such rows, whichever of a cluster stays.

text-dedup and datatrove have a venv of their own (``make bench`` builds them; one that is not there is left out, with the
reason). They are slow and read files, so they get fewer documents, as a JSONL file, and so do we beside them; their
imports and start-up are not timed. datatrove runs with its own word tokeniser (spaCy) and with words split at white space.

All tools then get the shared set of 1,000 articles with 10 planted near-duplicates (ALIGNRAY_DATA names the folder of the
shared data, default ../shared/data).

    python bench/dedup_text.py [--quick] [--num-documents N] [--seed S] [--datatrove-python PYTHON] [--text-dedup-python PYTHON]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

# before the libraries that read them
for variable in ("RAYON_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import rensa
from datasketch import MinHash, MinHashLSH

from alignray.dedup.config import MinHashConfig
from alignray.dedup.near_duplicates import near_duplicates

CONFIG = MinHashConfig()
BANDS, ROWS = CONFIG.split()
RENSA_BANDS = next(bands for bands in range(BANDS, CONFIG.num_perm + 1) if CONFIG.num_perm % bands == 0)
MARK, RENSA_MARK, RECALL_MARK = 10.0, 2.0, 0.995
BENCH = Path(__file__).resolve().parent
PEER_TIMEOUT_S = 900


def generate(num_documents: int, seed: int) -> list[str]:
    """Texts of 60 to 180 Zipf words; each odd one is the even one before it with 0 to 9 words replaced."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array(["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 11))) for _ in range(20_000)])
    weights = 1 / np.arange(1, len(vocabulary) + 1)
    weights /= weights.sum()
    texts: list[str] = []
    while len(texts) < num_documents:
        words = vocabulary[rng.choice(len(vocabulary), rng.integers(60, 181), p=weights)]
        copy = words.copy()
        places = rng.choice(len(copy), rng.integers(0, 10), replace=False)
        copy[places] = vocabulary[rng.choice(len(vocabulary), len(places))]
        texts += [" ".join(words), " ".join(copy)]
    return texts[:num_documents]


def shingles(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[start : start + CONFIG.n]) for start in range(max(1, len(words) - CONFIG.n + 1))}


def exact_clusters(texts: list[str]) -> list[set[int]]:
    """Rows joined by a true Jaccard similarity at or above the threshold, from all pairs that share a shingle."""
    postings: dict[str, list[int]] = defaultdict(list)
    sets = [shingles(text) for text in texts]
    for row, found in enumerate(sets):
        for shingle in found:
            postings[shingle].append(row)
    shared = Counter(pair for rows in postings.values() if len(rows) > 1 for pair in combinations(rows, 2))
    cluster_of: dict[int, set[int]] = {}
    for (one, other), count in shared.items():
        if count / (len(sets[one]) + len(sets[other]) - count) >= CONFIG.threshold:
            joined = cluster_of.get(one, {one}) | cluster_of.get(other, {other})
            cluster_of.update(dict.fromkeys(joined, joined))
    return list({id(cluster): cluster for cluster in cluster_of.values()}.values())


def num_too_many(clusters: list[set[int]]) -> int:
    return sum(len(cluster) - 1 for cluster in clusters)


def quality(removed: set[int], clusters: list[set[int]]) -> tuple[float, float]:
    """(recall, precision) of the removals; which row of a cluster stays is left to the tool."""
    right = sum(min(len(removed & cluster), len(cluster) - 1) for cluster in clusters)
    return right / max(1, num_too_many(clusters)), right / max(1, len(removed))


def removed_by_alignray(texts: list[str]) -> set[int]:
    result = near_duplicates(range(len(texts)), texts, CONFIG)
    return set(np.flatnonzero(~result.keep).tolist())


def removed_by_datasketch(texts: list[str]) -> set[int]:
    """MinHash.bulk, an LSH index, union-find over what the queries return; the least row of a cluster stays."""
    hashes = MinHash.bulk([[shingle.encode() for shingle in shingles(text)] for text in texts], num_perm=CONFIG.num_perm)
    index = MinHashLSH(num_perm=CONFIG.num_perm, params=(BANDS, ROWS))
    parent = list(range(len(texts)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for row, minhash in enumerate(hashes):
        for other in index.query(minhash):
            one, two = sorted((root(row), root(other)))
            parent[two] = one
        index.insert(row, minhash, check_duplication=False)
    return {row for row in range(len(texts)) if root(row) != row}


def removed_by_rensa(texts: list[str]) -> set[int]:
    deduplicator = rensa.RMinHashDeduplicator(CONFIG.threshold, CONFIG.num_perm, True, RENSA_BANDS)
    kept = deduplicator.add_pairs((str(row), list(shingles(text))) for row, text in enumerate(texts))
    return {row for row, is_kept in enumerate(kept) if not is_kept}


TOOLS: dict[str, Callable[[list[str]], set[int]]] = {
    "alignray": removed_by_alignray,
    "datasketch": removed_by_datasketch,
    "rensa": removed_by_rensa,
}


class Peer:
    """A tool in a venv of its own, run by a script of bench/peers with that venv's python."""

    def __init__(self, name: str, script: str, python: str, *, white_space: bool = False) -> None:
        self.name, self.script, self.python, self.white_space = name, script, python, white_space
        self.left_out = "" if python and Path(python).exists() else f"no python of its venv at {python!r}"
        self.version = ""

    def run(self, path: Path) -> tuple[float, set[int]] | None:
        """(CPU seconds, rows removed) of a file of texts; None, with the reason in ``left_out``, where it does not run."""
        if self.left_out:
            return None
        num_rows = path.read_bytes().count(b"\n")
        bands = {"n": CONFIG.n, "num_perm": CONFIG.num_perm, "threshold": CONFIG.threshold, "bands": BANDS, "rows": ROWS}
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        with tempfile.TemporaryDirectory() as folder:
            settings = json.dumps({"path": str(path), "folder": folder, "white_space": self.white_space} | bands)
            command = [str(Path(self.python).absolute()), str(BENCH / "peers" / self.script), settings]
            environment = os.environ | offline | {"HF_HOME": f"{folder}/hf"}
            try:
                found = subprocess.run(
                    command, capture_output=True, text=True, check=True, cwd=folder, env=environment, timeout=PEER_TIMEOUT_S
                )
            except subprocess.CalledProcessError as error:
                self.left_out = "".join(error.stderr.strip().splitlines()[-1:]) or f"exit status {error.returncode}"
                return None
            except (OSError, subprocess.TimeoutExpired) as error:
                self.left_out = str(error)
                return None
        result = json.loads(found.stdout.splitlines()[-1])
        self.version = result["version"]
        return result["seconds"], set(range(num_rows)) - set(result["kept"])


def write_texts(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"id": str(row), "text": text}) + "\n" for row, text in enumerate(texts)))


def alignray_from_file(path: Path) -> tuple[float, set[int]]:
    start = time.process_time()
    with path.open() as lines:
        removed = removed_by_alignray([json.loads(line)["text"] for line in lines])
    return time.process_time() - start, removed


def row_of(name: str, times: list[float], num_documents: int, found: tuple[float, float]) -> str:
    runs = " ".join(f"{run:.2f}" for run in times)
    return f"{name:34} CPU s: {runs:12} {num_documents / min(times):9,.0f} docs/s  recall {found[0]:.4f}  precision {found[1]:.4f}"


def compare_from_file(texts: list[str], peers: list[Peer]) -> dict[str, float]:
    """Prints a row for us and each peer, in both orders; returns how many times faster than each we are."""
    clusters = exact_clusters(texts)
    tools = {"alignray": alignray_from_file} | {peer.name: peer.run for peer in peers}
    times: dict[str, list[float]] = defaultdict(list)
    removed: dict[str, set[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        write_texts(path, texts)
        for order in (list(tools), list(reversed(tools))):
            for name in order:
                if outcome := tools[name](path):
                    times[name].append(outcome[0])
                    removed[name] = outcome[1]
    versions = {peer.name: peer.version for peer in peers}
    print(f"the first {len(texts)} of them as a JSONL file, {num_too_many(clusters)} too many:")
    for name in tools:
        if name in removed:
            label = f"{name} {versions.get(name, '')}".strip()
            print(row_of(label, times[name], len(texts), quality(removed[name], clusters)))
    for peer in peers:
        if peer.left_out:
            print(f"{peer.name} left out: {peer.left_out}")
    return {name: min(found) / min(times["alignray"]) for name, found in times.items()}


def compare_articles(folder: Path, peers: list[Peer]) -> dict[str, tuple[int, int]]:
    """Prints, and returns, each tool's (planted pairs found, other removals) on the shared articles."""
    path = folder / "articles_1000.jsonl.gz"
    if not path.exists():
        print(f"shared articles left out: no {path}")
        return {}
    with gzip.open(path, "rt") as lines:
        articles = {article["id"]: article["text"] for article in map(json.loads, lines)}
    rows, texts = {name: row for row, name in enumerate(articles)}, list(articles.values())
    truth = [{rows[name] for name in pair} for pair in json.loads((folder / "articles_1000.truth.json").read_text())]
    removed = {name: tool(texts) for name, tool in TOOLS.items()}
    removed["exact Jaccard"] = {row for cluster in exact_clusters(texts) for row in sorted(cluster)[1:]}
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "texts.jsonl"
        write_texts(copy, texts)
        removed |= {peer.name: outcome[1] for peer in peers if (outcome := peer.run(copy))}
    print(f"{len(texts)} shared articles, {len(truth)} planted pairs:")
    found = {}
    for name, gone in removed.items():
        num_pairs = sum(bool(gone & pair) for pair in truth)
        found[name] = (num_pairs, len(gone) - num_pairs)
        print(f"{name:34} pairs found {num_pairs:2}  other removals {len(gone) - num_pairs}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8,000 documents in place of 50,000")
    parser.add_argument("--num-documents", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--datatrove-python", default="", help="python of a venv with bench/peers.txt")
    parser.add_argument("--text-dedup-python", default="", help="python, 3.12 or later, of a venv with bench/peers_text_dedup.txt")
    args = parser.parse_args()
    num_documents = args.num_documents or (8_000 if args.quick else 50_000)
    names = ("numpy", "numba", "scipy", "datasketch", "rensa")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names))
    print(f"bands x rows: alignray and datasketch {BANDS}x{ROWS}, rensa {RENSA_BANDS}x{CONFIG.num_perm // RENSA_BANDS}")

    texts = generate(num_documents, args.seed)
    clusters = exact_clusters(texts)
    start = time.perf_counter()
    removed_by_alignray(texts[:10])
    first_call_s = time.perf_counter() - start  # compiles, or loads what an earlier run has compiled

    seconds: dict[str, list[float]] = {name: [] for name in TOOLS}
    removed: dict[str, set[int]] = {}
    for order in (list(TOOLS), list(reversed(TOOLS))):
        for name in order:
            start = time.process_time()
            removed[name] = TOOLS[name](texts)
            seconds[name].append(time.process_time() - start)

    best = {name: min(times) for name, times in seconds.items()}
    found = {name: quality(rows, clusters) for name, rows in removed.items()}
    print(f"{num_documents} documents, {num_too_many(clusters)} too many; alignray's first call {first_call_s:.2f} s")
    for name, times in seconds.items():
        print(row_of(f"{name}{'' if name == 'alignray' else ' ' + version(name)}", times, num_documents, found[name]))
    ratio, rensa_ratio = best["datasketch"] / best["alignray"], best["rensa"] / best["alignray"]
    recall, precision = found["alignray"]

    peers = [
        Peer("text-dedup", "dedup_text_dedup.py", args.text_dedup_python),
        Peer("datatrove", "dedup_datatrove.py", args.datatrove_python),
        Peer("datatrove (white space)", "dedup_datatrove.py", args.datatrove_python, white_space=True),
    ]
    peer_ratios = compare_from_file(texts[: 1_000 if args.quick else 5_000], peers)
    data = Path(os.environ.get("ALIGNRAY_DATA") or BENCH.parent.parent / "shared" / "data")
    articles = compare_articles(data / "neardup", peers)

    same_articles = articles.get("alignray") == articles.get("exact Jaccard")
    is_met = ratio >= MARK and rensa_ratio >= RENSA_MARK and recall >= RECALL_MARK and same_articles
    print(json.dumps({
        "bench": "dedup_text", "ratio": round(ratio, 2), "mark": MARK, "ok": is_met,
        "rensa_ratio": round(rensa_ratio, 2), "rensa_mark": RENSA_MARK, "recall": round(recall, 5),
        "recall_mark": RECALL_MARK, "precision": round(precision, 5), "num_documents": num_documents,
        "docs_per_s": round(num_documents / best["alignray"]),
        "peer_ratios": {peer.name: round(peer_ratios[peer.name], 1) for peer in peers if peer.name in peer_ratios},
        "left_out": {peer.name: peer.left_out for peer in peers if peer.left_out},
        "articles": {name: {"pairs": pairs, "others": others} for name, (pairs, others) in articles.items()},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
