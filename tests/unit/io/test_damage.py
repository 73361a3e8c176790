"""Files cut, flipped and glued at random: nothing raises, everything is accounted for, what is intact comes out."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alignray.io import warc
from tests.warcs import PROSE, html, http, members, read, record

RECORDS = [
    record(b"software: x\r\n", number=0, kind="warcinfo"),
    record(http(html(PROSE + "First page, once more for the record.")), number=1),
    record(b"GET / HTTP/1.1\r\n\r\n", number=2, kind="request"),
    record(http(html("".join(f"{n}. {PROSE}" for n in range(20)))), number=3),
    record(http(html(PROSE + "WARC/1.0 is the first line of a record.")), number=4),
    record(b"fetchTimeMs: 12\r\n", number=5, kind="metadata"),
]
STORED = {"test.warc": b"".join(RECORDS), "test.warc.gz": members(*RECORDS), "one.warc.gz": gzip.compress(b"".join(RECORDS))}
NAMES = st.sampled_from(sorted(STORED))


def read_damaged(name: str, stored: bytes):
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(stored)
        return read(path)


WHOLE = {name: [document.text for document in read_damaged(name, stored)[0]] for name, stored in STORED.items()}


def test_intact_files_have_no_damage():
    for name, stored in STORED.items():
        documents, rejects, counts = read_damaged(name, stored)
        assert (len(documents), rejects, counts["damage"]) == (3, [], 0)


@settings(max_examples=150, deadline=None)
@given(NAMES, st.floats(0, 1))
@example("one.warc.gz", 1.001 / len(STORED["one.warc.gz"]))
def test_a_cut_file_gives_the_documents_before_the_cut(name, share):
    stored = STORED[name][: int(share * len(STORED[name]))]
    documents, rejects, counts = read_damaged(name, stored)
    assert [document.text for document in documents] == WHOLE[name][: len(documents)]
    is_at_border = name == "test.warc.gz" and any(stored == members(*RECORDS[:count]) for count in range(7))
    if name == "test.warc.gz":
        assert (counts["damage"] == 0) == is_at_border
        assert all(reject.reason in ("truncated_file", "truncated_record", "bad_record") for reject in rejects)
    if name == "one.warc.gz" and 0 < len(stored) < len(STORED[name]):
        assert counts["damage"] == 1


@settings(max_examples=150, deadline=None)
@given(NAMES, st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_never_raise(name, flips):
    stored = bytearray(STORED[name])
    for share, mask in flips:
        stored[int(share * len(stored))] ^= mask
    read_damaged(name, bytes(stored))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 6), st.binary(min_size=1, max_size=200))
def test_garbage_between_members_costs_no_record(position, garbage):
    stored = members(*RECORDS[:position]) + b"\x01" + garbage + members(*RECORDS[position:])
    documents, _, counts = read_damaged("test.warc.gz", stored)
    assert [document.text for document in documents] == WHOLE["test.warc.gz"]
    assert counts["damage"] >= 1


@pytest.mark.parametrize("broken", range(6))
def test_reading_goes_on_behind_a_damaged_member(broken):
    parts = [bytearray(gzip.compress(stored, mtime=0)) for stored in RECORDS]
    parts[broken][len(parts[broken]) // 2 :] = b"\xff" * 20
    documents, rejects, counts = read_damaged("test.warc.gz", b"".join(parts))
    kept = [text for number, text in zip((1, 3, 4), WHOLE["test.warc.gz"], strict=True) if number != broken]
    assert [document.text for document in documents] == kept
    damages = [reject for reject in rejects if reject.reason == "corrupt_file"]
    assert len(damages) == counts["damage"] == 1
    assert json.loads(damages[0].detail)["offset"] == sum(map(len, parts[:broken]))


@pytest.mark.parametrize("name", ["test.warc", "one.warc.gz"])
@pytest.mark.parametrize("change", [-400, -1, 1, 700])
def test_a_wrong_content_length_loses_no_other_record(name, change):
    length = len(RECORDS[3]) - RECORDS[3].index(b"\r\n\r\n") - 8
    lying = RECORDS[3].replace(f"Content-Length: {length}".encode(), f"Content-Length: {length + change}".encode())
    assert lying != RECORDS[3]
    stored = b"".join((*RECORDS[:3], lying, *RECORDS[4:]))
    documents, _, counts = read_damaged(name, gzip.compress(stored) if name.endswith("gz") else stored)
    urls = [document.url for document in documents]
    assert "https://example.org/1" in urls and "https://example.org/4" in urls
    assert counts["damage"] == (change != 1)


def test_zero_padding_is_no_damage():
    assert read_damaged("test.warc.gz", STORED["test.warc.gz"] + b"\0" * 100_000)[2]["damage"] == 0


def test_a_file_of_damage_only_is_given_up(monkeypatch):
    monkeypatch.setattr(warc, "MAX_DAMAGES", 5)
    _, rejects, counts = read_damaged("test.warc", (RECORDS[0] + b"garbage that is no record\r\n") * 50)
    assert counts["damage"] == 6
    assert "given up after 5" in rejects[-1].detail


def test_an_empty_file_and_a_file_of_noise():
    assert read_damaged("test.warc", b"") == ([], [], Counter())
    for noise in (b"\x1f", b"\x1f\x8b\x08", b"PK\x03\x04" * 100, b"hello\n" * 1000, b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"):
        documents, rejects, counts = read_damaged("test.warc.gz", noise)
        assert not documents and counts["records"] == 0, noise
        assert counts["damage"] == len(rejects) <= 1
