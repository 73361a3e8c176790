"""Charts of a Lion run as SVG text: bars by round, gaps between two scores, figures over rounds, scores side by side.

They take their geometry from ``charts`` and, as those, hold no colour: bars and points have the classes f0 to f5, lines s0 to s5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from alignray.report.charts import HEIGHT, WIDTH, Plot, compact, label_at, svg, ticks, ticks_between
from alignray.report.eval_charts import Point, figure, short, text_of

BOTTOM, TOP = HEIGHT - 34, 14
"""Of the plots of ``charts``."""
MAX_TICKS = 10
_SHADES = ("f0", "f2", "f3")
"""Of a series of bars; f1 stands for hard instructions on this page."""
_ROW, _LABELS, _RIGHT, _FOOT, _HEAD = 21, 122, 16, 34, 6


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; edges rise and are one more than the counts."""

    edges: Sequence[float]
    counts: Sequence[int]

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def used(self) -> tuple[float, float]:
        """Left edge of the first bin with a count, right edge of the last one."""
        filled = [place for place, count in enumerate(self.counts) if count]
        return self.edges[filled[0]], self.edges[filled[-1] + 1]

    @property
    def highest(self) -> float:
        """Share of the fullest bin."""
        return max(self.counts) / self.total


def round_bars(rounds: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], *, title: str) -> Markup:
    """A group of bars for each round, one bar per series, each with its number where there is room; None: no bar."""
    values = [value for _, of_rounds in series for value in of_rounds if value is not None]
    if not values:
        return Markup("")
    y_ticks = ticks(max(values), 3)
    plot = Plot(x_limit=len(rounds), y_limit=y_ticks[-1])
    drawn = [plot.y_axis(y_ticks), _round_axis(plot, rounds)]
    wide = plot.width / len(rounds)
    bar = min(wide * 0.8 / len(series), 34)
    for place, name in enumerate(rounds):
        left = plot.x(place + 0.5) - bar * len(series) / 2
        for number, (label, of_rounds) in enumerate(series):
            value = of_rounds[place]
            if value is None:
                continue
            x = left + bar * number
            drawn.append(plot.bar(x, bar, value, f"{label}, round {name}: {value:,.0f}", css=f"bar {_SHADES[number % 3]}"))
            if bar >= 22:
                drawn.append(label_at(x + bar / 2, plot.y(value) - 3, compact(value), "tick middle"))
    return svg(WIDTH, HEIGHT, drawn, title)


def _round_axis(plot: Plot, rounds: Sequence[str]) -> Markup:
    """Names of rounds below the middle of their place; of many only every so many."""
    stride = math.ceil(len(rounds) / MAX_TICKS)
    labels = [label_at(plot.x(place + 0.5), BOTTOM + 15, rounds[place], "tick middle") for place in range(0, len(rounds), stride)]
    return Markup("").join([*labels, label_at(plot.x(plot.x_limit / 2), HEIGHT - 4, "round", "unit middle")])


def gap_histogram(
    histogram: Histogram, *, span: tuple[float, float], highest: float, threshold: float | None, mean: float | None, title: str,
) -> Markup:
    """Shares of the judged instructions by gap, teacher minus student; bins at or above ``threshold`` are those of the hard ones.

    Args:
        span: first and last gap of the axis, the same for all rounds.
        highest: largest share of a bin in any round, so that rounds can be compared.
    """
    if not histogram.total:
        return Markup("")
    y_ticks = ticks(100 * highest, 3)
    plot = Plot(x_start=span[0], x_limit=span[1], y_limit=y_ticks[-1])
    shown = [tick for tick in ticks_between(*span, 6) if span[0] <= tick <= span[1]]
    drawn = [plot.y_axis(y_ticks), plot.x_axis(shown, "gap: teacher's score minus student's")]
    for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        if high <= span[0] or low >= span[1]:
            continue
        is_hard = threshold is not None and low >= threshold - 1e-9
        tip = f"gap {low:.3g} to {high:.3g}: {count:,} ({count / histogram.total:.1%})"
        width = plot.x(high) - plot.x(low)
        drawn.append(plot.bar(plot.x(low), width, 100 * count / histogram.total, tip, css="bar f1" if is_hard else "bar f0"))
    if mean is not None and span[0] <= mean <= span[1]:
        right = mean > (span[0] + span[1]) / 2
        beside, css = (plot.x(mean) - 4, "unit end") if right else (plot.x(mean) + 4, "unit")
        drawn += [plot.mark(mean), label_at(beside, TOP + 6, f"mean {mean:.2f}", css)]
    return svg(WIDTH, HEIGHT, drawn, title)


def round_curve(points: Sequence[Point], *, title: str) -> Markup:
    """A figure over rounds with its intervals as whiskers; the y axis spans what was measured. None breaks the line."""
    known = [point for point in points if point.value is not None]
    if not known:
        return Markup("")
    ends = [end for point in known for end in (point.value, point.low, point.high) if end is not None]
    y_ticks = ticks_between(min(ends), max(ends))
    first, last = points[0].x, points[-1].x
    plot = Plot(x_start=first - 0.5, x_limit=last + 0.5, y_start=y_ticks[0], y_limit=y_ticks[-1])
    places = [point.x for point in points]
    drawn = [plot.y_axis(y_ticks), plot.x_axis(places[:: math.ceil(len(places) / MAX_TICKS)], "round")]
    drawn += [_whisker(plot, point) for point in known]
    path, pen = [], "M"
    for point in points:
        if point.value is None:
            pen = "M"
            continue
        path.append(f"{pen}{plot.x(point.x):.1f} {plot.y(point.value):.1f}")
        pen = "L"
    drawn.append(Markup('<path class="line s0" d="{}"><title>{}</title></path>').format("".join(path), title))
    for place, point in enumerate(known):
        after = known[place + 1].value if place + 1 < len(known) else None
        is_rising = after is not None and point.value is not None and after > point.value
        drawn += _labelled_dot(plot, point, has_label=len(known) <= MAX_TICKS, is_below=is_rising)
    return svg(WIDTH, HEIGHT, drawn, title)


def _whisker(plot: Plot, point: Point) -> Markup:
    if point.low is None or point.high is None:
        return Markup("")
    x, low, high = plot.x(point.x), plot.y(point.low), plot.y(point.high)
    return Markup('<path class="line whisker s0" d="M{0:.1f} {1:.1f}V{2:.1f}M{3:.1f} {1:.1f}h8M{3:.1f} {2:.1f}h8"/>').format(
        x, low, high, x - 4)


def _labelled_dot(plot: Plot, point: Point, *, has_label: bool, is_below: bool) -> list[Markup]:
    """A dot, its number on the side that the line leaves free."""
    if point.value is None:
        return []
    x, y = plot.x(point.x), plot.y(point.value)
    tip = f"round {point.x:g}: {text_of(point.value, point.low, point.high)}"
    dot = Markup('<circle class="dot f0" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(x, y, tip)
    label = label_at(x + 7, y + 14 if is_below or y < TOP + 12 else y - 5, figure(point.value), "unit")
    return [dot, label] if has_label else [dot]


def score_rows(rows: Sequence[tuple[str, Sequence[tuple[str, float | None]]]], *, title: str, unit: str) -> Markup:
    """A row per category with a dot for each (label, score) on one axis from 0, joined by a line that shows how far they lie apart.

    The dots of a row have the classes f0, f1, f2 by their place.
    """
    scores = [score for _, dots in rows for _, score in dots if score is not None]
    if not scores or min(scores) < 0:
        return Markup("")
    marks = ticks(max(scores), 5)
    bottom = _HEAD + _ROW * len(rows)

    def x(score: float) -> float:
        return _LABELS + score / marks[-1] * (WIDTH - _LABELS - _RIGHT)

    drawn = []
    for mark in marks:
        line = Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>')
        drawn += [line.format(x(mark), _HEAD, bottom), label_at(x(mark), bottom + 13, compact(mark), "tick middle")]
    drawn.append(label_at((_LABELS + WIDTH - _RIGHT) / 2, bottom + 28, unit, "unit middle"))
    for place, (name, dots) in enumerate(rows):
        y = _HEAD + _ROW * (place + 0.5)
        drawn.append(Markup('<text class="label" x="0" y="{:.1f}">{}<title>{}</title></text>').format(y + 4, short(name), name))
        known = [score for _, score in dots if score is not None]
        if known:
            apart = Markup('<rect class="apart" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="4" rx="2"/>')
            drawn.append(apart.format(x(min(known)), y - 2, x(max(known)) - x(min(known))))
        drawn += [
            Markup('<circle class="dot f{}" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>').format(
                number % 3, x(score), y, f"{label}, {name}: {figure(score)}")
            for number, (label, score) in enumerate(dots) if score is not None
        ]
    return svg(WIDTH, bottom + _FOOT, drawn, title)
