"""The mock endpoint: its capacity is what it says, and it can be run as a process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import orjson

from alignray.engine import OpenAIConfig
from alignray.engine.mock_server import MockConfig, MockServer
from alignray.engine.openai import OpenAIEngine
from alignray.schema import ChatRequest, Message


def test_slots_and_latency_make_the_capacity() -> None:
    async def main() -> float:
        async with MockServer(MockConfig(latency_s=0.1, slots=4)) as server:
            engine = OpenAIEngine(OpenAIConfig(model="m", base_url=server.url))
            await engine.start()
            requests = [ChatRequest((Message("user", str(number)),)) for number in range(24)]
            started = time.monotonic()
            await asyncio.gather(*(engine.generate(request) for request in requests))
            await engine.close()
            return time.monotonic() - started

    assert 0.6 <= asyncio.run(main()) < 0.9  # 24 calls at 4 / 0.1 s


def test_it_runs_as_a_process_with_a_journal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alignray.engine.mock_server", "--latency", "0.01", "--faults", "500",
               "--journal", str(tmp_path / "calls.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()

            async def main() -> None:
                engine = OpenAIEngine(OpenAIConfig(model="m", base_url=url))
                await engine.start()
                await engine.generate(ChatRequest((Message("user", "once"),)))
                await engine.generate(ChatRequest((Message("user", "again"),)))
                await engine.close()

            asyncio.run(main())
            with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as response:
                stats = orjson.loads(response.read())
        finally:
            process.terminate()
    assert (stats["asked"], stats["served"], stats["repeated"]) == (3, 2, 0)
    lines = [orjson.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert len({line["prompt_hash"] for line in lines}) == 2
