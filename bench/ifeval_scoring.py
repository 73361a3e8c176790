"""IFEval's checks, strict and loose, over a full run of 541 items, one process.

The recorded answers (273 of the official 541 prompts, ALIGNRAY_DATA names the folder of the data) are taken in turn until there are
541. The language models are loaded before the clock starts; how long that takes and the memory it needs are told beside it. As
quality every verdict is compared with the recorded one of the official evaluator. The marks: 541 items within a second of CPU time,
all threads together, and at least 99 % of the verdicts.

With ``--authors`` the official evaluator itself runs in a process of its own, on each recorded answer once, and the verdicts are
compared one by one. Timed on both sides: the way from a prompt's instructions as they stand in the file and an answer to verdicts,
strict and loose, CPU seconds, best of the rounds after one that does not count and loads the models; not timed: imports, reading
files. The mark: a tenth of its time, and at least 99 % equal verdicts (its language check is not seeded, so some change from run to run).

    python bench/ifeval_scoring.py [--quick] [--authors FOLDER --authors-python PYTHON]
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from alignray.evals.ifeval.checkers import check_loose, check_strict
from alignray.evals.ifeval.instructions import Instruction, read_instructions
from alignray.evals.ifeval.language import detect_language

MARK, MARK_PER_S, MARK_AGREEMENT = 10.0, 541.0, 0.99
NUM_ITEMS, NUM_SHOWN = 541, 20
SHORT, LONG = "a short text", "a text with more letters than the small models need, so that no others are asked " * 3


@dataclass(frozen=True)
class Item:
    """A recorded answer, what it was asked to do, and the official verdicts."""

    instructions: tuple[Instruction, ...]
    response: str
    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def read_rows(data: Path) -> list[dict[str, Any]]:
    """The recorded answers with their prompts and both kinds of verdicts."""
    with (data / "ifeval" / "input_data.jsonl").open() as lines:
        prompts = {row["key"]: row for row in map(json.loads, lines)}
    with gzip.open(data / "ifeval" / "gpt4_responses_with_verdicts.jsonl.gz", "rt") as lines:
        return [prompts[row["key"]] | row for row in map(json.loads, lines)]


def item_of(row: dict[str, Any]) -> Item:
    verdicts = (tuple(row[mode]["per_instruction"]) for mode in ("strict", "loose"))
    return Item(read_instructions(row["instruction_id_list"], row["kwargs"]), row["response"], *verdicts)


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


# ---- beside the official evaluator


def authors_main() -> None:
    """Scores the rows of standard input; runs alone, as ``python -c`` is given its source, and prints one line of JSON."""
    import json
    import sys
    import time

    given = json.load(sys.stdin)
    sys.path.insert(0, given["folder"])
    from instruction_following_eval import evaluation_lib as theirs

    rows = given["rows"]
    inputs = [theirs.InputExample(**{name: row[name] for name in ("key", "instruction_id_list", "prompt", "kwargs")}) for row in rows]
    answers = {row["prompt"]: row["response"] for row in rows}

    def score():
        kinds = (theirs.test_instruction_following_strict, theirs.test_instruction_following_loose)
        return [[kind(asked, answers).follow_instruction_list for kind in kinds] for asked in inputs]

    verdicts, seconds = score(), []
    for _ in range(given["rounds"]):
        started = time.process_time()
        score()
        seconds.append(time.process_time() - started)
    print(json.dumps({"seconds": seconds, "verdicts": verdicts}))


def compare(folder: Path, python: str, rows: Sequence[dict[str, Any]], num_rounds: int) -> dict[str, Any]:
    """Prints how we and the official evaluator do on the same rows, and which verdicts differ; returns what the result line tells."""
    columns = ("key", "prompt", "instruction_id_list", "kwargs", "response")
    sent = [{name: row[name] for name in columns} for row in rows]
    given = {"folder": str(folder.absolute()), "rows": sent, "rounds": num_rounds}
    program = f"{inspect.getsource(authors_main)}\n\nauthors_main()"
    found = subprocess.run([python, "-Bc", program], input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(found.stdout.splitlines()[-1])

    taken = []
    for _ in range(num_rounds):
        started = time.process_time()
        ours = []
        for row in sent:
            asked = read_instructions(row["instruction_id_list"], row["kwargs"])
            ours.append((check_strict(asked, row["response"]), check_loose(asked, row["response"])))
        taken.append(time.process_time() - started)

    lines = [
        (row["key"], name, mode, row[mode]["per_instruction"][place], ours[number][kind][place], result["verdicts"][number][kind][place])
        for number, row in enumerate(rows) for kind, mode in enumerate(("strict", "loose"))
        for place, name in enumerate(row["instruction_id_list"])
    ]
    differing = [line for line in lines if line[4] != line[5]]
    unlike_record = sum(line[3] != line[5] for line in lines)
    mine_s, theirs_s, same = min(taken), min(result["seconds"]), len(lines) - len(differing)
    ratio = theirs_s / mine_s
    print(f"{len(rows)} answers strict and loose: ours {mine_s:.3f} s of CPU time, the official evaluator {theirs_s:.3f} s")
    print(f"its time over ours {ratio:.2f}; {same} of {len(lines)} verdicts equal; {unlike_record} of its own are not the recorded ones")
    for key, name, mode, recorded, mine, other in differing[:NUM_SHOWN]:
        print(f"  {key} {name} {mode}: ours {mine}, theirs {other}, recorded {recorded}")
    return {
        "ratio": round(ratio, 2), "same_as_authors": same, "compared_with_authors": len(lines),
        "seconds": {"ours": round(mine_s, 3), "theirs": round(theirs_s, 3)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one pass in place of five")
    parser.add_argument(
        "--authors", type=Path, metavar="FOLDER",
        help="checkout of https://github.com/google-research/google-research; of it the files of instruction_following_eval/ are run",
    )
    parser.add_argument(
        "--authors-python", default=sys.executable, metavar="PYTHON",
        help="python of a venv with absl-py, immutabledict, langdetect and nltk with its data punkt_tab; default: this one",
    )
    given = parser.parse_args()
    if given.authors and not (given.authors / "instruction_following_eval" / "evaluation_lib.py").is_file():
        parser.error(f"{given.authors} has no instruction_following_eval/evaluation_lib.py; name a checkout of google-research")
    num_rounds = 1 if given.quick else 5
    data = Path(os.environ.get("ALIGNRAY_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    rows = read_rows(data)
    recorded = [item_of(row) for row in rows]
    print(f"Python {platform.python_version()}, lingua {version('lingua-language-detector')}; {len(recorded)} recorded answers")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    detect_language(SHORT)
    detect_language(LONG)
    same, num = agreement(recorded)  # loads the models of the languages that occur
    first_s = time.perf_counter() - started
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    items = list(islice(cycle(recorded), NUM_ITEMS))
    best_s, clock_s = min(seconds(items) for _ in range(num_rounds))
    per_s = NUM_ITEMS / best_s
    print(f"{same} of {num} verdicts are the official evaluator's; first pass with loading {first_s:.1f} s, {megabytes:.0f} MB")
    print(f"{NUM_ITEMS} items strict and loose: {best_s:.3f} s of CPU time, {per_s:.0f} items/s; {clock_s:.3f} s on the clock", flush=True)
    compared = compare(given.authors, given.authors_python, rows, num_rounds) if given.authors else {"ratio": None}
    ok = per_s >= MARK_PER_S and same >= MARK_AGREEMENT * num
    if given.authors:
        ok = ok and compared["ratio"] >= MARK and compared["same_as_authors"] >= MARK_AGREEMENT * compared["compared_with_authors"]
    print(json.dumps({
        "bench": "scoring", "benchmark": "ifeval", "mark": MARK, **compared, "ok": ok, "items_per_cpu_s": round(per_s, 1),
        "items_per_cpu_s_mark": MARK_PER_S, "clock_s": round(clock_s, 3), "same_verdicts": same, "compared": num,
        "load_s": round(first_s, 2), "load_mb": round(megabytes),
    }))


if __name__ == "__main__":
    main()
