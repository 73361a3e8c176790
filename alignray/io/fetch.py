"""Open an input wherever it lies: local path, HTTP(S) with polite retries, any other store through fsspec."""

from __future__ import annotations

import email.utils
import http.client
import io
import logging
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydantic

from alignray.config import Config, without_secrets
from alignray.errors import ConfigError, RecordError

log = logging.getLogger(__name__)

_JITTER = random.SystemRandom()
"""Not seeded: workers that start together must not come back together."""

BEFORE, BEHIND = 1 << 12, 1 << 18
"""Bytes that one request asks for outside of the range it was opened for."""
RETRIED_STATUSES = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
"""403 is among them: Common Crawl's front answers it, like 503, to clients that ask too fast."""


class FetchConfig(Config):
    """How HTTP inputs are read."""

    attempts: int = pydantic.Field(8, ge=1)
    """Tries in a row without a single byte before the run stops; any progress starts the count again."""
    backoff_s: float = pydantic.Field(1.0, ge=0)
    """First pause; doubled each time, with jitter, unless the server says Retry-After."""
    max_backoff_s: float = pydantic.Field(120.0, ge=0)
    """Longest pause, also where Retry-After asks for more."""
    timeout_s: float = pydantic.Field(60.0, gt=0)
    """Longest silence of a connection."""


def is_http(uri: str) -> bool:
    """True for http:// and https:// URLs."""
    return uri.startswith(("http://", "https://"))


def local_path(uri: str) -> Path | None:
    """The path behind a plain path or file:// URL, None for anything remote."""
    if uri.startswith("file://"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(uri).path))
    return None if "://" in uri else Path(uri)


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it.

    Raises:
        ConfigError: the store's package is not installed, or the protocol is unknown.
    """
    import fsspec

    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(uri))
    except (ImportError, ValueError) as err:
        raise ConfigError(f"{uri}: cannot open this kind of store ({err}); for S3 run pip install 'alignray[s3]'") from err


def open_input(uri: str, fetch: FetchConfig, *, start: int = 0, end: int | None = None) -> BinaryIO:
    """The input as a seekable stream of bytes as stored.

    Args:
        start, end: what will be read of it, more or less; a web server is asked for no more than that at a time.

    Raises:
        RecordError: it cannot be opened; the message names it.
    """
    if is_http(uri):
        return cast(BinaryIO, io.BufferedReader(HttpStream(uri, fetch, start, end), buffer_size=1 << 18))
    path = local_path(uri)
    try:
        if path is not None:
            return path.open("rb")
        filesystem, inside = filesystem_of(uri)
        return cast(BinaryIO, filesystem.open(inside, "rb"))
    except OSError as err:
        raise RecordError(f"{uri}: cannot be opened ({err.strerror or err}); check the path and its permissions") from err


def read_bytes(uri: str, start: int, end: int, fetch: FetchConfig) -> bytes:
    """The bytes of an input from ``start`` to ``end``, fewer where it ends before; nothing else of it is transferred.

    Raises:
        RecordError: it cannot be opened; the message names it.
    """
    if is_http(uri):
        with HttpStream(uri, fetch, start, end) as stream:
            stream.seek(start)
            pieces: list[bytes] = []
            while stream.tell() < end and (data := stream.read(end - stream.tell())):
                pieces.append(data)
            return b"".join(pieces)
    path = local_path(uri)
    try:
        if path is None:
            filesystem, inside = filesystem_of(uri)
            return cast(bytes, filesystem.cat_file(inside, start=start, end=end))
        with path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)
    except OSError as err:
        raise RecordError(f"{uri}: cannot be read ({err.strerror or err}); check the path and its permissions") from err


def http_size(url: str, fetch: FetchConfig) -> int:
    """Size of what a URL names, 0 where its server does not say; one HEAD request.

    Raises:
        RecordError: refused for good, or no answer after ``attempts`` tries.
    """
    with HttpStream(url, fetch) as stream:
        return stream.ask_size()


class HttpStream(io.RawIOBase):
    """A URL as a seekable file; bounded memory, broken connections resumed by Range.

    With an ``end``, one request asks for the bytes from ``start`` to it; what is read before or behind comes in small pieces.

    Raises:
        RecordError: from ``read``: refused for good, or ``attempts`` tries without a byte.
    """

    def __init__(self, url: str, config: FetchConfig, start: int = 0, end: int | None = None) -> None:
        self._url, self._shown, self._config = url, without_secrets(url), config
        self._start, self._end = start, end
        self._position = 0
        self._until: int | None = None
        self._size: int | None = None
        self._etag = ""
        self._response: http.client.HTTPResponse | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._size is None:
            self._retrying(lambda: b"-" if self._connected() else b"")
            if self._size is None:
                raise RecordError(f"{self._shown}: the server does not say how long the file is; download it first")
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size or 0}[whence]
        if base + offset != self._position:
            self._disconnect()
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._size is not None and self._position >= self._size:
            return 0
        data = self._retrying(lambda: self._connected().read(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def ask_size(self) -> int:
        """What the server says to a HEAD request, 0 for nothing."""
        def ask() -> bytes:
            with urllib.request.urlopen(self._request("HEAD"), timeout=self._config.timeout_s) as response:
                length = response.headers.get("Content-Length", "")
            return length.encode() if length.isdigit() else b"0"

        return int(self._retrying(ask) or 0)

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _retrying(self, step: Any) -> bytes:
        reason, pause_s = "", 0.0
        for attempt in range(self._config.attempts):
            if attempt:
                log.warning("%s: %s; attempt %d in %.1f s", self._shown, reason, attempt + 1, pause_s)
                time.sleep(pause_s)
            pause_s = min(self._config.max_backoff_s, self._config.backoff_s * 2**attempt * _JITTER.uniform(0.5, 1.5))
            try:
                data = cast(bytes, step())
                end = self._until if self._size is None else self._size
                if data or end is None or self._position >= end:
                    return data
                reason = f"connection closed at byte {self._position} of {end}"
            except urllib.error.HTTPError as err:
                if err.code == 416:  # asked for what lies behind the end
                    return b""
                if err.code not in RETRIED_STATUSES:
                    raise RecordError(f"{self._shown}: HTTP {err.code} {err.reason}; check the address") from err
                reason = f"HTTP {err.code}"
                wanted_s = _retry_after_s(err.headers.get("Retry-After", ""))
                if wanted_s is not None:
                    pause_s = min(wanted_s, self._config.max_backoff_s)
                err.close()
            except (OSError, http.client.HTTPException) as err:
                reason = f"{type(err).__name__}: {err}"
            self._disconnect()
        raise RecordError(
            f"{self._shown}: no answer after {self._config.attempts} attempts ({reason}); the server may be limiting "
            "this address: wait, use fewer workers, raise fetch.attempts, or download the files first"
        )

    def _request(self, method: str = "GET") -> urllib.request.Request:
        return urllib.request.Request(self._url, method=method, headers={"User-Agent": "alignray", "Accept-Encoding": "identity"})

    def _wanted_end(self) -> int | None:
        """Up to where the next request asks."""
        if self._position < self._start:
            return min(self._position + BEFORE, self._start)
        if self._end is None or self._position < self._end:
            return self._end
        return self._position + BEHIND

    def _connected(self) -> http.client.HTTPResponse:
        if self._response is not None and self._position == self._until:
            self._disconnect()
        if self._response is not None:
            return self._response
        request, wanted_end = self._request(), self._wanted_end()
        if self._position or wanted_end is not None:
            request.add_header("Range", f"bytes={self._position}-{wanted_end - 1 if wanted_end is not None else ''}")
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self._config.timeout_s)
        etag, length = response.headers.get("ETag", ""), response.headers.get("Content-Length", "")
        if self._etag and etag and etag != self._etag:
            response.close()
            raise RecordError(f"{self._shown}: changed on the server while it was read; start the run again")
        self._etag = etag
        is_part = response.status == 206
        self._until = self._position + int(length) if is_part and length.isdigit() else None
        total = response.headers.get("Content-Range", "").rpartition("/")[2] if is_part else length
        if total.isdigit():
            self._size = int(total)
        elif self._until is not None and wanted_end is None:
            self._size = self._until
        if self._position and not is_part:  # the server knows no Range: read up to where we were
            left = self._position
            while left and (skipped := response.read(min(left, 1 << 16))):
                left -= len(skipped)
        self._response = response
        return response

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def _retry_after_s(value: str) -> float | None:
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
