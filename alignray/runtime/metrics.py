"""A run's numbers for Prometheus, through Ray: every process adds up its own and hands them over about once a second.

Ray exports them on each node under /metrics, with the prefix ``ray_``. Without a Prometheus that asks they cost the same and go
nowhere. Who tells what: the driver rows and progress, the ledger money, each engine actor its calls.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from ray.util import metrics as ray_metrics

from alignray.schema import Completion

FLUSH_EVERY_S = 1.0
MAX_VALUES = 64
"""Values of one label that one process tells apart; any further one is counted as ``OTHER``."""
OTHER = "other"
LABEL_CHARS = 64
MAX_LATENCIES = 100
"""Latencies handed over at a time, per role and engine: Ray's agent takes them one by one. Quantiles need no more."""
BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)

COUNTERS = {
    "alignray_rows_total": ("Rows that a stage has committed, kept or rejected, and why", ("stage", "outcome", "reason")),
    "alignray_tokens_total": ("Tokens sent (prompt) and generated (completion)", ("role", "engine", "direction")),
    "alignray_cost_usd_total": ("US dollars that answers have cost", ("role", "engine")),
    "alignray_answered_calls_total": ("Calls that brought an answer", ("role", "engine")),
    "alignray_refused_calls_total": ("Calls that failed for good", ("role", "engine", "reason")),
    "alignray_resent_calls_total": ("Sendings repeated after one that may have been billed", ("role", "engine")),
    "alignray_replayed_calls_total": ("Answers taken from the journal of an earlier session", ("role", "engine")),
}
GAUGES = {
    "alignray_calls_in_flight": ("Calls open at this moment", ("engine",)),
    "alignray_spent_usd": ("US dollars that the run has cost, all its sessions together", ()),
    "alignray_budget_left_usd": ("US dollars of budget.usd that are not spent", ()),
    "alignray_budget_left_tokens": ("Tokens of budget.tokens that are not used", ()),
    "alignray_stage_done": ("Records that the stage has done", ("stage",)),
    "alignray_stage_total": ("Records that the stage has to do, where that is known", ("stage",)),
    "alignray_train_loss": ("Loss of the last global batch (train) or of the held-out rows (eval)", ("split",)),
    "alignray_train_margin": ("Reward margin of chosen over rejected, mean over the rows", ("split",)),
    "alignray_train_accuracy": ("Share of rows whose chosen response has the higher reward", ("split",)),
    "alignray_train_tokens_per_s": ("Tokens through the model per second, over all ranks", ("split",)),
    "alignray_train_grad_norm": ("Norm of the gradient before clipping", ("split",)),
    "alignray_train_learning_rate": ("Learning rate of the last step", ("split",)),
}
LATENCY = ("alignray_call_seconds", "Time from asking an engine to its answer, of a sample of calls", ("role", "engine"))

INNER = ("students", "benchmarks")
"""Folders of a run that hold runs of their own."""


def run_label(root: str) -> str:
    """The run's name on every metric: the last part of its folder; of a run inside another one the outer one's name before it."""
    parts = PurePosixPath(root).parts
    if len(parts) > 2 and parts[-2] in INNER:
        return "/".join(parts[-3:])[-LABEL_CHARS:]
    return (PurePosixPath(root).name or "run")[:LABEL_CHARS]


class Meter:
    """What one process has to tell about a run. Not for several threads at once: each has its own."""

    def __init__(self, root: str) -> None:
        self._run = run_label(root)
        self._sums: Counter[tuple[str, ...]] = Counter()
        self._latencies: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.in_flight: Counter[str] = Counter()
        """Open calls by engine; whoever calls counts up and down."""
        self._known: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._instruments: dict[str, ray_metrics.Metric] = {}
        self._flushed_at = 0.0

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add to one of ``COUNTERS``; ``labels`` in the order written there."""
        self._sums[name, *labels] += value  # type: ignore[assignment]

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set one of ``GAUGES`` at once."""
        description, keys = GAUGES[name]
        if name not in self._instruments:
            self._instruments[name] = ray_metrics.Gauge(name, description, ("run", *keys))
        self._instruments[name].set(float(value), self._tags(name, keys, labels))

    def answered(self, role: str, engine: str, answer: Completion) -> None:
        """Count an answer, its tokens, its price and its time."""
        sums = self._sums
        sums["alignray_answered_calls_total", role, engine] += 1
        sums["alignray_tokens_total", role, engine, "prompt"] += answer.prompt_tokens
        sums["alignray_tokens_total", role, engine, "completion"] += answer.completion_tokens
        if answer.cost_usd:
            sums["alignray_cost_usd_total", role, engine] += answer.cost_usd  # type: ignore[assignment]
        latencies = self._latencies[role, engine]
        if len(latencies) < MAX_LATENCIES:
            latencies.append(answer.latency_s)

    def rows(self, stage: str, counts: Mapping[str, int]) -> None:
        """Count a committed part: ``kept``, and ``rejected/STEP/REASON`` for each reason."""
        self.add("alignray_rows_total", counts.get("kept", 0), stage, "kept", "")
        for name, count in counts.items():
            if name.startswith("rejected/"):
                self.add("alignray_rows_total", count, stage, "rejected", name.removeprefix("rejected/"))
        self.flush()

    def flush(self) -> None:
        """Hand everything over to Ray."""
        for (name, *labels), value in self._sums.items():
            description, keys = COUNTERS[name]
            if name not in self._instruments:
                self._instruments[name] = ray_metrics.Counter(name, description, ("run", *keys))
            if value > 0:
                self._instruments[name].inc(value, self._tags(name, keys, labels))
        self._sums.clear()
        name, description, keys = LATENCY
        if self._latencies and name not in self._instruments:
            self._instruments[name] = ray_metrics.Histogram(name, description, list(BUCKETS_S), ("run", *keys))
        for pair, latencies in self._latencies.items():
            tags = self._tags(name, keys, pair)
            for latency in latencies:
                self._instruments[name].observe(latency, tags)
            latencies.clear()
        for engine, count in self.in_flight.items():
            self.set("alignray_calls_in_flight", count, engine)
        self._flushed_at = time.monotonic()

    def flush_if_due(self) -> None:
        """Hand over what there is when a second has passed since the last time."""
        if time.monotonic() - self._flushed_at >= FLUSH_EVERY_S:
            self.flush()

    def _tags(self, name: str, keys: tuple[str, ...], values: tuple[str, ...] | list[str]) -> dict[str, str]:
        tags = {key: self.bounded(name, key, value) for key, value in zip(keys, values, strict=True)}
        return {"run": self._run, **tags}

    def bounded(self, name: str, key: str, value: str) -> str:
        """The label's value, or ``OTHER`` once the metric has told ``MAX_VALUES`` of that label apart."""
        known = self._known[name, key]
        value = value[:LABEL_CHARS]
        if value not in known:
            if len(known) >= MAX_VALUES:
                return OTHER
            known.add(value)
        return value
