import gzip
import importlib.util
import io
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from alignray.dedup.config import MinHashConfig
from alignray.dedup.shingles import shingle_hashes
from alignray.dedup.signatures import exact_jaccard

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
INDEX = json.loads((SAMPLES / "crawl" / "index.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def packer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pack_crawl", ROOT / "scripts" / "pack_crawl.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_committed_archives_are_what_the_script_packs(packer: ModuleType) -> None:
    # unpacked, since compressed bytes differ between builds of zlib
    pages = packer.read_pages(SAMPLES / "crawl")
    again = "run scripts/pack_crawl.py and commit its output"
    assert gzip.decompress((SAMPLES / "sample.warc.gz").read_bytes()) == b"".join(packer.build_warc(pages)), again
    assert gzip.decompress((SAMPLES / "sample.warc.wet.gz").read_bytes()) == b"".join(packer.build_wet(pages)), again
    assert sum((SAMPLES / name).stat().st_size for name in ("sample.warc.gz", "sample.warc.wet.gz")) < 300_000


def test_every_page_is_listed_once_and_the_kinds_are_there() -> None:
    files = [entry["file"] for entry in INDEX]
    assert sorted(files) == sorted(path.name for path in (SAMPLES / "crawl").iterdir() if path.name != "index.json")
    assert len({entry["url"] for entry in INDEX}) == len(files)
    kinds = Counter(entry["kind"] for entry in INDEX)
    assert kinds["general"] >= 24 and kinds["math"] >= 8 and kinds["code"] >= 8 and kinds["nasty"] >= 8
    for entry in INDEX:
        (SAMPLES / "crawl" / entry["file"]).read_bytes().decode(entry["charset"])


def test_each_record_is_a_gzip_member_with_true_digests() -> None:
    data = (SAMPLES / "sample.warc.gz").read_bytes()
    records = list(ArchiveIterator(io.BytesIO(data), parse_http=False))
    assert len(records) == 1 + 2 * len(INDEX)
    assert all(data[record.stream_pos :].startswith(b"\x1f\x8b") for record in records)
    urls = []
    for record in ArchiveIterator(io.BytesIO(data), record_types=WarcRecordType.response):
        assert record.verify_payload_digest()
        assert record.http_headers.status_code == INDEX[len(urls)]["status"]
        urls.append(record.headers["WARC-Target-URI"])
    assert urls == [entry["url"] for entry in INDEX]


def test_bodies_come_back_whole_from_each_encoding() -> None:
    used = set()
    with (SAMPLES / "sample.warc.gz").open("rb") as stream:
        records = ArchiveIterator(stream, record_types=WarcRecordType.response, auto_decode="all")
        for record, entry in zip(records, INDEX, strict=True):
            body = record.reader.read()
            coding = entry["headers"].get("Content-Encoding") or entry["headers"].get("Transfer-Encoding")
            used.add(coding)
            assert body == (SAMPLES / "crawl" / entry["file"]).read_bytes(), entry["file"]
    assert used == {None, "br", "gzip", "chunked"}


def test_the_wet_twin_holds_the_text_of_each_found_page() -> None:
    with (SAMPLES / "sample.warc.wet.gz").open("rb") as stream:
        texts = {
            record.headers["WARC-Target-URI"]: record.reader.read().decode()
            for record in ArchiveIterator(stream, record_types=WarcRecordType.conversion)
        }
    wanted = {
        entry["url"]
        for entry in INDEX
        if entry["status"] == 200 and entry["file"].endswith(".html") and entry["file"] != "nasty-empty-body.html"
    }
    assert set(texts) == wanted
    assert "“curly” café" in texts["https://pages.example/ecke/umlaute"]
    assert "緑茶" in texts["https://pages.example/machi/ocha"]
    assert "{{ 7*7 }}" in texts["https://pages.example/docs/templates"]
    assert "<script>alert(1)</script>" in texts["https://pages.example/sec/escape"]


def test_the_near_duplicate_page_is_one(packer: ModuleType) -> None:
    sources = [(SAMPLES / "crawl" / name).read_text() for name in ("tomato-blight.html", "nasty-near-duplicate.html")]
    texts = [source[source.index("</h1>") : source.index("<footer>")] for source in sources]
    flat, offsets = shingle_hashes(texts, MinHashConfig())
    assert 0.7 <= exact_jaccard(flat, offsets, np.array([[0, 1]], np.int64))[0] < 1


def test_a_truncated_copy_breaks_off_inside_a_record(packer: ModuleType) -> None:
    records = packer.build_warc(packer.read_pages(SAMPLES / "crawl"))
    cut = packer.truncate(records)
    assert packer.compress(records).startswith(cut)
    with pytest.raises(EOFError):
        gzip.decompress(cut)
