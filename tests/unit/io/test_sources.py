"""Input listing and fetching, against a server on this machine that misbehaves."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter

import pytest

from alignray.errors import RecordError
from alignray.io.fetch import FetchConfig, open_input
from alignray.io.records import read_split
from alignray.io.sources import IngestConfig, SourceConfig, format_of, list_splits
from tests.unit.io.servers import FAST, Server, serving
from tests.warcs import PROSE, config_for, html, http, members, read, record

CRAWL = members(*(record(http(html(PROSE + str(n))), number=n) for n in range(4)))
LISTING = gzip.compress(b"crawl-data/CC-MAIN-2024-22/a.warc.gz\ncrawl-data/CC-MAIN-2024-22/b.warc.gz\n")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files = {
        "/crawl-data/CC-MAIN-2024-22/warc.paths.gz": LISTING,
        "/crawl-data/CC-MAIN-2024-22/a.warc.gz": CRAWL,
        "/crawl-data/CC-MAIN-2024-22/b.warc.gz": CRAWL,
    }
    with serving(Server(files)) as server:
        yield server


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


@pytest.mark.parametrize("knows_range", [True, False])
def test_large_remote_files_come_in_ranges_where_sizes_are_asked_for(server, knows_range):
    fillers = [random.Random(n).randbytes(20_000).hex() for n in range(60)]
    data = members(*(record(http(html(PROSE + str(n)), f"X-Filler: {filler}"), number=n) for n, filler in enumerate(fillers)))
    server.files["/big.warc.gz"] = data
    server.knows_range = knows_range
    url = f"{server.url}/big.warc.gz"
    whole, _, _ = read(url, fetch=FAST)
    assert len(whole) == 60 and not server.heads and len(server.ranges) == 1
    settings = {"split_bytes": 300_000, "fetch": FAST, "source": {"ask_sizes": True}}
    config = config_for(url, **settings)
    splits = list_splits(config)
    assert len(splits) == -(-len(data) // 300_000) > 3 and server.heads == ["/big.warc.gz"]
    found = []
    for split in splits:
        server.sent = 0
        found += read_split(split, config, Counter())
        if knows_range:
            assert server.sent <= split.size + (300 << 10)
    assert found == whole


def test_a_server_that_cuts_connections_changes_nothing_in_a_range(server):
    url = f"{server.url}/crawl-data/CC-MAIN-2024-22/a.warc.gz"
    config = config_for(url, split_bytes=300, fetch=FAST, source={"ask_sizes": True})
    splits = list_splits(config)
    server.troubles = ["cut", 503, "cut", "cut", 200, "cut"]
    assert [one for split in splits for one in read_split(split, config, Counter())] == read(url, fetch=FAST)[0]
    assert len(splits) > 2 and not server.troubles


def test_sizes_of_a_snapshot_are_not_asked_for_unless_told(server):
    source = {"paths": (), "snapshot": "CC-MAIN-2024-22", "base_url": server.url}
    assert {split.num_bytes for split in list_splits(config_for("", source=source))} == {0} and not server.heads
    assert {split.num_bytes for split in list_splits(config_for("", source=source | {"ask_sizes": True}))} == {len(CRAWL)}
    assert len(server.heads) == 2


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
