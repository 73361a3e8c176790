"""New instructions against a pool by ROUGE-L: ours against a ``rouge_score`` loop as the Lion authors run it, one thread each.

The pool is Alpaca's instructions with their inputs (ALIGNRAY_DATA names the folder of the shared data, default ../shared/data),
multiplied to 52,000 by replacing and dropping words. Of the 6,000 new ones half are copies of pool texts with anything from no to
all words replaced, a tenth such copies of earlier new ones, the rest other combinations of the pool's words.

The loop takes hours for all of them, so it gets a random part of the new ones against the whole pool; splitting the pool into words is
not counted for it. Ours gets all of them, and that part alone, and everything is counted: words, pool, and the new ones among
themselves. The ratio is CPU seconds per new text, the loop's over ours on all 6,000; ours runs before and after the loop, the better
time counts. As quality the decisions on the part are compared under both rules (kept below 0.7: thesis, up to 0.7: original), and
the pool's closest text and its F, to the last bit, wherever it is too like.

    python bench/novelty.py [--quick] [--peer-python PYTHON]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import resource
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alignray.dedup.novelty import Match, TooLike, closest, decide, tokens_of

MARK, THRESHOLD = 100.0, 0.7
NUM_POOL, NUM_NEW = 52_000, 6_000
BENCH = Path(__file__).resolve().parent
FILES = ("alpaca_5000.NC.jsonl.gz", "alpaca_en_demo.jsonl.gz")


@dataclass(frozen=True)
class Filtered:
    """What one pass of ours found and took, CPU seconds."""

    closest: list[Match | None]
    decided: list[TooLike | None]
    seconds: float

    @property
    def kept(self) -> list[int]:
        return [row for row, found in enumerate(self.decided) if found is None]


def read_instructions(folder: Path) -> list[str]:
    """Instruction and input, joined by a line break."""
    texts = []
    for name in FILES:
        with gzip.open(folder / name, "rt") as lines:
            texts += ["\n".join(filter(None, (row["instruction"], row["input"]))) for row in map(json.loads, lines)]
    return texts


def make_texts(seeds: list[str], seed: int) -> tuple[list[str], list[str]]:
    """The pool and the new ones."""
    rng = random.Random(seed)
    words = [word for text in seeds for word in text.split()]

    def edited(text: str, share: float) -> str:
        """With a share of the words replaced by others, as frequent as they are, and a third of that dropped."""
        return " ".join(rng.choice(words) if rng.random() < share else word for word in text.split() if rng.random() > share / 3)

    pool = [seeds[row] if row < len(seeds) else edited(seeds[row % len(seeds)], rng.random()) for row in range(NUM_POOL)]
    new: list[str] = []
    for _ in range(NUM_NEW):
        kind = rng.random()
        if kind < 0.5:
            new.append(edited(rng.choice(pool), rng.random()))
        else:
            new.append(edited(rng.choice(new), rng.random()) if kind < 0.6 and new else edited(rng.choice(pool), 1.0))
    rng.shuffle(pool)
    return pool, new


def run_ours(pool: list[str], new: list[str], *, inclusive: bool) -> Filtered:
    started = time.process_time()
    new_words, pool_words = ([tokens_of(text, "original") for text in texts] for texts in (new, pool))
    best = closest(new_words, pool_words, threshold=THRESHOLD, inclusive=inclusive)
    decided = decide(new_words, best, threshold=THRESHOLD, inclusive=inclusive)
    return Filtered(best, decided, time.process_time() - started)


def run_loop(python: str, pool: list[str], new: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps({"pool": pool, "new": new, "threshold": THRESHOLD}))
        done = subprocess.run([python, BENCH / "peers" / "novelty_rouge_score.py", path], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def share_equal(theirs: dict[str, Any], part: dict[str, Filtered]) -> float:
    """Share of the decisions that are the same under both rules, where something is too like the same one at the same F."""
    num_same = num = 0
    for rule, ours in part.items():
        kept = set(theirs["kept"][rule])
        for row, (index, score) in enumerate(theirs["closest"]):
            is_like = score >= THRESHOLD if rule == "thesis" else score > THRESHOLD
            is_same = ours.closest[row] == ((index, score) if is_like else None)
            num_same += is_same and (ours.decided[row] is None) == (row in kept)
            num += 1
    return num_same / num


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 new texts through the loop in place of 60")
    parser.add_argument("--peer-python", default=str(BENCH.parent / ".venv-peers" / "bin" / "python"), help="python that has rouge_score")
    given = parser.parse_args()
    data = Path(os.environ.get("ALIGNRAY_DATA") or BENCH.parent.parent / "shared" / "data") / "instructions"
    seeds = read_instructions(data)
    pool, new = make_texts(seeds, 0)
    num_part = 5 if given.quick else 60
    part = [new[row] for row in sorted(random.Random(1).sample(range(NUM_NEW), num_part))]
    mean_words = sum(len(tokens_of(text, "original")) for text in pool) / len(pool)
    print(f"Python {platform.python_version()}, scipy {version('scipy')}, rapidfuzz {version('rapidfuzz')}")
    print(f"{len(new):,} new against {len(pool):,} made of {len(seeds):,}, {mean_words:.1f} words on average", flush=True)

    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    runs = [run_ours(pool, new, inclusive=True)]
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mib
    theirs = run_loop(given.peer_python, pool, part)
    ours_part = {rule: run_ours(pool, part, inclusive=rule == "thesis") for rule in ("thesis", "original")}
    runs.append(run_ours(pool, new, inclusive=True))

    seconds, part_seconds = min(run.seconds for run in runs), min(run.seconds for run in ours_part.values())
    per_new, their_per_new = seconds / len(new), theirs["seconds"] / len(part)
    ratio, same = their_per_new / per_new, share_equal(theirs, ours_part)
    print(f"rouge_score {theirs['version']} loop: {theirs['seconds']:.1f} s for {len(part)} new ones, {their_per_new:.2f} s each; that is "
          f"{their_per_new * len(new) / 3600:.1f} h for {len(new):,}; words of the pool {theirs['tokenize_seconds']:.1f} s, not counted")
    print(f"ours: {seconds:.2f} s for {len(new):,}, {per_new * 1e3:.2f} ms each, {peak_mib:.0f} MiB above the texts, "
          f"{len(runs[0].kept):,} kept; {part_seconds:.2f} s for the same {len(part)}")
    print(json.dumps({
        "bench": "novelty", "ratio": round(ratio, 1), "mark": MARK, "ok": ratio >= MARK and same == 1.0, "same_decisions": same,
        "compared": 2 * len(part), "kept": {rule: len(run.kept) for rule, run in ours_part.items()}, "part": len(part),
        "ratio_on_part": round(theirs["seconds"] / part_seconds, 1), "seconds": round(seconds, 2), "peak_mib": round(peak_mib),
    }))


if __name__ == "__main__":
    main()
