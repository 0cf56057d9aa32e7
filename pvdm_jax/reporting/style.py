"""Colours and CSS of pages and charts, for readers in light and in dark mode."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours on a light or on a dark ground."""

    ground: str
    ink: str
    faint: str  # labels and captions
    rule: str
    panel: str  # the ground of code
    accent: str  # links
    lines: tuple[str, ...]  # of a chart

    def page_css(self) -> str:
        """Variables for PAGE_STYLE."""
        names = ("ground", "ink", "faint", "rule", "panel", "accent")
        return ":root { " + " ".join(f"--{name}: {getattr(self, name)};" for name in names) + " }"

    def chart_css(self) -> str:
        """Rules with the colours themselves, since not every program that shows SVG files knows variables."""
        rules = [
            f"svg text {{ fill: {self.faint}; }}",
            f"svg .ground {{ fill: {self.ground}; }}",
            f"svg .rule {{ stroke: {self.rule}; }}",
            f"svg .ink {{ stroke: {self.ink}; }}",
        ]
        for i, colour in enumerate(self.lines):
            rules.append(f"polyline.c{i} {{ stroke: {colour}; }}")
            rules.append(f"circle.c{i} {{ fill: {colour}; }}")
            rules.append(f".legend .c{i} {{ background: {colour}; }}")
        return "\n".join(rules)


LIGHT = Palette(
    ground="#fdfdfc",
    ink="#1d2125",
    faint="#646c75",
    rule="#e1e3e6",
    panel="#f4f5f4",
    accent="#1b5e9b",
    lines=("#0b6fb3", "#d1581a", "#1a8a62", "#b3458d", "#937200", "#5c63c9"),
)
DARK = Palette(
    ground="#15181c",
    ink="#e3e6e9",
    faint="#98a1ab",
    rule="#2e343b",
    panel="#1d2126",
    accent="#7db7ea",
    lines=("#58aee8", "#f08c52", "#4cc497", "#e08cc2", "#d9b53a", "#9aa0f5"),
)


def _light_and_dark(light: str, dark: str) -> str:
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


CHART_STYLE = """
svg { font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
polyline { fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
""" + _light_and_dark(LIGHT.chart_css(), DARK.chart_css())

PAGE_STYLE = (
    _light_and_dark(LIGHT.page_css(), DARK.page_css())
    + """
:root { color-scheme: light dark; }
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
svg { display: block; width: 100%; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 1.25rem; margin: 0 0 0.4rem; font-size: 0.875rem; }
.legend i { display: inline-block; width: 1.1em; height: 0.2em; margin-right: 0.45em; vertical-align: 0.25em; }
summary { cursor: pointer; color: var(--faint); }
pre { margin: 1rem 0 1.5rem; padding: 0.9rem 1.1rem; overflow-x: auto; background: var(--panel); border-radius: 6px; }
code { font: 0.875rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media print { video { display: none; } }
"""
)
