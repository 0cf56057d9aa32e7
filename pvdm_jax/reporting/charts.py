"""SVG charts with two axes, each linear or logarithmic: part of a page, or a file of their own.

    chart = Chart(Axis([0, 1000]), Axis([0.1, 10], log=True), x_label="step", y_label="loss")
    chart.polyline([(0, 10), (1000, 0.1)], colour_class(0))
    chart.svg("Loss")  # an element for a page whose style includes CHART_STYLE
    chart.file()  # a whole SVG file

Colours are classes in CSS: c0 to c5, and "ink" for lines in the colour of text.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from pvdm_jax.reporting.style import CHART_STYLE, LIGHT

MAX_POINTS = 300  # points of a curve


def colour_class(index: int) -> str:
    """The class of the index-th line; the colours repeat after the last one."""
    return f"c{index % len(LIGHT.lines)}"


class Axis:
    """The range of the given values, and the round values to mark on it."""

    def __init__(self, values: Sequence[float] | np.ndarray, log: bool = False):
        low = float(np.min(values))
        high = float(np.max(values))
        if log:
            low, high = math.log10(low), math.log10(high)
        elif 0 < low < high / 4:
            low = 0.0
        if high - low < 1e-9 * max(abs(low), abs(high), 1e-300):
            low, high = low - 0.5, high + 0.5
        self.log = log
        self._low = low
        self._high = high
        self.ticks = self._decades() if log and high - low > 0.5 else self._round_values()

    def fraction(self, value: float) -> float:
        """Where a value lies, from 0 at the start of the axis to 1 at its end."""
        position = math.log10(value) if self.log else value
        return (position - self._low) / (self._high - self._low)

    def _round_values(self) -> list[float]:
        low, high = (10**self._low, 10**self._high) if self.log else (self._low, self._high)
        size = 10 ** math.floor(math.log10((high - low) / 4))
        step = next(size * m for m in (1, 2, 5, 10) if (high - low) / (size * m) <= 6)
        return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]

    def _decades(self) -> list[float]:
        marks = (1, 2, 5) if self._high - self._low < 2.5 else (1,)
        exponents = range(math.floor(self._low), math.floor(self._high + 1e-9) + 1)
        stride = max(1, len(exponents) // 6)
        ticks = [mark * 10.0**exponent for exponent in exponents[::stride] for mark in marks]
        return [tick for tick in ticks if self._low - 1e-9 <= math.log10(tick) <= self._high + 1e-9]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A picture's size and its margins, which hold the labels, in pixels."""

    width: int = 720
    height: int = 280
    left: int = 72
    right: int = 16
    top: int = 12
    bottom: int = 40


def plain_number(value: float) -> str:
    """A number such as 1,000 or 0.001."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.3g}"


def si_number(value: float) -> str:
    """A number with an SI prefix, such as 20 G."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"


class Chart:
    """A chart whose axes are drawn on creation; lines, dots and words are added one by one.

    Horizontal rules mark the values of y; where x is logarithmic, vertical ones mark those of x.
    """

    def __init__(
        self,
        x: Axis,
        y: Axis,
        *,
        x_label: str,
        y_label: str,
        layout: Layout = Layout(),
        number: Callable[[float], str] = plain_number,
    ):
        self._x = x
        self._y = y
        self.layout = layout
        self._parts: list[str] = []
        self._draw_axes(x_label, y_label, number)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The pixel (across, down) of a point."""
        inner_width = self.layout.width - self.layout.left - self.layout.right
        inner_height = self.layout.height - self.layout.top - self.layout.bottom
        across = self.layout.left + self._x.fraction(x) * inner_width
        down = self.layout.height - self.layout.bottom - self._y.fraction(y) * inner_height
        return across, down

    def polyline(self, points: Sequence[tuple[float, float]] | np.ndarray, kind: str) -> None:
        """A line through (x, y) points; a single point becomes a dot. kind: the class of its colour."""
        pairs = ["{:.1f},{:.1f}".format(*self.place(x, y)) for x, y in points]
        pairs = pairs if len(pairs) > 1 else pairs * 2
        self._parts.append(f'<polyline class="{kind}" points="{" ".join(pairs)}"/>')

    def dot(self, across: float, down: float, kind: str) -> None:
        """A dot at a pixel."""
        self._parts.append(f'<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="5"/>')

    def words(self, across: float, down: float, text: str, options: str = "") -> None:
        """Text that starts at a pixel, with further attributes of its element."""
        self._parts.append(f'<text x="{across:.1f}" y="{down:.1f}"{options and " " + options}>{escape(text)}</text>')

    def svg(self, name: str) -> str:
        """An element for a page; `name` is read to those who can't see it."""
        box = f"0 0 {self.layout.width} {self.layout.height}"
        return f'<svg viewBox="{box}" role="img" aria-label="{escape(name)}">{"".join(self._parts)}</svg>'

    def file(self) -> str:
        """The text of an SVG file."""
        size = f'width="{self.layout.width}" height="{self.layout.height}"'
        box = f"0 0 {self.layout.width} {self.layout.height}"
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {size}>',
            f"<style>{CHART_STYLE}</style>",
            f'<rect class="ground" {size}/>',
            *self._parts,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def _draw_axes(self, x_label: str, y_label: str, number: Callable[[float], str]) -> None:
        left = self.layout.left
        right = self.layout.width - self.layout.right
        top = self.layout.top
        bottom = self.layout.height - self.layout.bottom
        for tick in self._y.ticks:
            down = top + (1 - self._y.fraction(tick)) * (bottom - top)
            self._rule(left, down, right, down)
            self.words(left - 8, down + 4, number(tick), 'text-anchor="end"')
        for tick in self._x.ticks:
            across = left + self._x.fraction(tick) * (right - left)
            if self._x.log:
                self._rule(across, top, across, bottom)
            self.words(across, bottom + 18, number(tick), 'text-anchor="middle"')
        middle = (top + bottom) / 2
        self.words(12, middle, y_label, f'text-anchor="middle" transform="rotate(-90 12 {middle})"')
        self.words((left + right) / 2, self.layout.height - 4, x_label, 'text-anchor="middle"')

    def _rule(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self._parts.append(f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')


def curve_points(steps: Sequence[float], values: Sequence[float], positive: bool) -> np.ndarray:
    """The points (n, 2) of a curve that can be drawn: finite, and positive if the axis needs it.

    Neighbours are averaged until n is at most MAX_POINTS.
    """
    points = np.stack([np.asarray(steps, np.float64), np.asarray(values, np.float64)], axis=-1)
    keep = np.isfinite(points[:, 1]) & ((points[:, 1] > 0) | (not positive))
    points = points[keep]
    if len(points) <= MAX_POINTS:
        return points
    return np.array([group.mean(0) for group in np.array_split(points, MAX_POINTS)])
