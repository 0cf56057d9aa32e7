"""A roofline picture (Williams et al. 2009) as SVG: operations a second against operations per byte."""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 460, 80, 190, 40, 60
COLOURS = ("#1b6ca8", "#c2452d", "#2e8b57", "#8a5cb8", "#b8860b", "#d1478e", "#4d4d4d")


def roofline_svg(title: str, flops: float, bandwidth: float, points: Sequence[tuple[str, float, float]]) -> str:
    """The picture's text. flops, bandwidth: the device's peaks. points: (name, operations per byte, operations a
    second) of each measured operation."""
    ridge = flops / bandwidth
    low_x = 10 ** math.floor(math.log10(min([ridge / 30, *(x for _, x, _ in points)])))
    high_x = 10 ** math.ceil(math.log10(max([ridge * 30, *(x for _, x, _ in points)])))
    high_y = 10 ** math.ceil(math.log10(flops * 1.05))
    low_y = 10 ** math.floor(math.log10(min([flops / 300, *(y for _, _, y in points)])))

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / low_x) / math.log(high_x / low_x)
        up = math.log(max(y, low_y) / low_y) / math.log(high_y / low_y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def line(a: tuple[float, float], b: tuple[float, float], style: str) -> str:
        return f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" {style}/>'

    def text(x: float, y: float, words: str, style: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 24, title, 'font-size="15"'),
    ]
    grid = 'stroke="#dddddd"'
    for power in range(round(math.log10(low_x)), round(math.log10(high_x)) + 1):
        x, bottom = place(10.0**power, low_y)
        parts += [line((x, bottom), place(10.0**power, high_y), grid)]
        parts += [text(x, bottom + 18, _number(10.0**power), 'text-anchor="middle"')]
    for power in range(round(math.log10(low_y)), round(math.log10(high_y)) + 1):
        left, y = place(low_x, 10.0**power)
        parts += [line((left, y), place(high_x, 10.0**power), grid)]
        parts += [text(left - 8, y + 4, _number(10.0**power), 'text-anchor="end"')]
    roof = 'stroke="black" stroke-width="2"'
    start = max(low_x, low_y / bandwidth)
    parts += [line(place(start, start * bandwidth), place(ridge, flops), roof)]
    parts += [line(place(ridge, flops), place(high_x, flops), roof)]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts += [text(middle, HEIGHT - 16, "operations per byte of memory traffic", 'text-anchor="middle"')]
    turned = f'text-anchor="middle" transform="rotate(-90 20 {HEIGHT / 2})"'
    parts += [text(20, HEIGHT / 2, "operations a second", turned)]
    for index, (name, x, y) in enumerate(points):
        colour = COLOURS[index % len(COLOURS)]
        across, up = place(x, y)
        row = TOP + 16 + 18 * index
        parts += [f'<circle cx="{across:.1f}" cy="{up:.1f}" r="5" fill="{colour}"/>']
        parts += [f'<circle cx="{WIDTH - RIGHT + 20}" cy="{row - 4}" r="5" fill="{colour}"/>']
        parts += [text(WIDTH - RIGHT + 30, row, f"{name}: {y / min(flops, x * bandwidth):.0%} of the roof")]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _number(value: float) -> str:
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"
