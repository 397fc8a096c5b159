"""Charts as data, and as SVG that follows the colours of the page around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup
from markupsafe import escape as escape_html

from hfprune.core.text import visible

Shape = Literal["circle", "square", "diamond"]

# In CSS pixels; narrow, so that text is of its size on a phone as well. A chart that has a row of
# the page to itself is as wide as two and what is between them.
WIDTH, HEIGHT = 360.0, 230.0
WIDE = 2 * WIDTH + 18
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 12.0, 38.0
# A line of more points shows none of them.
MOST_MARKS = 30


def escape(text: str) -> Markup:
    """Text from outside for SVG, control characters by their numbers."""
    return escape_html(visible(text))


@dataclass(frozen=True)
class Line:
    """Points of one quantity by increasing x."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int
    steps: bool = False
    faint: bool = False


@dataclass(frozen=True)
class LineChart:
    """Lines over x from 0 to ``until``; ``marks`` are named places, where a stage begins, say."""

    title: str
    x_name: str
    lines: tuple[Line, ...]
    until: float
    marks: tuple[tuple[float, str], ...] = ()
    percent: bool = False


@dataclass(frozen=True)
class Point:
    """A model: time, quality with its interval, and how it looks."""

    name: str
    x: float
    y: float
    low: float
    high: float
    colour: int
    shape: Shape


@dataclass(frozen=True)
class ScatterChart:
    """Points over a logarithmic x in ``unit``; ``front`` are those that no other beats in both."""

    title: str
    x_name: str
    y_name: str
    points: tuple[Point, ...]
    front: tuple[Point, ...]
    unit: str = " ms"


def front_of(points: Iterable[Point], *, lower_is_better: bool) -> tuple[Point, ...]:
    """The points that no other is faster than and as good as, from the fastest on.

    Args:
        points: x is a time, y a metric.
        lower_is_better: of the metric.
    """
    sign = -1.0 if lower_is_better else 1.0
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -sign * p.y)):
        if not found or sign * point.y > sign * found[-1].y:
            found.append(point)
    return tuple(found)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within ``[low, high]``, evenly spaced by 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within ``[low, high]``; powers alone where they suffice."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(wide) >= 4:
        return wide
    found = [f * 10.0**p for p in powers for f in (1, 2, 5) if low <= f * 10.0**p <= high]
    # Within a narrow range one of them, or none, would say nothing of the scale.
    return found if len(found) > 1 else ticks(low, high)


class _Plane:
    """From values to places in the drawing."""

    def __init__(
        self, xs: Sequence[float], ys: Sequence[float], *, log: bool, width: float = WIDTH
    ) -> None:
        self.log, self.width = log, width
        low, high = min(xs), max(xs)
        if log:
            self.x = (low / 1.25, high * 1.25)
        else:
            self.x = (low, high) if high > low else (low - 0.5, high + 0.5)
        bottom, top = min(ys), max(ys)
        room = 0.1 * (top - bottom) or abs(top) * 0.05 or 0.5
        self.y = (bottom - room, top + room)

    def across(self, value: float) -> float:
        low, high, at = self.x[0], self.x[1], value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return round(LEFT + (self.width - LEFT - RIGHT) * (at - low) / (high - low), 1)

    def down(self, value: float) -> float:
        low, high = self.y
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    def frame(self, x_name: str, *, percent: bool) -> list[str]:
        """Grid, numbers at the axes, and the name of x."""
        parts = []
        for value in ticks(*self.y):
            y = self.down(value)
            text = f"{value:.4g}" if not percent else f"{100 * value:.4g}%"
            parts.append(f'<path class="grid" d="M{LEFT} {y}H{self.width - RIGHT}"/>')
            parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4}">{text}</text>')
        for value in log_ticks(*self.x) if self.log else ticks(*self.x):
            x = self.across(value)
            parts.append(f'<path class="grid" d="M{x} {TOP}V{HEIGHT - BOTTOM}"/>')
            parts.append(f'<text class="mid" x="{x}" y="{HEIGHT - BOTTOM + 15}">{value:.6g}</text>')
        centre = (LEFT + self.width - RIGHT) / 2
        parts.append(f'<text class="mid" x="{centre}" y="{HEIGHT - 6}">{escape(x_name)}</text>')
        return parts

    @property
    def begins(self) -> str | None:
        """What to say of a y axis that does not begin at zero; a change looks larger on it."""
        return f"y axis from {self.y[0]:.3g}, not from 0" if self.y[0] > 0 else None


@dataclass(frozen=True)
class Drawn:
    """A chart as SVG, without its title and legend, which the page sets.

    Attributes:
        svg: the drawing.
        whole: whether it is as wide as the page; ``narrow`` is then the drawing for a phone.
        begins: what to say of its y axis, if that does not begin at zero.
    """

    svg: Markup
    whole: bool
    begins: str | None
    narrow: Markup | None = None


def drawn(charts: Sequence[LineChart | ScatterChart]) -> list[Drawn]:
    """Charts for two columns; the last of an odd number has a row to itself."""
    last = len(charts) - 1
    return [draw(chart, wide=place == last and not last % 2) for place, chart in enumerate(charts)]


def draw(chart: LineChart | ScatterChart, *, wide: bool = False) -> Drawn:
    """One chart."""
    make = draw_lines if isinstance(chart, LineChart) else draw_scatter
    svg, begins = make(chart, WIDE if wide else WIDTH)  # type: ignore[arg-type]  # as chosen above
    narrow = make(chart, WIDTH)[0] if wide else None  # type: ignore[arg-type]
    return Drawn(svg, wide, begins, narrow)


def _svg(title: str, width: float, parts: Iterable[str]) -> Markup:
    body = "".join(parts)
    return Markup(  # noqa: S704 (what came from outside was escaped)
        f'<svg viewBox="0 0 {width:g} {HEIGHT:g}" role="img">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def draw_lines(chart: LineChart, width: float = WIDTH) -> tuple[Markup, str | None]:
    """The chart as SVG, and what to say of its y axis."""
    points = [point for line in chart.lines for point in line.points]
    ends = [0.0, chart.until, *(x for x, _ in points)]
    plane = _Plane(ends, [y for _, y in points], log=False, width=width)
    parts = plane.frame(chart.x_name, percent=chart.percent)
    for x, name in chart.marks:
        at = plane.across(x)
        parts.append(f'<path class="mark" d="M{at} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="small" x="{at + 3}" y="{TOP + 8}">{escape(name)}</text>')
    for line in chart.lines:
        path = ""
        for x, y in line.points:
            across, down = plane.across(x), plane.down(y)
            if not path:
                path = f"M{across} {down}"
            else:
                path += f"H{across}V{down}" if line.steps else f"L{across} {down}"
        look = f"c{line.colour}{' faint' if line.faint else ''}"
        parts.append(f'<path class="line {look}" d="{path}"/>')
        few = len(line.points) <= MOST_MARKS
        # Of many points some, unseen: they tell their value under the pointer.
        step = 1 if few else -(-len(line.points) // (2 * MOST_MARKS))
        mark = f'class="fill {look}" r="2.5"' if few else 'class="fill unseen" r="6"'
        parts += [
            f'<circle {mark} cx="{plane.across(x)}" cy="{plane.down(y)}">'
            f"<title>{escape(line.name)}: {y:.6g} at {x:.3g}</title></circle>"
            for x, y in line.points[::step]
        ]
    return _svg(chart.title, width, parts), plane.begins


def marker(shape: Shape, x: float, y: float, colour: int, inside: str = "") -> str:
    """A filled mark with its centre at a place of the drawing."""
    if shape == "circle":
        return f'<circle class="fill c{colour}" cx="{x}" cy="{y}" r="4.5">{inside}</circle>'
    turn = f' transform="rotate(45 {x} {y})"' if shape == "diamond" else ""
    return (
        f'<rect class="fill c{colour}" x="{x - 4}" y="{y - 4}" width="8" height="8"{turn}>'
        f"{inside}</rect>"
    )


def draw_scatter(chart: ScatterChart, width: float = WIDTH) -> tuple[Markup, str | None]:
    """The chart as SVG, and what to say of its y axis."""
    values = [v for p in chart.points for v in (p.low, p.high, p.y)]
    plane = _Plane([p.x for p in chart.points], values, log=True, width=width)
    parts = plane.frame(chart.x_name, percent=False)
    path = " ".join(f"{plane.across(p.x)} {plane.down(p.y)}" for p in chart.front)
    parts.append(f'<polyline class="mark" points="{path}"/>')
    for p in chart.points:
        x = plane.across(p.x)
        low, high = plane.down(p.low), plane.down(p.high)
        told = f"{escape(p.name)}: {escape(chart.y_name)} {p.y:.4f}, {p.x:.4g}{chart.unit}"
        parts.append(f'<path class="whisker c{p.colour}" d="M{x} {low}V{high}"/>')
        parts.append(marker(p.shape, x, plane.down(p.y), p.colour, f"<title>{told}</title>"))
    return _svg(chart.title, width, parts), plane.begins


def draw_marker(shape: Shape, colour: int) -> Markup:
    """A mark alone, for a legend."""
    body = marker(shape, 7, 7, colour)
    return Markup(f'<svg class="key" viewBox="0 0 14 14" aria-hidden="true">{body}</svg>')  # noqa: S704
