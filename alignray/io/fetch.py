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

from alignray.config import Config
from alignray.errors import ConfigError, RecordError

log = logging.getLogger(__name__)

_JITTER = random.SystemRandom()
"""Not seeded: workers that start together must not come back together."""

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


def open_input(uri: str, fetch: FetchConfig) -> BinaryIO:
    """The input as a seekable stream of bytes as stored.

    Raises:
        RecordError: it cannot be opened; the message names it.
    """
    if is_http(uri):
        return cast(BinaryIO, io.BufferedReader(HttpStream(uri, fetch), buffer_size=1 << 18))
    path = local_path(uri)
    try:
        if path is not None:
            return path.open("rb")
        filesystem, inside = filesystem_of(uri)
        return cast(BinaryIO, filesystem.open(inside, "rb"))
    except OSError as err:
        raise RecordError(f"{uri}: cannot be opened ({err.strerror or err}); check the path and its permissions") from err


class HttpStream(io.RawIOBase):
    """A URL as a seekable file; bounded memory, broken connections resumed by Range.

    Raises:
        RecordError: from ``read``: refused for good, or ``attempts`` tries without a byte.
    """

    def __init__(self, url: str, config: FetchConfig) -> None:
        self._url, self._config = url, config
        self._position = 0
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
                raise RecordError(f"{self._url}: the server does not say how long the file is; download it first")
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

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _retrying(self, step: Any) -> bytes:
        reason, pause_s = "", 0.0
        for attempt in range(self._config.attempts):
            if attempt:
                log.warning("%s: %s; attempt %d in %.1f s", self._url, reason, attempt + 1, pause_s)
                time.sleep(pause_s)
            pause_s = min(self._config.max_backoff_s, self._config.backoff_s * 2**attempt * _JITTER.uniform(0.5, 1.5))
            try:
                data = cast(bytes, step())
                if data or self._size is None or self._position >= self._size:
                    return data
                reason = f"connection closed at byte {self._position} of {self._size}"
            except urllib.error.HTTPError as err:
                if err.code == 416:  # asked for what lies behind the end
                    return b""
                if err.code not in RETRIED_STATUSES:
                    raise RecordError(f"{self._url}: HTTP {err.code} {err.reason}; check the address") from err
                reason = f"HTTP {err.code}"
                wanted_s = _retry_after_s(err.headers.get("Retry-After", ""))
                if wanted_s is not None:
                    pause_s = min(wanted_s, self._config.max_backoff_s)
                err.close()
            except (OSError, http.client.HTTPException) as err:
                reason = f"{type(err).__name__}: {err}"
            self._disconnect()
        raise RecordError(
            f"{self._url}: no answer after {self._config.attempts} attempts ({reason}); the server may be limiting "
            "this address: wait, use fewer workers, raise fetch.attempts, or download the files first"
        )

    def _connected(self) -> http.client.HTTPResponse:
        if self._response is not None:
            return self._response
        request = urllib.request.Request(self._url, headers={"User-Agent": "alignray", "Accept-Encoding": "identity"})
        if self._position:
            request.add_header("Range", f"bytes={self._position}-")
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self._config.timeout_s)
        etag, length = response.headers.get("ETag", ""), response.headers.get("Content-Length", "")
        if self._etag and etag and etag != self._etag:
            response.close()
            raise RecordError(f"{self._url}: changed on the server while it was read; start the run again")
        self._etag = etag
        is_part = response.status == 206
        if length.isdigit():
            self._size = int(length) + (self._position if is_part else 0)
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
