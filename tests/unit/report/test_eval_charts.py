"""Charts of evaluations: what is drawn where, by hand-worked places; labels are hostile."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from alignray.report.eval_charts import Bar, Curve, Point, Profile, axis_ticks, figure, interval_bars, level_curves, radar, short, text_of

HOSTILE = '"><script>alert(1)</script>&'


def paths(svg: str, css: str) -> list[list[tuple[float, float]]]:
    """Corners of the paths of a class."""
    found = []
    for element in ET.fromstring(svg).iter("path"):
        if css in (element.get("class") or "").split():
            numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", element.get("d") or "")]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def dots(svg: str) -> list[tuple[float, float]]:
    return [(float(one.get("cx") or 0), float(one.get("cy") or 0)) for one in ET.fromstring(svg).iter("circle")]


def test_a_curve_lies_within_its_band_and_a_gap_breaks_both() -> None:
    points = [Point(1, 0.8, 0.7, 0.9), Point(2, 0.6, 0.5, 0.7), Point(3, None), Point(4, 0.3, 0.2, 0.4), Point(5, 0.2, 0.1, 0.3)]
    svg = level_curves([Curve("one", points)], title="hsr", x_unit="level")
    (line,) = paths(svg, "line")
    assert len(line) == 4 and len(dots(svg)) == 4
    assert svg.count("M") == svg.count("Z") + 2 == 4  # two stretches of the line, two of the band
    (band,) = paths(svg, "band")
    above, below = band[:2], band[2:4]
    for (x, y), (_, top), (_, bottom) in zip(line[:2], above, reversed(below), strict=True):
        assert top < y < bottom and x >= 38
    # a rate's axis is 0 to 1 whatever was measured: 0.8 is 80 % of the way up from the foot at 146 to the top at 14
    assert line[0] == (38.0, pytest.approx(146 - 0.8 * 132, abs=0.06))


def test_levels_are_evenly_spaced_whole_numbers() -> None:
    svg = level_curves([Curve("one", [Point(level, 0.5) for level in range(1, 6)])], title="ssr", x_unit="level")
    places = [x for x, _ in dots(svg)]
    assert [later - earlier for earlier, later in pairwise(places)] == pytest.approx([73.0] * 4)
    assert paths(svg, "band") == []
    assert all(f">{level}</text>" in svg for level in range(1, 6))


def test_a_band_that_leaves_the_range_of_rates_ends_at_its_border_and_the_tip_tells() -> None:
    svg = level_curves([Curve("one", [Point(1, 1.0, 0.9, 1.1), Point(2, 0.0, -0.1, 0.1)])], title="hsr", x_unit="level")
    heights = [y for _, y in paths(svg, "band")[0]]
    assert min(heights) == 14.0 and max(heights) == 146.0
    assert "1.000 (0.900 to 1.100)" in svg


def test_axes() -> None:
    assert axis_ticks([0.2, 0.9], [-0.1, 1.2])[-1] == 1.0
    assert axis_ticks([3.2, 4.1], [5.3])[-1] >= 5.3
    assert axis_ticks([-0.5, 0.5])[0] <= -0.5


def test_a_radar_has_the_first_category_on_top_and_full_marks_on_the_rim() -> None:
    svg = radar([Profile("one", {"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.5})], title="hsr by category")
    (area,) = paths(svg, "area")
    assert area == [(190.0, 38.0), (236.0, 130.0), (190.0, 130.0), (144.0, 130.0)]
    assert len(paths(svg, "ring")) == 4


def test_a_category_without_a_value_opens_the_shape_and_is_no_zero() -> None:
    svg = radar([Profile("one", {"a": 1.0, "b": 0.5, "c": None, "d": 0.5})], title="hsr")
    assert paths(svg, "area") == []
    (line,) = paths(svg, "line")
    assert (190.0, 130.0) not in line and len(dots(svg)) == 3
    both = radar([Profile("one", {"a": 1, "b": 1, "c": 1}), Profile("two", {"a": 0.1, "b": 0.2}, 1)], title="hsr")
    assert len(paths(both, "area")) == 1 and 'class="line s1"' in both


def test_two_categories_make_no_radar() -> None:
    assert radar([Profile("one", {"a": 1.0, "b": 0.5})], title="x") == ""
    assert radar([Profile("one", {"a": None, "b": None, "c": None})], title="x") == ""


def test_interval_bars_by_hand() -> None:
    over_all = [Bar("one", 0.5, 0.25, 0.75), Bar("two", None, number=1)]
    groups = [("all", over_all), ("style", [Bar("one", 1.0, 0.9, 1.2), Bar("two", 0.0, number=1)])]
    svg = interval_bars(groups, title="hsr", unit="hsr")
    spans = [one for one in ET.fromstring(svg).iter("rect") if "span" in (one.get("class") or "")]
    width = 340 - 14 - 122
    assert float(spans[0].get("x") or 0) == pytest.approx(122 + width / 4) and float(spans[0].get("width") or 0) == pytest.approx(width / 2)
    assert float(spans[1].get("x") or 0) + float(spans[1].get("width") or 0) == pytest.approx(340 - 14, abs=0.11)
    assert [x for x, _ in dots(svg)] == pytest.approx([122 + width / 2, 122 + width, 122])
    heights = [y for _, y in dots(svg)]
    assert heights == sorted(heights)


def test_nothing_measured_is_no_chart() -> None:
    assert level_curves([Curve("one", [Point(1, None)])], title="x", x_unit="level") == ""
    assert level_curves([], title="x", x_unit="level") == ""
    assert interval_bars([("all", [Bar("one", None)])], title="x", unit="x") == ""


def test_labels_do_not_become_markup() -> None:
    drawn = [
        level_curves([Curve(HOSTILE, [Point(1, 0.5, 0.4, 0.6), Point(2, 0.5, 0.4, 0.6)])], title=HOSTILE, x_unit=HOSTILE),
        radar([Profile(HOSTILE, {HOSTILE: 0.5, "b": 0.5, "c": 0.5})], title=HOSTILE),
        interval_bars([(HOSTILE, [Bar(HOSTILE, 0.5, 0.4, 0.6)])], title=HOSTILE, unit=HOSTILE),
    ]
    for svg in drawn:
        assert "<script" not in svg
        assert {element.tag for element in ET.fromstring(svg).iter()} <= {"svg", "path", "text", "title", "line", "circle", "rect"}


def test_figures_as_text() -> None:
    assert [figure(value) for value in (0.73456, -0.5, 7.25, 1234.56)] == ["0.735", "-0.500", "7.25", "1,234.6"]
    assert text_of(0.5, 0.4, 0.6) == "0.500 (0.400 to 0.600)" and text_of(0.5) == "0.500" and text_of(None) == "no score"
    assert short("a" * 30) == "a" * 17 + "…"
