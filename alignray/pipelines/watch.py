"""What a user sees while a run works: one line per stage with rate, tokens and dollars; and metrics.jsonl."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from alignray.errors import StorageError
from alignray.io.run_folder import RunFolder
from alignray.runtime.job_card import tell_job
from alignray.runtime.metrics import Meter

logger = logging.getLogger(__name__)

POLL_S = 0.5
METRIC_EVERY_S, REMOTE_METRIC_EVERY_S = 2.0, 30.0
LINE_EVERY_S = 10.0
JOB_EVERY_S = 5.0
COUNTERS = ("kept", "rejected", "replayed", "calls", "prompt_tokens", "completion_tokens")


def count(number: float) -> str:
    """1,234 or 1.2M: short enough for a progress line."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            scale = {"B": 1e9, "M": 1e6, "k": 1e3}[unit]
            return f"{number / scale:.1f}{unit}"
    return f"{number:,.0f}"


class Watch:
    """Progress on a terminal, or plain lines where there is none."""

    def __init__(self, console: Console, folder: RunFolder) -> None:
        self._console, self._folder = console, folder
        self.seconds: dict[str, float] = {}
        self.on_part: Callable[[int], None] | None = None

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None, snapshot: Callable[[], dict[str, Any]] | None = None) -> Iterator[Callable[[int], None]]:
        """Show a stage while it works; call the yielded function with the number of records done since."""
        started, done = time.monotonic(), [0]
        if snapshot is not None:
            snapshot = _since(snapshot)
        finished = threading.Event()
        with contextlib.ExitStack() as stack:
            progress, task = self._bar(stack, name, total)
            poller = threading.Thread(
                target=self._poll, args=(name, total, done, snapshot, finished, progress, task), name="watch", daemon=True,
            )
            poller.start()

            def advance(number: int) -> None:
                done[0] += number
                if self.on_part is not None:
                    self.on_part(number)

            try:
                yield advance
            finally:
                finished.set()
                poller.join(timeout=10)
                took = time.monotonic() - started
                self.seconds[name] = self.seconds.get(name, 0.0) + took
        self._console.print(
            f"  [green]✓[/] [bold]{name:<11}[/] {self._summary(done[0], snapshot)} [dim]{took:.1f} s[/]",
            highlight=False, soft_wrap=True,
        )

    def _bar(self, stack: contextlib.ExitStack, name: str, total: int | None) -> tuple[Progress | None, TaskID | None]:
        if not self._console.is_terminal:
            return None, None
        progress = stack.enter_context(Progress(
            SpinnerColumn(), TextColumn("[bold]{task.description:<11}"), BarColumn(bar_width=28), MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"), TimeElapsedColumn(), console=self._console, transient=True,
        ))
        return progress, progress.add_task(name, total=total, note="")

    def _poll(
        self, name: str, total: int | None, done: list[int], snapshot: Callable[[], dict[str, Any]] | None,
        finished: threading.Event, progress: Progress | None, task: TaskID | None,
    ) -> None:
        meter = Meter(self._folder.root)
        every = METRIC_EVERY_S if self._folder.storage.is_local else REMOTE_METRIC_EVERY_S
        last_metric = last_line = time.monotonic()
        last_job = 0.0
        while True:
            is_last = finished.wait(POLL_S)
            values = self._values(snapshot)
            shown = int(values.get("kept", 0) + values.get("rejected", 0)) if snapshot else done[0]
            if progress is not None and task is not None:
                progress.update(task, completed=shown, note=_note(values))
            meter.set("alignray_stage_done", shown, name)
            if total is not None:
                meter.set("alignray_stage_total", total, name)
            moment = time.monotonic()
            if is_last or moment - last_metric >= every:
                self._write_metric({
                    "stage": name, "done": shown, "total": total, "calls": values.get("calls", 0),
                    "prompt_tokens": values.get("prompt_tokens", 0), "completion_tokens": values.get("completion_tokens", 0),
                    "usd": values.get("usd_total", 0.0), "in_flight": values.get("in_flight", 0),
                })
                last_metric = moment
            if is_last or moment - last_job >= JOB_EVERY_S:
                tell_job(stage=name, progress=f"{shown:,}{f' of {total:,}' if total else ''}")
                last_job = moment
            if progress is None and not is_last and moment - last_line >= LINE_EVERY_S:
                self._console.print(f"    {name}: {shown:,}{f' of {total:,}' if total else ''} {_note(values)}", highlight=False)
                last_line = moment
            if is_last:
                return

    def _write_metric(self, values: dict[str, Any]) -> None:
        try:
            self._folder.metric(values)
        except StorageError as err:  # as below: rows that cannot be written end the run, a line of metrics does not
            logger.debug("no metric: %s", err)

    def _values(self, snapshot: Callable[[], dict[str, Any]] | None) -> dict[str, Any]:
        if snapshot is None:
            return {}
        try:
            return snapshot()
        except Exception as err:  # the display never ends a run; the run's own calls say what is wrong
            logger.debug("no snapshot: %s", err)
            return {}

    def _summary(self, done: int, snapshot: Callable[[], dict[str, Any]] | None) -> str:
        values = self._values(snapshot)
        if not values:
            return f"{done:,}"
        return f"{int(values.get('kept', 0)):,} kept, {int(values.get('rejected', 0)):,} rejected  [dim]{_note(values)}[/]"


def _since(snapshot: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The snapshot with its counters counted from now on."""
    before = snapshot()

    def later() -> dict[str, Any]:
        values = snapshot()
        return {**values, **{name: values.get(name, 0) - before.get(name, 0) for name in COUNTERS}}

    return later


def _note(values: dict[str, Any]) -> str:
    if not values:
        return ""
    parts = [
        f"{count(values.get('calls', 0))} calls",
        f"{count(values.get('prompt_tokens', 0))} in / {count(values.get('completion_tokens', 0))} out",
        f"${values.get('usd_total', 0.0):.4f}" + (f" of ${values['budget_usd']:g}" if values.get("budget_usd") is not None else ""),
    ]
    if values.get("replayed"):
        parts.insert(1, f"{count(values['replayed'])} replayed")
    return " · ".join(parts)
