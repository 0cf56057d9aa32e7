"""The bodies of a clip of moving shapes: where each one is, of which kind, and how large.

Bodies are told apart by their colour (`shapes.find_in`). The kind is decided for the whole clip, because a body never
changes it. In every frame, the coverage around the body's centre is compared with drawings of circles, squares and
triangles of all sizes and angles; the kind with the best fit over all frames wins. Pixels covered by another body don't
count.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from pvdm_jax.data.synthetic import OUTER_RADIUS, PALETTE, Shape, signed_distance
from pvdm_jax.evaluation.shapes import Detection, coverage_of, find_in, is_apart, tracks_of

KINDS = tuple(OUTER_RADIUS)
# A body's area over the square of its radius.
AREAS = {"circle": np.pi, "square": 2 * 1.2**2, "triangle": 3 * np.sqrt(3) / 4 * 1.3**2}
SAME_SIZE = 0.15  # the largest relative difference between two radii that count as equal
_RADII = np.arange(0.10, 0.2201, 0.01)  # of the drawings, as fractions of the frame's shorter side
_ANGLES = {"circle": 1, "square": 8, "triangle": 12}  # the number of angles at which each kind is drawn
_REACH, _GRID = 0.30, 19  # the compared window: half its side, in shorter sides of the frame; its points per side
_COVERED = 0.25  # coverage from which on another body hides a pixel
_FEW = 3  # frames in which a body is apart from the others; with fewer, all frames are used


@dataclasses.dataclass(frozen=True)
class Body:
    """One body through a clip."""

    centre: np.ndarray  # (frames, 2): row and column in pixels, NaN where it isn't seen
    kind: str  # circle, square or triangle
    radius: float  # pixels, of a disc with the body's area


def find_bodies(clip: np.ndarray) -> dict[int, Body]:
    """The bodies of a clip, uint8 (frames, height, width, 3), by their colour, an index into PALETTE.

    Raises ValueError if clip has another type.
    """
    coverage, colours, _ = coverage_of(clip)
    frames = find_in(clip, coverage, colours)
    bodies = {}
    for colour, track in tracks_of(frames).items():
        kind, radius = _classify(coverage, colours, frames, track)
        centre = np.array([d.centre if d else (np.nan, np.nan) for d in track])
        bodies[colour] = Body(centre, kind, radius)
    return bodies


def true_bodies(shapes: Sequence[Shape]) -> dict[int, Body]:
    """The synthetic source's shapes in the form of `find_bodies`."""
    palette = [tuple(int(c) for c in colour) for colour in PALETTE]
    return {
        palette.index(shape.colour): Body(shape.centre, shape.kind, shape.radius * np.sqrt(AREAS[shape.kind] / np.pi))
        for shape in shapes
    }


def position_errors(found: Mapping[int, Body], truth: Mapping[int, Body], size: tuple[int, int]) -> np.ndarray:
    """The mean distance in pixels of the found bodies from the true ones of the same colour, in each frame (frames,).

    A body that isn't seen in a frame counts as if it were in the middle of the picture, so that losing it is penalised.
    size: height and width.
    """
    middle = (np.array(size) - 1) / 2
    errors = []
    for colour, body in truth.items():
        centre = found[colour].centre if colour in found else np.full_like(body.centre, np.nan)
        errors.append(np.linalg.norm(np.where(np.isnan(centre), middle, centre) - body.centre, axis=-1))
    return np.mean(errors, axis=0)


def kept(found: Mapping[int, Body], truth: Mapping[int, Body]) -> dict[str, float]:
    """What the found bodies share with the true ones.

    colours: 1 if there are exactly the true colours, else 0. kinds, sizes: the fraction of the true bodies for which
    the found body of that colour has the same kind, or a radius within SAME_SIZE; a missing body has neither.
    """
    pairs = [(found[colour], body) for colour, body in truth.items() if colour in found]
    return {
        "colours": float(found.keys() == truth.keys()),
        "kinds": sum(a.kind == b.kind for a, b in pairs) / len(truth),
        "sizes": sum(abs(a.radius - b.radius) <= SAME_SIZE * b.radius for a, b in pairs) / len(truth),
    }


def _classify(
    coverage: np.ndarray, colours: np.ndarray, frames: list[list[Detection]], track: list[Detection | None]
) -> tuple[str, float]:
    """Kind and radius in pixels of the body that `track` follows through the frames."""
    seen = [i for i, d in enumerate(track) if d is not None]
    apart = [i for i in seen if is_apart(track[i], frames[i])]
    side = min(coverage.shape[1:])
    offsets = np.linspace(-_REACH, _REACH, _GRID) * side
    patches, weights = [], []
    for i in apart if len(apart) >= _FEW else seen:
        own = colours[i] == track[i].colour
        cover = np.where(own, np.clip(coverage[i], 0, 1), 0)
        free = np.where(own | (coverage[i] < _COVERED), 1.0, 0.0)
        places = np.stack(np.meshgrid(*(centre + offsets for centre in track[i].centre), indexing="ij"))
        patches.append(ndimage.map_coordinates(cover, places, order=1).ravel())
        weights.append(ndimage.map_coordinates(free, places, order=1).ravel())
    patches, weights = np.array(patches), np.array(weights)
    # A soft body has a lower coverage everywhere; only its shape matters, not its strength.
    strength = np.quantile(patches, 0.97, axis=1, keepdims=True)
    patches = np.minimum(patches / np.maximum(strength, 0.5), 1)
    templates, kinds, radii = _templates(side)
    errors = (weights * patches**2).sum(1)[:, None] - 2 * (weights * patches) @ templates.T + weights @ templates.T**2
    fits = {kind: errors[:, kinds == number] for number, kind in enumerate(KINDS)}
    kind = min(KINDS, key=lambda kind: fits[kind].min(1).mean())
    best = radii[kinds == KINDS.index(kind)][fits[kind].argmin(1)]
    return kind, float(np.median(best) * side * np.sqrt(AREAS[kind] / np.pi))


@functools.lru_cache(maxsize=8)
def _templates(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drawings (n, points) of the window around a body, and for each the index of its kind and its radius.

    side: the frame's shorter side in pixels; edges are drawn one pixel wide.
    """
    offsets = (np.linspace(-_REACH, _REACH, _GRID) * side).astype(np.float32)
    drawings, kinds, radii = [], [], []
    for number, kind in enumerate(KINDS):
        sides = {"square": 4, "triangle": 3}.get(kind, 1)
        for radius in _RADII:
            for step in range(_ANGLES[kind]):
                angle = 2 * np.pi / sides * step / _ANGLES[kind]
                distance = signed_distance(kind, radius * side, offsets[:, None], offsets[None, :], angle)
                drawings.append(np.clip(0.5 - distance, 0, 1).ravel())
                kinds.append(number)
                radii.append(radius)
    return np.array(drawings), np.array(kinds), np.array(radii)
