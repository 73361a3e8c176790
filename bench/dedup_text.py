# ruff: noqa: E402
"""Text to kept ids: alignray against datasketch and against rensa's own deduplicator, with the exact answer beside them.

Every tool gets the same generated texts (words by Zipf's law, half of them a copy with planted edits), word 5-grams, 128
permutations, threshold 0.7 and one thread, and is timed in CPU seconds from texts to kept ids; the order is then turned
round and each tool's better time counts. datasketch gets our split into bands; rensa wants a divisor of 128 and gets the
next larger one. The exact answer comes from counting shared shingles of all pairs in plain Python.

    python bench/dedup_text.py [--quick] [--num-documents N] [--seed S]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.metadata import version
from itertools import combinations

# before the libraries that read them
for variable in ("RAYON_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
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


def removed_exactly(texts: list[str]) -> set[int]:
    """Rows that have an earlier near-duplicate, from the true Jaccard similarity of all pairs."""
    postings: dict[str, list[int]] = defaultdict(list)
    sets = [shingles(text) for text in texts]
    for row, found in enumerate(sets):
        for shingle in found:
            postings[shingle].append(row)
    shared = Counter(pair for rows in postings.values() if len(rows) > 1 for pair in combinations(rows, 2))
    return {
        later
        for (earlier, later), count in shared.items()
        if count / (len(sets[earlier]) + len(sets[later]) - count) >= CONFIG.threshold
    }


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8,000 documents in place of 50,000")
    parser.add_argument("--num-documents", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    num_documents = args.num_documents or (8_000 if args.quick else 50_000)
    names = ("numpy", "numba", "scipy", "datasketch", "rensa")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names))
    print(f"bands x rows: alignray and datasketch {BANDS}x{ROWS}, rensa {RENSA_BANDS}x{CONFIG.num_perm // RENSA_BANDS}")

    texts = generate(num_documents, args.seed)
    exact = removed_exactly(texts)
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
    recall = {name: len(found & exact) / len(exact) for name, found in removed.items()}
    precision = {name: len(found & exact) / max(1, len(found)) for name, found in removed.items()}
    print(f"{num_documents} documents, {len(exact)} with an earlier near-duplicate; alignray's first call {first_call_s:.2f} s")
    for name, times in seconds.items():
        rate = num_documents / best[name]
        runs = " ".join(f"{run:.2f}" for run in times)
        print(f"{name:11} CPU s: {runs:15} {rate:9,.0f} docs/s  recall {recall[name]:.4f}  precision {precision[name]:.4f}")
    ratio, rensa_ratio = best["datasketch"] / best["alignray"], best["rensa"] / best["alignray"]
    is_met = ratio >= MARK and rensa_ratio >= RENSA_MARK and recall["alignray"] >= RECALL_MARK
    print(json.dumps({
        "bench": "dedup_text", "ratio": round(ratio, 2), "mark": MARK, "ok": is_met,
        "rensa_ratio": round(rensa_ratio, 2), "rensa_mark": RENSA_MARK, "recall": round(recall["alignray"], 5),
        "recall_mark": RECALL_MARK, "precision": round(precision["alignray"], 5), "num_documents": num_documents,
        "docs_per_s": round(num_documents / best["alignray"]),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
