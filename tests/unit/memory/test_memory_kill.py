"""SIGKILL while 8 threads add: what was acknowledged is there after restart, once.

    python -m tests.unit.memory.test_memory_kill --edits 10000 --rounds 20
"""

from __future__ import annotations

import argparse
import collections
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from alignray.memory import EditMemory, MemoryConfig

ROOT = Path(__file__).parents[3]
THREADS = 8
CHILD = """
import os, sys, threading
from alignray.memory import EditDraft, EditMemory, MemoryConfig
memory = EditMemory(MemoryConfig(path=sys.argv[1], embedder="hash", snapshot_every=100))
start, number, threads = (int(value) for value in sys.argv[2:5])
def work(worker):
    for at in range(start + worker, start + number, threads):
        edit = memory.add(EditDraft(f"s{at}", f"s{at} has", "x", "has")).edit
        os.write(1, f"{edit.edit_id} s{at}\\n".encode())  # acknowledged: one write of one line
os.write(1, b"ready\\n")
workers = [threading.Thread(target=work, args=(worker,)) for worker in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
os.write(1, b"done\\n")
"""


def killed_round(folder: Path, start: int, number: int, delay_s: float) -> tuple[list[str], bool]:
    """Lines "id subject" that a child acknowledged before it was killed, and whether it was done first."""
    command = [sys.executable, "-c", CHILD, str(folder), str(start), str(number), str(THREADS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        child.kill()
        lines = [line.strip() for line in child.stdout if line.endswith("\n")]
    return [line for line in lines if line != "done"], "done" in lines


def check(folder: Path, acknowledged: list[str]) -> int:
    """Every acknowledged edit is there, every edit once; returns how many edits there are."""
    with EditMemory(MemoryConfig(path=str(folder), embedder="hash")) as memory:
        edits = memory.list_edits(limit=10**9, include_ended=True).edits
        there = {f"{edit.edit_id} {edit.subject}" for edit in edits}
        missing = [line for line in acknowledged if line not in there]
        assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged edits are gone: {missing[:3]}"
        twice = [subject for subject, count in collections.Counter(edit.subject for edit in edits).items() if count > 1]
        assert not twice, f"{len(twice)} edits are there twice: {twice[:3]}"
        assert memory.verify() == len(edits) == memory.num_live
        return len(edits)


def run(folder: Path, rounds: int, number: int, seed: int, longest_s: float) -> tuple[int, int, int]:
    """Acknowledged and present edits after all rounds, and rounds that were killed at work."""
    rng, acknowledged, present, at_work = random.Random(seed), [], 0, 0
    for at in range(rounds):
        lines, is_done = killed_round(folder, at * number, number, rng.random() * longest_s)
        acknowledged += lines
        at_work += not is_done
        present = check(folder, acknowledged)
    return len(acknowledged), present, at_work


def test_every_acknowledged_edit_survives_sigkill_and_none_is_there_twice(tmp_path: Path) -> None:
    acknowledged, present, at_work = run(tmp_path / "memory", rounds=3, number=100_000, seed=1, longest_s=0.4)
    assert at_work == 3 and acknowledged > 0
    # of those that nobody was told of at most what was under way may be there
    assert acknowledged <= present <= acknowledged + 3 * THREADS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=10_000, help="adds that each round begins")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=5.0, help="seconds until the kill at most")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        acknowledged, present, at_work = run(Path(folder) / "memory", given.rounds, given.edits, given.seed, given.longest)
    sys.stdout.write(f"{given.rounds} rounds, {at_work} killed at work: {acknowledged} edits acknowledged, {present} there, none twice\n")


if __name__ == "__main__":
    main()
