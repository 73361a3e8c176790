"""Commands on a real terminal, and a search through every byte that they leave behind."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import os
import pty
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]


def on_a_terminal(*arguments: str, **variables: str) -> tuple[int, bytes]:
    """``alignray ARGUMENTS`` with a terminal on stdout and stderr: exit code, and the bytes that the terminal got."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"TERM": "xterm-256color", **variables}
    with subprocess.Popen(
        [sys.executable, "-m", "alignray.cli", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment,
    ) as process:
        os.close(theirs)
        pieces: list[bytes] = []
        with contextlib.suppress(OSError):  # how Linux says that the other side is closed
            while piece := os.read(ours, 1 << 16):
                pieces.append(piece)
        os.close(ours)
    return process.returncode, b"".join(pieces)


def plain(output: bytes) -> str:
    """What a terminal got, without the colours that rich gives it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode("utf-8", "replace"))


def end_of(output: bytes) -> str:
    return plain(output)[-2000:]


@contextlib.contextmanager
def hostile_endpoint(*refusals: int) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.security.hostile_endpoint", *map(str, refusals)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield url
        finally:
            process.kill()


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def files_with(folder: Path, secrets: list[str]) -> list[str]:
    """Files under a folder that hold a secret, plain or in base 64, in their bytes or in what their Parquet pages unpack to."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink() and stat.S_ISREG(path.stat().st_mode):
            data = path.read_bytes() + str(path).encode("utf-8", "surrogateescape")
            if path.suffix == ".parquet":
                sink = pa.BufferOutputStream()
                pq.write_table(pq.read_table(path), sink, compression="none", use_dictionary=False)
                data += sink.getvalue().to_pybytes()
            found += [str(path) for secret in secrets if has_secret(data, secret)]
    return found


def has_secret(data: bytes, secret: str) -> bool:
    """Whether half a secret, or the whole of it in base 64, is in the data."""
    half = len(secret) // 2
    pieces = (secret[:half].encode(), secret[half:].encode(), base64.b64encode(secret.encode()).rstrip(b"="))
    return any(piece in data for piece in pieces)
