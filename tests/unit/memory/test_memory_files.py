"""The edit memory's files: torn, damaged, locked, followed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignray.config import load_config
from alignray.engine.embedders import HashEmbedder, Vectors
from alignray.errors import ConfigError, StorageError
from alignray.memory import EditDraft, EditMemory, MemoryConfig
from alignray.memory.planning import Request
from alignray.memory.records import checked

HASH = HashEmbedder(64)


class Counting:
    """Counts the texts that it embeds."""

    name = "hash"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: list[str]) -> Vectors:
        self.texts += texts
        return HASH.embed(texts)


def config_of(folder: Path, **changes: object) -> MemoryConfig:
    return MemoryConfig.model_validate({"path": str(folder), "embedder": "hash", "fsync": False, **changes})


def fact(number: int, target: str = "x") -> EditDraft:
    return EditDraft(f"s{number}", f"s{number} has", target, "has")


def filled(folder: Path, number: int = 6, *, is_closed: bool = False) -> list[str]:
    """A memory as a killed process leaves it, or a closed one; returns its ids."""
    memory = EditMemory(config_of(folder), embedder=HASH)
    ids = [memory.add(fact(at)).edit.edit_id for at in range(number)]
    if is_closed:
        memory.close()
    else:
        assert memory._lock is not None
        memory._lock.release()
    return ids


def log_of(folder: Path) -> Path:
    return folder / "g000001" / "events.jsonl"


def targets(memory: EditMemory) -> list[str]:
    return [edit.subject for edit in memory.list_edits().edits]


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_torn_last_line_is_cut_off_and_said(tmp_path: Path, kept: float, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    lines = log_of(tmp_path).read_bytes().splitlines(keepends=True)
    torn = lines[-1][: max(1, int(len(lines[-1]) * kept))]
    log_of(tmp_path).write_bytes(b"".join(lines[:-1]) + torn)
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        assert targets(memory) == [f"s{number}" for number in range(5)]
        assert memory.recovery.bytes_cut == len(torn) and f"{len(torn)} byte(s) of an event that was never acknowledged" in caplog.text
        assert memory.add(fact(9)).edit.version == 6 and memory.verify() == 6
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        assert targets(memory)[-1] == "s9" and memory.recovery.bytes_cut == 0


def test_vectors_without_their_event_are_cut_off(tmp_path: Path) -> None:
    filled(tmp_path)
    with (tmp_path / "g000001" / "vectors.f32").open("ab") as file:
        file.write(b"\x01" * 333)
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        memory.add(fact(9))
        assert memory.verify() == 7
        assert memory.top_k(["s9 has x"])[0][0].score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("line", [0, 3, 5])
def test_a_damaged_line_is_refused_unless_it_may_be_cut(tmp_path: Path, line: int) -> None:
    filled(tmp_path)
    lines = log_of(tmp_path).read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"target":"x"', b'"target":"y"')
    log_of(tmp_path).write_bytes(b"".join(lines))
    for is_writer in (True, False):
        with pytest.raises(StorageError, match=rf"the event after version {line}, .* fails its checksum .* memory.on_damage = cut"):
            EditMemory(config_of(tmp_path), embedder=HASH, writable=is_writer)
    with EditMemory(config_of(tmp_path, on_damage="cut"), embedder=HASH) as memory:
        assert targets(memory) == [f"s{number}" for number in range(line)]
        assert (tmp_path / "g000001" / f"cut-after-{line}.jsonl").read_bytes() == b"".join(lines[line:])
        memory.add(fact(9))
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        assert memory.num_live == line + 1 == memory.verify()


def test_a_line_that_is_missing_or_moved_is_seen(tmp_path: Path) -> None:
    filled(tmp_path)
    lines = log_of(tmp_path).read_bytes().splitlines(keepends=True)
    for changed in ([*lines[:2], *lines[3:]], [lines[1], lines[0], *lines[2:]], [*lines, lines[-1]]):
        log_of(tmp_path).write_bytes(b"".join(changed))
        with pytest.raises(StorageError, match="fails its checksum"):
            EditMemory(config_of(tmp_path), embedder=HASH)


def test_a_damaged_vector_is_refused_with_the_way_out(tmp_path: Path) -> None:
    filled(tmp_path)
    vectors = tmp_path / "g000001" / "vectors.f32"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:800] + b"\xff" + whole[801:])
    with pytest.raises(StorageError, match=r"vector 3 fails its checksum; embed anew with alignray.memory.rebuild"):
        EditMemory(config_of(tmp_path), embedder=HASH)
    vectors.write_bytes(whole[:800])
    with pytest.raises(StorageError, match="holds 3 of 6 vectors"):
        EditMemory(config_of(tmp_path), embedder=HASH)


def test_a_restart_reads_the_newest_whole_snapshot_and_embeds_nothing(tmp_path: Path) -> None:
    filled(tmp_path, is_closed=True)
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        memory.add(fact(6))
    snapshots = tmp_path / "g000001" / "snapshots"
    assert sorted(entry.name for entry in snapshots.iterdir()) == ["000000000000006", "000000000000007"]
    ends = snapshots / "000000000000007" / "ledger.ends.npy"
    ends.write_bytes(ends.read_bytes()[:-1] + b"\x01")
    (snapshots / ".000000000000008.aside").mkdir()
    counting = Counting()
    with EditMemory(config_of(tmp_path), embedder=counting) as memory:
        assert (memory.recovery.snapshot_version, memory.recovery.events_read, memory.num_live) == (6, 1, 7)
        assert "snapshot 000000000000007 was passed over: damaged (ledger.ends.npy fails its checksum)" in memory.recovery.notes[0]
        assert counting.texts == []
    assert sorted(entry.name for entry in snapshots.iterdir()) == ["000000000000006", "000000000000007"]
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        assert (memory.recovery.snapshot_version, memory.recovery.events_read, memory.recovery.notes) == (7, 0, ())


def test_a_snapshot_of_more_than_the_log_holds_is_dropped(tmp_path: Path) -> None:
    """Left there it would look like part of the log once that has grown past it."""
    filled(tmp_path, is_closed=True)
    lines = log_of(tmp_path).read_bytes().splitlines(keepends=True)
    log_of(tmp_path).write_bytes(b"".join(lines[:4]))
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        assert memory.num_live == 4 and "covers" in memory.recovery.notes[0]
        memory.add_many([fact(number, "another") for number in range(10, 20)])
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        assert targets(memory) == [*(f"s{n}" for n in range(4)), *(f"s{n}" for n in range(10, 20))]


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    with EditMemory(config_of(tmp_path), embedder=HASH):
        with pytest.raises(StorageError, match=f"process {os.getpid()} writes to it; .*writable=False"):
            EditMemory(config_of(tmp_path), embedder=HASH)
        code = (
            "import sys; from alignray.memory import EditMemory, MemoryConfig\n"
            "try: EditMemory(MemoryConfig(path=sys.argv[1], embedder='hash'))\n"
            "except Exception as err: print(type(err).__name__, err)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("StorageError") and f"process {os.getpid()} writes" in done.stdout
    EditMemory(config_of(tmp_path), embedder=HASH).close()


def test_a_reader_follows_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is none; open it for writing once"):
        EditMemory(config_of(tmp_path / "nowhere"), embedder=HASH, writable=False)
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory, EditMemory(config_of(tmp_path), embedder=HASH, writable=False) as reader:
        first = memory.add(fact(1)).edit
        assert reader.num_live == 0 and reader.refresh() == 1 and reader.get(first.edit_id) == first
        memory.add(fact(1, "y"))
        memory.delete(memory.add(fact(2)).edit.edit_id)
        assert reader.refresh() == 3 and reader.refresh() == 0
        assert [edit.target for edit in reader.list_edits().edits] == ["y"] and reader.list_edits() == memory.list_edits()
        for change in (lambda: reader.add(fact(5)), lambda: reader.delete(first.edit_id), reader.snapshot):
            with pytest.raises(StorageError, match="reading only"):
                change()


def test_a_reader_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    filled(tmp_path)
    whole = log_of(tmp_path).read_bytes()
    log_of(tmp_path).write_bytes(whole[:-20])
    reader = EditMemory(config_of(tmp_path), embedder=HASH, writable=False)
    assert reader.num_live == 5 and log_of(tmp_path).stat().st_size == len(whole) - 20
    log_of(tmp_path).write_bytes(whole)
    assert reader.refresh() == 1 and reader.num_live == 6


def test_a_reader_that_saw_lines_taken_back_starts_over(tmp_path: Path) -> None:
    filled(tmp_path, 4)
    reader = EditMemory(config_of(tmp_path), embedder=HASH, writable=False)
    lines = log_of(tmp_path).read_bytes().splitlines(keepends=True)
    log_of(tmp_path).write_bytes(b"".join(lines[:3]))
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        memory.add(fact(7, "z"))
        memory.add(fact(8, "z"))
        reader.refresh()
        assert targets(reader) == targets(memory) == ["s0", "s1", "s2", "s7", "s8"]


@pytest.mark.parametrize("failing", ["pwrite", "fdatasync"])
def test_a_disk_that_fails_acknowledges_nothing(tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = EditMemory(config_of(tmp_path, fsync=True), embedder=HASH)
    memory.add(fact(1))
    before = log_of(tmp_path).read_bytes()

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(StorageError, match=r"cannot write 1 event\(s\) \(No space left on device\); make room"):
            memory.add(fact(2))
    assert log_of(tmp_path).read_bytes() == before and memory.num_edits == 1
    if failing == "pwrite":
        assert memory.add(fact(2)).edit.version == 2
    else:
        with pytest.raises(StorageError, match="takes no more edits since a sync failed"):
            memory.add(fact(2))
    memory.close()
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        assert memory.verify() == memory.version == (2 if failing == "pwrite" else 1)


def test_an_interrupted_write_is_not_acknowledged_to_anyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = EditMemory(config_of(tmp_path, fsync=True), embedder=HASH)
    memory.add(fact(1))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", interrupt)
        # one who came while another wrote, and whose edit that one was writing down
        waiting = Request("add", (checked(fact(2)),))
        memory._waiting.append(waiting)
        with pytest.raises(KeyboardInterrupt):
            memory.add(fact(3))
    assert waiting.is_done and isinstance(waiting.failed, StorageError) and memory.num_edits == 1
    with pytest.raises(StorageError, match="since a write was interrupted .KeyboardInterrupt.; see to the disk and open the memory anew"):
        memory.add(fact(2))
    memory.close()
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        assert memory.add(fact(2)).edit.version == 2 == memory.verify()


def test_a_format_from_the_future_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    meta = tmp_path / "g000001" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": 2}))
    with pytest.raises(StorageError, match="written in format 2, this version reads 1"):
        EditMemory(config_of(tmp_path), embedder=HASH)
    meta.write_text("{")
    with pytest.raises(StorageError, match=r"g000001/meta.json cannot be read"):
        EditMemory(config_of(tmp_path), embedder=HASH)


def test_the_config_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "memory.yaml"
    path.write_text("path: s3://bucket/memory\n")
    with pytest.raises(ConfigError, match=r"memory.yaml:1: path = 's3://bucket/memory': the edit memory needs a folder on a local disk"):
        load_config(MemoryConfig, path)
    path.write_text("path: here\nkey: descriptors\n")
    with pytest.raises(ConfigError, match='did you mean "descriptor"'):
        load_config(MemoryConfig, path)


def test_a_reader_follows_a_writer_at_work_in_another_process(tmp_path: Path) -> None:
    EditMemory(config_of(tmp_path)).close()
    code = (
        "import sys; from alignray.memory import EditDraft, EditMemory, MemoryConfig\n"
        "memory = EditMemory(MemoryConfig(path=sys.argv[1], embedder='hash', fsync=False))\n"
        "for n in range(1, 1500):\n"
        "    edit = memory.add(EditDraft(f's{n}', f's{n} has', 'x', 'has')).edit\n"
        "    if n % 3 == 0: memory.delete(edit.edit_id)\n"
    )
    with EditMemory(config_of(tmp_path), writable=False) as reader, subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as child:
        steps, is_over = 0, False
        while not is_over:
            is_over = child.poll() is not None
            if reader.refresh():
                steps += 1
                newest = reader.list_edits(after=max(0, reader.version - 2), include_ended=True).edits[-1]
                found = [scored.edit.edit_id for scored in reader.top_k([newest.descriptor], k=1)[0]]
                assert (found == [newest.edit_id]) == newest.is_live
        assert child.returncode == 0 and steps > 1
        assert (reader.version, reader.num_live) == (1499 + 499, 1000) and reader.verify() == reader.version
