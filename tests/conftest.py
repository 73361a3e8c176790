"""Fixtures that every room's tests may use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# torch's threads wait for each other by spinning: with several tests on few cores they cost more than they bring
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The shared folder of real test data: ALIGNRAY_DATA, else ../shared/data beside the repository.

    Tests that need it are skipped where it is not there, and fail instead under ALIGNRAY_REQUIRE_DATA=1.
    """
    path = Path(os.environ.get("ALIGNRAY_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        message = f"no test data at {path}; set ALIGNRAY_DATA"
        if os.environ.get("ALIGNRAY_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def spec_vectors(data_dir: Path) -> Callable[[str], Any]:
    """Conformance vectors by name, from the folder beside the data."""
    return lambda name: json.loads((data_dir.parent / "spec" / "vectors" / f"{name}.json").read_text())
