"""Pages and pictures for people: self-contained HTML, SVG charts, embedded video."""
