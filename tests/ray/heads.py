"""Ray clusters of one node in process trees of their own: a real head with its job server, to be submitted to and killed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.ray.conftest import ROOT
from tests.ray.processes import kill_tree

BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef" * 4  # not a secret: of clusters that live for a test


class Head:
    """A head with token authentication on loopback. Only its own process tree is ever killed."""

    def __init__(self, num_cpus: int, **variables: str) -> None:
        self.temp_dir = Path(tempfile.mkdtemp(prefix="ar-", dir="/tmp"))  # short: it is part of the names of unix sockets
        token_path = self.temp_dir / "token"
        token_path.write_text(TOKEN)
        ports = [str(port) for port in _free_ports(5)]
        self.address = f"http://127.0.0.1:{ports[1]}"
        self.client_variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | self.client_variables | {
            "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0",
            # a busy machine is not a dead node
            "RAY_health_check_timeout_ms": "60000", "RAY_health_check_failure_threshold": "20", **variables,
        }
        command = [
            str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={ports[0]}",
            "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}",
            f"--dashboard-agent-listen-port={ports[2]}", f"--metrics-export-port={ports[3]}", f"--ray-client-server-port={ports[4]}",
            f"--num-cpus={num_cpus}", "--object-store-memory=150000000", f"--temp-dir={self.temp_dir / 'ray'}", "--disable-usage-stats",
        ]
        self.log = (self.temp_dir / "start.log").open("w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, text=True, cwd="/", env=environment)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 90
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                assert self.process.poll() is None and time.monotonic() < deadline, self.start_log()
                time.sleep(0.3)

    def start_log(self) -> str:
        """What ``ray start`` has said."""
        return (self.temp_dir / "start.log").read_text()

    def get(self, path: str) -> str:
        """What the dashboard answers."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            return str(reply.read().decode())

    def kill(self) -> None:
        """SIGKILL for all of it."""
        if self.process.poll() is None:
            kill_tree(self.process)

    def close(self) -> None:
        self.kill()
        self.log.close()
        shutil.rmtree(self.temp_dir, ignore_errors=True)


def submit(
    head: Head, method: str, config: Path | str, *options: str, cwd: Path = ROOT, stderr: int = subprocess.PIPE, **variables: str,
) -> subprocess.Popen[str]:
    """``alignray submit`` in a process of its own; stdout and stderr apart unless told otherwise."""
    assert head.process.poll() is None, head.start_log()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | head.client_variables | variables
    return subprocess.Popen(
        [sys.executable, "-m", "alignray.cli", "submit", method, str(config), "--address", head.address, *options],
        stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=cwd, env=environment,
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
