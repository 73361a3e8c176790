"""Analyses of a finished preference run (thesis 6.4.2, 6.4.3, Figure 6.2): ``python scripts/analyze_training.py RUN [--rows N]``.

Prints tables, writes RUN/analysis.json and makes the report again, which shows it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import orjson

from alignray.errors import AlignrayError, RecordError
from alignray.objectives import SFTConfig
from alignray.report.html import write_report
from alignray.report.run_folder import write_whole
from alignray.train.analysis import analyze_pairs, held_out_pairs, run_config, trained_folder, write_watched_texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run folder of alignray train, on this machine")
    parser.add_argument("--rows", type=int, default=512, help="held-out pairs to look at (512)")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs of one gradient (8)")
    parser.add_argument("--max-batches", type=int, default=8, help="gradients per third of the pairs (8)")
    args = parser.parse_args()
    try:
        found = analyze(args.run, args.rows, args.batch_size, args.max_batches)
    except AlignrayError as err:
        sys.exit(f"error: {err}")
    write_whole(Path(args.run) / "analysis.json", orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    print_tables(found)
    print(f"\n{write_report(args.run)}")


def analyze(run: str, rows: int, batch_size: int, max_batches: int) -> dict[str, Any]:
    """What analysis.json holds."""
    config, tokens = run_config(run)
    if isinstance(config.objective, SFTConfig):
        raise RecordError(f"{run} was trained on examples; these analyses are for preference pairs")
    split, pairs = held_out_pairs(run, rows)
    if not (Path(run) / "watched.json").exists():
        write_watched_texts(run, config, tokens)
    found = analyze_pairs(config, pairs, trained_folder(run), batch_size=batch_size, max_batches=max_batches)
    return {"split": split, **found}


def print_tables(found: dict[str, Any]) -> None:
    """The same for people."""
    print(f"{found['rows']:,} pairs of the split {found['split']}\n")
    print(f"{'third':<14}{'edit rate':>16}{'pairs':>8}{'margin':>10}{'accuracy':>10}{'gradient':>10}{'trained':>10}")
    for split in found["edit_splits"]:
        rates, norms = split["edit_rate"], split["grad_norm"]
        low, high = f"{rates['low']:.3f}", f"{rates['high']:.3f}"
        shown = "".join(f"{norms[name]['mean']:>10.4g}" if name in norms else f"{'-':>10}" for name in ("untrained", "trained"))
        print(f"{split['name']:<14}{f'{low} to {high}':>16}{split['rows']:>8,}{split['margin']:>10.4g}{split['accuracy']:>10.3f}{shown}")
    for name, sides in found["confidence"].items():
        for side, figures in sides.items():
            places = "  ".join(f"{place['position']}: {place['mean']:.3f} ({place['tokens']:,})" for place in figures["positions"])
            mean = figures["unedited"]["mean"]
            print(f"\nprobability of edited tokens of {side}, {name}, by place in their span\n  {places}")
            print(f"  unedited: {'-' if mean is None else f'{mean:.3f}'} ({figures['unedited']['tokens']:,})")


if __name__ == "__main__":
    main()
