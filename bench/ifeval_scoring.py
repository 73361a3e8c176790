"""IFEval's checks, strict and loose, over a full run of 541 items, one process.

The recorded answers (273 of the official 541 prompts, ALIGNRAY_DATA names the folder of the data) are taken in turn until there are
541. The language models are loaded before the clock starts; how long that takes and the memory it needs are told beside it. The
official evaluator is no package that can be installed, so there is no ratio; as quality every verdict is compared with the recorded
one of the official evaluator. The marks: 541 items within a second of CPU time, all threads together, and at least 99 % of
the verdicts.

    python bench/ifeval_scoring.py [--quick]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path

from alignray.evals.ifeval.checkers import check_loose, check_strict
from alignray.evals.ifeval.instructions import Instruction, read_instructions
from alignray.evals.ifeval.language import detect_language

MARK_PER_S, MARK_AGREEMENT = 541.0, 0.99
NUM_ITEMS = 541
SHORT, LONG = "a short text", "a text with more letters than the small models need, so that no others are asked " * 3


@dataclass(frozen=True)
class Item:
    """A recorded answer, what it was asked to do, and the official verdicts."""

    instructions: tuple[Instruction, ...]
    response: str
    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def read_items(data: Path) -> list[Item]:
    """The recorded answers with their prompts' instructions."""
    with (data / "ifeval" / "input_data.jsonl").open() as lines:
        prompts = {row["key"]: row for row in map(json.loads, lines)}
    items = []
    with gzip.open(data / "ifeval" / "gpt4_responses_with_verdicts.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            instructions = read_instructions(row["instruction_id_list"], prompts[row["key"]]["kwargs"])
            verdicts = (tuple(row[mode]["per_instruction"]) for mode in ("strict", "loose"))
            items.append(Item(instructions, row["response"], *verdicts))
    return items


def agreement(items: Sequence[Item]) -> tuple[int, int]:
    """Verdicts that are the recorded ones, and all verdicts."""
    same, num = 0, 0
    for item in items:
        for ours, theirs in (
            (check_strict(item.instructions, item.response), item.strict), (check_loose(item.instructions, item.response), item.loose),
        ):
            same += sum(mine == other for mine, other in zip(ours, theirs, strict=True))
            num += len(theirs)
    return same, num


def seconds(items: Sequence[Item]) -> tuple[float, float]:
    """CPU time of all threads, and time on the clock."""
    started = time.process_time(), time.perf_counter()
    for item in items:
        check_strict(item.instructions, item.response)
        check_loose(item.instructions, item.response)
    return time.process_time() - started[0], time.perf_counter() - started[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one pass in place of five")
    given = parser.parse_args()
    data = Path(os.environ.get("ALIGNRAY_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    recorded = read_items(data)
    print(f"Python {platform.python_version()}, lingua {version('lingua-language-detector')}; {len(recorded)} recorded answers")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    detect_language(SHORT)
    detect_language(LONG)
    same, num = agreement(recorded)  # loads the models of the languages that occur
    first_s = time.perf_counter() - started
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    items = list(islice(cycle(recorded), NUM_ITEMS))
    best_s, clock_s = min(seconds(items) for _ in range(1 if given.quick else 5))
    per_s = NUM_ITEMS / best_s
    print(f"{same} of {num} verdicts are the official evaluator's; first pass with loading {first_s:.1f} s, {megabytes:.0f} MB")
    print(f"{NUM_ITEMS} items strict and loose: {best_s:.3f} s of CPU time, {per_s:.0f} items/s; {clock_s:.3f} s on the clock", flush=True)
    print(json.dumps({
        "bench": "ifeval_scoring", "items_per_cpu_s": round(per_s, 1), "clock_s": round(clock_s, 3), "mark": MARK_PER_S,
        "ok": per_s >= MARK_PER_S and same >= MARK_AGREEMENT * num, "same_verdicts": same, "compared": num,
        "load_s": round(first_s, 2), "load_mb": round(megabytes),
    }))


if __name__ == "__main__":
    main()
