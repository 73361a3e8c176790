"""The run folder: what the run is, what it has done, where its rows are. Readable after the cluster is gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import yaml

from alignray.config import changed_keys, may_be_secret, without_secrets
from alignray.errors import ResumeError, StorageError
from alignray.io.storage import Appender, Storage

MANIFEST, CONFIG = "manifest.json", "config.yaml"


def redacted(value: Any, key: str = "") -> Any:
    """The value with everything that may be a secret replaced; names of environment variables stay."""
    if isinstance(value, Mapping):
        return {name: redacted(inner, key if may_be_secret(key) else str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner, key) for inner in value]
    if may_be_secret(key) and value and isinstance(value, str | int | float) and not isinstance(value, bool):
        return "(redacted)"
    return without_secrets(value) if isinstance(value, str) else value


def now() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunFolder:
    """One run's folder, on a local disk or an object store."""

    def __init__(self, root: str) -> None:
        self.storage = Storage(root)
        self.root = self.storage.root
        self._metrics = Appender(self.storage, "", "metrics" if self.storage.is_local else f"metrics-{int(time.time())}")

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None for a folder where no run has begun."""
        if not self.storage.exists(MANIFEST):
            return None
        where = self.storage.path(MANIFEST)
        try:
            manifest = orjson.loads(self.storage.read(MANIFEST))
        except orjson.JSONDecodeError as err:
            raise ResumeError(f"{where}: not JSON ({err}); restore it or start over with --new-run") from err
        if not isinstance(manifest, dict) or not {"identity", "sessions"} <= manifest.keys():
            raise ResumeError(f"{where}: not the manifest of a run; restore it or start over with --new-run")
        return manifest

    def begin(
        self, config: Mapping[str, Any], identity: Mapping[str, Any], facts: Mapping[str, Any], *, new_run: bool, private: bool = False,
    ) -> dict[str, Any]:
        """Start the run, or take it up again where ``identity`` is what it was.

        Args:
            config: resolved config, to be shown; secrets are redacted here.
            identity: everything that decides the rows; secrets are redacted here, so that a new key is no other run.
            facts: versions and the like, for a new manifest.
            private: nobody but the owner may look into a local folder, from before its first file on.

        Raises:
            ResumeError: the folder holds a run of another identity; the message lists what changed.
        """
        if new_run and self.storage.exists(MANIFEST):  # also one that cannot be read
            self._set_aside()
        if private and self.storage.is_local:
            root = Path(self.root)
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
            root.chmod(0o700)
        known, identity = self.manifest(), orjson.loads(orjson.dumps(redacted(identity)))
        if known is None:
            known = {"started": now(), "identity": identity, "sessions": 0}
        elif known["identity"] != identity:
            changes = changed_keys(known["identity"], identity)
            raise ResumeError(
                f"{self.root} holds a run of another config: {'; '.join(changes[:8])}"
                f"{f' and {len(changes) - 8} more' if len(changes) > 8 else ''}; "
                "take another --run folder, undo the change, or start over with --new-run"
            )
        known.update(facts)
        known.update({"status": "running", "sessions": known["sessions"] + 1})
        self.storage.write(CONFIG, yaml.safe_dump(redacted(config), sort_keys=False, allow_unicode=True).encode())
        self.write_manifest(known)
        return known

    def _set_aside(self) -> None:
        """Move the old run's folder out of the way; nothing that cost money is deleted."""
        if not self.storage.is_local:
            raise ResumeError(f"{self.root}: --new-run cannot move a folder on an object store; take another --run folder")
        root = Path(self.root)
        number = next(n for n in range(1, 10_000) if not root.with_name(f"{root.name}.old-{n}").exists())
        root.rename(root.with_name(f"{root.name}.old-{number}"))

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest in one step."""
        self.storage.write(MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file in one step."""
        self.storage.write(name, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))

    def read_json(self, name: str) -> Any:
        """The value of a JSON file; None where there is no such file."""
        return orjson.loads(self.storage.read(name)) if self.storage.exists(name) else None

    def metric(self, values: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl (metrics-*.jsonl segments on an object store)."""
        line = orjson.dumps({"t": round(time.time(), 3), **values}, option=orjson.OPT_APPEND_NEWLINE)
        self._metrics.append(line)


@contextlib.contextmanager
def failure_noted(folder: RunFolder, manifest: Mapping[str, Any]) -> Iterator[None]:
    """A run that ends with an error says so in its manifest."""
    try:
        yield
    except BaseException as err:
        with contextlib.suppress(StorageError):  # what cannot be written may be the very reason
            folder.write_manifest({**manifest, "status": "failed", "finished": now(), "message": str(err) or type(err).__name__})
        raise
