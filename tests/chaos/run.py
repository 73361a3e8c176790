"""Runs that are struck by seeded faults, over and over, and must end with the rows of an undisturbed run.

A schedule is one to four faults at moments counted in journaled calls or committed parts: SIGKILL for the driver, a worker, an
engine actor, the ledger or a raylet; the endpoint gone for a while; a full disk; an object store that fails. The run is started
again until it is done, then its rows and rejects are compared with those of an undisturbed run, and its journal with what the
endpoint served and with the budget.

    python -m tests.chaos.run [--schedules 50] [--seed 0] [--only NUMBER ...] [--keep DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.chaos.cluster import Nodes, cluster
from tests.chaos.disk import Disk, small_disk
from tests.chaos.schedules import Fault, Schedule, draw_schedule
from tests.chaos.store import BUCKET, Store, s3_store
from tests.ray.run_files import assert_nothing_is_lost, journal_of, rows_of

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "sample.warc.gz"
NUM_RAYLETS = 3
MAX_SESSIONS = 12
SESSION_LIMIT_S = 240
SHORT_OUTAGE_S = 1.5
LATENCY_S = 0.25
PRICE = {"prompt": 100, "completion": 300}
PLENTY_USD = 1000.0
AGAIN = "run the same command again to go on"
DISK_SIZE = "24m"
FLAKY = 0.05
OUTAGES = ("endpoint", "disk", "store_down", "store_flaky")
"""Faults that may end a run, which then says so and exits 1. The others must not."""


# ---- what is there


class Endpoint:
    """The mock endpoint, a process of its own, which can be dropped and restored on its port."""

    def __init__(self, folder: Path) -> None:
        self._journal = folder / "served.jsonl"
        self._process: subprocess.Popen[str] | None = None
        self.url, self._port = "", 0
        self.restore()

    def restore(self) -> None:
        if self._process is not None:
            return
        command = [
            sys.executable, "-m", "alignray.engine.mock_server", "--latency", str(LATENCY_S), "--port", str(self._port),
            "--journal", str(self._journal),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self._port = int(self.url.split(":")[2].split("/")[0])

    def drop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def served(self) -> int:
        """Answers given, by all its lives."""
        return len(self._journal.read_bytes().splitlines()) if self._journal.exists() else 0


def webr_config(url: str, budget_usd: float) -> dict[str, Any]:
    engine = {
        "kind": "openai", "model": "mock", "base_url": url, "api_key_env": None, "max_in_flight": 2, "down_after_s": 4, "price": PRICE,
    }
    return {
        "num_rows": 24, "ingest": {"sources": [{"name": "sample", "paths": [str(SAMPLE)]}]}, "engines": {"mock": engine},
        "roles": {"default": {"engine": "mock", "max_new_tokens": 100}}, "analysis": {"embedder": None}, "plan": {"sample_pages": 1},
        "runtime": {"block_rows": 6, "part_rows": 4, "min_actors": 2, "max_actors": 2}, "budget": {"usd": budget_usd},
    }


def dedup_config(data: Path) -> dict[str, Any]:
    limits = {
        "group_rows": 300, "exact_rows": 1000, "range_records": 800, "range_pairs": 150, "range_shingles": 20000, "small_rows": 0,
        "small_shingles": 0,
    }
    return {"input": {"paths": [str(data)], "id_column": "id"}, "limits": limits}


def write_dedup_input(folder: Path, *, num: int = 2000) -> Path:
    """Texts of which every third is the one before it with a word replaced, and every seventh a copy."""
    rng = np.random.default_rng(0)
    texts: list[str] = []
    for row in range(num):
        words = [f"w{word}" for word in rng.integers(0, 2000, 60)]
        if row % 3 == 2:
            words = texts[-1].split()
            words[rng.integers(0, len(words))] = "other"
        texts.append(texts[-1] if row % 7 == 6 else " ".join(words))
    folder.mkdir(parents=True)
    for first in range(0, num, 500):
        ids = [f"{row:05d}" for row in range(first, min(first + 500, num))]
        pq.write_table(pa.table({"id": ids, "text": texts[first : first + 500]}), folder / f"{first}.parquet")
    return folder


@dataclass
class World:
    """Everything that schedules share."""

    folder: Path
    nodes: Nodes
    store: Store
    disk: Disk | None
    dedup_input: Path


# ---- one run folder


class Run:
    """A run folder somewhere, its command, and what its files say."""

    def __init__(self, world: World, schedule: Schedule | None, scene: str, url: str) -> None:
        self._world, self.scene = world, scene
        self.name = f"run-{schedule.number}" if schedule else f"undisturbed-{scene}"
        self.method = "dedup" if scene == "dedup" else "webr"
        self.folder = world.folder / self.name
        self.folder.mkdir(parents=True)
        on_disk = world.disk is not None and (scene == "disk" or (schedule is not None and _has(schedule, "disk")))
        self._local = (world.disk.folder if on_disk and world.disk else self.folder) / f"{self.name}-out"
        self.address = f"s3://{BUCKET}/{self.name}" if scene == "store" else str(self._local)
        self._config = self.folder / "config.json"
        self.budget_usd = PLENTY_USD
        self._url, self._sessions = url, 0

    def start(self) -> subprocess.Popen[bytes]:
        """The command, once more, on the cluster of the world."""
        config = dedup_config(self._world.dedup_input) if self.scene == "dedup" else webr_config(self._url, self.budget_usd)
        config["runtime"] = {**config.get("runtime", {}), "address": self._world.nodes.address}
        self._config.write_text(json.dumps(config))
        self._sessions += 1
        command = [sys.executable, "-m", "alignray.cli", self.method, str(self._config), "--run", self.address]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with self.log(self._sessions).open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)

    def log(self, session: int | None = None) -> Path:
        """What a session printed; the last one's by default."""
        return self.folder / f"session-{session or self._sessions}.log"

    @property
    def sessions(self) -> int:
        return self._sessions

    def progress(self, measure: str) -> int:
        """Calls journaled or parts committed so far."""
        if self.scene == "store":  # one segment per line there
            return len(self._world.store.names(f"{self.name}/{'calls/calls-*' if measure == 'calls' else 'commits/**'}"))
        if measure == "parts":
            return sum(1 for _ in self._local.glob("commits/*/*.json"))
        return sum(path.read_bytes().count(b"\n") for path in self._local.glob("calls/calls-*.jsonl"))

    def files(self) -> Path:
        """The run folder on the local disk: itself, or a copy made now."""
        if self.scene != "store":
            return self._local
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        self._world.store.copy(self.name, self.folder / "copy")
        return self.folder / "copy"

    def remove(self) -> None:
        shutil.rmtree(self._local, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _has(schedule: Schedule, kind: str) -> bool:
    return any(fault.kind == kind for fault in schedule.faults)


@dataclass
class Undisturbed:
    """What a run comes to that nothing happens to."""

    rows: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    calls: int
    parts: int
    usd: float


def undisturbed(world: World, scene: str) -> Undisturbed:
    """One run of the scene's method in peace."""
    with contextlib.closing(_Closing(Endpoint(world.folder))) as owner:
        run = Run(world, None, scene, owner.endpoint.url)
        process = run.start()
        assert process.wait(SESSION_LIMIT_S) == 0, run.log().read_text()
    files = run.files()
    paid = [event for event in journal_of(files) if "text" in event]
    found = Undisturbed(
        rows_of(files), rows_of(files, "rejects"), len(paid), run.progress("parts"), sum(float(event["usd"]) for event in paid),
    )
    (world.folder / "served.jsonl").unlink(missing_ok=True)
    return found


class _Closing:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def close(self) -> None:
        self.endpoint.drop()


# ---- faults


@dataclass
class Result:
    """How a schedule went."""

    schedule: Schedule
    struck: list[str] = field(default_factory=list)
    sessions: int = 0
    seconds: float = 0.0
    calls: int = 0
    served: int = 0
    num_rows: int = 0
    rows_equal: bool = False
    rejects_equal: bool = False
    doubled: int = 0
    repeated: int = 0
    spent_usd: float = 0.0
    budget_usd: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        return self.rows_equal and self.rejects_equal and not (self.doubled or self.repeated or self.wrong)


class Play:
    """One schedule, from the first start to the comparison."""

    def __init__(self, world: World, schedule: Schedule, peace: Undisturbed) -> None:
        self.world, self.schedule, self.peace = world, schedule, peace
        self.result = Result(schedule)
        folder = world.folder / f"endpoint-{schedule.number}"
        folder.mkdir()
        self.endpoint = Endpoint(folder)
        self.run = Run(world, schedule, schedule.scene, self.endpoint.url)
        if schedule.scene == "budget":
            self.run.budget_usd = round(peace.usd * (0.4 + 0.3 * schedule.faults[0].dice), 2)
        self.pending = list(schedule.faults)
        self.is_excused = False
        """Whether this session saw an outage, so that it may end with exit code 1."""
        self._is_out, self._restore_at = False, float("inf")

    def play(self) -> Result:
        began = time.monotonic()
        try:
            while self.run.sessions < MAX_SESSIONS:
                if self._session():
                    break
            else:
                self.result.wrong.append(f"not done after {MAX_SESSIONS} sessions")
            self._restore()
            self._compare()
        finally:
            self._restore()
            self.endpoint.drop()
        self.result.sessions, self.result.seconds = self.run.sessions, time.monotonic() - began
        if self.result.is_ok:
            self.run.remove()
        return self.result

    def _session(self) -> bool:
        """Start the run, strike it when it is time, see how it ends; True when it is done."""
        self.is_excused = self._is_out
        self.world.nodes.complete()
        process = self.run.start()
        try:
            self._watch(process)
        finally:
            if process.poll() is None:
                _kill(process)
        return self._judge_end(process.returncode)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + SESSION_LIMIT_S
        while process.poll() is None:
            if time.monotonic() > deadline:
                self.result.wrong.append(f"session {self.run.sessions} hangs")
                return
            if time.monotonic() >= self._restore_at:
                self._restore()
            for fault in [fault for fault in self.pending if self._is_due(fault)]:
                if process.poll() is None and self._strike(fault, process):
                    self.pending.remove(fault)
            time.sleep(0.05 if self.run.scene != "store" else 0.2)

    def _is_due(self, fault: Fault) -> bool:
        total = self.peace.calls if fault.measure == "calls" else self.peace.parts
        return self.run.progress(fault.measure) >= max(1, int(fault.at * total))

    def _strike(self, fault: Fault, process: subprocess.Popen[bytes]) -> bool:
        """False where there is no such victim at this moment: the fault waits for one."""
        at = f"{fault.kind}@{self.run.progress(fault.measure)} {fault.measure}"
        if fault.kind == "driver":
            _kill(process)
            time.sleep(3.0 if fault.is_long else 0.0)
        elif fault.kind == "raylet":
            self.world.nodes.kill_raylet(fault.dice)
        elif fault.kind in ("worker", "engine", "ledger"):
            if self.world.nodes.kill_process(fault.kind, fault.dice) is None:
                return False
        else:
            self._begin_outage(fault)
            at += " long" if fault.is_long else ""
        self.result.struck.append(at)
        return True

    def _begin_outage(self, fault: Fault) -> None:
        self.is_excused = self._is_out = True
        if fault.kind == "endpoint":
            self.endpoint.drop()
        elif fault.kind == "disk" and self.world.disk is not None:
            self.world.disk.fill()
        elif fault.kind.startswith("store"):
            self.world.store.fault_rate = FLAKY if fault.kind == "store_flaky" else 1.0
        # a flaky store stays so until the session ends, a long outage until the run has given up
        self._restore_at = float("inf") if fault.is_long or fault.kind == "store_flaky" else time.monotonic() + SHORT_OUTAGE_S

    def _restore(self) -> None:
        self._is_out, self._restore_at = False, float("inf")
        self.endpoint.restore()
        self.world.store.fault_rate = 0.0
        if self.world.disk is not None:
            self.world.disk.free()

    def _judge_end(self, code: int) -> bool:
        output = self.run.log().read_text(errors="replace")
        wrong = self.result.wrong
        self._check_budget()
        if code == -signal.SIGKILL:
            return False
        if "Traceback" in output:
            wrong.append(f"session {self.run.sessions} prints a traceback (exit {code})")
        if code == 0:
            return True
        if code == 1 and self.is_excused:
            if AGAIN not in output:
                wrong.append(f"session {self.run.sessions} does not say how to go on")
        elif code == 3 and self.run.budget_usd < PLENTY_USD:
            self.run.budget_usd = PLENTY_USD
        else:
            wrong.append(f"session {self.run.sessions} exits {code}")
        self._restore()
        return False

    # ---- afterwards

    def _check_budget(self) -> None:
        """What was journaled, and the worst case of what was sent and never came back, stay within the budget."""
        if self.run.method != "webr" or self.run.scene == "store":
            return
        spent, lost, _ = self._money(self.run.files())
        self.result.spent_usd, self.result.budget_usd = spent + lost, self.run.budget_usd
        if spent + lost > self.run.budget_usd + 1e-9:
            self.result.wrong.append(f"session {self.run.sessions}: {spent + lost:.4f} of {self.run.budget_usd:.4f} USD spent")

    @staticmethod
    def _money(files: Path) -> tuple[float, float, int]:
        """Dollars journaled, worst case of the open grants, number of open grants."""
        events = journal_of(files)
        grants = {event["grant"]: float(event["usd"]) for event in events if "grant" in event}
        settled = {event.get("settles") for event in events if "key" in event}
        still_open = [usd for grant, usd in grants.items() if grant not in settled]
        return sum(float(event["usd"]) for event in events if "text" in event), sum(still_open), len(still_open)

    def _compare(self) -> None:
        result, files = self.result, self.run.files()
        rows, rejects = rows_of(files), rows_of(files, "rejects")
        id_column = "id" if self.run.method == "dedup" else "row_id"
        ids = Counter(row[id_column] for row in rows)
        result.num_rows, result.doubled = len(rows), sum(times - 1 for times in ids.values())
        result.rows_equal, result.rejects_equal = rows == self.peace.rows, rejects == self.peace.rejects
        if self.run.method == "dedup":
            return
        try:
            assert_nothing_is_lost(files)
        except (AssertionError, OSError) as err:
            result.wrong.append(f"books: {err}")
        keys = Counter(event["key"] for event in journal_of(files) if "key" in event)
        result.calls, result.repeated = len(keys), sum(times - 1 for times in keys.values())
        result.served = self.endpoint.served()
        spent, lost, num_open = self._money(files)
        result.spent_usd, result.budget_usd = spent + lost, self.run.budget_usd
        if spent + lost > self.run.budget_usd + 1e-9:
            result.wrong.append("the budget is passed")
        if result.served > result.calls + result.repeated + num_open:
            result.wrong.append("the endpoint served calls that nobody accounts for")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the driver and what it started itself; the cluster is not among it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


# ---- all of them


@contextlib.contextmanager
def world_in(folder: Path) -> Iterator[World]:
    """Store, disk, cluster and input."""
    with s3_store() as store, small_disk(folder / "disk", size=DISK_SIZE) as disk, cluster(NUM_RAYLETS) as nodes:
        yield World(folder, nodes, store, disk, write_dedup_input(folder / "input"))


def play_all(world: World, schedules: Sequence[Schedule], *, show: Any = print) -> list[Result]:
    """Every schedule, compared with an undisturbed run of the same method."""
    peace: dict[str, Undisturbed] = {}
    results = []
    show(HEADER)
    for schedule in schedules:
        method = "dedup" if schedule.scene == "dedup" else "webr"
        if method not in peace:
            peace[method] = undisturbed(world, "dedup" if method == "dedup" else "plain")
        if world.disk is None and _has(schedule, "disk"):
            show(f"{schedule.number:>3}  skipped: no disk of its own may be mounted here (needs the right to mount a tmpfs)")
            continue
        results.append(Play(world, schedule, peace[method]).play())
        show(line_of(results[-1]))
    return results


HEADER = (
    f"{'no':>3} {'scene':<7}{'sessions':>8}{'s':>6} {'calls':>6}{'served':>7} {'rows':<9}{'rejects':<8}{'doubled':>7}{'repeated':>9}"
    f"  {'spent/budget USD':<19} faults"
)


def line_of(result: Result) -> str:
    """A line of the table."""
    money = f"{result.spent_usd:.2f}/{result.budget_usd:.0f}" if result.calls else "-"
    equal = {True: "equal", False: "DIFFER"}
    rows = f"{result.num_rows} {equal[result.rows_equal]}"
    line = (
        f"{result.schedule.number:>3} {result.schedule.scene:<7}{result.sessions:>8}{result.seconds:>6.0f} {result.calls:>6}"
        f"{result.served:>7} {rows:<9} {equal[result.rejects_equal]:<7}{result.doubled:>7}{result.repeated:>9}  {money:<19} "
        f"{', '.join(result.struck) or 'none in time'}"
    )
    return line + "".join(f"\n      WRONG: {' '.join(wrong.split())[:300]}" for wrong in result.wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the schedules to play")
    parser.add_argument("--keep", type=Path, help="folder to work in; what went wrong is left there")
    given = parser.parse_args()
    numbers = given.only or range(given.schedules)
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alignray-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        world = stack.enter_context(world_in(folder.resolve()))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the cluster and the disk go in any case
        results = play_all(world, [draw_schedule(given.seed, number) for number in numbers], show=lambda line: print(line, flush=True))
    good = sum(result.is_ok for result in results)
    struck = Counter(fault.split("@")[0] for result in results for fault in result.struck)
    print(f"{good} of {len(results)} schedules as they should be; struck: {', '.join(f'{kind} {n}' for kind, n in sorted(struck.items()))}")
    sys.exit(0 if results and good == len(results) else 1)


if __name__ == "__main__":
    main()
