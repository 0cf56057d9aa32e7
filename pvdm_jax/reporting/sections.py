"""What a page is made of. Each section is plain data; `html` draws it."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pvdm_jax.video.defaults import DEFAULT_FPS


@dataclasses.dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines. A heading starts a new part of the page."""

    text: str = ""
    heading: str = ""


@dataclasses.dataclass(frozen=True)
class Items:
    """A list of lines. With a summary, only the summary is shown until the reader unfolds the numbered list."""

    items: Sequence[str]
    summary: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of strings and numbers. Floats are shown with four digits."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Videos:
    """Labelled videos side by side, playing in a loop.

    frames are uint8 (frames, height, width, 3). Each pixel becomes a block of scale x scale; 0 takes the smallest scale
    that makes small videos large enough to look at.
    """

    caption: str
    videos: Sequence[tuple[str, np.ndarray]]
    fps: float = DEFAULT_FPS
    scale: int = 0


@dataclasses.dataclass(frozen=True)
class Curves:
    """Lines {name: (steps, values)} over the training steps. Long ones are averaged down to `charts.MAX_POINTS` points.

    Values that aren't finite, and values that aren't positive on a logarithmic axis, are not drawn.
    """

    caption: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log_y: bool = False
    y_label: str = "value"


@dataclasses.dataclass(frozen=True)
class Code:
    """Lines of commands or settings, shown as they are."""

    lines: Sequence[str]


Section = Text | Items | Table | Videos | Curves | Code


def metric_curves(reports: Sequence[Mapping[str, float]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Turns a run's metrics [{"step": n, name: value, ...}, ...] into curves {name: (steps, values)}."""
    points: dict[str, list[tuple[int, float]]] = {}
    for report in reports:
        for name, value in report.items():
            if name != "step":
                points.setdefault(name, []).append((report["step"], value))
    return {name: tuple(np.array(column) for column in zip(*pairs, strict=True)) for name, pairs in points.items()}
