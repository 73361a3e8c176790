"""Charts as SVG text: no script, no font and no colour of their own; the page's style sheet dresses them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 14, 34


@dataclass(frozen=True)
class Series:
    """One line of a chart; points are (x, y), None breaks the line."""

    label: str
    points: Sequence[tuple[float, float] | None]


def compact(value: float) -> str:
    """A number for an axis: 950, 1.5k, 12M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def ticks(limit: float, count: int = 4) -> list[float]:
    """Round numbers from 0 to the first at or over ``limit``, about ``count`` steps."""
    if limit <= 0 or not math.isfinite(limit):
        return [0.0, 1.0]
    step = limit / count
    scale = 10 ** math.floor(math.log10(step))
    step = next(factor * scale for factor in (1, 2, 2.5, 5, 10) if factor * scale >= step * 0.999)
    return [step * index for index in range(math.ceil(limit / step - 1e-9) + 1)]


def ticks_between(low: float, high: float, count: int = 3) -> list[float]:
    """Round numbers from at or under ``low`` to at or over ``high``, about ``count`` steps."""
    width = high - low
    if not math.isfinite(width) or width <= 1e-6 * max(abs(low), abs(high), 1e-12):  # all the same: some room around it
        width = max(abs(high), 1e-9) * 0.1
        low, high = low - width / 2, high + width / 2
    step = ticks(width, count)[1]
    first = math.floor(low / step + 1e-6)
    return [step * index for index in range(first, max(math.ceil(high / step - 1e-6), first + 1) + 1)]


def histogram(edges: Sequence[float], counts: Sequence[int], *, over: int, marks: Sequence[tuple[str, float]], title: str,
              unit: str) -> Markup:
    """Bars between edges, one more for what lies over the last edge, and dashed marks such as the median."""
    if not counts or not edges:
        return Markup("")
    y_ticks = ticks(max(*counts, over, 1), 3)
    num_bars = len(counts) + (2 if over else 0)
    span = edges[-1] * num_bars / len(counts) or 1
    plot = Plot(x_limit=span, y_limit=y_ticks[-1])
    # the last label belongs to the bar of longer texts, where there is one
    shown = [tick for tick in ticks(edges[-1], 5) if tick <= edges[-1] * (0.9 if over else 1)]
    parts = [plot.y_axis(y_ticks), plot.x_axis(shown, unit)]
    bar = plot.width / num_bars
    for index, count in enumerate(counts):
        tip = f"{compact(edges[index])} to {compact(edges[index + 1])} {unit}: {count:,}"
        parts.append(plot.bar(plot.x(edges[index]), bar, count, tip))
    if over:
        parts.append(plot.bar(plot.x(span) - bar, bar, over, f"{compact(edges[-1])} {unit} or more: {over:,}", css="bar over"))
        parts.append(label_at(plot.x(span) - bar / 2, HEIGHT - _BOTTOM + 15, f"{compact(edges[-1])}+", "tick end"))
    for label, value in marks:
        if value < edges[-1]:
            parts += [plot.mark(value), label_at(plot.x(value) + 4, _TOP + 9, label, "unit")]
    return svg(WIDTH, HEIGHT, parts, title)


def lines(
    series: Sequence[Series], *, title: str, x_unit: str, breaks: Sequence[float] = (), from_zero: bool = True,
) -> Markup:
    """Lines over one x axis that begins at 0; ``breaks`` are places where time was cut out.

    Args:
        from_zero: the y axis begins at 0, which suits amounts; else it spans the values, which may be below 0.
    """
    points = [point for one in series for point in one.points if point is not None]
    if not points:
        return Markup("")
    x_limit, highest = max(1e-9, *(x for x, _ in points)), max(y for _, y in points)
    y_ticks = ticks(highest, 3) if from_zero else ticks_between(min(y for _, y in points), highest)
    plot = Plot(x_limit=x_limit, y_limit=y_ticks[-1], y_start=y_ticks[0])
    parts = [plot.y_axis(y_ticks), plot.x_axis([tick for tick in ticks(x_limit, 5) if tick <= x_limit * 1.001], x_unit)]
    for place in breaks:
        parts.append(plot.mark(place))
    for number, one in enumerate(series):
        path, pen = [], "M"
        for point in one.points:
            if point is None:
                pen = "M"
                continue
            path.append(f"{pen}{plot.x(point[0]):.1f} {plot.y(point[1]):.1f}")
            pen = "L"
        drawn = Markup('<path class="line s{}" d="{}"><title>{}</title></path>')
        parts.append(drawn.format(number % 6, " ".join(path), one.label))
    return svg(WIDTH, HEIGHT, parts, title)


@dataclass(frozen=True)
class Interval:
    """A measured rate with its interval, and the x it stands at in a chart over x. None: nothing was measured."""

    label: str
    rate: float | None
    low: float | None
    high: float | None
    x: float | None = None


def rates(points: Sequence[tuple[float, float]], *, mark: tuple[str, float], measured: Sequence[Interval], title: str,
          x_unit: str) -> Markup:
    """A rate in percent over x in [0, 1] as a line, with a dashed mark and what was measured as bars with whiskers."""
    if not points:
        return Markup("")
    plot = Plot(x_limit=1.0, y_limit=100.0)
    label, place = mark
    parts = [plot.y_axis([0, 25, 50, 75, 100]), plot.x_axis([0, 0.2, 0.4, 0.6, 0.8, 1], x_unit), plot.mark(place)]
    # at the foot, where the line is far from the mark
    beside, css = (plot.x(place) - 5, "unit end") if place > 0.72 else (plot.x(place) + 5, "unit")
    parts.append(label_at(beside, HEIGHT - _BOTTOM - 6, label, css))
    path = " ".join(f"{'L' if number else 'M'}{plot.x(x):.1f} {plot.y(100 * y):.1f}" for number, (x, y) in enumerate(points))
    parts.append(Markup('<path class="line s0" d="{}"><title>{}</title></path>').format(path, title))
    for one in measured:
        if one.rate is None or one.low is None or one.high is None or one.x is None:
            continue
        drawn = Markup('<g class="measured"><title>{}</title><path d="M{:.1f} {:.1f}V{:.1f}"/><circle cx="{:.1f}" cy="{:.1f}" r="3"/></g>')
        x = plot.x(one.x)
        parts.append(drawn.format(one.label, x, plot.y(100 * one.low), plot.y(100 * one.high), x, plot.y(100 * one.rate)))
    return svg(WIDTH, HEIGHT, parts, title)


_ZOOMS = ((0.98, 0.005), (0.95, 0.01), (0.9, 0.02), (0.8, 0.05), (0.5, 0.1), (0.0, 0.2))
"""Where an axis of rates may begin, with the steps of its ticks."""


def intervals(measured: Sequence[Interval], *, mark: tuple[str, float] | None, title: str) -> Markup:
    """A line per measured rate: its point and interval on one percent axis that ends at 100 and begins where they do."""
    known = [(one.label, one.rate, one.low, one.high) for one in measured
             if one.rate is not None and one.low is not None and one.high is not None]
    if not known:
        return Markup("")
    least = min([low for _, _, low, _ in known] + ([mark[1]] if mark else []))
    start, step = next(((start, step) for start, step in _ZOOMS if start < least), _ZOOMS[-1])
    plot = Plot(x_limit=100.0, y_limit=1.0, x_start=100 * start)
    num_ticks = round((1 - start) / step)
    bottom = HEIGHT - _BOTTOM
    parts = []
    for tick in (100 * (start + step * index) for index in range(num_ticks + 1)):
        line = Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>')
        parts += [line.format(plot.x(tick), _TOP, bottom), label_at(plot.x(tick), bottom + 15, f"{tick:.4g}", "tick middle")]
    parts.append(label_at(_LEFT + plot.width / 2, HEIGHT - 4, f"percent{f', dashed: {mark[0]}' if mark else ''}", "unit middle"))
    if mark:
        parts.append(plot.mark(100 * mark[1]))
    for number, (label, rate, low, high) in enumerate(known):
        y = _TOP + (bottom - _TOP) * (number + 0.65) / len(known)
        left, right = plot.x(100 * low), plot.x(100 * high)
        tip = f"{label}: {100 * rate:.4g} % ({100 * low:.4g} to {100 * high:.4g})"
        drawn = Markup('<g class="interval"><title>{}</title><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="6" rx="3"/>'
                       '<circle cx="{:.1f}" cy="{:.1f}" r="4.5"/></g>')
        parts += [drawn.format(tip, left, y - 3, max(right - left, 1), plot.x(100 * rate), y), label_at(_RIGHT, y - 11, label, "label")]
    return svg(WIDTH, HEIGHT, parts, title)


@dataclass(frozen=True)
class Slice:
    """A part of the inner ring with its parts of the outer ring; labels with counts, outer counts sum to at most ``count``."""

    label: str
    count: int
    parts: Sequence[tuple[str, int]]


def wheel(slices: Sequence[Slice], *, title: str) -> Markup:
    """Nested rings: inner labels along the radius, outer labels turned to be read from either side."""
    total = sum(piece.count for piece in slices)
    if not total:
        return Markup("")
    size, inner, middle, outer = 680, 92, 200, 318
    rings: list[Markup] = []
    start = 0.0
    for number, piece in enumerate(slices):
        sweep = piece.count / total * 2 * math.pi
        hue = round(number * 360 / max(len(slices), 1)) % 360
        style = f"--hue:{hue}"
        rings.append(_sector(start, start + sweep, inner, middle, f"{piece.label}: {piece.count:,}", "verb", style))
        if sweep * (inner + middle) / 2 > 15:
            rings.append(_radial_text(start + sweep / 2, (inner + middle) / 2, piece.label, "verb-label"))
        place = start
        listed = sum(count for _, count in piece.parts)
        for label, count in piece.parts:
            # the listed nouns share the verb's whole angle, as in the self-instruct wheel
            width = count / listed * sweep
            rings.append(_sector(place, place + width, middle + 2, outer, f"{piece.label} {label}: {count:,}", "noun", style))
            if width * (middle + outer) / 2 > 12.5:
                rings.append(_radial_text(place + width / 2, (middle + outer) / 2, label, "noun-label"))
            place += width
        start += sweep
    half = size / 2
    moved = Markup('<g transform="translate({0:g} {0:g})">{1}</g>').format(half, Markup("").join(rings))
    return svg(size, size, [moved], title, css="wheel")


@dataclass(frozen=True)
class Plot:
    x_limit: float
    y_limit: float
    x_start: float = 0.0
    y_start: float = 0.0
    is_log_x: bool = False
    """Of the x axis, which then begins above 0."""

    @property
    def width(self) -> float:
        return WIDTH - _LEFT - _RIGHT

    def x(self, value: float) -> float:
        start, limit, value = map(math.log10, (self.x_start, self.x_limit, value)) if self.is_log_x else (self.x_start, self.x_limit, value)
        return _LEFT + (value - start) / (limit - start) * self.width

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.y_start) / (self.y_limit - self.y_start) * (HEIGHT - _TOP - _BOTTOM)

    def y_axis(self, values: Sequence[float]) -> Markup:
        line = Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>{3}')
        labels = [compact(value) for value in values]
        if len(set(labels)) < len(labels):  # close together and far from 0
            labels = [f"{value:.5g}" for value in values]
        return Markup("").join(
            line.format(_LEFT, WIDTH - _RIGHT, self.y(value), label_at(_LEFT - 7, self.y(value) + 4, label, "tick end"))
            for value, label in zip(values, labels, strict=True)
        )

    def x_axis(self, values: Sequence[float], unit: str) -> Markup:
        labels = [label_at(self.x(value), HEIGHT - _BOTTOM + 15, compact(value), "tick middle") for value in values]
        labels.append(label_at(_LEFT + self.width / 2, HEIGHT - 4, unit, "unit middle"))
        return Markup("").join(labels)

    def mark(self, value: float) -> Markup:
        line = Markup('<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>')
        return line.format(self.x(value), _TOP, HEIGHT - _BOTTOM)

    def bar(self, x: float, width: float, value: float, tip: str, *, css: str = "bar") -> Markup:
        y = self.y(value)
        return Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>').format(
            css, x + 0.5, y, max(width - 1, 0.5), max(HEIGHT - _BOTTOM - y, 0), tip)


def svg(width: float, height: float, parts: Sequence[Markup], title: str, *, css: str = "chart") -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        css, width, height, title, Markup("").join(parts))


def label_at(x: float, y: float, text: str, css: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(css, x, y, text)


def _on_circle(angle: float, radius: float) -> str:
    return f"{radius * math.sin(angle):.2f} {-radius * math.cos(angle):.2f}"


def _sector(start: float, end: float, inner: float, outer: float, tip: str, css: str, style: str) -> Markup:
    end = min(end, start + 2 * math.pi - 1e-4)  # a full circle has no arc of its own
    large = int(end - start > math.pi)
    path = (
        f"M{_on_circle(start, outer)}A{outer} {outer} 0 {large} 1 {_on_circle(end, outer)}"
        f"L{_on_circle(end, inner)}A{inner} {inner} 0 {large} 0 {_on_circle(start, inner)}Z"
    )
    return Markup('<path class="{}" style="{}" d="{}"><title>{}</title></path>').format(css, style, path, tip)


def _radial_text(angle: float, radius: float, text: str, css: str) -> Markup:
    degrees = math.degrees(angle) - 90
    flip = 180 if math.pi < angle < 2 * math.pi else 0
    shown = text if len(text) <= 15 else f"{text[:14]}…"
    return Markup('<text class="{}" transform="rotate({:.2f}) translate({:g} 0) rotate({})">{}</text>').format(
        css, degrees, radius, flip, escape(shown))
