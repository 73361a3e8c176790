"""Pages to readable text: what a payload is, its character set, and the extractor."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal

import numpy as np
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
TAG = re.compile(r"(/?)([a-zA-Z][^\s/>]{0,12})")
TAG_NAME = re.compile(r"/?[^\s/>]*")
ATTRIBUTE = re.compile(r"""[\s/]*(?:=[^\s/>=]*|[^\s/>=]+)(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s>]*))?""")
TAG_REST = re.compile(r"""[^"'>]*(?:"[^"]*"[^"'>]*|'[^']*'[^"'>]*)*""")
FLAT_TAGS = frozenset({
    "area", "base", "br", "col", "colgroup", "dd", "dt", "embed", "hr", "img", "input", "li", "link", "meta", "option",
    "p", "param", "source", "tbody", "td", "tfoot", "th", "thead", "tr", "wbr",
})
"""Void elements and those whose end the next one implies: they make no depth."""
SHORT_TEXT, SHORT_LINE = 200, 80
SUSPICIOUS_SHARE = 0.2
LEAST_SHARE = 0.2
"""A second opinion shorter than this, relative to the first, is none."""
LINE_STOP = re.compile("[.!?:;\u2026\u3002\uff01\uff1f\uff1a\uff1b\u0964\u061f\u06d4][\"\u201d\u2019\u00bb\u300d\u300f\uff09)\\]'*\\d]*$")
"""Stops of Latin, Chinese, Indian and Arabic scripts, with quotes, brackets and footnote marks behind them."""


def _table(keys: Iterable[int], size: int) -> Any:
    table = np.zeros(size, bool)
    table[list(keys)] = True
    return table


NAME_ENDS = _table(b"\t\n\f\r />", 1 << 8)
SHORT_FLAT = _table((int.from_bytes(tag.encode()) for tag in FLAT_TAGS if len(tag) == 2), 1 << 16)
MAYBE_FLAT = _table((int.from_bytes(tag[:2].encode()) for tag in FLAT_TAGS if len(tag) > 1), 1 << 16)
"""What ends a name, flat names of two letters, and the first two letters of any flat name."""
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
            if "\ufffd" not in text or text.count("\ufffd") * 100 <= len(text):
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
            if len(piece) > LONG_TAG and not piece.startswith("!") and (tag := TAG_REST.match(piece)):
                num_attributes = len(ATTRIBUTE.findall(tag[0], TAG_NAME.match(tag[0]).end()))  # type: ignore[union-attr]
                if num_attributes > MAX_ATTRIBUTES:
                    raise PageError("too_complex", f"an element with {num_attributes} attributes")
    if html.count("<") > MAX_DEPTH and _depth_bound(html) > MAX_DEPTH and _depth(html) > MAX_DEPTH:
        raise PageError("too_complex", f"elements nested more than {MAX_DEPTH} deep")


def _depth_bound(html: str) -> int:
    """An upper bound of ``_depth``, tens of times as fast: names are told by two letters, and in doubt they nest."""
    stored = np.frombuffer(html.encode("utf-8", "replace") + b"    ", np.uint8)
    tags = np.flatnonzero(stored == ord("<")) + 1
    is_closing = stored[tags] == ord("/")
    num_opening = len(tags) - int(np.count_nonzero(is_closing))
    if num_opening <= MAX_DEPTH:
        return num_opening
    names = tags + is_closing
    first, second = stored[names] | 0x20, stored[names + 1] | 0x20  # in lower case
    is_tag = (first >= ord("a")) & (first <= ord("z"))
    letters = first.astype(np.int32) << 8 | second
    is_flat = ((first == ord("p")) & NAME_ENDS[stored[names + 1]]) | (SHORT_FLAT[letters] & NAME_ENDS[stored[names + 2]])
    is_sure_end = is_tag & (first != ord("p")) & ~MAYBE_FLAT[letters]
    steps = np.where(is_closing, -is_sure_end.astype(np.int32), is_tag.astype(np.int32))
    steps[is_flat] = 0
    depth = np.cumsum(steps)
    return int((depth - np.minimum(np.minimum.accumulate(depth), 0)).max(initial=0))


def _depth(html: str) -> int:
    depth = deepest = 0
    for piece in html.split("<")[1:]:
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


def text_by_tiers(tree: Any, html: str) -> tuple[str, str]:
    """The extractor that was believed, and its text: resiliparse, or trafilatura where resiliparse's text looks wrong.

    Raises:
        ConfigError: trafilatura is not installed.
    """
    first = text_of(tree, main_content=True)
    if not looks_wrong(first):
        return "resiliparse", first
    try:
        second = str(_guarded(lambda: text_with_trafilatura(html)))
    except PageError:
        return "resiliparse", first
    return ("trafilatura", second) if len(second) > len(first) * LEAST_SHARE else ("resiliparse", first)


def looks_wrong(text: str) -> bool:
    """True for a text that is hardly any, or has much that no prose has: short lines, lines that end without a stop.

    Found on the news pages of the article extraction benchmark and the pages of Readability: the share of menus, teasers
    and captions left in a text shows in these two better than in its share of the page's whole text, which costs more.
    In a script without stops (Thai) every page looks wrong.
    """
    num_chars = num_short = num_open = 0
    for line in map(str.strip, text.split("\n")):
        num_chars += len(line)
        num_short += len(line) if len(line) < SHORT_LINE else 0
        num_open += 0 if LINE_STOP.search(line, max(0, len(line) - 16)) else len(line)
    return num_chars < SHORT_TEXT or max(num_short, num_open) > SUSPICIOUS_SHARE * num_chars


@cache
def _trafilatura() -> Callable[..., str | None]:
    try:
        from trafilatura import extract
    except ImportError as err:
        raise ConfigError("extractor: trafilatura is not installed; run pip install 'alignray[extract]'") from err
    return extract  # type: ignore[no-any-return, unused-ignore]
