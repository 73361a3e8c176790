"""Every real and every broken WARC of the shared data, against the counts of another reader."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.warcs import read

READ_FURTHER = {
    "cc_resiliparse.warc.lz4": "warcio does not read LZ4",
    "gowarc_corrupted-mid-record.warc.gz": "several records in one gzip member: warcio stops, we go on",
    "gowarc_corrupted-trailing-bytes.warc.gz": "the same",
    "storm_unparsable-date.warc.gz": "the same",
    "warcio_example-bad-non-chunked.warc.gz": "the same",
    "warcio_example-bad.warc.gz.bad": "the same",
    "warcio_example-wrong-chunks.warc.gz": "a request follows behind the payload that warcio cannot dechunk",
}
ARC = {"iah_bad.arc.gz", "warcio_bad.arc", "warcio_example-space-in-url.arc", "warcio_example.arc", "warcio_example.arc.gz"}


@pytest.fixture(scope="module")
def reference(data_dir: Path) -> dict[str, dict[str, int]]:
    files = json.loads((data_dir / "warc" / "reference_counts.json").read_text())["files"]
    return {name: told["records"] for name, told in files.items()}


@pytest.fixture(scope="module")
def outcomes(data_dir: Path, reference):
    """Everything read once, any language; ``read`` checks the accounting."""
    gates = {"languages": ()}
    return {name: read(data_dir / "warc" / name, gates=gates, source={"format": "warc"}) for name in reference}


def test_record_counts_agree_with_warcio(reference, outcomes):
    for name in sorted(set(reference) - set(READ_FURTHER) - ARC):
        counts = outcomes[name][2]
        ours = {kind: counts[f"records/{kind}"] for kind in reference[name]}
        assert ours == reference[name], name
        assert counts["records"] == sum(reference[name].values()), name


@pytest.mark.parametrize("name", sorted(READ_FURTHER))
def test_we_read_at_least_what_warcio_reads(name, reference, outcomes):
    counts = outcomes[name][2]
    assert all(counts[f"records/{kind}"] >= number for kind, number in reference[name].items())
    assert counts["records"] > sum(reference[name].values())


def test_arc_files_are_refused_in_one_reject(outcomes):
    for name in ARC:
        documents, rejects, counts = outcomes[name]
        assert not documents and [reject.reason for reject in rejects] == ["unsupported_format"]
        assert counts["damage"] == 1


def test_the_same_records_come_out_of_gzip_zstd_and_lz4(outcomes):
    names = ["cc_resiliparse.warc.gz", "cc_resiliparse.derived.warc.zst", "cc_resiliparse.warc.lz4"]
    texts = [[(document.row_id, document.text) for document in outcomes[name][0]] for name in names]
    assert texts[0] and texts[0] == texts[1] == texts[2]


def test_offsets_of_compressed_records_are_those_of_their_frames(data_dir, outcomes):
    for name, magic in [("cc_resiliparse.warc.gz", b"\x1f\x8b"), ("cc_resiliparse.derived.warc.zst", b"\x28\xb5\x2f\xfd"),
                        ("cc_resiliparse.warc.lz4", b"\x04\x22\x4d\x18"), ("cciwc_IAH-urls-wget.warc", b"WARC/1.0")]:
        stored = (data_dir / "warc" / name).read_bytes()
        assert outcomes[name][0]
        assert all(stored[document.offset :].startswith(magic) for document in outcomes[name][0]), name


def test_truncated_files_say_so(outcomes):
    for name in ("clipped.warc.gz", "serp_google_ia_trunc_tail.warc.gz", "swb_transfer_compression_none_truncated.warc.gz"):
        documents, rejects, _ = outcomes[name]
        assert not documents
        assert [reject.reason for reject in rejects] == ["truncated_record", "truncated_file"], name


def test_a_doubled_status_line_and_chunks_long_undone_are_read(outcomes):
    documents, rejects, _ = outcomes["serp_google_ia_711.warc.gz"]
    assert len(documents) >= 690
    assert {reject.reason for reject in rejects} <= {"too_short", "no_text"}


def test_transfer_and_content_codings_give_the_same_text(data_dir):
    texts = set()
    for name in ("none.warc", "gzip.warc", "brotli.warc", "brotli.warc.gz"):
        path = data_dir / "warc" / f"swb_transfer_compression_{name}"
        documents, _, _ = read(path, gates={"languages": (), "min_chars": 1})
        texts |= {document.text for document in documents if document.url.startswith("http")}
    assert len(texts) == 1


def test_wet_files_use_their_language_header(data_dir):
    documents, _, _ = read(data_dir / "warc" / "cc_whirlwind.warc.wet.gz", gates={"languages": ()})
    assert [document.language for document in documents] == ["es"]  # CLD2's word for Aragonese
    _, rejects, _ = read(data_dir / "warc" / "cc_whirlwind.warc.wet.gz")
    assert [reject.reason for reject in rejects] == ["language"]


def test_lengths_counted_in_characters_cost_a_damage_each_but_no_record(data_dir):
    gates = {"languages": (), "min_chars": 1}
    documents, _, counts = read(data_dir / "warc" / "cc_net_sample.wet.txt", gates=gates, source={"format": "wet"})
    assert [document.url.rsplit(".")[-1] for document in documents] == ["com", "zh", "ru"]
    assert counts["damage"] == 3


def test_search_pages_in_chinese_and_korean_do_not_pass_as_english(data_dir):
    for name, language in (("baidu", "zh"), ("naver", "ko")):
        path = data_dir / "warc" / f"serp_{name}.warc.gz"
        assert not read(path)[0]
        found = Counter(document.language for document in read(path, gates={"languages": ()})[0])
        assert found.most_common(1)[0][0] == language


def test_english_pages_pass_as_english(data_dir):
    total = passed = 0
    for name, column in (("webr_web_en_1k", "webpage"), ("code_docs", "text"), ("math_docs", "text")):
        path = data_dir / "pages" / f"{name}.jsonl.gz"
        documents, rejects, counts = read(path, source={"text_column": column})
        total += counts["records"] - sum(reject.reason not in ("language",) for reject in rejects)
        passed += len(documents)
    assert total > 800
    assert passed / total > 0.99
