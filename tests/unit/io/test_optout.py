"""Opt-out signals, a page each."""

from __future__ import annotations

import json

import pytest

from alignray.io.optout import find_optout
from tests.warcs import html, http, read_bytes, record

NO, NOIMAGE, NOINDEX, TDM = "noai", "noimageai", "noindex", "tdm"


def meta(content: str, name: str = "robots") -> str:
    return f'<meta name="{name}" content="{content}">'


TABLE = [
    ([], "", set()),
    (["X-Robots-Tag: noai"], "", {NO}),
    (["x-robots-tag:NoAI , noarchive"], "", {NO}),
    (["X-Robots-Tag: noimageai"], "", {NOIMAGE}),
    (["X-Robots-Tag: noarchive"], "", set()),
    (["X-Robots-Tag: noindex"], "", {NOINDEX}),
    (["X-Robots-Tag: none"], "", {NOINDEX}),
    (["X-Robots-Tag: noarchive", "X-Robots-Tag: noai"], "", {NO}),
    (["X-Robots-Tag: *: noindex"], "", {NOINDEX}),
    (["X-Robots-Tag: googlebot: noindex"], "", set()),
    (["X-Robots-Tag: googlebot: noindex, nofollow, noarchive"], "", set()),
    (["X-Robots-Tag: otherbot: noai"], "", {NO}),
    (["X-Robots-Tag: GPTBot: noindex"], "", {NOINDEX}),
    (["X-Robots-Tag: googlebot: nofollow, ccbot: noindex"], "", {NOINDEX}),
    (["X-Robots-Tag: unavailable_after: 25 Jun 2030 15:00:00 PST"], "", set()),
    (["X-Robots-Tag: max-snippet: 20, noai"], "", {NO}),
    (["X-Robots-Tag: notnoai, noaix"], "", set()),
    (["TDM-Reservation: 1"], "", {TDM}),
    (["tdm-reservation: 0"], "", set()),
    (["tdm-reservation: 1", "tdm-policy: https://example.org/p.json"], "", {TDM}),
    (["tdm-policy: https://example.org/p.json"], "", set()),
    ([], meta("noai"), {NO}),
    ([], meta("index, follow"), set()),
    ([], "<META CONTENT='NOAI, NOIMAGEAI' NAME=ROBOTS>", {NO, NOIMAGE}),
    ([], '<meta\n  content="noindex"\n  data-x="1" name="Robots" />', {NOINDEX}),
    ([], meta("noai").replace("noai", "no&#97;i"), {NO}),
    ([], meta("noindex", "googlebot"), set()),
    ([], meta("noindex", "ClaudeBot"), {NOINDEX}),
    ([], meta("noai", "somebot"), {NO}),
    ([], meta("noai", "description"), {NO}),  # a name nobody knows is taken for an agent; erring on the page's side
    ([], meta("1", "tdm-reservation"), {TDM}),
    ([], meta("0", "tdm-reservation"), set()),
    ([], meta("https://example.org/p.json", "TDM-Policy"), set()),
    ([], f"<!-- {meta('noai')} -->", set()),
    ([], f"<script>var x = '{meta('noai')}'</script>", set()),
    ([], "<meta name=robots><meta content=noai><meta name=robots content>", set()),
    (["X-Robots-Tag: noindex"], meta("noai"), {NO, NOINDEX}),
]


@pytest.mark.parametrize("headers, head, signals", TABLE)
def test_which_pages_opt_out(headers, head, signals, tmp_path):
    stored = record(http(html(head=head), *headers))
    for policy in ("respect", "label", "ignore"):
        optout = {"policy": policy, "signals": [NO, NOIMAGE, NOINDEX, TDM]}
        documents, rejects, _ = read_bytes(stored, tmp_path, optout=optout)
        if policy == "respect" and signals:
            assert [reject.reason for reject in rejects] == ["optout"] and not documents
            assert json.loads(rejects[0].detail)["note"] == ", ".join(sorted(signals))
            assert rejects[0].raw == ""
        else:
            assert len(documents) == 1
            has_policy = "tdm-policy" in (head + "".join(headers)).lower()
            assert bool(documents[0].optout) == (policy != "ignore" and bool(signals or has_policy))


def test_a_body_element_counts_too(tmp_path):
    page = html().replace(b"<article>", b"<meta name=robots content=noai><article>")
    _, rejects, _ = read_bytes(record(http(page)), tmp_path)
    assert [reject.reason for reject in rejects] == ["optout"]


def test_by_default_noindex_is_evidence_and_noai_rejects(tmp_path):
    (document,), _, _ = read_bytes(record(http(html(head=meta("noindex")), "X-Robots-Tag: none")), tmp_path)
    assert json.loads(document.optout) == {"meta-robots": "noindex", "x-robots-tag": "none"}
    assert not read_bytes(record(http(html(), "X-Robots-Tag: noai")), tmp_path)[0]


def test_evidence_keeps_the_values_as_they_stood():
    found = find_optout(
        [("x-robots-tag", "GPTBot: noindex, nofollow"), ("tdm-reservation", "1"), ("tdm-policy", "https://e.org/p")],
        [("ccbot", "NoIndex"), ("robots", "follow")],
    )
    assert json.loads(found.evidence) == {
        "x-robots-tag": "GPTBot: noindex, nofollow", "meta-robots": "ccbot: NoIndex",
        "tdm-reservation": "1", "tdm-policy": "https://e.org/p",
    }


def test_long_hostile_values_are_cut():
    found = find_optout([("x-robots-tag", "noai," + "a:" * 100_000)], [("robots", "noai" * 100_000)])
    assert found.signals == {NO} and len(found.evidence) < 2000
