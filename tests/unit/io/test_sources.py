"""Input listing and fetching, against a server on this machine that misbehaves."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alignray.errors import RecordError
from alignray.io.fetch import FetchConfig, open_input
from alignray.io.sources import IngestConfig, SourceConfig, format_of, list_splits
from tests.warcs import PROSE, config_for, html, http, members, read, record

FAST = {"attempts": 4, "backoff_s": 0.001, "max_backoff_s": 0.01, "timeout_s": 5}
CRAWL = members(*(record(http(html(PROSE + str(n))), number=n) for n in range(4)))
LISTING = gzip.compress(b"crawl-data/CC-MAIN-2024-22/a.warc.gz\ncrawl-data/CC-MAIN-2024-22/b.warc.gz\n")


class Server(ThreadingHTTPServer):
    """Serves ``files``; answers ``troubles`` first: a status, or "cut" for a connection closed half way."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {
            "/crawl-data/CC-MAIN-2024-22/warc.paths.gz": LISTING,
            "/crawl-data/CC-MAIN-2024-22/a.warc.gz": CRAWL,
            "/crawl-data/CC-MAIN-2024-22/b.warc.gz": CRAWL,
        }
        self.troubles: list[int | str] = []
        self.ranges: list[str] = []
        self.knows_range = True
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range", "")
        server.ranges.append(wanted)
        trouble = server.troubles.pop(0) if server.troubles else 200
        data = server.files.get(self.path)
        if data is None or (isinstance(trouble, int) and trouble != 200):
            self.send_response(trouble if data is not None else 404)
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.knows_range else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        self.wfile.write(data[start : start + (len(data) - start) // 2] if trouble == "cut" else data[start:])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def test_a_snapshot_is_its_listing(server):
    source = {"paths": (), "snapshot": "CC-MAIN-2024-22", "base_url": server.url}
    splits = list_splits(config_for("", source=source))
    assert [split.uri for split in splits] == [f"{server.url}/crawl-data/CC-MAIN-2024-22/{name}.warc.gz" for name in "ab"]
    assert {split.format for split in splits} == {"warc"}
    assert len(list_splits(config_for("", source=source | {"max_files": 1}))) == 1


def test_a_snapshot_can_lie_in_a_folder(tmp_path):
    folder = tmp_path / "crawl-data" / "CC-MAIN-2024-22"
    folder.mkdir(parents=True)
    (folder / "wet.paths.gz").write_bytes(gzip.compress(b"crawl-data/x.warc.wet.gz\n"))
    source = {"paths": (), "snapshot": "CC-MAIN-2024-22", "snapshot_kind": "wet", "base_url": tmp_path.as_uri()}
    (split,) = list_splits(config_for("", source=source))
    assert (split.format, split.uri) == ("wet", f"{tmp_path.as_uri()}/crawl-data/x.warc.wet.gz")


def test_the_real_listing_of_common_crawl(data_dir, tmp_path):
    folder = tmp_path / "crawl-data" / "CC-MAIN-2024-22"
    folder.mkdir(parents=True)
    listing = (data_dir / "warc" / "cc_CC-MAIN-2024-22.warc.paths.gz").read_bytes()
    (folder / "warc.paths.gz").write_bytes(listing)
    splits = list_splits(config_for("", source={"paths": (), "snapshot": "CC-MAIN-2024-22", "base_url": str(tmp_path)}))
    assert [split.uri for split in splits] == [f"{tmp_path}/{line}" for line in gzip.decompress(listing).decode().split()]


@pytest.mark.parametrize("troubles", [[503, 403], [429], ["cut"], ["cut", 500, "cut"]])
@pytest.mark.parametrize("knows_range", [True, False])
def test_a_polite_reader_gets_the_whole_file_in_the_end(server, troubles, knows_range):
    server.troubles, server.knows_range = list(troubles), knows_range
    documents, rejects, _ = read(f"{server.url}/crawl-data/CC-MAIN-2024-22/a.warc.gz", fetch=FAST)
    assert (len(documents), rejects) == (4, [])
    assert not server.troubles
    assert any(wanted.startswith("bytes=") for wanted in server.ranges) == ("cut" in troubles)


def test_a_server_that_keeps_refusing_stops_the_run_and_is_named(server):
    server.troubles = [503] * 10
    with pytest.raises(RecordError, match=r"a\.warc\.gz: no answer after 4 attempts \(HTTP 503\).*fewer workers"):
        read(f"{server.url}/crawl-data/CC-MAIN-2024-22/a.warc.gz", fetch=FAST)
    assert len(server.troubles) == 6


def test_a_missing_file_is_not_asked_for_twice(server):
    with pytest.raises(RecordError, match="HTTP 404"):
        read(f"{server.url}/nowhere.warc.gz", fetch=FAST)
    assert len(server.ranges) == 1


def test_a_remote_stream_seeks(server):
    with open_input(f"{server.url}/crawl-data/CC-MAIN-2024-22/a.warc.gz", FetchConfig.model_validate(FAST)) as stream:
        assert stream.seek(0, 2) == len(CRAWL)
        assert stream.seek(-10, 2) and stream.read() == CRAWL[-10:]
        assert stream.seek(5) and stream.read(7) == CRAWL[5:12]


def test_damage_in_a_remote_file_is_read_past(server):
    server.files["/x.warc.gz"] = CRAWL[:100] + b"\xff" * 50 + CRAWL[150:]
    documents, _, counts = read(f"{server.url}/x.warc.gz", fetch=FAST)
    assert len(documents) == 3 and counts["damage"] == 1


def test_an_object_store_is_listed_and_read():
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe({"/crawl/a.warc.gz": CRAWL, "/crawl/deep/b.warc.gz": CRAWL[: len(CRAWL) // 2], "/crawl/c.jsonl": b""})
    for pattern, number in [("memory://crawl/a.warc.gz", 1), ("memory://crawl/*.warc.gz", 1), ("memory://crawl", 3)]:
        splits = list_splits(config_for(pattern))
        assert len(splits) == number and splits[0].uri.endswith("crawl/a.warc.gz")
        assert splits[0].num_bytes == len(CRAWL)
    assert len(read("memory://crawl/*.warc.gz")[0]) == 4
    with pytest.raises(RecordError, match="matches no file"):
        list_splits(config_for("memory://crawl/*.parquet"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.warc.gz", "a.warc.gz", "deep/c.wet", "deep/d.parquet", ".hidden/e.warc", "notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("pattern, expected", [
    ("a.warc.gz", ["a.warc.gz"]),
    ("*.warc.gz", ["a.warc.gz", "b.warc.gz"]),
    ("**/*.wet", ["deep/c.wet"]),
    ("[ab].*", ["a.warc.gz", "b.warc.gz"]),
    (".", ["a.warc.gz", "b.warc.gz", "deep/c.wet", "deep/d.parquet"]),
    ("deep", ["deep/c.wet", "deep/d.parquet"]),
])
def test_patterns(folder, pattern, expected):
    assert [split.uri for split in list_splits(config_for(pattern))] == expected
    uris = [split.uri for split in list_splits(config_for((folder / pattern).as_posix()))]
    assert uris == [str(folder / name) for name in expected]
    if "[" not in pattern:
        assert all(split.uri.startswith("file://") for split in list_splits(config_for(f"file://{folder}/{pattern}")))


def test_splits_are_the_same_every_time_and_each_file_comes_once(folder):
    sources = (
        SourceConfig(name="one", paths=("a.warc.gz", str(folder / "a.warc.gz"), "*.warc.gz")),
        SourceConfig(name="two", paths=(f"file://{folder}/a.warc.gz", "deep/c.wet")),
    )
    config = IngestConfig(sources=sources)
    splits = list_splits(config)
    found = [(split.source, split.uri) for split in splits]
    assert found == [("one", "a.warc.gz"), ("one", "b.warc.gz"), ("two", "deep/c.wet")]
    assert splits == list_splits(config)
    assert len({split.id for split in splits}) == 3 and all(len(split.id) == 16 and split.num_bytes == 1 for split in splits)


@pytest.mark.parametrize("pattern, message", [
    ("nothing/*.warc.gz", r'source "test": nothing/\*\.warc\.gz matches no file'),
    ("notes.md", "cannot tell the format of notes.md"),
    ("*.md", "no file of .* has a known suffix"),
    ("https://example.org/*.warc.gz", "cannot list files"),
])
def test_patterns_without_input_are_named(folder, pattern, message):
    with pytest.raises(RecordError, match=message):
        list_splits(config_for(pattern))


def test_formats_by_suffix():
    told = {
        "a.warc.wet.gz": "wet", "a.warc.wat.gz": "warc", "A.WARC.GZ": "warc", "a.warc.zst": "warc", "a.arc.gz": "warc",
        "a.jsonl.zst": "jsonl", "a.json": "json", "a.pq": "parquet", "https://e.org/a.jsonl?x=.md": "jsonl", "a.txt": None,
    }
    assert {name: format_of(name) for name in told} == told


@pytest.mark.parametrize("broken", [
    {"sources": []},
    {"sources": [{"name": "a"}]},
    {"sources": [{"name": "a", "paths": ["x"]}, {"name": "a", "paths": ["y"]}]},
    {"sources": [{"name": "a", "paths": ["x"], "weight": 0}]},
    {"sources": [{"name": "a", "snapshot": "../../etc"}]},
    {"sources": [{"name": "a", "paths": ["x"], "fromat": "warc"}]},
    {"sources": [{"name": "a", "paths": ["x"]}], "optout": {"signals": ["nothing"]}},
])
def test_wrong_configs_are_refused(broken):
    with pytest.raises(ValueError):
        IngestConfig.model_validate(json.loads(json.dumps(broken)))
