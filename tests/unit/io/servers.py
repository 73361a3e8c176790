"""A web server on this machine that knows ranges and misbehaves when told to."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAST = {"attempts": 4, "backoff_s": 0.001, "max_backoff_s": 0.01, "timeout_s": 5}
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Server(ThreadingHTTPServer):
    """Serves ``files``; answers ``troubles`` first: a status, or "cut" for a connection closed half way."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files or {}
        self.troubles: list[int | str] = []
        self.ranges: list[str] = []
        self.heads: list[str] = []
        self.sent = 0
        self.knows_range = True
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.server.heads.append(self.path)
        data = self.server.files.get(self.path)
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range", "")
        server.ranges.append(wanted)
        trouble = server.troubles.pop(0) if server.troubles else 200
        data = server.files.get(self.path)
        if data is None or (isinstance(trouble, int) and trouble != 200):
            self.answer(trouble if data is not None else 404, b"", {"Retry-After": "0"})
            return
        found = RANGE.fullmatch(wanted) if server.knows_range else None
        start, stop = (int(found[1]), int(found[2]) + 1 if found[2] else len(data)) if found else (0, len(data))
        if found and start >= len(data):
            self.answer(416, b"", {})
            return
        headers = {"ETag": f'"{hash(data)}"'}
        if found:
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
        self.answer(206 if found else 200, data[start:stop], headers, cut=trouble == "cut")

    def answer(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        body = body[: len(body) // 2] if cut else body
        self.server.sent += len(body)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """The server, answering until the block ends."""
    with server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()
