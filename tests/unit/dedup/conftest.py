import os
from pathlib import Path

import pytest


@pytest.fixture
def data_dir() -> Path:
    """Folder of the shared real data (``ALIGNRAY_DATA``); skips without it, or fails where ALIGNRAY_REQUIRE_DATA=1."""
    path = Path(os.environ.get("ALIGNRAY_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not path.is_dir():
        message = f"{path}: no such folder; set ALIGNRAY_DATA to the folder of the test data"
        if os.environ.get("ALIGNRAY_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path
