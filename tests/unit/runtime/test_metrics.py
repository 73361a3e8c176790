"""Labels stay few whatever a run brings, and telling works without a cluster."""

from __future__ import annotations

import pytest

from alignray.runtime.metrics import COUNTERS, GAUGES, LABEL_CHARS, MAX_VALUES, OTHER, Meter, run_label
from alignray.schema import Completion


def test_a_label_has_at_most_so_many_values() -> None:
    meter = Meter("runs/a")
    values = [meter.bounded("alignray_rows_total", "reason", f"webr/{number}") for number in range(10 * MAX_VALUES)]
    assert values[:MAX_VALUES] == [f"webr/{number}" for number in range(MAX_VALUES)]
    assert set(values[MAX_VALUES:]) == {OTHER}
    assert meter.bounded("alignray_rows_total", "reason", "webr/3") == "webr/3"
    assert meter.bounded("alignray_rows_total", "stage", "webr/999") == "webr/999"  # every label has its own room
    assert len(meter.bounded("alignray_refused_calls_total", "reason", "x" * 1000)) == LABEL_CHARS


@pytest.mark.parametrize(("root", "label"), [
    ("runs/mine", "mine"), ("/data/runs/mine/", "mine"), ("s3://bucket/a/b", "b"), ("", "run"), ("r" * 300, "r" * LABEL_CHARS),
])
def test_the_run_s_label_is_the_last_part_of_its_folder(root: str, label: str) -> None:
    assert run_label(root) == label


def test_names_say_what_prometheus_expects() -> None:
    assert all(name.startswith("alignray_") and name.endswith("_total") for name in COUNTERS)
    assert not any(name.endswith(("_count", "_sum", "_bucket", "total_total")) for name in GAUGES)
    assert not any("run" in keys for _, keys in (*COUNTERS.values(), *GAUGES.values()))


def test_telling_needs_neither_ray_nor_prometheus() -> None:
    meter = Meter("runs/a")
    meter.rows("pages", {"kept": 3, "rejected": 2, "rejected/ingest/optout": 2})
    meter.set("alignray_stage_done", 5, "pages")
    meter.in_flight["fake"] += 1
    meter.answered("author", "fake", Completion("hello", prompt_tokens=3, completion_tokens=0, latency_s=0.1))
    meter.flush()
    meter.flush_if_due()
    with pytest.raises(KeyError):
        meter.set("alignray_rows_total", 1, "pages")
    with pytest.raises(ValueError, match="zip"):
        meter.add("alignray_rows_total", 1, "pages")
        meter.flush()
