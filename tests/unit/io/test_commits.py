"""Commits: rows count from the moment of their marker, once, and never when a byte of them is wrong."""

from __future__ import annotations

import errno
import random
import uuid
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import ResumeError, StorageError
from alignray.io.commits import CommitLog, name_of, parquet_bytes
from alignray.io.storage import Storage

TABLE = pa.table({"row_id": [f"{n:032x}" for n in range(50)], "text": [f"text number {n} " * 20 for n in range(50)]})


@pytest.fixture(params=["local", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> CommitLog:
    return CommitLog(Storage(str(tmp_path) if request.param == "local" else f"memory://run-{uuid.uuid4().hex}"))


@pytest.fixture
def local(tmp_path: Path) -> CommitLog:
    return CommitLog(Storage(str(tmp_path)))


def commit(log: CommitLog, name: str = "part", table: pa.Table = TABLE) -> bool:
    return log.write("pages", name, {"rows": ("parts", table)}, {"kept": len(table)}, {"by": "test"})


# ---- names


@given(st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=20, unique=True), st.randoms())
def test_a_name_depends_on_the_ids_and_not_on_their_order(ids: list[str], shuffler: random.Random) -> None:
    name = name_of(ids)
    shuffled = ids.copy()
    shuffler.shuffle(shuffled)
    assert name_of(shuffled) == name and len(name) == 16
    assert all(name_of(ids[:n] + ids[n + 1 :]) != name for n in range(len(ids)))


# ---- what is committed


def test_a_commit_is_read_back_whole(log: CommitLog) -> None:
    rejects = pa.table({"row_id": ["x"]})
    assert log.write("pages", "part", {"rows": ("parts", TABLE), "rejects": ("rejects", rejects)}, {"kept": 50, "rejected": 1})
    [found] = log.read("pages")
    assert (found.stage, found.name, found.counts, found.extra) == ("pages", "part", {"kept": 50, "rejected": 1}, {})
    assert log.table(found) == TABLE and log.table(found, "rejects") == rejects
    assert {role: log.storage.size(path) for role, path in found.files.items()} == found.bytes
    assert log.table(found, columns=["row_id"]) == TABLE.select(["row_id"])
    assert [(one.name, table.num_rows) for one, table in log.tables("pages", "rejects")] == [("part", 1)]


def test_an_empty_table_makes_no_file_but_still_counts(log: CommitLog) -> None:
    assert commit(log, table=TABLE.slice(0, 0))
    [found] = log.read("pages")
    assert found.files == {} and found.counts == {"kept": 0}
    assert log.table(found) is None and list(log.tables("pages")) == []


def test_a_name_is_committed_once(log: CommitLog) -> None:
    assert commit(log)
    assert not commit(log, table=TABLE.slice(0, 3))
    assert [table.num_rows for _, table in log.tables("pages")] == [50]
    assert len(log.storage.list("parts")) == 1


def test_commits_of_a_stage_are_in_the_order_of_their_names(log: CommitLog) -> None:
    for name in ("c", "a", "b"):
        commit(log, name, TABLE.slice(0, ord(name) - ord("a") + 1))
    assert [(one.name, table.num_rows) for one, table in log.tables("pages")] == [("a", 1), ("b", 2), ("c", 3)]
    assert log.read("drafts") == []


def test_a_data_file_without_a_marker_is_never_read(log: CommitLog) -> None:
    commit(log)
    log.storage.write("parts/killed-0badc0de.parquet", parquet_bytes(TABLE))
    assert [one.name for one, _ in log.tables("pages")] == ["part"]


def test_a_commit_taken_back_leaves_nothing(log: CommitLog) -> None:
    commit(log)
    log.remove(log.one("pages", "part"))
    assert log.read("pages") == [] and log.storage.list("parts") == []
    assert commit(log)


# ---- races


class _Late(Storage):
    """A store in which the other writer's marker is not there yet when one looks, and is when one writes."""

    def exists(self, relative: str) -> bool:
        return False


def test_the_loser_of_a_race_takes_its_own_file_away_and_leaves_the_winners(tmp_path: Path) -> None:
    assert commit(CommitLog(Storage(str(tmp_path))))
    assert not commit(CommitLog(_Late(str(tmp_path))), table=TABLE.slice(0, 3))
    log = CommitLog(Storage(str(tmp_path)))
    [(found, table)] = list(log.tables("pages"))
    assert table == TABLE and log.storage.list("parts") == [Path(found.files["rows"]).name]


def test_a_loser_with_the_same_rows_leaves_the_file_that_both_wrote(tmp_path: Path) -> None:
    assert commit(CommitLog(Storage(str(tmp_path))))
    assert not commit(CommitLog(_Late(str(tmp_path))))
    [(_, table)] = list(CommitLog(Storage(str(tmp_path))).tables("pages"))
    assert table == TABLE


# ---- damage


def only_file(log: CommitLog) -> Path:
    return Path(log.storage.path(log.one("pages", "part").files["rows"]))


def test_a_cut_file_names_itself_and_the_way_out(local: CommitLog) -> None:
    commit(local)
    path = only_file(local)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ResumeError) as caught:
        list(local.tables("pages"))
    assert str(path) in str(caught.value) and "delete commits/pages/part.json to make its rows again" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all" * 10])
def test_a_file_that_is_no_parquet_names_itself(local: CommitLog, content: bytes) -> None:
    commit(local)
    only_file(local).write_bytes(content)
    with pytest.raises(ResumeError, match=r"parts/part-[0-9a-f]{8}.parquet: committed file is missing or damaged"):
        list(local.tables("pages"))


def test_a_file_that_is_gone_names_itself(log: CommitLog) -> None:
    commit(log)
    log.storage.remove(log.one("pages", "part").files["rows"])
    with pytest.raises(ResumeError, match="committed file is missing or damaged"):
        list(log.tables("pages"))


def test_a_flipped_byte_in_the_rows_is_caught_by_its_page_checksum(local: CommitLog) -> None:
    commit(local)
    path = only_file(local)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for position in random.Random(0).sample(range(4, footer), 60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            [(_, table)] = list(local.tables("pages"))
        except ResumeError as err:
            assert str(path) in str(err)
        else:
            assert table == TABLE, position  # a byte that no reader uses


def test_a_flipped_byte_in_the_footer_is_caught_too(local: CommitLog) -> None:
    commit(local)
    path = only_file(local)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for position in range(footer, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(ResumeError, match="committed file is missing or damaged"):
            list(local.tables("pages"))


@pytest.mark.parametrize("marker", [b"", b'{"files": {}', b"{}", b"[]", b"null"])
def test_a_damaged_marker_names_itself(local: CommitLog, marker: bytes) -> None:
    commit(local)
    Path(local.storage.path("commits/pages/part.json")).write_bytes(marker)
    with pytest.raises(ResumeError, match=r"commits/pages/part.json: not a commit marker"):
        local.read("pages")


def test_a_part_is_plain_parquet_for_everybody_else(local: CommitLog) -> None:
    commit(local)
    assert pq.read_table(only_file(local)) == TABLE
    assert orjson.loads(local.storage.read("commits/pages/part.json"))["counts"] == {"kept": 50}


# ---- what is left over, and what cannot be had for now


def test_files_that_no_marker_names_are_swept_and_no_others(log: CommitLog) -> None:
    commit(log)
    log.write("drafts", "one", {"rejects": ("rejects", TABLE)}, {})
    log.storage.write("parts/part-00000000.parquet", b"left by a killed writer")
    log.storage.write("other/note", b"none of its business")
    log.sweep(("parts", "rejects", "nowhere"))
    assert len(log.storage.list("parts")) == len(log.storage.list("rejects")) == len(log.storage.list("other")) == 1
    assert log.table(log.one("pages", "part")) == TABLE


def test_a_store_that_does_not_answer_is_no_damaged_file(log: CommitLog, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(log)

    def busy(*_: Any) -> Any:
        raise OSError(errno.EBUSY, "slow down")

    monkeypatch.setattr("alignray.io.commits.pq.read_table", lambda *_, **__: busy())
    with pytest.raises(StorageError, match="cannot read parts/part-.* \\(slow down\\)"):
        log.table(log.one("pages", "part"))
