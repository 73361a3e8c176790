"""A base installation: what an extra brings is asked for by name, not by a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; sys.argv = ['alignray', *sys.argv[1:]]; from alignray.cli import main; main()"


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_training_without_torch_says_what_to_install(options: list[str]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "train", "configs/train/smoke.yaml", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "alignray: torch is not installed; run pip install 'alignray[train]' (or make setup)"
