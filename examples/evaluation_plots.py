"""Draws the pictures of docs/evaluation.md and docs/notes/feature_spaces.md into docs/images. Needs matplotlib.

    python examples/evaluation_plots.py

The clips come from the synthetic source, and no weights are needed. I3D with random weights takes about a second for
each clip on a CPU core.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from pvdm_jax.config import MeshConfig
from pvdm_jax.data.sources import FIRST_HELD_OUT_INDEX
from pvdm_jax.data.synthetic import SyntheticVideos
from pvdm_jax.evaluation.feature_spaces import open_features
from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.runtime import sharding

sys.path.append(str(pathlib.Path(__file__).parent.parent / "tests" / "support"))
from damage import DAMAGES  # noqa: E402

STRENGTHS = (0.0, 0.1, 0.25, 0.5, 1.0)
SHAPE = (16, 32, 32)  # frames, height, width


def real_clips(count: int, first: int = 0) -> np.ndarray:
    source = SyntheticVideos(count, *SHAPE, seed=0, first_index=first)
    return np.stack([source[i].read(0, SHAPE[0]) for i in range(count)])


def reactions(space, clips: np.ndarray, strengths) -> dict[str, list[float]]:
    """Distance between damaged and undamaged clips, divided by that of other real clips, for each kind of damage."""
    features = space(clips, 16)
    other = frechet_distance(features, space(real_clips(len(clips), FIRST_HELD_OUT_INDEX), 16))
    found = {
        kind: [frechet_distance(features, space(damage(clips, s), 16)) / other if s else 0.0 for s in strengths]
        for kind, damage in DAMAGES.items()
    }
    return {"strengths": list(strengths)} | found


def counts(space) -> dict[str, list]:
    """Distance between real clips and other real clips, for growing numbers of clips."""
    real, other = (space(real_clips(512, first), 64) for first in (0, FIRST_HELD_OUT_INDEX))
    rng, found = np.random.default_rng(0), []
    sizes = [16, 32, 64, 128, 256, 512]
    for size in sizes:
        draws = [[f[rng.choice(512, size, replace=False)] for f in (real, other)] for _ in range(8)]
        distances = [frechet_distance(*pair) for pair in draws]
        found.append([float(np.mean(distances)), float(np.min(distances)), float(np.max(distances))])
    return {"sizes": sizes, "distances": found}


def draw(data: dict, folder: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = {"scattering": "scattering", "i3d_random": "I3D, random weights"}
    panels = [name for name in titles if name in data]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3), squeeze=False)
    for axis, name in zip(axes[0], panels, strict=True):
        curves = data[name]
        for kind in DAMAGES:
            axis.plot(curves["strengths"], curves[kind], marker="o", markersize=3, label=kind)
        axis.axhline(1, color="grey", linewidth=0.8, linestyle="--")
        axis.set(title=titles[name], xlabel="strength", yscale="symlog")
        axis.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("distance / that of other real clips")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "evaluation_reactions.png", dpi=90)

    figure, axis = pyplot.subplots(figsize=(4.5, 3))
    sizes, distances = data["counts"]["sizes"], np.array(data["counts"]["distances"])
    axis.fill_between(sizes, distances[:, 1], distances[:, 2], alpha=0.25)
    axis.plot(sizes, distances[:, 0], marker="o", markersize=3)
    axis.set(xscale="log", yscale="log", xlabel="clips in each set", ylabel="distance of real from real")
    figure.tight_layout()
    figure.savefig(folder / "evaluation_counts.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    help = "JSON file of results: parts in it are not measured again, new ones are added"
    parser.add_argument("--numbers", type=pathlib.Path, help=help)
    choices = ("scattering", "counts", "i3d_random")
    parser.add_argument("--parts", nargs="+", choices=choices, default=choices, help="what to measure (default: all)")
    parser.add_argument("--i3d-clips", type=int, default=8, help="clips for I3D (default: 8)")
    args = parser.parse_args()
    folder = pathlib.Path(__file__).parent.parent / "docs" / "images"
    data = json.loads(args.numbers.read_text()) if args.numbers and args.numbers.exists() else {}
    mesh = sharding.make_mesh(MeshConfig())
    scattering = open_features("scattering", mesh)
    parts = {
        "scattering": lambda: reactions(scattering, real_clips(64), STRENGTHS),
        "counts": lambda: counts(scattering),
        "i3d_random": lambda: reactions(
            open_features("i3d_random", mesh), real_clips(args.i3d_clips), (0.0, 0.25, 0.5, 1.0)
        ),
    }
    for name in args.parts:
        measure = parts[name]
        if name not in data:
            data[name] = measure()
            if args.numbers:
                args.numbers.write_text(json.dumps(data, indent=1) + "\n")
    draw(data, folder)


if __name__ == "__main__":
    main()
