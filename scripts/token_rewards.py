"""A page about one pair of a finished training run, token by token: ``python scripts/token_rewards.py RUN [--row ROW_ID] [--out FILE]``.

A pair that the run watched is shown at its evaluations; any other is scored by the trained model and by the one it was trained from.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alignray.errors import AlignrayError
from alignray.report.run_folder import read_run
from alignray.report.token_rewards import PairHistory, watched_pairs, write_token_rewards
from alignray.report.train_figures import beta_of
from alignray.report.train_page import watched_texts
from alignray.train.analysis import chat_of, held_out_pairs, pair_by_id, pair_texts, run_config, score_pair, trained_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run folder of alignray train, on this machine")
    parser.add_argument("--row", metavar="ROW_ID", help="a row of stages/tokens; the first held-out pair where it is left out")
    parser.add_argument("--out", type=Path, metavar="FILE", help="RUN/token-rewards-ROW_ID.html where it is left out")
    args = parser.parse_args()
    try:
        print(write(args.run, args.row, args.out))
    except AlignrayError as err:
        sys.exit(f"error: {err}")


def write(run: str, row_id: str | None, out: Path | None) -> Path:
    """The page's path."""
    config, tokens = run_config(run)
    folder = read_run(run)
    pair = pair_by_id(run, row_id) if row_id else held_out_pairs(run, 1)[1][0]
    known = {one.row_id: one for one in watched_pairs(folder.metrics, watched_texts(folder))}.get(pair.row_id)
    evaluations = known.evaluations if known else [(_last_step(run), score_pair(config, pair, folder=trained_folder(run)))]
    shown = PairHistory(pair.row_id, evaluations, pair_texts(pair, chat_of(config, tokens)))
    facts = [("policy", f"{run}/model"), ("reference", config.model.path), ("objective", config.objective.kind), ("row", pair.row_id)]
    target = out or Path(run) / f"token-rewards-{''.join(c for c in pair.row_id if c.isalnum() or c in '-_')[:40]}.html"
    return write_token_rewards(target, [shown], beta=beta_of(folder), title=f"Pair {pair.row_id[:12]}", facts=facts)


def _last_step(run: str) -> int:
    return max((line["step"] for line in read_run(run).metrics if isinstance(line.get("step"), int)), default=0)


if __name__ == "__main__":
    main()
