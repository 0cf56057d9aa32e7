"""A roofline chart (Williams et al. 2009): operations per second against operations per byte."""

import math
from collections.abc import Sequence

from pvdm_jax.reporting.charts import Axis, Chart, Layout, colour_class, si_number

LAYOUT = Layout(width=860, height=440, left=80, right=290, top=40, bottom=44)


def roofline_svg(title: str, flops: float, bandwidth: float, points: Sequence[tuple[str, float, float]]) -> str:
    """Draws measured operations under the roof of a device, as the text of an SVG file.

    Args:
        title: Words above the chart.
        flops: The device's peak, in operations per second.
        bandwidth: The peak of its memory, in bytes per second.
        points: (name, operations per byte, operations per second) of each measured operation.
    """
    ridge = flops / bandwidth
    intensities = [x for _, x, _ in points]
    rates = [y for _, _, y in points]
    low_x = _decade_below(min([ridge / 30, *intensities]))
    high_x = _decade_above(max([ridge * 30, *intensities]))
    low_y = _decade_below(min([flops / 300, *rates]))
    high_y = _decade_above(max([flops * 1.05, *rates]))
    chart = Chart(
        Axis([low_x, high_x], log=True),
        Axis([low_y, high_y], log=True),
        x_label="operations per byte of memory traffic",
        y_label="operations per second",
        layout=LAYOUT,
        number=si_number,
    )
    chart.words(LAYOUT.left, 24, title, 'font-size="15"')
    start = max(low_x, low_y / bandwidth)
    chart.polyline([(start, start * bandwidth), (ridge, flops), (high_x, flops)], "ink")
    legend = LAYOUT.width - LAYOUT.right + 20
    for i, (name, x, y) in enumerate(points):
        line = LAYOUT.top + 16 + 18 * i
        chart.dot(*chart.place(x, y), colour_class(i))
        chart.dot(legend, line - 4, colour_class(i))
        chart.words(legend + 10, line, f"{name}: {y / min(flops, x * bandwidth):.0%} of the roof")
    return chart.file()


def _decade_below(value: float) -> float:
    return 10.0 ** math.floor(math.log10(value))


def _decade_above(value: float) -> float:
    return 10.0 ** math.ceil(math.log10(value))
