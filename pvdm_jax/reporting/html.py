"""Writes pages: one HTML file with text, tables, videos and charts that needs nothing but a browser.

Videos are embedded as H.264, charts as SVG; there are no scripts and no links to the outside. A page follows the
reader's light or dark mode.
"""

import base64
import os
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from pvdm_jax.reporting import charts
from pvdm_jax.reporting.sections import Code, Curves, Items, Section, Table, Text, Videos
from pvdm_jax.reporting.style import CHART_STYLE, PAGE_STYLE
from pvdm_jax.storage.files import write_text
from pvdm_jax.video import grid


def write_page(path: str | os.PathLike, title: str, sections: Sequence[Section]) -> None:
    """Writes a page to `path`, in one piece: an older file is replaced only when the new one is complete.

    Raises ValueError for a table whose rows don't fit its header, VideoError for frames that aren't a video, OSError if
    the file can't be written.
    """
    headings = [section.heading for section in sections if isinstance(section, Text) and section.heading]
    links = "".join(f'<a href="#{_anchor(heading)}">{escape(heading)}</a>' for heading in headings)
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{PAGE_STYLE}{CHART_STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        f"<h1>{escape(title)}</h1>",
        f"<nav>{links}</nav>" if links else "",
        *(_DRAW[type(section)](section) for section in sections),
        "</main>",
        "</body>",
        "</html>",
    ]
    write_text(path, "\n".join(lines) + "\n")


def _anchor(heading: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in heading.lower()).split())


def _text(section: Text) -> str:
    heading = f'<h2 id="{_anchor(section.heading)}">{escape(section.heading)}</h2>' if section.heading else ""
    paragraphs = [part for part in section.text.split("\n\n") if part.strip()]
    return heading + "".join(f"<p>{escape(part.strip())}</p>" for part in paragraphs)


def _items(section: Items) -> str:
    lines = "".join(f"<li>{escape(item)}</li>" for item in section.items)
    if not section.summary:
        return f"<ul>{lines}</ul>"
    return f"<details><summary>{escape(section.summary)}</summary><ol>{lines}</ol></details>"


def _code(section: Code) -> str:
    return f"<pre><code>{escape(chr(10).join(section.lines))}</code></pre>"


def _figure(kind: str, content: str, caption: str) -> str:
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
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

    header = line("th", section.header)
    rows = "".join(line("td", row) for row in section.rows)
    return _figure("table", f"<table><thead>{header}</thead><tbody>{rows}</tbody></table>", section.caption)


def _cell(value: str | int | float) -> str:
    if isinstance(value, str):
        return escape(value)
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:#.4g}".removesuffix(".")


def _videos(section: Videos) -> str:
    cells = []
    widest = grid.MIN_SIDE
    for label, frames in section.videos:
        large = grid.upscale(frames, section.scale) if section.scale else grid.enlarge(frames)
        widest = max(widest, large.shape[2])
        cells.append(_video(label, large, section.fps))
    content = f'<div class="grid" style="--cell: {widest}px">{"".join(cells)}</div>'
    return _figure("videos", content, section.caption)


def _video(label: str, frames: np.ndarray, fps: float) -> str:
    # The video libraries are only loaded if there are videos.
    from pvdm_jax.video.write import encode_mp4

    data = base64.b64encode(encode_mp4(frames, fps)).decode("ascii")
    size = f'width="{frames.shape[2]}" height="{frames.shape[1]}"'
    name = escape(label)
    return (
        f'<div class="cell"><video {size} aria-label="{name}" autoplay loop muted playsinline controls '
        f'src="data:video/mp4;base64,{data}"></video><span>{name}</span></div>'
    )


def _curves(section: Curves) -> str:
    lines = {name: charts.curve_points(*curve, positive=section.log_y) for name, curve in section.curves.items()}
    lines = {name: points for name, points in lines.items() if len(points)}
    if not lines:
        return _figure("curves", "<p>No values yet.</p>", section.caption)
    steps, values = np.concatenate(list(lines.values())).T
    y_label = section.y_label + (" (logarithmic)" if section.log_y else "")
    chart = charts.Chart(charts.Axis(steps), charts.Axis(values, section.log_y), x_label="step", y_label=y_label)
    keys = []
    for i, (name, points) in enumerate(lines.items()):
        kind = charts.colour_class(i)
        chart.polyline(points, kind)
        keys.append(f'<span><i class="{kind}"></i>{escape(name)}</span>')
    legend = f'<div class="legend">{"".join(keys)}</div>'
    return _figure("curves", legend + chart.svg(section.caption), section.caption)


_DRAW: dict[type, Callable[..., str]] = {
    Text: _text,
    Items: _items,
    Table: _table,
    Videos: _videos,
    Curves: _curves,
    Code: _code,
}
