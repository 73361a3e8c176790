"""Token masks of a pair's two answers: ours against the BMC authors' way, on the same ids, one thread.

The authors' trainer runs ``difflib.SequenceMatcher`` over the ids in every forward pass and looks every token up in a list of
stop words. Here both get the responses alone, of about 300 ids with the frequencies of text, in three kinds: a few edits (bridged
pairs), every fifth token, two unlike answers. The ratio is that of the kind on which we gain least among the edited ones. As
quality every mask of ours is compared with the plain table of distances and its stated walk back.

    python bench/masks.py [--quick]
"""

from __future__ import annotations

import argparse
import difflib
import json
import platform
import random
import time
from collections.abc import Callable
from importlib.metadata import version

from alignray.methods.bmc.masks import edited_masks

MARK = 10.0
NUM_IDS, VOCABULARY = 300, 32_000
STOP_IDS = list(range(100, 227))
KINDS = {"few edits": 0.05, "every fifth token": 0.2, "unlike": 1.0}

Pair = tuple[list[int], list[int]]
Masks = tuple[list[int], list[int]]


def pairs_of(share: float, number: int) -> list[Pair]:
    """Pairs whose second answer has ``share`` of its tokens replaced and a third of that dropped."""
    rng = random.Random(0)

    def token() -> int:
        return min(int(rng.paretovariate(0.4)), VOCABULARY) - 1  # about the head and tail of a text's ids

    pairs = []
    for _ in range(number):
        chosen = [token() for _ in range(rng.randint(NUM_IDS - 50, NUM_IDS + 50))]
        rejected = [kept if rng.random() > share else token() for kept in chosen if rng.random() > share / 3]
        pairs.append((chosen, rejected))
    return pairs


def authors_masks(chosen: list[int], rejected: list[int]) -> Masks:
    """What the authors' forward pass does for one pair."""
    chosen_mask, rejected_mask = [0] * len(chosen), [0] * len(rejected)
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, rejected, chosen).get_opcodes():
        if tag in ("replace", "delete"):
            for place in range(i1, i2):
                if rejected[place] not in STOP_IDS:
                    rejected_mask[place] = 1
        if tag in ("replace", "insert"):
            for place in range(j1, j2):
                if chosen[place] not in STOP_IDS:
                    chosen_mask[place] = 1
    return chosen_mask, rejected_mask


def plain_masks(chosen: list[int], rejected: list[int]) -> Masks:
    """The whole table of distances, then the walk back: diagonal, only in chosen, only in rejected."""
    table = [list(range(len(rejected) + 1))]
    for row, token in enumerate(chosen, start=1):
        above, line = table[-1], [row]
        for column, other in enumerate(rejected, start=1):
            line.append(min(above[column - 1] + (token != other), above[column] + 1, line[-1] + 1))
        table.append(line)
    chosen_mask, rejected_mask = [0] * len(chosen), [0] * len(rejected)
    row, column = len(chosen), len(rejected)
    while row or column:
        differ = row > 0 and column > 0 and chosen[row - 1] != rejected[column - 1]
        if row and column and table[row][column] == table[row - 1][column - 1] + differ:
            row, column = row - 1, column - 1
            if differ:
                chosen_mask[row] = rejected_mask[column] = 1
        elif row and table[row][column] == table[row - 1][column] + 1:
            row -= 1
            chosen_mask[row] = 1
        else:
            column -= 1
            rejected_mask[column] = 1
    return chosen_mask, rejected_mask


def seconds_per_pair(masks_of: Callable[[list[int], list[int]], Masks], pairs: list[Pair]) -> float:
    started = time.perf_counter()
    for chosen, rejected in pairs:
        masks_of(chosen, rejected)
    return (time.perf_counter() - started) / len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="400 pairs of each kind in place of 5,000")
    given = parser.parse_args()
    number, num_checked = (400, 20) if given.quick else (5000, 200)
    print(f"Python {platform.python_version()}, numba {version('numba')}; pairs of {NUM_IDS - 50} to {NUM_IDS + 50} ids")
    edited_masks([1, 2], [2, 1])  # compiled, or loaded from disk
    ratios, num_same, num_compared = {}, 0, 0
    for kind, share in KINDS.items():
        pairs = pairs_of(share, number)
        orders = ((edited_masks, authors_masks), (authors_masks, edited_masks))
        times = [{tool: seconds_per_pair(tool, pairs) for tool in order} for order in orders]
        ours, theirs = (min(run[tool] for run in times) for tool in (edited_masks, authors_masks))
        ratios[kind] = theirs / ours
        checked = pairs[:num_checked]
        num_same += sum(edited_masks(*pair) == plain_masks(*pair) for pair in checked)
        num_compared += len(checked)
        print(f"{kind:20} {ours * 1e6:7.1f} us a pair, the authors' way {theirs * 1e6:7.1f} us: {theirs / ours:.1f}x", flush=True)
    ratio = min(ratios["few edits"], ratios["every fifth token"])
    print(json.dumps({
        "bench": "masks", "ratio": round(ratio, 2), "mark": MARK, "ok": ratio >= MARK and num_same == num_compared,
        "same_masks": num_same, "compared": num_compared, "ratios": {kind: round(value, 2) for kind, value in ratios.items()},
    }))


if __name__ == "__main__":
    main()
