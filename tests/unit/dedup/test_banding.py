import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.dedup.banding import collision_probability, solve_bands
from alignray.dedup.config import MinHashConfig
from alignray.errors import ConfigError


def test_collision_curve_of_the_thesis_setting_meets_the_vectors() -> None:
    # spec vectors of the authors' datasketch setting: 14 bands of 9 rows
    curve = {0.5: 0.026999310050432213, 0.7: 0.4382316159101769, 0.9: 0.9989522093092017}
    for jaccard, probability in curve.items():
        assert collision_probability(jaccard, 14, 9) == pytest.approx(probability, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 256), st.floats(0.05, 1.0), st.floats(0.01, 0.9999))
def test_solved_bands_reach_the_recall_or_the_error_names_the_nearest(num_perm: int, threshold: float, recall: float) -> None:
    try:
        bands, rows = solve_bands(num_perm, threshold, recall)
    except ConfigError as err:
        nearest = collision_probability(threshold, num_perm, 1)
        assert nearest < recall
        assert f"{nearest:.6f}" in str(err)
        return
    assert bands >= 1 and rows >= 1 and bands * rows <= num_perm
    assert collision_probability(threshold, bands, rows) >= recall
    # one band fewer would miss the wish, so no candidate is paid for in vain
    assert bands == 1 or collision_probability(threshold, bands - 1, rows) < recall


def test_no_other_split_makes_fewer_false_candidates() -> None:
    def false_candidates(bands: int, rows: int) -> float:
        return sum(collision_probability(0.7 * (step + 0.5) / 1000, bands, rows) for step in range(1000))

    bands, rows = solve_bands(64, 0.7, 0.95)
    best = false_candidates(bands, rows)
    for other_rows in range(1, 65):
        for other_bands in range(1, 64 // other_rows + 1):
            if collision_probability(0.7, other_bands, other_rows) >= 0.95:
                assert best <= false_candidates(other_bands, other_rows) + 1e-3


def test_default_config_is_solved_and_given_bands_are_kept() -> None:
    bands, rows = MinHashConfig().split()
    assert collision_probability(0.7, bands, rows) >= 0.99
    assert MinHashConfig(bands=14).split() == (14, 9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_perm": 2, "threshold": 0.1}, "nearest possible recall is 0.190000"),
        ({"num_perm": 100, "bands": 101}, "nearest possible is bands=100"),
        ({"treshold": 0.7}, "treshold"),
    ],
)
def test_impossible_settings_fail_before_any_text_is_read(setting: dict[str, float], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        MinHashConfig(**setting)  # type: ignore[arg-type]
