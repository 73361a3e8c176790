"""OpenRLHF 0.11.2 in a venv of its own. `make test-openrlhf` builds it, and then nothing may be skipped."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE_TOKENIZER = Path(__file__).with_name("tiny_tokenizer.py")


@pytest.fixture(scope="session")
def openrlhf_env() -> Path:
    """ALIGNRAY_OPENRLHF_ENV, else where `make test-openrlhf` makes it."""
    path = Path(os.environ.get("ALIGNRAY_OPENRLHF_ENV") or ROOT / ".venv-openrlhf")
    if not (path / "bin" / "python").exists():
        message = f"no OpenRLHF at {path}; run: make test-openrlhf"
        if os.environ.get("ALIGNRAY_REQUIRE_OPENRLHF") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def model_dir(openrlhf_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for a model: a tokenizer of single bytes with a chat template."""
    path = tmp_path_factory.mktemp("a model, with @ in its name")
    subprocess.run([openrlhf_env / "bin" / "python", MAKE_TOKENIZER, path], check=True)
    return path
