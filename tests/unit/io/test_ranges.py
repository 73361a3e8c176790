"""Files read in ranges give what they give whole: real ones, packed ones, damaged ones, rows of every kind."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from alignray.io.frames import PEEK
from alignray.io.records import read_split
from alignray.io.sources import list_splits
from alignray.schema import Rejected
from tests.warcs import PROSE, config_for, html, http, members, read, record

ANY = {"languages": (), "min_chars": 1}
RECORDS = [
    record(b"software: x\r\n", number=0, kind="warcinfo"),
    *(record(http(html(PROSE * (number % 5 + 1) + f"Page {number}.")), number=number) for number in range(1, 8)),
    record(b"GET / HTTP/1.1\r\n\r\n", number=8, kind="request"),
    record(http(html(PROSE + "WARC/1.0 is the first line of a record.")), number=9),
]
HEAD, TAIL = RECORDS[3][:700], RECORDS[3][700:]
PACKED = {
    "by_record.warc.gz": members(*RECORDS),
    "plain.warc": b"".join(RECORDS),
    "one.warc.gz": gzip.compress(b"".join(RECORDS)),
    "by_three.warc.gz": members(*(b"".join(RECORDS[n : n + 3]) for n in range(0, len(RECORDS), 3))),
    "cut_record.warc.gz": members(*RECORDS[:3], HEAD, TAIL, *RECORDS[4:]),
    "padded.warc.gz": (b"\0" * 3000).join(gzip.compress(stored, mtime=0) for stored in RECORDS),
    "stored.warc.gz": b"".join(gzip.compress(stored, compresslevel=0, mtime=0) for stored in RECORDS),
    "bare_newlines.warc": b"".join(RECORDS).replace(b"\r\n\r\nWARC/", b"\n\nWARC/"),
}
REAL = (
    "aut_issue-493.warc", "cc_dolma_0000.warc.gz", "cc_net_sample.wet.txt", "cc_resiliparse.warc.gz", "cc_resiliparse.warc.lz4",
    "cc_resiliparse.derived.warc.zst", "cciwc_IAH-urls-wget.warc", "clipped.warc.gz", "gowarc_corrupted-mid-record.warc.gz",
    "gowarc_corrupted-trailing-bytes.warc.gz", "ipwb_broken.warc", "ipwb_variableSizedDates.warc", "serp_duckduckgo.warc.gz",
    "serp_stackoverflow.warc.gz", "storm_test.warc.gz", "swb_evil_headers.warc", "warcio_bad.arc", "warcio_example-bad.warc.gz.bad",
    "warcio_example.arc.gz", "warcio_example.warc", "warcio_example.warc.gz", "warcio_post-test.warc.gz", "wacz_example-iana.warc",
)


def outcomes_of(path: Path, split_bytes: int | None, **source):
    """Each outcome with its offset, what became of it where it is no duplicate, counts, and the number of splits."""
    config = config_for(path, gates=ANY, split_bytes=split_bytes, source=source)
    counts: Counter[str] = Counter()
    splits = list_splits(config)
    assert len({split.id for split in splits}) == len(splits)
    found: Counter[tuple[str, int]] = Counter()
    fates = {}
    for outcome in (outcome for split in splits for outcome in read_split(split, config, counts)):
        is_rejected = isinstance(outcome, Rejected)
        offset = json.loads(outcome.detail)["offset"] if is_rejected else outcome.offset
        found[outcome.row_id, offset] += 1
        if not is_rejected or outcome.reason != "duplicate_record":
            fates[outcome.row_id, offset] = (outcome.reason, outcome.detail, outcome.raw) if is_rejected else outcome
    return found, fates, counts, len(splits)


def assert_the_same(path: Path, split_bytes: int, **source) -> int:
    """All but the telling of which of two equal records is the duplicate; that depends on the ranges."""
    whole, whole_fates, whole_counts, _ = outcomes_of(path, None, **source)
    found, fates, counts, number = outcomes_of(path, split_bytes, **source)
    assert found == whole
    assert counts == whole_counts
    assert {key: fates[key] for key in whole_fates} == whole_fates
    return number


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PACKED)), st.integers(20, 6000))
def test_any_ranges_give_the_records_of_the_file(name, split_bytes):
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(PACKED[name])
        number = assert_the_same(path, split_bytes)
        assert number == -(-len(PACKED[name]) // split_bytes)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(REAL), st.integers(1, 40))
def test_real_files_in_ranges(data_dir, name, number):
    path = data_dir / "warc" / name
    assert_the_same(path, max(path.stat().st_size // number, 100), format="wet" if "wet" in name else "warc")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["by_record.warc.gz", "by_three.warc.gz", "cut_record.warc.gz", "one.warc.gz", "stored.warc.gz"]),
    st.integers(20, 4000), st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_damage_inside_gzip_is_told_once_whatever_the_ranges(name, split_bytes, flips):
    stored = bytearray(PACKED[name])
    for share, mask in flips:
        stored[int(share * len(stored))] ^= mask
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(stored)
        assert_the_same(path, split_bytes)


@settings(max_examples=35, deadline=None)
@given(st.integers(0, 10), st.binary(min_size=1, max_size=3000), st.integers(20, 3000), st.booleans())
@example(3, b"\x1f\x8b\x08" * 900, 200, True)
def test_garbage_between_records_is_told_once_whatever_the_ranges(position, garbage, split_bytes, is_gzip):
    pack = members if is_gzip else lambda *records: b"".join(records)
    stored = pack(*RECORDS[:position]) + b"\x01" + garbage + pack(*RECORDS[position:])
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("a.warc.gz" if is_gzip else "a.warc")
        path.write_bytes(stored)
        assert_the_same(path, split_bytes)


def _intact() -> dict[int, str]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.warc"
        path.write_bytes(b"".join(RECORDS))
        return {int(document.url.rsplit("/")[-1]): document.row_id for document in read(path, gates=ANY)[0]}


INTACT = _intact()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.integers(-300, 3000), st.integers(100, 4000), st.booleans())
def test_a_wrong_length_loses_and_doubles_no_intact_record(broken, change, split_bytes, is_gzip):
    length = len(RECORDS[broken]) - RECORDS[broken].index(b"\r\n\r\n") - 8
    lying = RECORDS[broken].replace(f"Content-Length: {length}".encode(), f"Content-Length: {max(length + change, 1)}".encode())
    ends = list(itertools.accumulate(len(stored) for stored in RECORDS[broken:]))
    assume(all(abs(ends[0] + change - end) > 4 for end in ends[1:]))  # a length that fits the records behind it is not wrong
    records = [*RECORDS[:broken], lying, *RECORDS[broken + 1 :]]
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("a.warc.gz" if is_gzip else "a.warc")
        path.write_bytes(members(*records) if is_gzip else b"".join(records))
        ids = Counter(row_id for row_id, _ in outcomes_of(path, split_bytes)[0].elements())
    assert all(ids[row_id] == 1 for number, row_id in INTACT.items() if number != broken)


def test_a_range_has_the_records_that_begin_in_it(tmp_path):
    stored = PACKED["by_record.warc.gz"]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(stored)
    starts = [len(members(*RECORDS[:number])) for number in range(len(RECORDS))]
    config = config_for(path, gates=ANY)
    (whole,) = list_splits(config)
    for start, end, expected in [(starts[3], starts[5], [3, 4]), (starts[3] + 1, starts[5] + 1, [4, 5]), (starts[3] + 1, starts[4], [])]:
        split = dataclasses.replace(whole, start=start, end=end)
        assert [int(one.url.rsplit("/")[-1]) for one in read_split(split, config, Counter())] == expected


def test_whole_files_keep_the_id_they_had_and_ranges_have_their_own(tmp_path):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(PACKED["by_record.warc.gz"])
    size = path.stat().st_size
    (whole,) = list_splits(config_for(path))
    assert (whole.start, whole.end, whole.num_bytes, whole.size) == (0, None, size, size)
    assert list_splits(config_for(path, split_bytes=None)) == [whole] == list_splits(config_for(path, split_bytes=size))
    halves = list_splits(config_for(path, split_bytes=size - 1))
    assert [(half.start, half.end) for half in halves] == [(0, size // 2), (size // 2, None)]
    assert len({whole.id, *(half.id for half in halves)}) == 3
    assert {half.num_bytes for half in halves} == {size} and sum(half.size for half in halves) == size


def test_what_cannot_be_split_is_one_task(tmp_path):
    for name in ("a.warc.zst", "a.warc.lz4", "a.jsonl.gz", "a.json"):
        (tmp_path / name).write_bytes(b"x" * 100)
        assert len(list_splits(config_for(tmp_path / name, split_bytes=10))) == 1


def test_a_wrong_suffix_costs_nothing(tmp_path, data_dir):
    path = tmp_path / "really_lz4.warc.gz"
    path.write_bytes((data_dir / "warc" / "cc_resiliparse.warc.lz4").read_bytes())
    assert assert_the_same(path, 10_000) > 10
    lines = b"".join(json.dumps({"text": PROSE + str(number)}).encode() + b"\n" for number in range(50))
    (tmp_path / "really_gzip.jsonl").write_bytes(gzip.compress(lines))
    assert_the_same(tmp_path / "really_gzip.jsonl", 100)


def test_a_gzip_header_longer_than_the_peek_is_judged_alike_by_both_ranges(tmp_path):
    long_header = gzip.compress(RECORDS[4], mtime=0)
    long_header = long_header[:3] + b"\x08" + long_header[4:10] + b"n" * PEEK + b"\0" + long_header[10:]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(members(*RECORDS[:4]) + long_header + members(*RECORDS[5:]))
    for split_bytes in range(200, 4000, 100):
        assert_the_same(path, split_bytes)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["", "{}", "[1]", '{"text": 7}', "nonsense", "x" * 700, json.dumps({"text": PROSE})]), max_size=30),
    st.integers(1, 900), st.sampled_from(["\n", "\r\n"]), st.booleans(),
)
def test_json_lines_in_ranges(lines, split_bytes, ending, has_last_ending):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes((ending.join(lines) + (ending if has_last_ending else "")).encode())
        assert_the_same(path, split_bytes)


@pytest.mark.parametrize("split_bytes", [30, 400, 1000, 5000])
def test_parquet_by_row_groups(split_bytes, tmp_path):
    texts = [PROSE + str(number) if number % 7 else None for number in range(101)]
    table = pa.table({"n": list(range(101)), "text": texts, "url": [f"u{number}" for number in range(101)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    assert_the_same(tmp_path / "a.parquet", split_bytes)


def test_what_is_wrong_with_a_whole_parquet_file_is_told_once(tmp_path):
    pq.write_table(pa.table({"body": [str(number) for number in range(1000)]}), tmp_path / "a.parquet", row_group_size=100)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    for name, reason in [("a.parquet", "missing_column"), ("b.parquet", "corrupt_file")]:
        found, fates, counts, number = outcomes_of(tmp_path / name, 500)
        assert number > 3 and counts["damage"] == found.total() == 1
        assert [fate[0] for fate in fates.values()] == [reason]
