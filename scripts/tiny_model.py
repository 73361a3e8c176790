"""A tiny random model for configs/train/smoke*.yaml: ``python scripts/tiny_model.py models/tiny``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    from alignray.train.tiny import write_tiny_model
except ModuleNotFoundError as err:
    sys.exit(f"{err.name} is not installed; run pip install 'alignray[train]' (or make setup)")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    print(write_tiny_model(args.folder, hidden_size=args.hidden_size, num_layers=args.layers))
