"""Time to rule-check, read and score FollowBench's 820 English items, one thread, nothing to compare with.

Each round reads the six official files, answers every item with one text (the true one where the file has it, else a made-up one of
about 150 words), gives judged items a verdict in the form that is asked for, then scores all items and summarizes them. Reading and
scoring are timed apart, best of the rounds. ALIGNRAY_DATA names the folder of the shared data, default ../shared/data.

    python bench/followbench_scoring.py [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import platform
import random
import time
from pathlib import Path
from typing import Any

from alignray.evals.benchmark import Benchmark, Summary
from alignray.evals.followbench import FollowBenchConfig, benchmark
from alignray.evals.followbench.config import CATEGORIES
from alignray.evals.followbench.items import Facts
from alignray.evals.followbench.judge import ANSWER, ASK
from alignray.schema import EvalDraft, Reply, ScoredItem

NUM_WORDS = 150
WORDS = ("We", "edit", "activations", "**1.", "of", "the", "films", "actor", "is", "going", "$14", "(A)")


def official_files() -> dict[str, Any]:
    folder = Path(os.environ.get("ALIGNRAY_DATA") or Path(__file__).parents[2] / "shared" / "data") / "followbench"
    return {name: json.loads(gzip.decompress((folder / f"en_{name}_constraints.json.gz").read_bytes())) for name in CATEGORIES}


def answer_of(facts: Facts, rng: random.Random) -> str:
    """The true answer every other time where there is one, else words in sentences and paragraphs."""
    known = facts.gold or (facts.target if facts.rule not in ("", "CONLL2003", "WIKIEVENTS") else "")
    if known and rng.random() < 0.5:
        return known
    words = [rng.choice(WORDS) for _ in range(NUM_WORDS)]
    return " ".join(word + rng.choice(("", "", "", "", "", "", "", "", ".", ".\n\n")) for word in words)


def answered(draft: EvalDraft, rng: random.Random) -> EvalDraft:
    facts = Facts.from_json(draft.facts)
    verdicts = [{"constraint": "c", "reason": "because it says so", "satisfied": rng.random() < 0.7} for _ in range(facts.level)]
    judged = () if facts.rule else (Reply(ASK, json.dumps({"verdicts": verdicts})),)
    return dataclasses.replace(draft, replies=(Reply(ANSWER, answer_of(facts, rng)), *judged))


def score_all(bench: Benchmark, drafts: list[EvalDraft]) -> list[ScoredItem]:
    return [ScoredItem(
        row_id=draft.row_id, candidate="bench", benchmark=draft.benchmark, key=draft.key, group=draft.group, category=draft.category,
        prompt=draft.prompt, facts=draft.facts, replies=draft.replies, scores=bench.score(draft),
    ) for draft in drafts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds in place of 20")
    num_rounds = 3 if parser.parse_args().quick else 20
    files = official_files()
    bench = benchmark(FollowBenchConfig.model_validate({"kind": "followbench", **dict.fromkeys(CATEGORIES, "official")}))
    print(f"Python {platform.python_version()}; {num_rounds} rounds over the official English files", flush=True)
    rng = random.Random(0)
    drafts = [answered(draft, rng) for draft in bench.read(files) if isinstance(draft, EvalDraft)]
    seconds: dict[str, list[float]] = {"read": [], "score": [], "summarize": []}
    summary: Summary | None = None
    for _ in range(num_rounds):
        started = time.perf_counter()
        list(bench.read(files))
        read = time.perf_counter()
        items = score_all(bench, drafts)
        scored = time.perf_counter()
        summary = bench.summarize(items)
        ended = time.perf_counter()
        for name, span in zip(seconds, (read - started, scored - read, ended - scored), strict=True):
            seconds[name].append(span)
    best = {name: min(spans) for name, spans in seconds.items()}
    for name, span in best.items():
        print(f"{name:10} {span * 1e3:7.1f} ms for {len(drafts)} items", flush=True)
    num_figures = len(summary.figures) if summary is not None else 0
    print(json.dumps({
        "bench": "followbench_scoring", "items": len(drafts), "items_per_s": round(len(drafts) / best["score"]),
        "items_per_s_summarized": round(len(drafts) / (best["score"] + best["summarize"])), "figures": num_figures,
        "ms": {name: round(span * 1e3, 2) for name, span in best.items()},
    }))


if __name__ == "__main__":
    main()
