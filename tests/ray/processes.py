"""Runs as processes of their own, to be killed for real."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.ray.conftest import ROOT


def start(config: Path, run_dir: Path | str, *options: str, method: str = "webr", **variables: str) -> subprocess.Popen[str]:
    """``alignray METHOD`` in a process of its own, with a Ray of its own unless RAY_ADDRESS is among the variables."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | variables
    return subprocess.Popen(
        [sys.executable, "-m", "alignray.cli", method, str(config), "--run", str(run_dir), *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment,
    )


def finish(process: subprocess.Popen[str], *, code: int = 0) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    return output


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run did not get to the point of the kill"
        time.sleep(0.02)


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL the driver, then what its Ray leaves behind."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=20)


def child_named(process: subprocess.Popen[str], name: str) -> psutil.Process | None:
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if name in " ".join(child.cmdline()):
                return child
    return None


class Endpoint:
    """A mock endpoint in a process of its own."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url, self.process = url, process

    def served(self) -> int:
        """Answers given so far."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stats") as reply:
            return int(json.load(reply)["served"])


@contextlib.contextmanager
def endpoint(*flags: str) -> Iterator[Endpoint]:
    command = [sys.executable, "-m", "alignray.engine.mock_server", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield Endpoint(process.stdout.readline().strip(), process)
        finally:
            process.kill()
