"""A run's report: one HTML file with text, tables, videos and curves that needs nothing but a browser.

Videos are embedded as H.264, curves as SVG; there are no scripts and no links to the outside. The page follows the
reader's light or dark mode.
"""

import base64
import dataclasses
import html
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from pvdm_jax.storage.files import write_text

MIN_VIDEO_SIDE = 128  # pixels of the shorter side to which small videos are enlarged
MAX_POINTS = 300  # of a curve


@dataclasses.dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines; a heading, where given, begins a new part of the report."""

    text: str = ""
    heading: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of strings and numbers. Floats are shown with four digits."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Videos:
    """Labelled videos side by side, playing in a loop.

    frames are uint8 (frames, height, width, 3). Each pixel becomes a block of scale x scale; 0 takes the least scale
    that brings the shorter side to MIN_VIDEO_SIDE.
    """

    caption: str
    videos: Sequence[tuple[str, np.ndarray]]
    fps: float = 8.0
    scale: int = 0


@dataclasses.dataclass(frozen=True)
class Curves:
    """Lines {name: (steps, values)} over the training steps; long ones are averaged down to MAX_POINTS points.

    Values that aren't finite, and values that aren't positive on a logarithmic axis, are left out.
    """

    caption: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log_y: bool = False
    y_label: str = "value"


@dataclasses.dataclass(frozen=True)
class Code:
    """Lines of commands or settings, as they are."""

    lines: Sequence[str]


Section = Text | Table | Videos | Curves | Code


def write_report(path: str | os.PathLike, title: str, sections: Sequence[Section]) -> None:
    """Writes the report to `path`, in one piece: an older file is replaced only when the new one is complete.

    Raises ValueError for a table whose rows don't fit its header, VideoError for frames that aren't a video, OSError
    where the file can't be written.
    """
    draw = {Text: _text, Table: _table, Videos: _videos, Curves: _curves, Code: _code}
    body = "\n".join(draw[type(section)](section) for section in sections)
    name = html.escape(title)
    headings = [section.heading for section in sections if isinstance(section, Text) and section.heading]
    links = "".join(f'<a href="#{_anchor(heading)}">{html.escape(heading)}</a>' for heading in headings)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>\n"
        f"{f'<nav>{links}</nav>' if links else ''}\n{body}\n</main>\n</body>\n</html>\n"
    )
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def metric_curves(reports: Sequence[Mapping[str, float]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name: (steps, values)} of a run's metrics [{"step": n, name: value, ...}, ...]."""
    points: dict[str, list[tuple[int, float]]] = {}
    for report in reports:
        for name, value in report.items():
            if name != "step":
                points.setdefault(name, []).append((report["step"], value))
    return {name: tuple(np.array(column) for column in zip(*pairs, strict=True)) for name, pairs in points.items()}


def _anchor(heading: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in heading.lower()).split())


def _text(section: Text) -> str:
    heading = f'<h2 id="{_anchor(section.heading)}">{html.escape(section.heading)}</h2>' if section.heading else ""
    paragraphs = [part for part in section.text.split("\n\n") if part.strip()]
    return heading + "".join(f"<p>{html.escape(part.strip())}</p>" for part in paragraphs)


def _code(section: Code) -> str:
    return f"<pre><code>{html.escape(chr(10).join(section.lines))}</code></pre>"


def _figure(kind: str, content: str, caption: str) -> str:
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="{kind}">{content}{words}</figure>'


def _table(section: Table) -> str:
    for row in section.rows:
        if len(row) != len(section.header):
            raise ValueError(f"a row of the table has {len(row)} cells, {row!r}; its header has {len(section.header)}")

    # A column with a number in it is aligned to the right, heading and all.
    columns = zip(section.header, *section.rows, strict=True)
    kinds = [' class="number"' if any(not isinstance(cell, str) for cell in column) else "" for column in columns]

    def line(tag: str, cells: Sequence) -> str:
        pairs = zip(kinds, cells, strict=True)
        return "<tr>" + "".join(f"<{tag}{kind}>{_cell(cell)}</{tag}>" for kind, cell in pairs) + "</tr>"

    header, rows = line("th", section.header), "".join(line("td", row) for row in section.rows)
    return _figure("table", f"<table><thead>{header}</thead><tbody>{rows}</tbody></table>", section.caption)


def _cell(value: str | int | float) -> str:
    if isinstance(value, str):
        return html.escape(value)
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:#.4g}".removesuffix(".")


def _videos(section: Videos) -> str:
    # The video libraries are only needed, and only loaded, where there are videos.
    from pvdm_jax.video.media import encode_mp4, upscale

    cells, widest = [], MIN_VIDEO_SIDE
    for label, frames in section.videos:
        scale = section.scale or math.ceil(MIN_VIDEO_SIDE / min(frames.shape[1:3]))
        large = upscale(frames, scale)
        widest = max(widest, large.shape[2])
        data = base64.b64encode(encode_mp4(large, section.fps)).decode("ascii")
        size = f'width="{large.shape[2]}" height="{large.shape[1]}"'
        name = html.escape(label)
        cells.append(
            f'<div class="cell"><video {size} aria-label="{name}" autoplay loop muted playsinline controls '
            f'src="data:video/mp4;base64,{data}"></video><span>{name}</span></div>'
        )
    grid = f'<div class="grid" style="--cell: {widest}px">{"".join(cells)}</div>'
    return _figure("videos", grid, section.caption)


# Curves are drawn in a frame of these pixels, with margins for the labels.
_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 12, 40


def _curves(section: Curves) -> str:
    lines = {name: _points(*curve, positive=section.log_y) for name, curve in section.curves.items()}
    lines = {name: points for name, points in lines.items() if len(points)}
    if not lines:
        return _figure("curves", "<p>No values yet.</p>", section.caption)
    everything = np.concatenate(list(lines.values()))
    steps = _Axis(everything[:, 0], _LEFT, _WIDTH - _RIGHT, log=False)
    values = _Axis(everything[:, 1], _HEIGHT - _BOTTOM, _TOP, log=section.log_y)
    parts = []
    for tick in values.ticks:
        y = values.place(tick)
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_label(tick)}</text>')
    for tick in steps.ticks:
        x = steps.place(tick)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{_label(tick)}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    label = html.escape(section.y_label + (" (logarithmic)" if section.log_y else ""))
    parts.append(f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">step</text>')
    keys = []
    for i, (name, points) in enumerate(lines.items()):
        path = [f"{steps.place(step):.1f},{values.place(value):.1f}" for step, value in points]
        path = " ".join(path if len(path) > 1 else path * 2)  # a lone point is a dot
        parts.append(f'<polyline class="c{i % 6}" points="{path}"/>')
        keys.append(f'<span><i class="c{i % 6}"></i>{html.escape(name)}</span>')
    picture = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(section.caption)}">'
        f"{''.join(parts)}</svg>"
    )
    legend = f'<div class="legend">{"".join(keys)}</div>'
    return _figure("curves", legend + picture, section.caption)


def _points(steps: Sequence[float], values: Sequence[float], positive: bool) -> np.ndarray:
    """The curve (n, 2) without what can't be drawn, neighbours averaged until n is at most MAX_POINTS."""
    points = np.stack([np.asarray(steps, np.float64), np.asarray(values, np.float64)], axis=-1)
    keep = np.isfinite(points[:, 1]) & ((points[:, 1] > 0) | (not positive))
    points = points[keep]
    if len(points) <= MAX_POINTS:
        return points
    return np.array([group.mean(0) for group in np.array_split(points, MAX_POINTS)])


class _Axis:
    """Maps values to pixels between two ends, and marks round values."""

    def __init__(self, values: np.ndarray, start: float, end: float, log: bool):
        self._log = log
        low, high = float(values.min()), float(values.max())
        if log:
            low, high = math.log10(low), math.log10(high)
        elif 0 < low < high / 4:
            low = 0.0
        if high - low < 1e-9 * max(abs(low), abs(high), 1e-300):
            low, high = low - 0.5, high + 0.5
        self._low, self._high, self._start, self._end = low, high, start, end
        self.ticks = self._decades() if log and high - low > 0.5 else self._round_values()

    def place(self, value: float) -> float:
        position = math.log10(value) if self._log else value
        return self._start + (position - self._low) / (self._high - self._low) * (self._end - self._start)

    def _round_values(self) -> list[float]:
        low, high = (10**self._low, 10**self._high) if self._log else (self._low, self._high)
        size = 10 ** math.floor(math.log10((high - low) / 4))
        step = next(size * m for m in (1, 2, 5, 10) if (high - low) / (size * m) <= 6)
        return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]

    def _decades(self) -> list[float]:
        marks = (1, 2, 5) if self._high - self._low < 2.5 else (1,)
        exponents = range(math.floor(self._low), math.floor(self._high) + 1)
        stride = max(1, len(exponents) // 6)
        ticks = [mark * 10.0**exponent for exponent in exponents[::stride] for mark in marks]
        return [tick for tick in ticks if self._low <= math.log10(tick) <= self._high]


def _label(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.3g}"


_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fdfdfc; --ink: #1d2125; --faint: #646c75; --rule: #e1e3e6; --panel: #f4f5f4; --accent: #1b5e9b;
  --c0: #0b6fb3; --c1: #d1581a; --c2: #1a8a62; --c3: #b3458d; --c4: #937200; --c5: #5c63c9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --ink: #e3e6e9; --faint: #98a1ab; --rule: #2e343b; --panel: #1d2126; --accent: #7db7ea;
    --c0: #58aee8; --c1: #f08c52; --c2: #4cc497; --c3: #e08cc2; --c4: #d9b53a; --c5: #9aa0f5;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 1rem/1.6 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.75rem; text-wrap: balance; }
h2 {
  font-size: 1.3rem; line-height: 1.3;
  margin: 3.25rem 0 0.75rem; padding-top: 1rem; border-top: 1px solid var(--rule);
}
p { max-width: 44rem; margin: 0 0 1rem; text-wrap: pretty; }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 0 0 1.5rem; font-size: 0.9rem; }
a { color: var(--accent); text-underline-offset: 0.2em; text-decoration-thickness: 1px; }
figure { margin: 1.5rem 0 2rem; }
figcaption { max-width: 44rem; margin-top: 0.6rem; color: var(--faint); font-size: 0.875rem; line-height: 1.5; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.94rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 1.75rem 0.4rem 0; text-align: left; vertical-align: baseline; }
th { font-weight: 600; border-bottom: 1.5px solid var(--faint); }
td { border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; }
.grid {
  display: grid; gap: 0.9rem 0.5rem;
  grid-template-columns: repeat(auto-fill, minmax(0, min(100%, var(--cell))));
}
.cell span { display: block; margin-top: 0.2rem; color: var(--faint); font-size: 0.8rem; line-height: 1.3; }
video {
  display: block; max-width: 100%; height: auto; image-rendering: pixelated;
  background: #000; border-radius: 3px; box-shadow: 0 0 0 1px var(--rule);
}
.curves { max-width: 50rem; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg text { fill: var(--faint); }
.rule { stroke: var(--rule); }
polyline { fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 1.25rem; margin: 0 0 0.4rem; font-size: 0.875rem; }
.legend i { display: inline-block; width: 1.1em; height: 0.2em; margin-right: 0.45em; vertical-align: 0.25em; }
polyline.c0 { stroke: var(--c0); } polyline.c1 { stroke: var(--c1); } polyline.c2 { stroke: var(--c2); }
polyline.c3 { stroke: var(--c3); } polyline.c4 { stroke: var(--c4); } polyline.c5 { stroke: var(--c5); }
i.c0 { background: var(--c0); } i.c1 { background: var(--c1); } i.c2 { background: var(--c2); }
i.c3 { background: var(--c3); } i.c4 { background: var(--c4); } i.c5 { background: var(--c5); }
pre { margin: 1rem 0 1.5rem; padding: 0.9rem 1.1rem; overflow-x: auto; background: var(--panel); border-radius: 6px; }
code { font: 0.875rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media print { video { display: none; } }
"""
