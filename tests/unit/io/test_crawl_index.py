"""Records chosen by Common Crawl index files: only their bytes are fetched, and every line and entry is accounted for."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignray.errors import RecordError
from alignray.io.crawl_index import GROUP_RECORDS, IndexFilter, Span, coalesced, grouped, read_index
from alignray.io.fetch import FetchConfig
from alignray.io.records import read_split
from alignray.io.sources import list_splits
from alignray.schema import Rejected, WebDocument
from tests.unit.io.servers import FAST, Server, serving
from tests.warcs import PROSE, config_for, html, http, members, record

ANY = {"languages": (), "min_chars": 1}
WARC = "crawl-data/CC-MAIN-2024-22/segments/1/warc/a.warc.gz"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Server()) as server:
        yield server


@pytest.fixture(scope="module")
def crawl(data_dir) -> bytes:
    return (data_dir / "warc" / "cc_resiliparse.warc.gz").read_bytes()


def entries_of(stored: bytes, filename: str = WARC) -> list[dict[str, str]]:
    """Index entries of the responses in a real .warc.gz, by a reader of its own."""
    entries, offset = [], 0
    while offset < len(stored):
        decoder = zlib.decompressobj(wbits=31)
        head = decoder.decompress(stored[offset:]).split(b"\r\n\r\n")[0].decode("latin-1")
        length = len(stored) - offset - len(decoder.unused_data)
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        if fields["WARC-Type"] == "response":
            entries.append({
                "url": fields["WARC-Target-URI"], "mime": "text/html", "mime-detected": "text/html", "status": "200",
                "digest": fields.get("WARC-Payload-Digest", "").removeprefix("sha1:"), "length": str(length), "offset": str(offset),
                "filename": filename, "languages": "eng",
            })
        offset += length
    return entries


def cdx(entries, *more: bytes) -> bytes:
    return gzip.compress(b"".join((*(f"org,x)/ 20240501 {json.dumps(entry)}\n".encode() for entry in entries), *more)))


def outcomes_of(path, base_url, **source):
    config = config_for("", source={"paths": (), "index": (str(path),), "base_url": str(base_url)} | source, gates=ANY, fetch=FAST)
    counts: Counter[str] = Counter()
    outcomes = [outcome for split in list_splits(config) for outcome in read_split(split, config, counts)]
    documents = [outcome for outcome in outcomes if isinstance(outcome, WebDocument)]
    rejects = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
    assert counts["records"] == len(documents) + len(rejects) - counts["damage"] + counts["not_pages"]
    assert counts["records"] == sum(count for name, count in counts.items() if name.startswith("records/"))
    return documents, rejects, counts


def test_only_the_bytes_of_chosen_records_are_transferred(server, crawl, tmp_path):
    server.files["/" + WARC] = crawl
    entries = entries_of(crawl)
    chosen = [entries[0], next(entry for entry in entries if int(entry["offset"]) > 80_000)]
    (tmp_path / "cdx-00000.gz").write_bytes(cdx(chosen))
    documents, rejects, counts = outcomes_of(tmp_path / "cdx-00000.gz", server.url)
    assert counts["records/response"] == len(documents) + len(rejects) == len(chosen)
    assert server.sent == sum(int(entry["length"]) for entry in chosen) < len(crawl)


def test_the_documents_are_those_of_the_whole_file(server, crawl, tmp_path):
    server.files["/" + WARC] = crawl
    (tmp_path / "a.warc.gz").write_bytes(crawl)
    config = config_for(tmp_path / "a.warc.gz", gates=ANY)
    whole = [one for split in list_splits(config) for one in read_split(split, config, Counter())]
    (tmp_path / "cdx-00000.gz").write_bytes(cdx(reversed(entries_of(crawl))))
    documents, rejects, _ = outcomes_of(tmp_path / "cdx-00000.gz", server.url)
    texts = {one.row_id: (one.text, one.offset) for one in whole if isinstance(one, WebDocument)}
    assert {one.row_id: (one.text, one.offset) for one in documents} == texts
    assert {one.row_id for one in rejects} == {one.row_id for one in whole if isinstance(one, Rejected)}
    assert {one.file for one in documents} == {f"{server.url}/{WARC}"}
    assert len(server.ranges) < len(documents)  # neighbours come together


@pytest.mark.parametrize("as_url", [True, False])
def test_a_mirror_can_be_a_folder(crawl, tmp_path, as_url):
    path = tmp_path / "mirror" / WARC
    path.parent.mkdir(parents=True)
    path.write_bytes(crawl)
    (tmp_path / "cdx-00000.gz").write_bytes(cdx(entries_of(crawl)))
    base_url = (tmp_path / "mirror").as_uri() if as_url else tmp_path / "mirror"
    documents, _, _ = outcomes_of(tmp_path / "cdx-00000.gz", base_url)
    assert len(documents) > 1 and documents[0].file.endswith(WARC)


def test_a_mirror_can_be_an_object_store(crawl, tmp_path):
    store = pytest.importorskip("fsspec").filesystem("memory")
    store.pipe({"/mirror/" + WARC: crawl, "/index/cdx-00000.gz": cdx(entries_of(crawl))})
    assert len(outcomes_of("memory://index/*.gz", "memory://mirror/")[0]) > 1


def test_the_columnar_index_chooses_the_same_records(crawl, tmp_path):
    path = tmp_path / WARC
    path.parent.mkdir(parents=True)
    path.write_bytes(crawl)
    entries = entries_of(crawl)
    (tmp_path / "cdx-00000.gz").write_bytes(cdx(entries))
    pq.write_table(pa.table({
        "url": [entry["url"] for entry in entries], "fetch_status": pa.array([200] * len(entries), pa.int16()),
        "content_mime_detected": ["text/html"] * len(entries), "content_languages": ["eng,fra"] * len(entries),
        "content_digest": [entry["digest"] for entry in entries], "warc_filename": [entry["filename"] for entry in entries],
        "warc_record_offset": pa.array([int(entry["offset"]) for entry in entries], pa.int32()),
        "warc_record_length": pa.array([int(entry["length"]) for entry in entries], pa.int32()),
    }), tmp_path / "part-00000.parquet")
    source = {"index_filter": {"languages": ("en",)}}
    found = [outcomes_of(tmp_path / name, tmp_path, **source) for name in ("cdx-00000.gz", "part-00000.parquet")]
    assert found[0] == found[1] and found[0][0]
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "other.parquet")
    _, (reject,), counts = outcomes_of(tmp_path / "other.parquet", tmp_path)
    assert reject.reason == "missing_column" and counts["damage"] == 1


def test_the_real_index_of_common_crawl(data_dir):
    path = str(data_dir / "warc" / "cc_cdx-00187.gz")
    lines = [line.split(" ", 2) for line in gzip.decompress((data_dir / "warc" / "cc_cdx-00187.gz").read_bytes()).decode().splitlines()]
    fields = [json.loads(line[2]) for line in lines]
    everything = IndexFilter(statuses=(), mimes=())
    spans, problems = read_index(path, "https://x.org/", everything, FetchConfig())
    assert not problems
    assert {(span.uri, span.offset, span.length) for span in spans} == {
        ("https://x.org/" + entry["filename"], int(entry["offset"]), int(entry["length"])) for entry in fields
    }
    assert spans == sorted(spans)
    for chosen, expected in [
        (IndexFilter(), lambda entry: entry["status"] == "200" and entry["mime-detected"] in ("text/html", "application/xhtml+xml")),
        (IndexFilter(statuses=(301, 302), mimes=()), lambda entry: entry["status"] in ("301", "302")),
        (IndexFilter(statuses=(), mimes=(), languages=("fr",)), lambda entry: entry.get("languages", "").startswith("fra")),
        (IndexFilter(statuses=(), mimes=(), hosts=("missiondefrance.fr",)), lambda entry: "missiondefrance.fr/" in entry["url"]),
        (IndexFilter(statuses=(), mimes=(), hosts=("defrance.fr",)), lambda entry: False),
        (IndexFilter(statuses=(), mimes=(), url_prefixes=("http://",)), lambda entry: entry["url"].startswith("http://")),
    ]:
        found, _ = read_index(path, "https://x.org/", chosen, FetchConfig())
        assert len(found) == len({(entry["filename"], entry["offset"]) for entry in fields if expected(entry)}), chosen
    first, _ = read_index(path, "https://x.org/", everything, FetchConfig(), limit=7)
    assert {span.offset for span in first} == {int(entry["offset"]) for entry in fields[:7]}


def test_max_records_holds_over_all_index_files(crawl, tmp_path):
    entries = entries_of(crawl)
    for number in range(2):
        (tmp_path / f"cdx-{number}.gz").write_bytes(cdx(entries[number * 3 : number * 3 + 3]))
    source = {"paths": (), "index": (str(tmp_path / "cdx-*.gz"),), "max_records": 4}
    splits = list_splits(config_for("", source=source))
    assert [span.offset for split in splits for span in split.spans] == [int(entry["offset"]) for entry in entries[:4]]
    assert [split.format for split in splits] == ["index", "index"] and len({split.id for split in splits}) == 2
    assert splits == list_splits(config_for("", source=source))


def test_lines_that_cannot_be_read_are_rejects(tmp_path):
    good = {"url": "http://x.org/", "status": "200", "mime": "text/html", "filename": WARC, "offset": "0", "length": "9"}
    bad = [
        {**good, "filename": "../../etc/passwd"}, {**good, "filename": "/etc/passwd"}, {**good, "filename": "file:///etc/passwd"},
        {**good, "offset": "-1"}, {**good, "length": "0"}, {**good, "length": "many"}, {**good, "offset": None},
        {name: value for name, value in good.items() if name != "filename"},
    ]
    other = {"status": "404"}  # not asked for, so of no matter
    stored = cdx([*bad, other], b"org,x)/ 2024\n", b"org,x)/ 2024 {broken\n", b"org,x)/ 2024 [1]\n", b"\n")
    (tmp_path / "cdx-0.gz").write_bytes(stored)
    documents, rejects, counts = outcomes_of(tmp_path / "cdx-0.gz", tmp_path)
    assert not documents and [reject.reason for reject in rejects] == ["bad_index_line"] * 11
    assert [json.loads(reject.detail)["offset"] for reject in rejects] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12]
    assert counts == {"records": 11, "records/index_line": 11}
    assert json.loads(rejects[0].raw.split(" ", 2)[2])["filename"] == "../../etc/passwd"


def test_a_cut_index_file_is_damage_and_one_of_noise_is_given_up(tmp_path):
    entry = {"url": "http://x.org/", "status": "404"}
    (tmp_path / "cdx-0.gz").write_bytes(cdx([{**entry, "n": number} for number in range(5000)])[:-500])
    _, rejects, counts = outcomes_of(tmp_path / "cdx-0.gz", tmp_path)
    assert [reject.reason for reject in rejects] == ["bad_index_line", "truncated_file"] and counts["damage"] == 1
    (tmp_path / "cdx-1.gz").write_bytes(b"noise\n" * 3000)
    _, rejects, counts = outcomes_of(tmp_path / "cdx-1.gz", tmp_path)
    assert counts["records"] == 1000 and rejects[-1].reason == "corrupt_file" and "given up" in rejects[-1].detail
    with pytest.raises(RecordError, match="matches no file"):
        outcomes_of(tmp_path / "cdx-9.gz", tmp_path)


def test_bytes_that_are_not_the_record_are_rejects(crawl, tmp_path):
    path = tmp_path / WARC
    path.parent.mkdir(parents=True)
    path.write_bytes(crawl)
    entry, *_, last = entries_of(crawl)
    wrong = [
        {**entry, "offset": str(int(entry["offset"]) + 7)},
        {**entry, "digest": "A" * 32},
        {**last, "offset": str(len(crawl) + 50)},
        {**entry, "offset": "0", "length": str(int(entry["offset"]))},  # the warcinfo record
    ]
    expected = ["no gzip member", "payload digest", "0 bytes and no record", "warcinfo"]
    for fields, note in zip(wrong, expected, strict=True):
        (tmp_path / "cdx-0.gz").write_bytes(cdx([fields]))
        _, (reject,), counts = outcomes_of(tmp_path / "cdx-0.gz", tmp_path)
        assert reject.reason == "index_mismatch" and counts["records"] == 1, note
        if note not in reject.detail:
            assert note == "no gzip member", reject.detail
    (tmp_path / "cdx-0.gz").write_bytes(cdx([{**entry, "length": str(int(entry["length"]) - 30)}]))
    _, (reject,), _ = outcomes_of(tmp_path / "cdx-0.gz", tmp_path)
    assert reject.reason == "truncated_record"


def test_a_record_longer_than_the_cap_is_not_fetched(tmp_path):
    path = tmp_path / WARC
    path.parent.mkdir(parents=True)
    path.write_bytes(members(record(http(html(PROSE)))))
    entry = {"url": "http://x.org/", "status": "200", "mime": "text/html", "filename": WARC, "offset": "0", "length": str(1 << 30)}
    (tmp_path / "cdx-0.gz").write_bytes(cdx([entry]))
    _, (reject,), _ = outcomes_of(tmp_path / "cdx-0.gz", tmp_path)
    assert reject.reason == "payload_too_large"


def test_a_missing_file_is_named(server, crawl, tmp_path):
    (tmp_path / "cdx-0.gz").write_bytes(cdx(entries_of(crawl)[:1]))
    with pytest.raises(RecordError, match=r"a\.warc\.gz: HTTP 404"):
        outcomes_of(tmp_path / "cdx-0.gz", server.url)
    with pytest.raises(RecordError, match=r"a\.warc\.gz: cannot be read"):
        outcomes_of(tmp_path / "cdx-0.gz", tmp_path)


def test_a_broken_connection_goes_on_where_it_was(server, crawl, tmp_path):
    server.files["/" + WARC] = crawl
    (tmp_path / "cdx-0.gz").write_bytes(cdx(entries_of(crawl)))
    undisturbed = outcomes_of(tmp_path / "cdx-0.gz", server.url)
    server.troubles = ["cut", 503, "cut"]
    assert outcomes_of(tmp_path / "cdx-0.gz", server.url) == undisturbed
    server.knows_range = False
    assert outcomes_of(tmp_path / "cdx-0.gz", server.url) == undisturbed


def test_groups_and_requests_are_bounded():
    spans = [Span("a", number * 100, 100, "") for number in range(GROUP_RECORDS + 1)]
    assert [len(group) for group in grouped(spans)] == [GROUP_RECORDS, 1]
    assert [len(run) for run in coalesced(spans)] == [GROUP_RECORDS + 1]
    large = [Span("a", number << 20, 1 << 20, "") for number in range(100)]
    assert [len(group) for group in grouped(large)] == [64, 36]
    assert max(len(run) for run in coalesced(large)) == 8
    apart = [Span("a", 0, 10, ""), Span("a", 10 + (64 << 10), 10, ""), Span("a", 21 + (128 << 10), 10, ""), Span("b", 131200, 5, "")]
    assert [len(run) for run in coalesced(apart)] == [2, 1, 1]
