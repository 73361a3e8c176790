"""``torchrun -m alignray.train CONFIG.yaml RUN OUT``: the training core alone, without Ray."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from alignray.config import load_config
from alignray.errors import AlignrayError
from alignray.train.config import TrainConfig


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="YAML with the keys of TrainConfig")
    parser.add_argument("run", help="run folder with a token table (alignray train CONFIG --tokens-only)")
    parser.add_argument("out", type=Path, help="folder for checkpoints, metrics.jsonl and model/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config value")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        from alignray.train.local import train_locally

        result = train_locally(load_config(TrainConfig, args.config, overrides=args.set), args.run, args.out)
    except AlignrayError as err:
        sys.stderr.write(f"alignray: {err}\n")
        raise SystemExit(2) from err
    logging.getLogger(__name__).info("%s", result.metrics)


if __name__ == "__main__":
    main()
