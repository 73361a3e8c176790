"""Pages to readable text: what a payload is, its character set, and the extractor."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, detect_mime, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from alignray.errors import ConfigError
from alignray.io.reasons import PageError, is_panic

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"})
XML_TYPES = frozenset({"text/xml", "application/xml"})
NO_TYPES = frozenset({"", "*/*", "unknown/unknown", "application/unknown", "unknown"})
HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")
META_CHARSET = re.compile(rb"""<meta\b[^>]{0,512}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.I)
META = re.compile(r"<meta\s[^>]{0,1000}", re.I)
BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
BINARY_STARTS = (b"%PDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04", b"\x1f\x8b", b"RIFF", b"\0\0")
TAG = re.compile(r"(/?)([a-zA-Z][a-zA-Z0-9]{0,12})")
TAG_REST = re.compile(r"""[^"'>]*(?:"[^"]*"[^"'>]*|'[^']*'[^"'>]*)*""")
FLAT_TAGS = frozenset({
    "area", "base", "br", "col", "colgroup", "dd", "dt", "embed", "hr", "img", "input", "li", "link", "meta", "option",
    "p", "param", "source", "tbody", "td", "tfoot", "th", "thead", "tr", "wbr",
})
"""Void elements and those whose end the next one implies: they make no depth."""
MAX_DEPTH, MAX_ATTRIBUTES, LONG_TAG = 5000, 4000, 1 << 14

PageKind = Literal["html", "text"]


def kind_of(content_type: str, payload: bytes) -> PageKind:
    """Whether a payload is HTML or plain text, by its declared type, else by its first bytes.

    Raises:
        PageError: not_html.
    """
    declared = content_type.split(";")[0].split(",")[0].strip().lower()
    if declared in HTML_TYPES or declared == "text/plain" or declared in NO_TYPES or declared in XML_TYPES:
        if payload.startswith(BINARY_STARTS):
            raise PageError("not_html", f"binary data sent as {declared or 'no type'}")
        if declared in HTML_TYPES:
            return "html"
        head = payload[:2048].lower()
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and any(tag in head for tag in HTML_STARTS):
            return "html"
        if declared in NO_TYPES:
            sniffed = detect_mime(payload[:4096])
            if sniffed in HTML_TYPES:
                return "html"
            if sniffed == "text/plain":
                return "text"
            raise PageError("not_html", f"no type; looks like {sniffed}")
        if declared == "text/plain":
            return "text"
    raise PageError("not_html", declared[:100])


def decode(payload: bytes, content_type: str = "") -> str:
    """The payload as text: by byte order mark, HTTP charset, meta charset, valid UTF-8, then detection.

    A declared set that leaves few errors is kept, with U+FFFD for them; one that leaves many was a lie.

    Raises:
        PageError: bad_encoding.
    """
    for mark, name in BOMS:
        if payload.startswith(mark):
            return payload[len(mark) :].decode(name, "replace")
    for encoding in (_header_charset(content_type), _meta_charset(payload)):
        if encoding:
            text = _with(payload, encoding)
            if text.count("\ufffd") * 100 <= len(text):
                return text
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        text = _with(payload, detect_encoding(payload, 1 << 16) or "cp1252")
    if text.count("\ufffd") * 10 > len(text):
        raise PageError("bad_encoding", "most bytes fit no character set")
    return text


def _with(payload: bytes, encoding: str) -> str:
    try:
        return payload.decode(encoding, "replace")
    except LookupError:
        return payload.decode("cp1252", "replace")


@cache
def _python_name(label: str) -> str | None:
    name = map_encoding_to_html5(label, fallback_utf8=False)
    try:
        return codecs.lookup(name).name if name else None
    except LookupError:
        return None


def _header_charset(content_type: str) -> str | None:
    _, found, label = content_type.lower().partition("charset=")
    return _python_name(label.strip(" \"'").split(";")[0].strip(" \"'")[:40]) if found else None


def _meta_charset(payload: bytes) -> str | None:
    found = META_CHARSET.search(payload, 0, 4096)
    name = _python_name(found[1].decode("ascii", "replace")) if found else None
    return "utf-8" if name and name.startswith("utf-16") else name  # an ASCII-readable meta cannot stand in UTF-16


def parse_html(html: str) -> Any:
    """The page as a resiliparse tree.

    Raises:
        PageError: too_complex, bad_encoding.
    """
    _check_cost(html)
    return _guarded(lambda: HTMLTree.parse(html))


def metas_of(tree: Any, html: str, *, words: Iterable[str]) -> list[tuple[str, str]]:
    """Name and content of the meta elements, wherever they stand; those in comments and scripts are none.

    Args:
        words: lower-case words; the tree is asked only where a meta element of the page has one.
    """
    metas = " ".join(META.findall(html)).lower()
    if not tree.document or not any(word in metas for word in words):
        return []
    found = tree.document.query_selector_all("meta[name][content]")
    return [(meta.getattr("name"), meta.getattr("content")) for meta in found]


def text_of(tree: Any, *, main_content: bool) -> str:
    """Readable text of a tree, a blank line between paragraphs."""
    return str(_guarded(lambda: extract_plain_text(tree, main_content=main_content, alt_texts=False)))


def _guarded(parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except (ValueError, RuntimeError, OSError) as err:
        raise PageError("bad_encoding", f"the parser refused the page: {err}") from err
    except BaseException as err:
        if is_panic(err):
            raise PageError("too_complex", f"the parser gave up: {err}") from err
        raise


def _check_cost(html: str) -> None:
    """Turn away pages that the parser, quadratic in depth and in attributes of one element, would take minutes for."""
    # a long element leaves at least one aligned window without a "<"
    if any(html.find("<", start, start + LONG_TAG // 2) < 0 for start in range(0, len(html) - LONG_TAG // 2, LONG_TAG // 2)):
        for piece in html.split("<"):
            if len(piece) > LONG_TAG and (tag := TAG_REST.match(piece)) and len(tag[0].split()) > MAX_ATTRIBUTES:
                raise PageError("too_complex", f"an element with {len(tag[0].split())} attributes")
    if html.count("<") > MAX_DEPTH and _depth_bound(html) > MAX_DEPTH and _depth(html) > MAX_DEPTH:
        raise PageError("too_complex", f"elements nested more than {MAX_DEPTH} deep")


def _depth_bound(html: str) -> int:
    """An upper bound of the nesting, counting void elements as if they nested; a hundred times as fast as ``_depth``."""
    step = len(html) // 64 + 1
    depth = bound = 0
    for start in range(0, len(html), step):
        num_closing = html.count("</", start, start + step + 1)
        num_opening = html.count("<", start, start + step) - num_closing
        bound = max(bound, depth + num_opening)
        depth = max(0, depth + num_opening - num_closing)
    return bound


def _depth(html: str) -> int:
    depth = deepest = 0
    for piece in html.split("<"):
        tag = TAG.match(piece)
        if tag and tag[2].lower() not in FLAT_TAGS:
            depth = max(0, depth - 1) if tag[1] else depth + 1
            deepest = max(deepest, depth)
    return deepest


def text_with_trafilatura(html: str) -> str:
    """Readable text by trafilatura, the second opinion.

    Raises:
        ConfigError: it is not installed.
    """
    return _trafilatura()(html, fast=True, include_comments=False, include_tables=True) or ""


@cache
def _trafilatura() -> Callable[..., str | None]:
    try:
        from trafilatura import extract
    except ImportError as err:
        raise ConfigError("extractor: trafilatura is not installed; run pip install 'alignray[extract]'") from err
    return extract  # type: ignore[no-any-return, unused-ignore]
