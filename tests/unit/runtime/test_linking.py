"""The stages of near-duplicate removal, run one after another in this process; Ray only spreads them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignray.dedup.config import MinHashConfig
from alignray.dedup.near_duplicates import near_duplicates
from alignray.errors import ConfigError
from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.runtime.dedup import WORK_STAGES, Clusters, find_clusters
from alignray.runtime.linking import Limits
from alignray.runtime.signatures import TextBatch, sign_stage

TINY = Limits(
    group_rows=20, group_shingles=900, exact_rows=30, range_records=300, range_pairs=20, range_shingles=900, pairs_at_once=16,
    small_rows=0, small_shingles=0,
)
LOOSE = MinHashConfig(threshold=0.5, recall=0.95, num_perm=64)


@dataclass(frozen=True)
class Rows:
    id: str
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    scores: tuple[float, ...] = ()


def here(root: str, stage: str, items: list[str], work: Callable[[str], dict[str, int]], *, on_item: Any = None) -> None:
    done = set(CommitLog(Storage(root)).names(stage))
    for item in items:
        if item not in done:
            work(item)


def read(split: Rows) -> Iterator[TextBatch]:
    scores = np.array(split.scores) if split.scores else None
    yield TextBatch(np.arange(len(split.texts)), list(split.texts), list(split.ids), scores)


def run(root: Path, splits: list[Rows], config: MinHashConfig = LOOSE, **options: Any) -> Clusters:
    sign_stage(splits, read, config, root=str(root), on_part=lambda _: None, run_each=here)
    return find_clusters(str(root), config, run_each=here, **options)


def removed_by(root: Path, clusters: Clusters) -> dict[str, str]:
    """Row id to its keeper's, of the rows that go."""
    return {
        row["row_id"]: row["keeper"] for _, table in CommitLog(Storage(str(root))).tables(clusters.stage)
        for row in table.to_pylist() if not row["kept"]
    }


def texts_of(num: int, seed: int = 0) -> list[str]:
    """Texts of few words, many of them near one another, some equal, some without any word."""
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    while len(texts) < num:
        words = [f"w{word}" for word in rng.integers(0, 400, rng.integers(8, 40))]
        for _ in range(rng.integers(1, 5)):
            copy = list(words)
            for place in rng.integers(0, len(words), rng.integers(0, 4)):
                copy[place] = f"w{rng.integers(0, 400)}"
            texts.append(" ".join(copy))
        texts += [texts[-1]] * int(rng.integers(0, 2)) + ["..."] * int(rng.integers(0, 12) == 0)
    return texts[:num]


def split_up(texts: list[str], num: int) -> list[Rows]:
    ids = [f"{index:05d}" for index in range(len(texts))]
    return [Rows(f"s{start}", tuple(texts[start::num]), tuple(ids[start::num])) for start in range(num)]


@pytest.mark.parametrize("verify", ["exact", "estimate", "none"])
def test_stages_remove_what_the_plain_function_removes(tmp_path: Path, verify: str) -> None:
    config = LOOSE.model_copy(update={"verify": verify})
    texts = texts_of(250)
    expected = near_duplicates([f"{index:05d}" for index in range(250)], texts, config)
    clusters = run(tmp_path, split_up(texts, 9), config, limits=TINY)
    is_empty = [not text.strip(".") for text in texts]
    assert sum(is_empty) > 3 and 40 < (~expected.keep).sum() < 200
    assert removed_by(tmp_path, clusters) == {
        f"{row:05d}": expected.cluster[row] for row in range(250) if not expected.keep[row] and not is_empty[row]
    }
    assert clusters.stats["removed"] == (~expected.keep).sum()
    assert clusters.stats["rows"] == 250 - sum(is_empty)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(0, 5), st.permutations(range(60)), st.booleans())
def test_result_is_blind_to_order_blocks_and_limits(
    tmp_path_factory: pytest.TempPathFactory, num_splits: int, seed: int, order: list[int], is_tiny: bool
) -> None:
    texts = texts_of(60, seed)
    ids = [f"{index:05d}" for index in range(60)]
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    expected = removed_by(one, run(one, [Rows("all", tuple(texts), tuple(ids))]))
    splits = [
        Rows(f"s{start}", tuple(texts[row] for row in order[start::num_splits]), tuple(ids[row] for row in order[start::num_splits]))
        for start in range(num_splits)
    ]
    assert removed_by(other, run(other, splits, limits=TINY if is_tiny else None, num_planted=40)) == expected


def test_hot_buckets_are_capped_and_counted_and_still_found(tmp_path: Path) -> None:
    base = [f"w{index}" for index in range(60)]
    texts = [" ".join([*base, f"x{index}"]) for index in range(150)]
    config = LOOSE.model_copy(update={"max_bucket": 10})
    clusters = run(tmp_path, split_up(texts, 4), config, limits=TINY)
    assert clusters.stats["capped"] > 0
    assert clusters.stats["candidates"] < 150 * 149 / 4
    assert set(removed_by(tmp_path, clusters).values()) == {"00000"} and clusters.stats["removed"] == 149


def test_copies_of_a_text_never_reach_the_band_join(tmp_path: Path) -> None:
    clusters = run(tmp_path, split_up(["one two three four five six seven"] * 50, 3), limits=TINY)
    assert clusters.stats["exact_duplicate"] == 49 and clusters.stats["near_duplicate"] == 0 and clusters.stats["candidates"] == 0
    assert set(removed_by(tmp_path, clusters).values()) == {"00000"}


def test_the_best_score_stays_then_the_least_id_and_no_score_is_the_worst(tmp_path: Path) -> None:
    text = "one two three four five six seven"
    rows = Rows("s", (text, text + " eight", text, text), ("a", "b", "c", "d"), (np.nan, 1.0, 3.0, 3.0))
    assert removed_by(tmp_path, run(tmp_path, [rows])) == {"a": "c", "b": "c", "d": "c"}


@pytest.mark.parametrize("seed", range(4))
def test_two_parts_one_after_the_other_keep_what_both_at_once_keep(tmp_path: Path, seed: int) -> None:
    texts = texts_of(200, seed)
    splits = split_up(texts, 6)
    at_once = set(removed_by(tmp_path / "all", run(tmp_path / "all", splits)))
    first = removed_by(tmp_path / "first", run(tmp_path / "first", splits[:3]))
    second = run(tmp_path / "second", splits[3:], against=[str(tmp_path / "first")], limits=TINY)
    log = CommitLog(Storage(str(tmp_path / "second")))
    retracted = {row["row_id"] for _, table in log.tables("dedup-retracted") for row in table.to_pylist()}
    assert retracted and not retracted & set(first)
    assert set(first) | retracted | set(removed_by(tmp_path / "second", second)) == at_once
    assert second.stats["rows_earlier"] == sum(bool(text.strip(".")) for split in splits[:3] for text in split.texts)


def test_earlier_rows_stay_where_they_are_preferred(tmp_path: Path) -> None:
    text = "one two three four five six seven"
    run(tmp_path / "first", [Rows("s", (text,), ("z",))])
    second = run(tmp_path / "second", [Rows("t", (text + " eight",), ("a",))], against=[str(tmp_path / "first")], prefer="earlier")
    assert removed_by(tmp_path / "second", second) == {"a": "z"}
    assert not CommitLog(Storage(str(tmp_path / "second"))).names("dedup-retracted")


def test_signatures_of_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path / "first", [Rows("s", ("one two three",), ("a",))])
    with pytest.raises(ConfigError, match="num_perm 64 there, 128 here"):
        run(tmp_path / "second", [Rows("t", ("one two",), ("b",))], MinHashConfig(), against=[str(tmp_path / "first")])
    with pytest.raises(ConfigError, match="no signature table"):
        run(tmp_path / "third", [Rows("t", ("one two",), ("b",))], against=[str(tmp_path / "nowhere")])


def test_planted_pairs_measure_recall_and_leave_no_trace(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 5000, 80)) for _ in range(300)]
    clusters = run(tmp_path / "good", split_up(texts, 3), MinHashConfig(), num_planted=300)
    quality = clusters.stats["quality"]
    assert clusters.stats["removed"] == 0 and clusters.stats["rows"] == 300 and clusters.stats["candidates"] < 60
    assert quality["num_at"] > 100 and not quality["is_missed"] and quality["precision"] == 1
    few = run(tmp_path / "few", split_up(texts, 3), MinHashConfig(bands=3), num_planted=300)
    assert few.stats["quality"]["is_missed"] and few.stats["quality"]["recall"] < 0.9


def test_a_pass_that_is_run_again_does_nothing_new_and_work_files_are_gone(tmp_path: Path) -> None:
    splits = split_up(texts_of(60), 3)
    first = run(tmp_path, splits, limits=TINY, num_planted=20)
    before = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert not any(CommitLog(Storage(str(tmp_path))).names(f"dedup-{stage}") for stage in WORK_STAGES)
    assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert run(tmp_path, splits, limits=TINY, num_planted=20) == first
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == before


def test_no_rows_are_no_clusters(tmp_path: Path) -> None:
    clusters = run(tmp_path, [Rows("s", ("", "?!"), ("a", "b"))], num_planted=10)
    assert clusters.stats["rows"] == 0 and clusters.stats["clusters"] == 0 and clusters.stats["quality"] is None
