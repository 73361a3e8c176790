"""Files of a run folder: whole or not there, one winner, on a local disk and on an object store."""

from __future__ import annotations

import contextlib
import errno
import pickle
import resource
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import ConfigError, StorageError
from alignray.io.storage import Appender, Storage


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "local":
        yield Storage(str(tmp_path / "run"))
        return
    root = f"memory://run-{uuid.uuid4().hex}"
    yield Storage(root)
    fsspec.filesystem("memory").rm(root, recursive=True) if fsspec.filesystem("memory").exists(root) else None


# ---- both kinds


def test_what_was_written_is_read_and_replaced_whole(storage: Storage) -> None:
    assert not storage.exists("a/b.json")
    assert storage.write("a/b.json", b"one")
    assert (storage.exists("a/b.json"), storage.read("a/b.json"), storage.size("a/b.json")) == (True, b"one", 3)
    assert storage.write("a/b.json", b"three")
    assert storage.read("a/b.json") == b"three"
    with storage.open("a/b.json") as file:
        assert file.read() == b"three"


def test_an_exclusive_write_leaves_what_is_there(storage: Storage) -> None:
    assert storage.write("marker", b"first", exclusive=True)
    assert not storage.write("marker", b"second", exclusive=True)
    assert storage.read("marker") == b"first"


def test_a_list_is_sorted_by_name_and_holds_only_files_of_the_folder(storage: Storage) -> None:
    for name in ("parts/b.json", "parts/a.json", "parts/c.txt", "parts/deep/d.json", "other/e.json"):
        storage.write(name, b"x")
    assert storage.list("parts", ".json") == ["a.json", "b.json"]
    assert storage.list("parts") == ["a.json", "b.json", "c.txt"]
    assert storage.list("nowhere") == []


def test_a_file_still_being_written_is_not_listed(storage: Storage) -> None:
    storage.write("parts/.a.json.123", b"half")
    assert storage.list("parts") == []


def test_removing_twice_is_removing_once(storage: Storage) -> None:
    storage.write("a", b"x")
    storage.remove("a")
    storage.remove("a")
    assert not storage.exists("a")


def test_a_last_line_that_was_cut_off_is_left_out(storage: Storage) -> None:
    storage.write("log", b"one\ntwo\n\nthr")
    assert list(storage.lines("log")) == [b"one", b"two", b""]


def test_a_storage_crosses_processes(storage: Storage) -> None:
    storage.write("a", b"x")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"x"


def test_an_appender_keeps_every_line_in_order(storage: Storage) -> None:
    pen = Appender(storage, "calls", "w")
    for number in range(5):
        pen.append(b"%d\n" % number)
    pen.close()
    found = [line for name in storage.list("calls", ".jsonl") for line in storage.lines(f"calls/{name}")]
    assert found == [b"0", b"1", b"2", b"3", b"4"]


def test_an_appender_that_starts_again_goes_on_behind_what_is_there(storage: Storage) -> None:
    for number in range(3):
        pen = Appender(storage, "calls", "w")
        pen.append(b"%d\n" % number)
        pen.close()
    found = [line for name in storage.list("calls", ".jsonl") for line in storage.lines(f"calls/{name}")]
    assert found == [b"0", b"1", b"2"]


def test_an_object_store_gets_one_whole_segment_per_append() -> None:
    storage = Storage(f"memory://run-{uuid.uuid4().hex}")
    pen = Appender(storage, "calls", "w")
    pen.append(b"a\nb\n")
    pen.append(b"c\n")
    assert storage.list("calls") == ["w-000000.jsonl", "w-000001.jsonl"]
    assert storage.read("calls/w-000000.jsonl") == b"a\nb\n"


# ---- local disk


def test_a_local_write_leaves_nothing_else_behind(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a", b"1", exclusive=True)
    storage.write("a", b"2", exclusive=True)
    storage.write("a", b"3")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_of_many_threads_that_write_exclusively_exactly_one_wins(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def write(number: int) -> bool:
        barrier.wait()
        return Storage(str(tmp_path)).write("marker", b"%d" % number * 1000, exclusive=True)

    with ThreadPoolExecutor(8) as pool:
        for attempt in range(10):
            won = list(pool.map(write, range(8)))
            assert sum(won) == 1, attempt
            assert (tmp_path / "marker").read_bytes() == b"%d" % won.index(True) * 1000
            (tmp_path / "marker").unlink()
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_that_write_exclusively_exactly_one_wins(tmp_path: Path) -> None:
    code = (
        "import sys; from alignray.io.storage import Storage; storage = Storage(sys.argv[1]); sys.stdin.readline();"
        "print(sum(storage.write(f'm{n}', sys.argv[2].encode(), exclusive=True) for n in range(30)))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [int(process.communicate(timeout=60)[0]) for process in both]
    assert sum(won) == 30
    assert sum(path.read_text() == "a" for path in tmp_path.iterdir()) == won[0]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("state", b"0" * 100_000)

    def write(_: int) -> None:
        for digit in b"123456789":
            storage.write("state", bytes([digit]) * 100_000)

    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(write, 0)
        while not writing.done():
            data = storage.read("state")
            assert len(data) == 100_000 and len(set(data)) == 1
        writing.result()


def test_a_line_that_a_killed_writer_left_unfinished_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "w.jsonl").write_bytes(b'{"a":1}\n{"b":')
    pen = Appender(Storage(str(tmp_path)), "calls", "w")
    pen.append(b'{"c":3}\n')
    pen.append(b'{"d":4}\n')
    pen.close()
    assert (tmp_path / "calls" / "w.jsonl").read_bytes() == b'{"a":1}\n{"b":\n{"c":3}\n{"d":4}\n'


def test_lines_of_many_threads_are_never_mixed(tmp_path: Path) -> None:
    pen = Appender(Storage(str(tmp_path)), ".", "log")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: [pen.append(b"%d" % n * 500 + b"\n") for _ in range(50)], range(4)))
    pen.close()
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines()
    assert len(lines) == 200 and set(lines) == {b"%d" % n * 500 for n in range(4)}


@given(st.lists(st.binary(max_size=20).filter(lambda data: b"\n" not in data), max_size=8), st.integers(0, 200))
def test_whatever_was_cut_the_lines_before_it_stay(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: int) -> None:
    storage = Storage(str(tmp_path_factory.mktemp("lines")))
    data = b"".join(line + b"\n" for line in lines)[:cut]
    storage.write("log", data)
    assert list(storage.lines("log")) == lines[: data.count(b"\n")]


# ---- roots


def test_a_file_url_is_a_local_disk(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/run/")
    storage.write("a", b"x")
    assert storage.is_local and (tmp_path / "run" / "a").read_bytes() == b"x"


def test_an_unknown_store_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"run folder 'nosuch://x': .*; for s3:// install alignray\[s3\]"):
        Storage("nosuch://x")


# ---- disks that are full, stores that fail


@contextlib.contextmanager
def no_file_over(num_bytes: int) -> Iterator[None]:
    """The kernel takes what fits and refuses the rest, as a full disk does."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_line_that_does_not_fit_leaves_nothing_of_itself_and_the_next_one_counts(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    appender = Appender(storage, "calls", "a")
    appender.append(b"first\n")
    with no_file_over(10), pytest.raises(StorageError, match=f"run folder {tmp_path}: cannot write calls/a.jsonl"):
        appender.append(b"second, and too long\n")
    appender.append(b"third\n")
    assert list(storage.lines("calls/a.jsonl")) == [b"first", b"third"]


def test_a_file_that_does_not_fit_is_not_there_and_the_error_names_the_run_folder(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with no_file_over(10), pytest.raises(StorageError, match=f"run folder {tmp_path}: cannot write parts/a"):
        storage.write("parts/a", b"x" * 11)
    assert list((tmp_path / "parts").iterdir()) == []


class FailingStore:
    """Does what it is asked, or not, and answers with an error."""

    def __init__(self, storage: Storage, error: Exception) -> None:
        self._fs, self._error = storage._fs, error

    def pipe_file(self, path: str, data: bytes, **_: object) -> None:
        self._fs.pipe_file(path, data)
        raise self._error

    def __getattr__(self, name: str) -> object:
        return getattr(self._fs, name)


def test_a_put_whose_answer_was_lost_and_that_was_sent_again_is_one_segment() -> None:
    storage = Storage(f"memory://run-{uuid.uuid4().hex}")
    appender = Appender(storage, "calls", "a")
    plain, storage._fs = storage._fs, FailingStore(storage, FileExistsError("the put met itself"))
    appender.append(b"paid\n")
    storage._fs = plain
    appender.append(b"paid too\n")
    assert storage.list("calls") == ["a-000000.jsonl", "a-000001.jsonl"]


@pytest.mark.parametrize("error", [OSError(errno.EBUSY, "slow down"), TimeoutError("no answer"), PermissionError("no key")])
def test_a_store_that_fails_is_a_storage_error_with_its_reason(error: OSError) -> None:
    storage = Storage(f"memory://run-{uuid.uuid4().hex}")
    storage._fs = FailingStore(storage, error)
    with pytest.raises(StorageError, match=f"cannot write parts/a .*({error.strerror or error})"):
        storage.write("parts/a", b"x")


def test_folders_are_listed_without_files(storage: Storage) -> None:
    for name in ("commits/pages/a.json", "commits/rows/b.json", "commits/note"):
        storage.write(name, b"x")
    assert storage.folders("commits") == ["pages", "rows"] and storage.folders("nowhere") == []
