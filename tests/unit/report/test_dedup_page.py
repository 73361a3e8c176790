from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignray.dedup.banding import collision_probability
from alignray.report import charts
from alignray.report.dedup_figures import collision_chart, facts_of, guarantee, measured_chart, rate
from alignray.report.dedup_folder import cluster_sizes, largest_clusters, worst_hits
from alignray.report.html import write_report
from alignray.report.run_folder import read_run
from alignray.schema import Rejected, table_of
from tests.runfolders import CLUSTER_SIZES, HOSTILE, build_dedup_run, make_dedup_stats, make_quality
from tests.unit.report.test_html_report import Page


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dedup_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page_text(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def told(text: str) -> str:
    return " ".join(Page(text).text.split())


def change_manifest(run_dir: Path, **changes: Any) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    (run_dir / "manifest.json").write_text(json.dumps(manifest | changes))


def test_the_page_has_no_scripts_no_links_and_no_network(page_text: str) -> None:
    page = Page(page_text)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "img", "object", "embed", "form", "base", "a", "audio", "video"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert tag == "link" or not {"src", "href", "srcset", "data"} & set(attributes)
    assert "url(" not in page_text and "@import" not in page_text
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policies[0] and "script-src" not in policies[0]


def test_hostile_texts_ids_files_and_benchmarks_are_shown_as_they_are(page_text: str) -> None:
    page = Page(page_text)
    assert page.text.count("<script>document.title='pwned';alert(1)</script>") > 10
    assert "{{ 7*7 }} {% raw %} ${7*7}" in page.text
    assert "\x07" not in page_text
    assert sum(tag == "style" for tag, _ in page.tags) == 1


def test_every_part_of_a_full_run_is_told(page_text: str) -> None:
    text = told(page_text)
    for heading in ("Mind this", "From records to rows", "The guarantee", "What the search did", "Clusters", "Earlier runs",
                    "Overlap with benchmarks", "Why records were turned down", "The run"):
        assert heading in text
    for fact in (
        "3 benchmark items are too short", "near_duplicate 101", "one of 17 bands of 4 signature values", "probability 99.06%",
        "99% was wished for", "of 300 pairs planted close above that similarity 297 were found",
        "recall near the threshold: 99% (97.11 to 99.79)",
        "precision: 100% (99.08 to 100)", "1,320 pairs of rows", "3 buckets held more than 100 rows", "40 rows of which c000-000 stays",
        "7 rows that these runs kept", "1,400 items were given, to be found by 13 words in a row; 3 of them are too short",
        "lone-5, item item/5", "still in the data",
        "of earlier runs, retracted7", "sign31.2",
    ):
        assert fact in text, fact
    assert page_text.count("<svg") == 2
    assert "neither kept nor rejected" not in text


def test_the_page_is_the_same_each_time(run_dir: Path, page_text: str) -> None:
    assert write_report(run_dir).read_text(encoding="utf-8") == page_text
    assert not list(run_dir.glob(".*"))


def test_clusters_are_counted_once_and_the_largest_come_first(run_dir: Path) -> None:
    run = read_run(run_dir)
    sizes = cluster_sizes(run)
    assert sorted(sizes.elements(), reverse=True) == list(CLUSTER_SIZES)
    largest = largest_clusters(run, 4, examples=3)
    assert [cluster.size for cluster in largest] == [40, 17, 9, 9]
    assert largest[0].keeper == "c000-000" and largest[2].keeper < largest[3].keeper
    assert [reject.reason for reject in largest[0].removed] == ["near_duplicate"] * 3
    assert all(json.loads(reject.detail)["keeper"] == cluster.keeper for cluster in largest for reject in cluster.removed)


def test_copies_that_share_their_keepers_id_are_shown_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0")
    for folder in ("clusters", "rejects"):
        (tmp_path / folder).mkdir()
    rows = [{"row_id": "same", "row": n, "keeper": "same", "cluster_size": 5000, "kept": n == 0,
             "reason": "exact_duplicate" if n else ""} for n in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clusters" / "a.parquet")
    rejects = [Rejected("same", "dedup", "exact_duplicate", "text", json.dumps({"keeper": "same", "row": n})) for n in range(1, 5000)]
    pq.write_table(table_of(Rejected, rejects), tmp_path / "rejects" / "a.parquet")
    (cluster,) = largest_clusters(read_run(tmp_path), 3, examples=3)
    assert (cluster.keeper, cluster.size, len(cluster.removed)) == ("same", 5000, 1)


def test_the_hits_shown_share_most_of_an_item(run_dir: Path) -> None:
    hits = worst_hits(read_run(run_dir), 3)
    assert [hit.row_id for hit in hits["gsm8k"]] == ["lone-5", "lone-4", "lone-3"]
    assert [hit.share for hit in hits[f"mt-bench {HOSTILE}"]] == [0.2, 0.1]


def test_the_curve_goes_through_the_promised_recall() -> None:
    drawn = str(collision_chart(make_dedup_stats()))
    path = re.search(r'class="line s0" d="([^"]+)"', drawn).group(1)  # type: ignore[union-attr]
    points = [tuple(float(value) for value in point[1:].split(" ")) for point in re.findall(r"[ML][\d.]+ [\d.]+", path)]
    bottom, top = points[0][1], points[-1][1]
    x, y = points[70]
    assert (bottom - y) / (bottom - top) == pytest.approx(collision_probability(0.7, 17, 4), abs=0.001)
    assert (x - points[0][0]) / (points[-1][0] - points[0][0]) == pytest.approx(0.7, abs=0.001)


@pytest.mark.parametrize("low", [0.985, 0.96, 0.6, 0.0])
def test_an_interval_lies_inside_its_chart(low: float) -> None:
    stats = make_dedup_stats(quality=make_quality(recall=(low + 1) / 2, recall_low=low, recall_high=1.0))
    drawn = str(measured_chart(stats, 0.99))
    bars = [(float(x), float(width)) for x, width in re.findall(r'<rect x="([-\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn)]
    assert len(bars) == 3
    assert all(x >= 38 and x + width <= charts.WIDTH for x, width in bars)
    assert not re.search(r"NaN|nan|inf", drawn)


def test_rates_never_round_up_to_all() -> None:
    assert [rate(value) for value in (0.9906, 1, 1.0, 0.9999999, 0, None, "x", True)] == \
        ["99.06%", "100%", "100%", "over 99.99%", "0%", "–", "–", "–"]


def test_figures_of_a_pass_without_measured_pairs() -> None:
    facts = dict(facts_of(make_dedup_stats(quality=None)))
    assert (facts["bands x rows"], facts["recall"], facts["pairs that passed the check"]) == ("17 x 4", "not measured", "611")
    none_found = make_quality(num_at=0, found_at=0, recall=None, recall_low=None, recall_high=None)
    assert dict(facts_of(make_dedup_stats(quality=none_found)))["recall near the threshold"] == "–"
    assert facts_of(None) == facts_of({}) == []


def test_bands_set_by_hand_promise_no_wished_recall(tmp_path: Path) -> None:
    build_dedup_run(tmp_path, is_measured=False)
    assert "was wished for" in guarantee(read_run(tmp_path))
    config = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config.replace("bands: null", "bands: 17"))
    assert "was wished for" not in guarantee(read_run(tmp_path))
    assert "recall was not measured" in guarantee(read_run(tmp_path))


@pytest.mark.parametrize("is_measured", [True, False])
@pytest.mark.parametrize("status", ["done", "empty", "failed", "running"])
def test_a_run_without_clusters_renders(tmp_path: Path, status: str, is_measured: bool) -> None:
    build_dedup_run(tmp_path, num_clusters=0, status=status, is_measured=is_measured)
    text = told(write_report(tmp_path).read_text(encoding="utf-8"))
    assert ("No clusters have been written yet" if status == "running" else "No two rows are near-duplicates") in text
    assert "<b>dedup</b>" in text


@pytest.mark.parametrize(
    "broken",
    [
        dict.fromkeys(("funnel", "dedup", "seconds", "contaminated", "retracted", "decontamination", "result", "message", "versions")),
        {"dedup": {}, "funnel": [{}], "contaminated": {"gsm8k": "many"}, "retracted": "all", "decontamination": {}},
        {"dedup": {"quality": {}, "bands": "x", "rows_per_band": None, "threshold": 7, "against": 3}, "funnel": "x", "seconds": []},
        {"dedup": make_dedup_stats(quality={"recall": 0.5, "num_at": None, "precision": "x"}), "funnel": ["x"]},
        {"dedup": make_dedup_stats(bands=0, quality=[1]), "retracted": None},
        {"dedup": make_dedup_stats(quality={"recall": 0.5, "recall_low": 0.4, "recall_high": 0.6})},
    ],
)
def test_missing_and_misshapen_facts_are_dashes(tmp_path: Path, broken: dict[str, Any]) -> None:
    build_dedup_run(tmp_path)
    change_manifest(tmp_path, **broken)
    assert "–" in write_report(tmp_path).read_text(encoding="utf-8")


def test_torn_and_missing_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"method": "dedup"}')
    assert "alignray dedup" in write_report(tmp_path).read_text(encoding="utf-8")
    for folder in ("parts", "rejects", "clusters", "hits"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.parquet").write_bytes(b"PAR1 and then the power failed")
    write_report(tmp_path)


def test_clusters_of_other_runs_are_said_to_be_missing_from_the_bars(tmp_path: Path) -> None:
    build_dedup_run(tmp_path)
    change_manifest(tmp_path, dedup=make_dedup_stats(clusters=100))
    assert f"{len(CLUSTER_SIZES)} of 100 clusters" in told(write_report(tmp_path).read_text(encoding="utf-8"))
