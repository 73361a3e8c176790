"""Run folders as input: their finished rows, and not the rejects and journals beside them."""

from __future__ import annotations

from collections.abc import Iterable

from alignray.errors import RecordError
from alignray.io.commits import CommitLog
from alignray.io.fetch import is_http
from alignray.io.run_folder import MANIFEST
from alignray.io.storage import Storage

ROWS_FOLDER = "parts"


def with_run_folders(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths, each that is a run folder replaced by the files of its rows, as its commits name them.

    Raises:
        RecordError: a run folder has no rows.
    """
    return tuple(file for path in paths for file in (_rows_of(path) or (path,)))


def _rows_of(path: str) -> list[str] | None:
    """Files of a run folder's rows; None where there is no run folder."""
    if is_http(path) or "*" in path:
        return None
    storage = Storage(path)
    if not storage.exists(MANIFEST):
        return None
    log = CommitLog(storage)
    commits = (commit for stage in storage.folders("commits") for commit in log.read(stage))
    files = sorted({file for commit in commits for file in commit.files.values() if file.startswith(f"{ROWS_FOLDER}/")})
    if not files:
        raise RecordError(f"{path}: a run folder without rows; let the run finish, or name another")
    return [storage.path(file) for file in files]
