"""An archived HTTP response: status, headers, and the body as the page's author wrote it.

Archives hold messages as they were sent, and also as a crawler mangled them: a status line twice, a header that
announces chunks or compression long undone, sizes that do not fit. What is plainly readable is read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO

import brotli  # type: ignore[import-untyped]
from fastwarc import stream_io

from alignray.io.reasons import PageError

HEAD_LIMIT = 1 << 16
STATUS_LINE = re.compile(rb"(?:HTTP/\d(?:\.\d)? +)+(\d{3})\b")
WANTED_HEADER = re.compile(
    rb"^(content-type|content-encoding|transfer-encoding|x-robots-tag|tdm-reservation|tdm-policy)[ \t]*:(.*(?:\n[ \t].*)*)",
    re.IGNORECASE | re.MULTILINE,
)
CHUNK_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,256})?\r?\n")
NO_CODING = frozenset({"", "identity", "none", "binary", "7bit", "8bit", "utf-8"})


@dataclass(frozen=True)
class HttpMessage:
    """A response; of its headers those that matter here, names in lower case, each with its values in order."""

    status: int
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    """As transferred: still chunked and compressed where it was."""

    def first(self, name: str) -> str:
        """The first value of a header, or an empty string."""
        values = self.headers.get(name)
        return values[0] if values else ""


def parse_response(block: bytes) -> HttpMessage:
    """The message in a response record's block.

    Raises:
        PageError: bad_http.
    """
    status = STATUS_LINE.match(block[:256])
    if status is None:
        raise PageError("bad_http", f"begins with {block[:40]!r}")
    ends = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := block.find(mark, 0, HEAD_LIMIT)) >= 0]
    if not ends and len(block) > HEAD_LIMIT:
        raise PageError("bad_http", f"no end of the headers within {HEAD_LIMIT} bytes")
    end, gap = min(ends, default=(len(block), 0))
    headers: dict[str, list[str]] = {}
    for name, value in WANTED_HEADER.findall(block[:end]):
        headers.setdefault(name.decode("ascii").lower(), []).append(" ".join(value.decode("latin-1").split()))
    return HttpMessage(int(status[1]), headers, block[end + gap :])


def body_of(message: HttpMessage, *, max_bytes: int) -> bytes:
    """The body without its transfer and content codings.

    Raises:
        PageError: payload_too_large, bad_content_encoding.
    """
    body = message.body
    if "chunked" in message.first("transfer-encoding").lower():
        body = dechunked(body)
    codings = ",".join(message.headers.get("content-encoding", ())).lower().split(",")
    for coding in reversed(codings):
        body = _decoded(body, coding.strip(), max_bytes)
    if len(body) > max_bytes:
        raise PageError("payload_too_large", f"{len(body)} bytes")
    return body


def dechunked(body: bytes) -> bytes:
    """The body without chunk sizes; as it is, where it does not begin with a chunk; up to the first size that is none."""
    parts: list[bytes] = []
    position = 0
    while (size_line := CHUNK_SIZE_LINE.match(body, position)) is not None:
        size, start = int(size_line[1], 16), size_line.end()
        if size == 0:
            break
        position = start + size
        if not parts and position >= len(body):  # one cut chunk, or no size at all
            return body[start:] if body[start : start + 64].lstrip().startswith(b"<") else body
        if not parts and body[position : position + 1] not in (b"\r", b"\n"):
            return body
        parts.append(body[start:position])
        position += 2 if body.startswith(b"\r\n", position) else body.startswith(b"\n", position)
    return b"".join(parts) if parts else body


def _decoded(data: bytes, coding: str, max_bytes: int) -> bytes:
    if not data or coding in NO_CODING:
        return data
    if coding in ("gzip", "x-gzip"):
        return _inflated(data, 31, max_bytes) if data.startswith(b"\x1f\x8b") else data  # else: undone by the crawler
    if coding == "deflate":
        is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
        return _inflated(data, 15, max_bytes) if is_zlib else data if _is_text(data) else _inflated(data, -15, max_bytes)
    if coding == "br":
        return _unbrotlied(data, max_bytes)
    if coding == "zstd":
        return _unzstd(data, max_bytes) if data.startswith(b"\x28\xb5\x2f\xfd") else data
    if _is_text(data):
        return data
    raise PageError("bad_content_encoding", f"unknown coding {coding[:40]!r}")


def _is_text(data: bytes) -> bool:
    """True where compressed data is out of the question: the first bytes have no control characters."""
    return not any(byte < 9 or 13 < byte < 32 for byte in data[:64])


def _inflated(data: bytes, wbits: int, max_bytes: int) -> bytes:
    decoder = zlib.decompressobj(wbits=wbits)
    try:
        body = decoder.decompress(data, max_bytes + 1)
    except zlib.error as err:
        raise PageError("bad_content_encoding", str(err)) from err
    if len(body) > max_bytes:
        raise PageError("payload_too_large", f"more than {max_bytes} bytes when unpacked")
    if not body and not decoder.eof:
        raise PageError("bad_content_encoding", "cut before its first byte")
    return body


def _unbrotlied(data: bytes, max_bytes: int) -> bytes:
    decoder, parts, size = brotli.Decompressor(), [], 0
    try:
        part = decoder.process(data, output_buffer_limit=1 << 16)
        while part:
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise PageError("payload_too_large", f"more than {max_bytes} bytes when unpacked")
            part = decoder.process(b"", output_buffer_limit=1 << 16)
    except brotli.error as err:
        if _is_text(data) and not parts:
            return data
        raise PageError("bad_content_encoding", str(err)) from err
    if not parts and not decoder.is_finished():
        raise PageError("bad_content_encoding", "cut before its first byte")
    return b"".join(parts)


def _unzstd(data: bytes, max_bytes: int) -> bytes:
    reader, parts, size = stream_io.ZstdReader(BytesIO(data)), [], 0
    try:
        while part := reader.read(1 << 16):
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise PageError("payload_too_large", f"more than {max_bytes} bytes when unpacked")
    except OSError as err:
        if not parts:
            raise PageError("bad_content_encoding", str(err)) from err
    return b"".join(parts)
