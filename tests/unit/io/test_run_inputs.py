from pathlib import Path

import pyarrow as pa
import pytest

from alignray.errors import RecordError
from alignray.io.commits import CommitLog
from alignray.io.run_inputs import with_run_folders
from alignray.io.storage import Storage


def run_folder(root: str) -> Storage:
    storage = Storage(root)
    storage.write("manifest.json", b"{}")
    CommitLog(storage).write("rejected", "r", {"rejects": ("rejects", pa.table({"row_id": ["x"]}))}, {})
    return storage


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_run_folder_stands_for_its_committed_rows(tmp_path: Path, scheme: str) -> None:
    root = f"{scheme}{tmp_path}/run"
    storage = run_folder(root)
    with pytest.raises(RecordError, match="a run folder without rows"):
        with_run_folders([root])
    CommitLog(storage).write("rows", "one", {"rows": ("parts", pa.table({"row_id": ["a"]}))}, {})
    storage.write("parts/left-over-of-a-kill.parquet", b"junk")
    (file,) = with_run_folders([root])
    assert file.startswith(f"{root}/parts/one-")
    assert with_run_folders(["a.jsonl", f"{tmp_path}/*.parquet", "https://host/x.jsonl", root]) == (
        "a.jsonl", f"{tmp_path}/*.parquet", "https://host/x.jsonl", file,
    )
