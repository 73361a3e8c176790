"""Packs samples/crawl into a WARC and its WET twin, laid out like Common Crawl's: one gzip member per record.

Record ids and dates come from the pages, so the same pages give the same records anywhere. Both files are committed;
run this again after changing a page.

    python scripts/pack_crawl.py [--crawl-dir DIR] [--output-dir DIR] [--truncate]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html.parser
import json
import re
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import brotli

ROOT = Path(__file__).parent.parent
NAMESPACE = uuid.UUID("6f1d9a52-1f0e-5c1c-9c55-3a8f5d7f2b10")
FIRST_DATE = datetime(2025, 3, 15, 8, 0, 0, tzinfo=UTC)
CHUNK_BYTES = 1000
REASONS = {200: "OK", 404: "Not Found"}
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"  # no time, no name, unknown system


@dataclass(frozen=True)
class Page:
    """One entry of index.json with the bytes of its file."""

    url: str
    status: int
    charset: str
    headers: dict[str, str]
    body: bytes
    date: str

    def id_of(self, kind: str) -> str:
        """Record id of this page's record of one WARC type."""
        return f"<urn:uuid:{uuid.uuid5(NAMESPACE, f'{kind} {self.url}')}>"


def read_pages(crawl_dir: Path) -> list[Page]:
    """Pages of the index, in its order, one second apart."""
    entries = json.loads((crawl_dir / "index.json").read_text(encoding="utf-8"))
    return [
        Page(
            url=entry["url"], status=entry["status"], charset=entry["charset"], headers=entry["headers"],
            body=(crawl_dir / entry["file"]).read_bytes(), date=_stamp(FIRST_DATE + timedelta(seconds=number)),
        )
        for number, entry in enumerate(entries)
    ]  # fmt: skip


def build_warc(pages: list[Page]) -> list[bytes]:
    """Uncompressed records: warcinfo, then a request and a response for each page."""
    info_id = f"<urn:uuid:{uuid.uuid5(NAMESPACE, 'warcinfo')}>"
    records = [_info_record(info_id, "sample.warc.gz", "pages written for this project, packed by scripts/pack_crawl.py")]
    for page in pages:
        address = {"WARC-IP-Address": "192.0.2.1", "WARC-Warcinfo-ID": info_id, "WARC-Target-URI": page.url}
        request = _request(page.url)
        records.append(_record("request", page.id_of("request"), page.date, "application/http; msgtype=request", request, {
            **address, "WARC-Concurrent-To": page.id_of("response"), "WARC-Block-Digest": _digest(request),
        }))  # fmt: skip
        head, payload = _response(page)
        response = head + payload
        records.append(_record("response", page.id_of("response"), page.date, "application/http; msgtype=response", response, {
            **address, "WARC-Concurrent-To": page.id_of("request"), "WARC-Payload-Digest": _digest(payload),
            "WARC-Block-Digest": _digest(response),
            "WARC-Identified-Payload-Type": page.headers["Content-Type"].partition(";")[0],
        }))  # fmt: skip
    return records


def build_wet(pages: list[Page]) -> list[bytes]:
    """Uncompressed records: warcinfo, then the plain text of each HTML page that was found and has text."""
    info_id = f"<urn:uuid:{uuid.uuid5(NAMESPACE, 'wet warcinfo')}>"
    records = [_info_record(info_id, "sample.warc.wet.gz", "plain text of sample.warc.gz")]
    for page in pages:
        text = _plain_text(page.body.decode(page.charset, "replace")) if _is_html(page) else ""
        if page.status == 200 and text:
            block = text.encode()
            records.append(_record("conversion", page.id_of("conversion"), page.date, "text/plain", block, {
                "WARC-Target-URI": page.url, "WARC-Refers-To": page.id_of("response"), "WARC-Block-Digest": _digest(block),
            }))  # fmt: skip
    return records


def compress(records: list[bytes], *, level: int = 9) -> bytes:
    """The records, each a gzip member of its own. The header is ours, as the gzip module's differs between versions.

    Level 0 stores and gives the same bytes with every zlib.
    """
    return b"".join(_members(records, level))


def truncate(records: list[bytes]) -> bytes:
    """A packed file that breaks off in the middle of a record, two thirds down."""
    members = list(_members(records, 9))
    num_whole = 2 * len(members) // 3
    return b"".join(members[:num_whole]) + members[num_whole][: len(members[num_whole]) // 2]


def _members(records: list[bytes], level: int) -> Iterator[bytes]:
    for record in records:
        deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        trailer = zlib.crc32(record).to_bytes(4, "little") + (len(record) & 0xFFFFFFFF).to_bytes(4, "little")
        yield GZIP_HEADER + deflate.compress(record) + deflate.flush() + trailer


def _record(kind: str, record_id: str, date: str, content_type: str, block: bytes, more: dict[str, str]) -> bytes:
    fields = {"WARC-Type": kind, "WARC-Record-ID": record_id, "WARC-Date": date, **more}
    fields |= {"Content-Type": content_type, "Content-Length": str(len(block))}
    return _head("WARC/1.0", fields) + block + b"\r\n\r\n"


def _info_record(record_id: str, file_name: str, description: str) -> bytes:
    block = _head("isPartOf: alignray sample", {
        "description": description, "format": "WARC File Format 1.0", "license": "Apache-2.0",
        "software": "scripts/pack_crawl.py",
    })  # fmt: skip
    more = {"WARC-Filename": file_name}
    return _record("warcinfo", record_id, _stamp(FIRST_DATE), "application/warc-fields", block, more)


def _request(url: str) -> bytes:
    parts = urlsplit(url)
    return _head(f"GET {parts.path or '/'} HTTP/1.1", {
        "Host": parts.netloc, "User-Agent": "alignray-sample/1.0", "Accept": "text/html,*/*;q=0.5",
        "Accept-Encoding": "br,gzip",
    })  # fmt: skip


def _response(page: Page) -> tuple[bytes, bytes]:
    """HTTP head, and the body as sent: content and transfer encoding on, as readers take it for the payload digest."""
    body = page.body
    if page.headers.get("Content-Encoding") == "br":
        body = brotli.compress(body)
    elif page.headers.get("Content-Encoding") == "gzip":
        body = compress([body], level=0)
    date = datetime.fromisoformat(page.date).strftime("%a, %d %b %Y %H:%M:%S GMT")
    fields = {"Date": date, "Server": "sample", **page.headers}
    if page.headers.get("Transfer-Encoding") == "chunked":
        pieces = [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    else:
        fields["Content-Length"] = str(len(body))
    return _head(f"HTTP/1.1 {page.status} {REASONS[page.status]}", fields), body


def _head(first: str, fields: dict[str, str]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _digest(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


def _stamp(date: datetime) -> str:
    return date.strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_html(page: Page) -> bool:
    return page.headers["Content-Type"].startswith("text/html")


class _TextParser(html.parser.HTMLParser):
    """Text as a WET file has it: everything visible, boilerplate too, a line for each block."""

    BLOCKS = frozenset((
        "address", "article", "aside", "blockquote", "body", "br", "dd", "div", "dl", "dt", "footer", "form", "h1", "h2", "h3",
        "h4", "header", "li", "main", "math", "nav", "ol", "p", "pre", "section", "table", "td", "th", "title", "tr", "ul",
    ))  # fmt: skip
    HIDDEN = frozenset(("script", "style"))

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.num_hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.num_hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.num_hidden -= tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if self.num_hidden == 0:
            self.pieces.append(data)


def _plain_text(source: str) -> str:
    parser = _TextParser()
    parser.feed(source)
    parser.close()
    lines = (re.sub(r"\s+", " ", line).strip() for line in "".join(parser.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crawl-dir", type=Path, default=ROOT / "samples" / "crawl")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "samples")
    parser.add_argument("--truncate", action="store_true", help="write sample.truncated.warc.gz too, cut inside a record")
    args = parser.parse_args()
    pages = read_pages(args.crawl_dir)
    warc, wet = build_warc(pages), build_wet(pages)
    outputs = {"sample.warc.gz": compress(warc), "sample.warc.wet.gz": compress(wet)}
    if args.truncate:
        outputs["sample.truncated.warc.gz"] = truncate(warc)
    for name, data in outputs.items():
        (args.output_dir / name).write_bytes(data)
        print(f"{args.output_dir / name}: {len(data):,} bytes")
    print(f"{len(pages)} pages, {len(warc)} WARC records, {len(wet)} WET records")


if __name__ == "__main__":
    main()
