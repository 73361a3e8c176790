"""How much of an endpoint's capacity gets used: calls served in steady state over slots / latency of a mock endpoint.

The mock runs as a process of its own and counts what it served. "known" tells the engine the number of slots as its cap;
"unknown" leaves the cap at 256, and the engine has to find the capacity, at endpoints that queue, that refuse, and that
ration (where capacity is the bucket's rate). The first of each is what the result line reports.

    python bench/endpoint.py [--quick] [--through engine|ray|judged|referee] [--latency S] [--slots N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alignray.engine import OpenAIConfig, build_engine
from alignray.schema import ChatRequest, Message

MARK, UNKNOWN_MARK = 0.95, 0.90
UNKNOWN_CAP = 256


@dataclass(frozen=True)
class Case:
    name: str
    flags: tuple[str, ...]
    capacity: float
    max_in_flight: int


def cases(latency_s: float, slots: int, *, quick: bool) -> list[Case]:
    base = ("--latency", str(latency_s))
    fixed, capacity = (*base, "--slots", str(slots)), slots / latency_s
    refusing = (*fixed, "--overflow", "429")
    rationed = (*base, "--rate", str(capacity), "--burst", str(slots))
    known = Case("known, queues", fixed, capacity, slots)
    unknown = Case("unknown, queues", fixed, capacity, UNKNOWN_CAP)
    if quick:
        return [known, unknown]
    return [
        known, unknown,
        Case("unknown, refuses", refusing, capacity, UNKNOWN_CAP),
        Case("unknown, refuses, Retry-After 1", (*refusing, "--retry-after", "1"), capacity, UNKNOWN_CAP),
        Case("unknown, rations", rationed, capacity, UNKNOWN_CAP),
        Case("unknown, rations, Retry-After 1", (*rationed, "--retry-after", "1"), capacity, UNKNOWN_CAP),
    ]


Driver = Callable[[str, Case, float], None]
"""Keeps an endpoint busy: its URL, the case, and for how many seconds at least."""


@contextlib.contextmanager
def mock_endpoint(flags: tuple[str, ...]) -> Iterator[str]:
    """URL of a mock endpoint in its own process."""
    command = [sys.executable, "-m", "alignray.engine.mock_server", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def stats_of(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as response:
        return json.load(response)


def drive_engine(url: str, case: Case, seconds: float) -> None:
    """The engine alone, ``max_in_flight`` callers that each make call after call."""
    max_in_flight = case.max_in_flight
    words = "".join(chr(random.Random(0).randrange(97, 123)) if i % 6 else " " for i in range(3000))

    async def main() -> None:
        engine = build_engine(OpenAIConfig(model="mock", base_url=url, max_in_flight=max_in_flight, api_key_env=None))
        await engine.start()
        end = time.monotonic() + seconds

        async def caller(number: int) -> None:
            turn = 0
            while time.monotonic() < end:
                text = f"page {number}/{turn} {words}\n\nWrite a question that this page answers."
                await engine.generate(ChatRequest((Message("user", text),), max_new_tokens=256, temperature=0.7, top_p=1.0))
                turn += 1

        await asyncio.gather(*(caller(number) for number in range(max_in_flight)))
        await engine.close()

    asyncio.run(main())


def drive_ray(url: str, case: Case, seconds: float) -> None:
    """The chain runner on Ray: pages enough to keep the endpoint busy for ``seconds``, all prompt steps, journaled."""
    from runtime_rows import draft_pages, write_pages

    with tempfile.TemporaryDirectory(prefix="alignray-bench-") as name:
        pages = Path(name, "pages.jsonl")
        write_pages(pages, int(case.capacity * (seconds + 6) / 3.3))
        engine = {"kind": "openai", "model": "mock", "base_url": url, "api_key_env": None, "max_in_flight": case.max_in_flight}
        draft_pages(pages, Path(name, "run"), engine=engine)


def drive_judged(url: str, case: Case, seconds: float) -> None:
    """A judged evaluation: FollowBench items with recorded answers, enough to keep the judge busy for ``seconds``."""
    from rich.console import Console

    from alignray.pipelines.evaluate import evaluate
    from alignray.pipelines.evaluate_config import EvaluateJobConfig

    with tempfile.TemporaryDirectory(prefix="alignray-bench-") as name:
        items = [
            {"example_id": group, "category": "style", "source": "bench", "level": level, "target": "",
             "instruction": f"Tell story {group} of the harbour and the ferry." + " Be brief." * level}
            for group in range(int(case.capacity * (seconds + 6) / 5)) for level in range(6)
        ]
        Path(name, "style.json").write_text(json.dumps(items))
        answers = [{"prompt": item["instruction"], "answer": "The ferry left at dawn. " * 12} for item in items if item["level"]]
        Path(name, "answers.json").write_text(json.dumps(answers))
        judge = {"kind": "openai", "model": "mock", "base_url": url, "api_key_env": None, "max_in_flight": case.max_in_flight}
        evaluate(EvaluateJobConfig.model_validate({
            "run_dir": f"{name}/run", "benchmarks": [{"kind": "followbench", "style": f"{name}/style.json"}],
            "candidates": {"recorded": {"answers": f"{name}/answers.json"}}, "engines": {"mock": judge},
            "roles": {"judge": {"engine": "mock", "max_new_tokens": 256}}, "runtime": {"num_cpus": 2},
        }), console=Console(quiet=True))


def drive_referee(url: str, case: Case, seconds: float) -> None:
    """Lion's judge stage: student and teacher are scripted, the referee reviews every answer in both orders."""
    from rich.console import Console

    from alignray.pipelines.lion import distill
    from alignray.pipelines.lion_config import LionJobConfig

    with tempfile.TemporaryDirectory(prefix="alignray-bench-") as name:
        texts = (f"Tell story {number} of the harbour and the ferry." for number in range(int(case.capacity * (seconds + 6) / 2)))
        Path(name, "seeds.jsonl").write_text("".join(json.dumps({"instruction": text}) + "\n" for text in texts))
        referee = {"kind": "openai", "model": "mock", "base_url": url, "api_key_env": None, "max_in_flight": case.max_in_flight}
        distill(LionJobConfig.model_validate({
            "run_dir": f"{name}/run", "rounds": 1, "input": {"paths": [f"{name}/seeds.jsonl"]}, "lion": {"per_round": 2, "retries": 0},
            "student": None, "student_engine": {"kind": "scripted", "seed": 7}, "engines": {"mock": referee, "fake": {"kind": "scripted"}},
            "roles": {"default": {"engine": "fake"}, "referee": {"engine": "mock", "max_new_tokens": 256}}, "runtime": {"num_cpus": 2},
        }), console=Console(quiet=True))


def share_of_capacity(case: Case, drive: Driver, *, warm_up_s: float, measure_s: float) -> tuple[float, float]:
    """Calls served per second over the capacity, and the share of requests that were turned away."""
    with mock_endpoint(case.flags) as url:
        # a second more than is looked at, so that callers who stop cannot be mistaken for missing throughput
        seconds = warm_up_s + measure_s + 1
        thread = threading.Thread(target=drive, args=(url, case, seconds), daemon=True)
        thread.start()
        while not stats_of(url)["served"]:
            if not thread.is_alive():
                raise SystemExit(f"{case.name}: the driver ended before the first call was served")
            time.sleep(0.05)
        time.sleep(warm_up_s)
        before = stats_of(url)
        time.sleep(measure_s)
        after = stats_of(url)
        thread.join()
    rate = (after["served"] - before["served"]) / (after["time_s"] - before["time_s"])
    return rate / case.capacity, (after["refused"] - before["refused"]) / max(1, after["asked"] - before["asked"])


DRIVERS: dict[str, Driver] = {"engine": drive_engine, "ray": drive_ray, "judged": drive_judged, "referee": drive_referee}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two cases of 8 s in place of six of 30 s in both orders")
    parser.add_argument("--through", choices=tuple(DRIVERS), default="engine")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds per answer")
    parser.add_argument("--slots", type=int, default=64, help="answers at a time")
    given = parser.parse_args()
    drive = DRIVERS[given.through]
    warm_up_s, measure_s = (13.0, 8.0) if given.quick else (20.0, 30.0)

    names = ("alignray", "aiohttp", "orjson") + (("ray",) if given.through != "engine" else ())
    print(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names))
    print(f"{given.slots} slots of {given.latency:g} s: {given.slots / given.latency:,.0f} calls/s; "
          f"{measure_s:g} s after {warm_up_s:g} s of warm-up, through {given.through}")
    todo = cases(given.latency, given.slots, quick=given.quick)
    shares: dict[str, list[float]] = {case.name: [] for case in todo}
    for case in todo if given.quick else todo + todo[::-1]:
        share, turned_away = share_of_capacity(case, drive, warm_up_s=warm_up_s, measure_s=measure_s)
        shares[case.name].append(share)
        print(f"{case.name:32} {share:6.1%} of capacity, {turned_away:.2%} of requests turned away", flush=True)
    # the worse of both orders counts
    worst = {name: min(runs) for name, runs in shares.items()}
    known, unknown = worst["known, queues"], worst["unknown, queues"]
    others = {name: share for name, share in worst.items() if name.startswith("unknown, ")}
    print(json.dumps({
        "bench": "endpoint", "ratio": round(known, 4), "mark": MARK,
        "ok": known >= MARK and min(others.values()) >= UNKNOWN_MARK,
        "unknown": round(unknown, 4), "unknown_mark": UNKNOWN_MARK, "through": given.through,
        "shares": {name: round(share, 4) for name, share in worst.items()},
    }))


if __name__ == "__main__":
    main()
