"""A local S3 server, and before it a proxy that answers 500 and 503, hangs, hangs up, or does what was asked and hangs up."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import moto.server
import s3fs

HANG_S = 2.0
FAULTS = ("500", "503", "hang", "drop", "done_and_drop")
BUCKET = "chaos"


class Store:
    """What the runs see of the store (``url``), and what the test itself sees (``files``, without faults)."""

    def __init__(self, url: str, files: Any) -> None:
        self.url, self.files = url, files
        self.fault_rate = 0.0
        self.struck = 0
        self._rng = random.Random(0)

    def next_fault(self) -> str | None:
        """What happens to this request."""
        if self._rng.random() >= self.fault_rate:
            return None
        self.struck += 1
        # a store that is down for good neither hangs for long nor does what it is asked
        return self._rng.choice(FAULTS[:2] if self.fault_rate == 1 else FAULTS)

    def names(self, pattern: str) -> list[str]:
        """Objects of the bucket that match."""
        self.files.invalidate_cache()
        return list(self.files.glob(f"{BUCKET}/{pattern}"))

    def copy(self, run: str, target: Path) -> None:
        """A run's folder onto the local disk."""
        self.files.invalidate_cache()
        self.files.get(f"{BUCKET}/{run}", str(target), recursive=True)


class _Proxy(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that was killed while it waited is nothing to print."""


def _handler(store: Store, address: tuple[str, int]) -> type[http.server.BaseHTTPRequestHandler]:
    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = store.next_fault()
            if fault in ("500", "503"):
                self._answer(int(fault), [], b"" if self.command == "HEAD" else b"<Error><Code>InternalError</Code></Error>")
                return
            if fault == "hang":
                time.sleep(HANG_S)
            if fault in ("hang", "drop"):
                self.close_connection = True
                return
            upstream = http.client.HTTPConnection(*address, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            upstream.request(self.command, self.path, body, headers)
            reply = upstream.getresponse()
            content = reply.read()
            upstream.close()
            if fault == "done_and_drop":
                self.close_connection = True
                return
            self._answer(reply.status, reply.getheaders(), content)

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            length = None
            for name, value in headers:
                if name.lower() == "content-length":
                    length = value
                elif name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" and length is not None else str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    return Proxy


@contextlib.contextmanager
def s3_store() -> Iterator[Store]:
    """The store; while it is up, the environment names it to every S3 client that is started."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    files = s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}", key="test", secret="test", use_listings_cache=False)
    files.mkdir(BUCKET)
    store = Store("", files)
    proxy = _Proxy(("127.0.0.1", 0), _handler(store, (host, port)))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    store.url = f"http://127.0.0.1:{proxy.server_address[1]}"
    names = {
        "AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield store
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        proxy.shutdown()
        server.stop()
