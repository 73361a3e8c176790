"""How every method's run begins: its folder taken up or started, its failure noted there, Ray connected."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape

from alignray.io.run_folder import RunFolder, failure_noted
from alignray.pipelines.inspect_run import job_facts, run_facts
from alignray.pipelines.watch import Watch
from alignray.runtime.session import RuntimeConfig, native_stderr_to, quiet_data_context, ray_session
from alignray.untrusted import printable


class JobConfig(Protocol):
    """What the configs of all methods have."""

    @property
    def run_dir(self) -> str: ...
    @property
    def runtime(self) -> RuntimeConfig: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


@contextlib.contextmanager
def open_run(
    method: str, config: JobConfig, identity: Mapping[str, Any], *, title: str, new_run: bool, console: Console,
) -> Iterator[tuple[RunFolder, dict[str, Any], Watch]]:
    """The run's folder, its manifest and its display, with Ray connected; folder and manifest are good for afterwards too.

    Raises:
        ResumeError: the folder holds a run of another identity.
    """
    folder = RunFolder(config.run_dir)
    manifest = folder.begin(config.model_dump(mode="json"), identity, run_facts(method), new_run=new_run, private=config.runtime.private)
    resumed = " (resumed)" if manifest["sessions"] > 1 else ""
    console.print(f"[bold]{title}[/] into {escape(printable(folder.root))}{resumed}", highlight=False)
    native_log = native_stderr_to(Path(folder.root) / "native.log") if folder.storage.is_local else contextlib.nullcontext()
    with failure_noted(folder, manifest), native_log, ray_session(config.runtime, job_facts(folder.root, manifest)):
        quiet_data_context()
        watch = Watch(console, folder)
        try:
            yield folder, manifest, watch
        except BaseException:
            manifest["seconds"] = seconds_of(manifest, watch)  # what a session took that ended with an error was spent all the same
            raise


def status_of_run(snapshot: Mapping[str, Any], num_rows: int) -> str:
    """done, empty, stopped_at_budget or failed, by what the ledger says at the end and what there is."""
    return {"budget": "stopped_at_budget", "": "done" if num_rows else "empty"}.get(snapshot["stop_kind"], "failed")


def seconds_of(manifest: Mapping[str, Any], watch: Watch) -> dict[str, float]:
    """Seconds of this session's stages, with what the manifest has of them from earlier ones."""
    before = manifest.get("seconds", {})
    return {name: before.get(name, 0.0) + took for name, took in watch.seconds.items()}
