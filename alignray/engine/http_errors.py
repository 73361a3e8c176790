"""What an endpoint's trouble means: try again, slow down, give this request up, or stop the run."""

from __future__ import annotations

import email.utils
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

BODY_HEAD = 300
"""Characters of a response that a message quotes."""
PIECE = 8
"""So many characters of a key in a row are a piece of it."""
RETRYABLE = frozenset({408, 409, 425})
THROTTLED_DOWN_S = 600.0
"""An endpoint that answered nothing but 429 for this long has no quota left."""

_CONTEXT = re.compile(
    r"context[ _]length|context size|context window|max_model_len|maximum model length|"
    r"(prompt|input|message) (is )?too (long|large)|too many (input )?tokens|exceeds? the (available )?context",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content[ _-]?(filter|policy|management policy)|moderation|flagged|safety system|responsibleai", re.IGNORECASE
)
_KEY_SHAPED = re.compile(r"\b(sk|pk|key|gsk|hf|xai)[-_][A-Za-z0-9_*.\-]{8,}")


@dataclass(frozen=True)
class Trouble:
    """An attempt that brought no answer."""

    kind: Literal["retry", "throttle", "refuse", "down"]
    reason: str
    """Bounded cardinality: "http_500", "timeout", "unreachable", "cut", "bad_answer", "context_too_long" ..."""
    message: str
    retry_after_s: float = 0.0

    @property
    def is_overload(self) -> bool:
        """The endpoint said that it has too much to do."""
        return self.reason in ("http_429", "http_503")

    @property
    def may_be_billed(self) -> bool:
        """The request was taken, and tokens may have been spent on it."""
        return self.reason in ("timeout", "cut", "bad_answer", "http_408", "http_500", "http_502", "http_504")


def trouble_of_status(status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> Trouble:
    """Reads an HTTP answer other than 200, the message not yet redacted. ``now`` is the time of day, for a Retry-After that is a date."""
    head = body_head(body)
    message, reason = f"HTTP {status}: {head}", f"http_{status}"
    if status == 429:
        if "insufficient_quota" in head:
            return Trouble("down", "quota", message)
        return Trouble("throttle", reason, message, retry_after(headers, now=now))
    if status in RETRYABLE or status >= 500:
        return Trouble("retry", reason, message, retry_after(headers, now=now) if status == 503 else 0.0)
    if status in (400, 413, 422) and _CONTEXT.search(head):
        return Trouble("refuse", "context_too_long", message)
    if status in (400, 403, 422) and _FILTER.search(head):
        return Trouble("refuse", "content_filter", message)
    if status in (401, 403, 404) or status < 400:
        return Trouble("down", reason, message)
    return Trouble("refuse", "http_4xx", message)


def retry_after(headers: Mapping[str, str], *, now: float) -> float:
    """Seconds an endpoint asks to be left alone: retry-after-ms, or Retry-After in seconds or as a date; 0 when unsaid."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1e3)
        value = headers.get("Retry-After", "0")
        if re.fullmatch(r"\s*\d+(\.\d*)?\s*", value):
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def body_head(body: bytes) -> str:
    """The error message of a JSON body, or the body's beginning, on one line."""
    try:
        data: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        data = None
    text = body[: 4 * BODY_HEAD].decode("utf-8", "replace")
    if isinstance(data, dict):
        error = data.get("error", data)
        if isinstance(error, dict):
            parts = [str(error[name]) for name in ("message", "detail", "code", "type") if error.get(name)]
            text = " ".join(parts) or text
        elif isinstance(error, str):
            text = error
    return " ".join(text.split())[:BODY_HEAD] or "(empty body)"


def redact(text: str, key: str | None) -> str:
    """The text without the key, a piece of it (as where a text was cut), or anything that looks like another key."""
    return _KEY_SHAPED.sub("[redacted]", without_key(text, key))


def without_key(text: str, key: str | None) -> str:
    """The text without the key, nor any ``PIECE`` characters in a row of it."""
    if not key:
        return text
    pieces = {key[start : start + PIECE] for start in range(max(len(key) - PIECE, 0) + 1)}
    if not any(piece in text for piece in pieces):
        return text
    is_hidden = bytearray(len(text))
    for piece in pieces:
        at = text.find(piece)
        while at >= 0:
            is_hidden[at : at + len(piece)] = b"\1" * len(piece)
            at = text.find(piece, at + 1)
    shown = itertools.groupby(zip(text, is_hidden, strict=True), key=lambda pair: pair[1])
    return "".join("[redacted]" if hidden else "".join(character for character, _ in pairs) for hidden, pairs in shown)


class Health:
    """Tells a request that cannot work from an endpoint that does not.

    A failure is the request's own fault once another request succeeds after it began. While none does, the endpoint is
    under suspicion; after ``down_after_s`` of that it is down, provided that at least two requests failed, or one could
    not even connect: a lone request that draws a 500 may be at fault itself.
    """

    def __init__(self, down_after_s: float) -> None:
        self.down_after_s = down_after_s
        self.successes = 0
        self._failing_since: float | None = None
        self._throttled_since: float | None = None
        self._failing: set[int] = set()

    def succeeded(self) -> None:
        self.successes += 1
        self._failing_since = self._throttled_since = None
        self._failing.clear()

    def throttled(self, now: float) -> bool:
        """Counts a 429; True when there was nothing else for THROTTLED_DOWN_S."""
        if self._throttled_since is None:
            self._throttled_since = now
        return now - self._throttled_since >= THROTTLED_DOWN_S

    def failed(self, call: int, now: float, *, reason: str, latency_s: float) -> Literal["wait", "alone", "down"]:
        """Counts a failure of call number ``call``.

        Returns:
            "wait" while it is too early to tell; then "down", or "alone" when no other call failed.
        """
        if self._failing_since is None:
            self._failing_since = now
        self._failing.add(call)
        if now - self._failing_since < max(self.down_after_s, 2 * latency_s):
            return "wait"
        return "down" if reason == "unreachable" or len(self._failing) > 1 else "alone"
