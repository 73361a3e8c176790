"""Time to rule-check, read and score FollowBench's 820 English items, one thread; on request beside the authors' rules.

Each round reads the six official files, answers every item with one text (the true one where the file has it, else a made-up one of
about 150 words), gives judged items a verdict in the form that is asked for, then scores all items and summarizes them. Reading and
scoring are timed apart, best of the rounds. ALIGNRAY_DATA names the folder of the shared data, default ../shared/data.

With ``--authors`` their rules run in a process of their own on the same answers, and every verdict is compared with that of our
variant "original". Timed on both sides: the calls that turn answer, target and level of the items that they check by rule into
verdicts, CPU seconds, best of the rounds after one that does not count; not timed: imports, reading files, matching answers to items.
Their plots are never drawn, so an empty module stands in for matplotlib. The mark: a tenth of their time, and every verdict theirs.

    python bench/followbench_scoring.py [--quick] [--authors FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import inspect
import json
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from alignray.evals.benchmark import Benchmark, Summary
from alignray.evals.followbench import FollowBenchConfig, benchmark
from alignray.evals.followbench.config import CATEGORIES
from alignray.evals.followbench.figures import rule_verdict
from alignray.evals.followbench.items import Facts
from alignray.evals.followbench.judge import ANSWER, ASK
from alignray.schema import EvalDraft, Reply, ScoredItem

MARK = 10.0
NUM_WORDS = 150
NUM_SHOWN = 20
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


# ---- beside the authors' rules


def authors_main() -> None:
    """Scores the items of standard input; runs alone, as ``python -c`` is given its source, and prints one line of JSON."""
    import json
    import sys
    import time
    import types

    given = json.load(sys.stdin)
    sys.path.insert(0, given["folder"])
    sys.modules |= {name: types.ModuleType(name) for name in ("matplotlib", "matplotlib.pyplot")}
    import rule_based_evaluation as theirs

    def check_example(answer, target, level):
        return theirs.check_match(target.replace("{instruction}\n", ""), answer)

    calls = []
    for item in given["items"]:
        rule = getattr(theirs, f"rule_evaluation_{item['source']}", None)
        if item["category"] == "example":
            calls.append((check_example, (item["answer"], item["target"], item["level"])))
        elif item["category"] == "format" and item["example_id"] in (22, 30):
            calls.append((theirs.rule_evaluation_format, (item["answer"], item["example_id"], item["level"])))
        else:
            calls.append(None if rule is None else (rule, (item["answer"], item["target"], item["level"])))
    checked = [call for call in calls if call is not None]
    verdicts = iter([rule(*of) for rule, of in checked])
    seconds = []
    for _ in range(given["rounds"]):
        started = time.process_time()
        for rule, of in checked:
            rule(*of)
        seconds.append(time.process_time() - started)
    print(json.dumps({"seconds": seconds, "verdicts": [None if call is None else bool(next(verdicts)) for call in calls]}))


def compare(folder: Path, drafts: list[EvalDraft], num_rounds: int) -> dict[str, Any]:
    """Prints how we and the authors' rules do on the same answers, and which verdicts differ; returns what the result line tells."""
    pairs = [(Facts.from_json(draft.facts), draft.replies[0].text) for draft in drafts]
    columns = ("category", "source", "example_id", "level", "target")
    items = [{"answer": answer} | {name: getattr(facts, name) for name in columns} for facts, answer in pairs]
    given = {"folder": str((folder / "code").absolute()), "items": items, "rounds": num_rounds}
    program = f"{inspect.getsource(authors_main)}\n\nauthors_main()"
    found = subprocess.run([sys.executable, "-Bc", program], input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(found.stdout.splitlines()[-1])

    checked = [pair for pair in pairs if pair[0].rule]
    ours = [rule_verdict(*pair, "original").hard if pair[0].rule else None for pair in pairs]
    seconds = []
    for _ in range(num_rounds):
        started = time.process_time()
        for facts, answer in checked:
            _ = rule_verdict(facts, answer, "original").hard
        seconds.append(time.process_time() - started)

    both = [(draft.key, *both) for draft, *both in zip(drafts, ours, result["verdicts"], strict=True) if both != [None, None]]
    differing = [line for line in both if line[1] != line[2]]
    ratio = min(result["seconds"]) / min(seconds)
    print(f"{len(both)} items checked by rule: ours {min(seconds) * 1e3:.2f} ms of CPU time, theirs {min(result['seconds']) * 1e3:.2f} ms")
    print(f"theirs over ours {ratio:.2f}; {len(both) - len(differing)} of {len(both)} verdicts equal, {sum(map(bool, ours))} times passed")
    for key, mine, other in differing[:NUM_SHOWN]:
        print(f"  {key}: ours {mine}, theirs {other}")
    return {
        "ratio": round(ratio, 2), "ok": ratio >= MARK and not differing, "compared": len(both), "same_verdicts": len(both) - len(differing),
        "rule_ms": {"ours": round(min(seconds) * 1e3, 2), "theirs": round(min(result["seconds"]) * 1e3, 2)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds in place of 20")
    parser.add_argument(
        "--authors", type=Path, metavar="FOLDER",
        help="checkout of https://github.com/YJiangcm/FollowBench; of it code/rule_based_evaluation.py and code/utils.py are run",
    )
    args = parser.parse_args()
    if args.authors and not (args.authors / "code" / "rule_based_evaluation.py").is_file():
        parser.error(f"{args.authors} has no code/rule_based_evaluation.py; name a checkout of YJiangcm/FollowBench")
    num_rounds = 3 if args.quick else 20
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
    compared = compare(args.authors, drafts, num_rounds) if args.authors else {"ratio": None, "ok": None}
    print(json.dumps({
        "bench": "scoring", "benchmark": "followbench", "mark": MARK, **compared, "items": len(drafts),
        "items_per_s": round(len(drafts) / best["score"]),
        "items_per_s_summarized": round(len(drafts) / (best["score"] + best["summarize"])), "figures": num_figures,
        "ms": {name: round(span * 1e3, 2) for name, span in best.items()},
    }))


if __name__ == "__main__":
    main()
