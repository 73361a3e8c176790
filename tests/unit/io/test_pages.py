"""One page at a time: HTTP messages, character sets, payloads meant to break us."""

from __future__ import annotations

import gzip
import json
import sys
import time
import zlib
from unittest import mock

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.io import extract
from alignray.io.extract import decode, kind_of, parse_html, text_with_trafilatura
from alignray.io.httpmessage import dechunked
from alignray.io.reasons import REASONS, PageError
from alignray.seeding import row_id_of
from tests.warcs import PROSE, html, http, members, read_bytes, record

PAGE = html()
CHUNKED = b"%x\r\n" % 40 + PAGE[:40] + b"\r\n%x;note=1\r\n" % len(PAGE[40:]) + PAGE[40:] + b"\r\n0\r\nTrailer: x\r\n\r\n"


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


def one(stored: bytes, tmp_path, **settings):
    """The document, or the reject's reason."""
    documents, rejects, _ = read_bytes(stored, tmp_path, **settings)
    assert len(documents) + len(rejects) == 1
    assert all(reject.reason in REASONS for reject in rejects)
    return documents[0] if documents else rejects[0].reason


@pytest.mark.parametrize("block", [
    http(PAGE),
    http(PAGE, status="HTTP/1.1 HTTP/1.1 200 OK"),
    http(PAGE, status="HTTP/1.0 203 Non-Authoritative"),
    http(PAGE, status="HTTP/2 200"),
    http(PAGE).replace(b"\r\n", b"\n"),
    http(PAGE, "Content-Type: text/html;\r\n  charset=utf-8"),
    http(PAGE, "Content-Type: TEXT/HTML"),
    http(PAGE, "Content-Type:"),
    http(b"<?xml version='1.0'?>\n" + PAGE, "Content-Type: application/xhtml+xml"),
    http(PAGE, "Content-Type: application/xml"),
    http(PAGE, "Content-Type: text/plain"),
    http(PAGE, "Transfer-Encoding: chunked"),
    http(CHUNKED, "Transfer-Encoding: Chunked"),
    http(gzip.compress(PAGE), "Content-Encoding: gzip"),
    http(PAGE, "Content-Encoding: gzip"),
    http(PAGE, "Content-Encoding: br"),
    http(zlib.compress(PAGE), "Content-Encoding: deflate"),
    http(raw_deflate(PAGE), "Content-Encoding: deflate"),
    http(brotli.compress(PAGE), "Content-Encoding: br"),
    http(gzip.compress(brotli.compress(PAGE)), "Content-Encoding: br, gzip"),
    http(b"%x\r\n" % len(gzip.compress(PAGE, mtime=0)) + gzip.compress(PAGE, mtime=0) + b"\r\n0\r\n\r\n",
         "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
    http(b"\xef\xbb\xbf" + PAGE, "Content-Type: text/html; charset=iso-8859-1"),
    http(PAGE.decode().encode("utf-16"), "Content-Type: text/html"),
])
def test_the_same_text_however_it_was_sent(block, tmp_path):
    plain = one(record(http(PAGE)), tmp_path)
    document = one(record(block), tmp_path)
    assert document.text == plain.text
    assert "The kettle" in document.text and "<p>" not in document.text


@pytest.mark.parametrize("block, reason", [
    (b"", "empty_payload"),
    (http(b""), "empty_payload"),
    (http(b"  \r\n"), "empty_payload"),
    (b"no http at all", "bad_http"),
    (b"\xff\xfe\x00HTTP/1.1 200 OK\r\n\r\n", "bad_http"),
    (b"HTTP/1.1 OK\r\n\r\nhello", "bad_http"),
    (http(PAGE, "X-Long: " + "a" * 70_000), "bad_http"),
    (http(PAGE, status="HTTP/1.1 404 Not Found"), "http_status"),
    (http(PAGE, status="HTTP/1.1 301 Moved"), "http_status"),
    (http(PAGE, status="HTTP/1.1 206 Partial"), "http_status"),
    (http(b"\x89PNG\r\n\x1a\n", "Content-Type: image/png"), "not_html"),
    (http(b"%PDF-1.4 ...", "Content-Type: text/html"), "not_html"),
    (http(b"\x00\x01\x02\x03" * 50, "Content-Type:"), "not_html"),
    (http(b"a{}", "Content-Type: text/css"), "not_html"),
    (http(PAGE, "Content-Encoding: compress9"), "bad_content_encoding_or_text"),
    (http(b"\x1f\x8b\x08\x00broken", "Content-Encoding: gzip"), "bad_content_encoding"),
    (http(b"\x01\x02\x03", "Content-Encoding: br"), "bad_content_encoding"),
    (http(b"\x01\x02\x03", "Content-Encoding: sdch"), "bad_content_encoding"),
    (http(b"(\xb5/\xfdgarbage", "Content-Encoding: zstd"), "bad_content_encoding"),
    (http(gzip.compress(b"\0" * 50_000_000), "Content-Encoding: gzip"), "payload_too_large"),
    (http(brotli.compress(b"\0" * 50_000_000, quality=4), "Content-Encoding: br"), "payload_too_large"),
    (http(b"x" * (12 << 20)), "payload_too_large"),
    (http(b"<html><body><script>x()</script></body></html>"), "no_text"),
    (http(html("A short page.")), "too_short"),
    (http(b"<div>" * 100_000 + b"deep"), "too_complex"),
    (http(b"<div></p>" * 20_000 + b"ends that end nothing"), "too_complex"),
    (http(b"<p-x>" * 20_000 + b"no paragraph"), "too_complex"),
    (http(b"<div " + b" ".join(b"a%d=1" % i for i in range(50_000)) + b">x"), "too_complex"),
    (http(b"<div" + b"".join(b"/a%d" % i for i in range(50_000)) + b">x"), "too_complex"),
    (http(b'<div ="' + b"".join(b" a%d" % i for i in range(50_000)) + b'">x'), "too_complex"),
])
def test_what_is_no_page_is_rejected_with_its_reason(block, reason, tmp_path):
    started = time.monotonic()
    found = one(record(block), tmp_path)
    assert found == reason or (reason == "bad_content_encoding_or_text" and found.text)
    assert time.monotonic() - started < 2


def test_records_without_pages_are_only_counted(tmp_path):
    stored = b"".join(record(b"x", number=number, kind=kind) for number, kind in enumerate(["warcinfo", "request", "metadata"]))
    documents, rejects, counts = read_bytes(stored, tmp_path)
    assert not documents and not rejects
    assert counts["not_pages"] == counts["records"] == 3


def test_revisits_resources_and_conversions(tmp_path):
    assert one(record(b"", kind="revisit"), tmp_path) == "revisit"
    assert "kettle" in one(record(PAGE, kind="resource"), tmp_path).text
    assert one(record(b"wget log", kind="resource", WARC_Target_URI="metadata://gnu.org/wget.log"), tmp_path) == "not_html"
    document = one(record(PROSE.encode(), kind="conversion", WARC_Identified_Content_Language="eng,fra"), tmp_path)
    assert (document.language, document.extractor, document.text) == ("en", "", PROSE.strip())
    assert one(record(PROSE.encode(), kind="conversion", WARC_Identified_Content_Language="fra"), tmp_path) == "language"
    assert one(record(b"x" * 300, kind="continuation"), tmp_path) == "bad_record"


def test_provenance_of_a_document(tmp_path):
    told = record(http(PAGE), number=2, WARC_Payload_Digest="sha1:ABC", WARC_Date="soon")
    stored = members(record(http(PAGE), number=1), told)
    (first, second), _, _ = read_bytes(stored, tmp_path, name="a.warc.gz")
    assert (first.source, first.url, first.file) == ("test", "https://example.org/1", str(tmp_path / "a.warc.gz"))
    assert (first.date, second.date) == ("2024-05-01T12:00:00Z", "")
    assert first.digest.startswith("sha1:") and len(first.digest) == 37
    assert second.row_id == row_id_of("<urn:uuid:00000000-0000-0000-0000-000000000002>", "sha1:ABC")
    assert stored[second.offset :].startswith(b"\x1f\x8b") and second.offset > 0
    assert first.extractor == "resiliparse"


def test_a_missing_record_id_is_replaced_by_the_address(tmp_path):
    document = one(record(http(PAGE), WARC_Record_ID=""), tmp_path)
    assert document.row_id == row_id_of("https://example.org/0", document.digest)


def test_a_record_id_seen_before_is_a_duplicate(tmp_path):
    stored = record(http(PAGE), number=1) + record(http(html("x" * 10)), number=2) + record(http(PAGE), number=1)
    documents, rejects, _ = read_bytes(stored, tmp_path)
    assert [reject.reason for reject in rejects] == ["too_short", "duplicate_record"]
    assert rejects[1].row_id == documents[0].row_id
    assert json.loads(rejects[1].detail)["first_offset"] == documents[0].offset == 0


def test_rejects_carry_their_evidence(tmp_path):
    _, (reject,), _ = read_bytes(record(http(b"p\xe9" * 9000, status="HTTP/1.1 500 Oops")), tmp_path)
    detail = json.loads(reject.detail)
    assert (detail["url"], detail["offset"], detail["note"]) == ("https://example.org/0", 0, "500")
    assert detail["file"].endswith("test.warc") and detail["record_id"].startswith("<urn:uuid:")
    assert reject.step == "ingest" and len(reject.raw) == reject.RAW_LIMIT


@pytest.mark.parametrize("body, expected", [
    (b"4\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n", b"wikipedia"),
    (b"4\nwiki\n0\n\n", b"wiki"),
    (b"4\r\nwiki\r\nfff\r\npedia", b"wikipedia"),
    (b"4\r\nwiki\r\nzz\r\npedia", b"wiki"),
    (b"5\r\nwikipedia\r\n0\r\n\r\n", b"5\r\nwikipedia\r\n0\r\n\r\n"),
    (b"ffff\r\n<html>cut", b"<html>cut"),
    (b"face\r\nthe music", b"face\r\nthe music"),
    (b"<html>", b"<html>"),
    (b"", b""),
])
def test_chunk_sizes_right_wrong_and_absent(body, expected):
    assert dechunked(body) == expected


def test_charsets_agree_with_the_conformance_set(data_dir):
    told = json.loads((data_dir / "warc" / "warc2zim_encodings.json").read_text())
    cases = [case for case in told["definition"]["files"] if case["filename"].endswith(".html")]
    assert len(cases) == 3
    for case in cases:
        charset = case.get("http_charset", "")
        text = decode(bytes.fromhex(told[case["filename"]]), f"text/html; charset={charset}" if charset else "text/html")
        assert all(expected in text for expected in case["expected_strings"]), case["filename"]


@pytest.mark.parametrize("payload, content_type, expected", [
    ("naïve".encode(), "", "naïve"),
    ("naïve".encode("cp1252"), "text/html; charset=iso-8859-1", "naïve"),
    ("naïve".encode(), 'text/html; charset="UTF-8"; x=y', "naïve"),
    (b'<meta charset="euc-kr">' + "한국".encode("euc-kr"), "text/html", '<meta charset="euc-kr">한국'),
    (b'<meta charset="utf-16">na\xc3\xafve', "text/html", '<meta charset="utf-16">naïve'),
    ("naïve".encode(), "text/html; charset=no-such-thing", "naïve"),
    (("é" * 50).encode("cp1252"), "text/html; charset=utf-8", None),
    (b"caf\xe9 " + b"plain words " * 40, "text/html; charset=utf-8", "caf\ufffd " + "plain words " * 40),
])
def test_charsets_by_hand(payload, content_type, expected):
    text = decode(payload, content_type)
    assert "\ufffd" not in text if expected is None else text == expected


def test_bytes_in_no_charset_are_rejected():
    with pytest.raises(PageError, match="bad_encoding"):
        decode(b"\x81\x8d\x8f\x90\x9d" * 100)


def test_pages_the_parser_is_slow_on_pass_where_they_are_harmless():
    parse_html("<br>" * 20_000)
    parse_html("<div><p>x</p></div>" * 20_000)
    parse_html(f'<img src="data:image/png;base64,{"A" * 200_000}">')
    assert kind_of("", b"<!doctype html><p>x") == "html"


TAGS = st.sampled_from([
    *sorted(extract.FLAT_TAGS), "div", "em", "a", "ins", "article", "p-x", "listing", "pre", "P", "DIV", "Li", "3", "!--",
])
STARTS, ENDS = st.sampled_from(["<", "<", "</", "< ", ""]), st.sampled_from([">", " >", "/>", "\n", "x>", "", "\u00e9", "-"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(STARTS, TAGS, ENDS).map("".join)))
def test_the_quick_bound_of_the_depth_is_one(pieces):
    with mock.patch.object(extract, "MAX_DEPTH", 0):
        assert extract._depth_bound("".join(pieces)) >= extract._depth("".join(pieces))


def test_words_in_an_attribute_or_a_script_are_no_attributes():
    for start, end in (("<div data-state='", "'>"), ("<script><![CDATA[", "]]></script>"), ("<!-- ", " -->")):
        page = start + 'word = "1" ' * 20_000 + f"{end}<p>{PROSE}</p>"
        assert extract.text_of(parse_html(page), main_content=False).startswith("The kettle")


def test_a_second_opinion_is_asked_for_where_a_text_looks_wrong(tmp_path):
    pytest.importorskip("trafilatura")
    menu = "".join(f"<p><a href=/{n}>Another story of the day {n}</a></p>" for n in range(20))
    article = "".join(f"<p>{PROSE.strip()} ({n})</p>" for n in range(5))
    mixed = f"<html><body><article><h1>Kettle</h1>{article}</article><section>{menu}</section></body></html>"
    pages = [http(html(PROSE * 3)), http(mixed.encode()), http(PROSE.encode(), "Content-Type: text/plain")]
    documents, _, _ = read_bytes(members(*(record(page, number=n) for n, page in enumerate(pages))), tmp_path, extractor="two_tier")
    assert [document.extractor for document in documents] == ["resiliparse", "trafilatura", "resiliparse"]
    assert documents[1].text == text_with_trafilatura(mixed).strip()


@pytest.mark.parametrize("text, expected", [
    ("", True), ("Hardly any.", True), (PROSE * 3, False), (PROSE * 3 + "Read this too\n" * 30, True),
    ("\u4ed6\u8bf4\u4e86\u5f88\u591a\u3002" * 60, False),
    ("A line of prose without any stop at its end, as teasers and captions are " * 4, True),
    (PROSE * 3 + "He said so.[12]\n" + "She said: \u201cno.\u201d\n", False),
])
def test_what_looks_wrong(text, expected):
    assert extract.looks_wrong(text) == expected


def test_trafilatura_is_an_option(tmp_path):
    pytest.importorskip("trafilatura")
    document = one(record(http(html(PROSE * 3))), tmp_path, extractor="trafilatura")
    assert document.extractor == "trafilatura" and "kettle" in document.text


def test_a_missing_trafilatura_names_the_extra(tmp_path, monkeypatch):
    extract._trafilatura.cache_clear()
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(ValueError, match=r"alignray\[extract\]"):
        one(record(http(PAGE)), tmp_path, extractor="trafilatura")
