"""Charts of evaluations as SVG text: curves with bands over levels, radars over categories, figures with their intervals.

They take their geometry from ``charts`` and, as those, hold no colour: curves and points have the classes s0 to s5 (lines) and
f0 to f5 (areas), which the page's style sheet dresses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from markupsafe import Markup

from alignray.report.charts import HEIGHT, WIDTH, Plot, label_at, svg, ticks, ticks_between

NUM_COLOURS = 6
MAX_LABEL = 18
_RADAR_WIDTH, _RADAR_HEIGHT, _RADIUS = 380, 260, 92
_ROW, _GAP, _LABELS, _FOOT, _RIGHT, _TOP = 13, 9, 122, 22, 14, 6
_APART = 24
"""Between labels of an x axis, at least."""


def tone(number: int) -> str:
    """End of the classes f... and s... for the curve of a number: its colour, and beyond the sixth " again", which dashes and lightens."""
    return f"{number % NUM_COLOURS}{' again' * (number >= NUM_COLOURS)}"


@dataclass(frozen=True)
class Point:
    """A value over x with its interval. None: nothing was measured, or there is no interval."""

    x: float
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Curve:
    """The points of one candidate in order of x; ``number`` is its place among all candidates and chooses its colour."""

    label: str
    points: Sequence[Point]
    number: int = 0


def text_of(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A figure in its own unit, with its interval where there is one: "0.734 (0.701 to 0.765)"."""
    if value is None:
        return "no score"
    shown = figure(value)
    return shown if low is None or high is None else f"{shown} ({figure(low)} to {figure(high)})"


def figure(value: float) -> str:
    """Three decimals for what is about a rate, fewer above."""
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.1f}"


def level_curves(curves: Sequence[Curve], *, title: str, x_unit: str, is_log: bool = False) -> Markup:
    """A curve per candidate with its interval as a band; a point that was not measured breaks curve and band.

    Args:
        is_log: equal ratios of x, all above 0, are equally far apart.
    """
    points = [point for curve in curves for point in curve.points if point.value is not None]
    if not points:
        return Markup("")
    places = sorted({point.x for curve in curves for point in curve.points})
    y_ticks = axis_ticks([point.value for point in points if point.value is not None], [
        end for point in points for end in (point.low, point.high) if end is not None])
    limit = places[-1] if len(places) > 1 else places[0] + 1
    plot = Plot(x_start=places[0], x_limit=limit, y_start=y_ticks[0], y_limit=y_ticks[-1], is_log_x=is_log)
    shown: list[float] = []
    for place in places:
        if not shown or plot.x(place) - plot.x(shown[-1]) >= _APART:
            shown.append(place)
    drawn = [plot.y_axis(y_ticks), plot.x_axis(shown, x_unit)]
    drawn += [_band(plot, curve) for curve in curves]
    drawn += [_curve(plot, curve) for curve in curves]
    return svg(WIDTH, HEIGHT, drawn, title)


def axis_ticks(values: Sequence[float], ends: Sequence[float] = ()) -> list[float]:
    """Where an axis of figures has its lines: 0 to 1 for rates, whose unclipped intervals may leave it; else round numbers over all."""
    lowest, highest = min(values), max(values)
    if lowest < 0:
        return ticks_between(min([lowest, *ends]), max([highest, *ends]))
    if highest <= 1:
        return [0.0, 0.25, 0.5, 0.75, 1.0]
    return ticks(max([highest, *ends]), 4)


def _within(value: float, plot: Plot) -> float:
    return min(max(value, plot.y_start), plot.y_limit)


def _runs(points: Sequence[Point], *, is_band: bool) -> list[list[Point]]:
    """The stretches without a gap."""
    def is_known(point: Point) -> bool:
        return point.value is not None and (not is_band or (point.low is not None and point.high is not None))

    return [list(run) for known, run in groupby(points, is_known) if known]


def _band(plot: Plot, curve: Curve) -> Markup:
    paths = []
    for run in _runs(curve.points, is_band=True):
        if len(run) > 1:
            there = [f"{plot.x(point.x):.1f} {plot.y(_within(point.high or 0, plot)):.1f}" for point in run]
            back = [f"{plot.x(point.x):.1f} {plot.y(_within(point.low or 0, plot)):.1f}" for point in reversed(run)]
            paths.append(f"M{'L'.join([*there, *back])}Z")
    return Markup('<path class="band f{}" d="{}"/>').format(tone(curve.number), "".join(paths)) if paths else Markup("")


def _curve(plot: Plot, curve: Curve) -> Markup:
    colour = tone(curve.number)
    paths, dots = [], []
    for run in _runs(curve.points, is_band=False):
        places = [(plot.x(point.x), plot.y(_within(point.value or 0, plot))) for point in run]
        paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places))
        dots += [_dot(x, y, colour, f"{curve.label}, {point.x:g}: {text_of(point.value, point.low, point.high)}")
                 for (x, y), point in zip(places, run, strict=True)]
    line = Markup('<path class="line s{}" d="{}"><title>{}</title></path>').format(colour, "".join(paths), curve.label)
    return Markup("").join([line, *dots])


def _dot(x: float, y: float, colour: str, tip: str) -> Markup:
    return Markup('<circle class="dot f{}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}</title></circle>').format(colour, x, y, tip)


@dataclass(frozen=True)
class Profile:
    """One candidate's value by category."""

    label: str
    values: Mapping[str, float | None]
    number: int = 0


def radar(profiles: Sequence[Profile], *, title: str) -> Markup:
    """Categories as spokes, a shape per candidate; a category without a value opens the shape. Nothing below three categories."""
    spokes = list(dict.fromkeys(category for profile in profiles for category in profile.values))
    values = [value for profile in profiles for value in profile.values.values() if value is not None]
    if len(spokes) < 3 or not values or min(values) < 0:
        return Markup("")
    rings = axis_ticks(values)
    angles = {category: 2 * math.pi * place / len(spokes) for place, category in enumerate(spokes)}
    drawn = [_ring(list(angles.values()), ring / rings[-1]) for ring in rings[1:]]
    for category, angle in angles.items():
        line = Markup('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
        drawn += [line.format(*_at(angle, 0), *_at(angle, 1)), _spoke_label(category, angle)]
    # beside the first spoke, where no label of a category is
    x = _at(0, 0)[0] + 4
    drawn += [label_at(x, _at(0, ring / rings[-1])[1] + 11, f"{ring:.3g}", "tick") for ring in (rings[len(rings) // 2], rings[-1])]
    drawn += [_shape(profile, angles, rings[-1]) for profile in profiles]
    return svg(_RADAR_WIDTH, _RADAR_HEIGHT, drawn, title)


def _at(angle: float, share: float) -> tuple[float, float]:
    radius = _RADIUS * share
    return _RADAR_WIDTH / 2 + radius * math.sin(angle), _RADAR_HEIGHT / 2 - radius * math.cos(angle)


def _ring(angles: Sequence[float], share: float) -> Markup:
    corners = "L".join("{:.1f} {:.1f}".format(*_at(angle, share)) for angle in angles)
    return Markup('<path class="ring" d="M{}Z"/>').format(corners)


def _spoke_label(category: str, angle: float) -> Markup:
    x, y = _at(angle, 1.1)
    side = math.sin(angle)
    css = "label middle" if abs(side) < 0.15 else "label end" if side < 0 else "label"
    y += 4 - 4 * math.cos(angle)
    label = Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}<title>{}</title></text>')
    return label.format(css, x, y, short(category, 13), category)


def _shape(profile: Profile, angles: Mapping[str, float], limit: float) -> Markup:
    colour = tone(profile.number)
    known = {category: value for category, value in profile.values.items() if value is not None}
    places = [_at(angle, known[category] / limit) if category in known else None for category, angle in angles.items()]
    whole = [place for place in places if place is not None]
    tips = [_dot(*place, colour, f"{profile.label}, {category}: {figure(known[category])}")
            for category, place in zip(angles, places, strict=True) if place is not None]
    if len(whole) == len(places):
        outline = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in whole) + "Z"
        area = Markup('<path class="area f{}" d="{}"/>').format(colour, outline)
    else:
        sides = [pair for pair in pairwise([*places, places[0]]) if pair[0] is not None and pair[1] is not None]
        outline = "".join(f"M{one[0]:.1f} {one[1]:.1f}L{two[0]:.1f} {two[1]:.1f}" for one, two in sides if one and two)
        area = Markup("")
    line = Markup('<path class="line s{}" d="{}"><title>{}</title></path>').format(colour, outline, profile.label)
    return Markup("").join([area, line, *tips])


def short(text: str, limit: int = MAX_LABEL) -> str:
    """The label, cut to so many characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@dataclass(frozen=True)
class Bar:
    """A figure of one candidate with its interval."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    number: int = 0


def interval_bars(groups: Sequence[tuple[str, Sequence[Bar]]], *, title: str, unit: str) -> Markup:
    """Below each other, by group (a category): a point and its interval for each candidate, all on one axis."""
    bars = [bar for _, inside in groups for bar in inside]
    values = [bar.value for bar in bars if bar.value is not None]
    if not values:
        return Markup("")
    marks = axis_ticks(values, [end for bar in bars for end in (bar.low, bar.high) if end is not None])
    bottom = _TOP + sum(_ROW * len(inside) + _GAP for _, inside in groups)
    drawn = []
    for mark in marks:
        line = Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>')
        drawn += [line.format(_x(mark, marks), _TOP, bottom), label_at(_x(mark, marks), bottom + 13, f"{mark:.3g}", "tick middle")]
    drawn.append(label_at((_LABELS + WIDTH - _RIGHT) / 2, bottom + _FOOT + 4, unit, "unit middle"))
    top = _TOP + _GAP / 2
    for name, inside in groups:
        label = Markup('<text class="label" x="0" y="{:.1f}">{}<title>{}</title></text>')
        drawn.append(label.format(top + _ROW * len(inside) / 2 + 4, short(name), name))
        for place, bar in enumerate(inside):
            drawn.append(_bar(bar, top + _ROW * (place + 0.5), marks, name))
        top += _ROW * len(inside) + _GAP
    return svg(WIDTH, bottom + _FOOT + 8, drawn, title)


def _x(value: float, marks: Sequence[float]) -> float:
    inside = min(max(value, marks[0]), marks[-1])
    return _LABELS + (inside - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - _RIGHT - _LABELS)


def _bar(bar: Bar, y: float, marks: Sequence[float], group: str) -> Markup:
    if bar.value is None:
        return Markup("")
    colour, tip = tone(bar.number), f"{bar.label}, {group}: {text_of(bar.value, bar.low, bar.high)}"
    dot = _dot(_x(bar.value, marks), y, colour, tip)
    if bar.low is None or bar.high is None:
        return dot
    left, right = _x(bar.low, marks), _x(bar.high, marks)
    span = Markup('<rect class="span f{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="5" rx="2.5"><title>{}</title></rect>')
    return span.format(colour, left, y - 2.5, max(right - left, 1), tip) + dot
