"""Finds the moving shapes of the synthetic source in a clip, and judges whether the clip shows them.

The judge knows what to look for (the colours of `data.synthetic.PALETTE` on a dark ground). Nearly every frame must
show what a person would expect: two or three shapes, each in one piece of one colour, compact, of the right size and
with an edge; an even dark ground; the same shapes from frame to frame, moving on smooth paths. Clips as soft and noisy
as an autoencoder's output pass.

A pixel p that mixes the ground g and a colour c is g + a (c - g). Its coverage is the a of the colour that is nearest
in direction, a = (p - g) . (c - g) / |c - g|^2; a shape is where one colour's coverage is above one half.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from pvdm_jax.data.synthetic import PALETTE

NEARLY_ALL = 0.85  # fraction of the frames that must be in order
COUNTS = (2, 3)  # shapes in a clip
RADII = (0.09, 0.24)  # radius of a disc with a shape's area, in shorter sides of the frame
MIN_COMPACTNESS = 0.6  # 1 for a disc, 0.95 for a square, 0.83 for a triangle, near 0 for scattered pixels
MIN_SHARPNESS = 0.5  # fraction of the area of the shapes and their edges that is well covered
MAX_SPREAD = 35.0  # grey levels, within a shape
MAX_GROUND = 60.0  # grey levels
MAX_UNEVENNESS = 15.0  # grey levels, standard deviation of the ground
MIN_MOTION = 0.004  # standard deviation of a shape's position over time, in shorter sides of the frame
MAX_STEP = 0.06  # from one frame to the next, in shorter sides of the frame; the source's largest is 0.025
MAX_HIDDEN_STEP = 0.12  # the same if another shape covers much of it, so that the centre of the visible part shifts
MAX_ROUGHNESS = 0.5  # 1 for positions in random order, 0.02 for a straight path through 16 frames
MOSTLY_SEEN = 0.6  # fraction of a shape's largest visible area
SLIVER = 0.4  # a shape that disappears behind another was last seen with at most this fraction of its area
_IN_FRAME = np.array([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))], bool)  # pixels of two frames don't touch
_CROSS = _IN_FRAME & ndimage.generate_binary_structure(3, 1)


@dataclasses.dataclass(frozen=True)
class Detection:
    """One shape in one frame."""

    colour: int  # index into PALETTE
    mean: np.ndarray  # (3,) mean colour, 0..255
    centre: np.ndarray  # (2,) row and column in pixels, weighted by coverage, its soft edge included
    area: int  # pixels
    compactness: float  # of its outline: area / (4 pi sqrt(det(covariance of its pixels)))
    spread: float  # grey levels, standard deviation of the colour away from its edge
    whole: bool  # in one piece, except for crumbs


def shows_shapes(clip: np.ndarray) -> bool:
    """Whether clip, uint8 (frames, height, width, 3), shows two or three of the synthetic source's moving shapes.

    Raises ValueError if clip has another type.
    """
    return judge(clip) == ""


def judge(clip: np.ndarray) -> str:
    """Why a clip does not show the shapes (see `shows_shapes`); "" if it does."""
    coverage, colours, ground = coverage_of(clip)
    if np.mean(_even_ground(clip, coverage, ground)) < NEARLY_ALL:
        return "the ground is not dark and even"
    if np.mean(_sharpness(coverage) > MIN_SHARPNESS) < NEARLY_ALL:
        return "the shapes have no edges"
    frames = find_in(clip, coverage, colours)
    tracks = tracks_of(frames)
    shapes = list(tracks)
    if len(shapes) not in COUNTS:
        return f"it has {len(shapes)} shapes"
    side = min(clip.shape[1:3])
    in_order = [_in_order(found, shapes, side) and _all_there(i, tracks, side) for i, found in enumerate(frames)]
    if np.mean(in_order) < NEARLY_ALL:
        return "shapes come and go, or are not whole, even and compact"
    return _judge_motion(tracks, frames, side)


def tracks_of(frames: list[list[Detection]]) -> dict[int, list[Detection | None]]:
    """The detections of each shape frame by frame, by its colour; None where it isn't seen.

    frames: the result of `find_in`. A colour seen in only a few frames doesn't count as a shape.
    """
    tracks = {
        colour: [next((d for d in found if d.colour == colour), None) for found in frames]
        for colour in range(len(PALETTE))
    }
    least = (1 - NEARLY_ALL) * len(frames)
    return {colour: track for colour, track in tracks.items() if sum(d is not None for d in track) > least}


def coverage_of(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage and the palette index of its colour, both (frames, height, width), and the ground's colour (frames, 3).

    Raises ValueError if clip is not uint8 (frames, height, width, 3).
    """
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or not clip.size:
        raise ValueError(f"clip is {clip.dtype} {clip.shape}; uint8 (frames, height, width, 3) is needed")
    pixels = clip.reshape(len(clip), -1, 3).astype(np.float32)
    # Shapes cover less than half of the picture.
    ground = np.median(pixels, axis=1)
    directions = PALETTE - ground[:, None]
    lengths = np.maximum(np.linalg.norm(directions, axis=-1), 1)
    along = (pixels - ground[:, None]) @ (directions / lengths[..., None]).transpose(0, 2, 1)
    colours = along.argmax(-1)
    coverage = along.max(-1) / np.take_along_axis(lengths, colours, axis=1)
    return coverage.reshape(clip.shape[:3]), colours.reshape(clip.shape[:3]), ground


def _even_ground(clip: np.ndarray, coverage: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """For each frame, whether the ground (all but the shapes and their edges) is dark and of one colour."""
    around = ndimage.binary_dilation(coverage > 0.5, _IN_FRAME, iterations=3)
    dark = ground.max(-1) < MAX_GROUND
    even = [
        off.mean() > 0.1 and frame[off].std(0).max() < MAX_UNEVENNESS for frame, off in zip(clip, ~around, strict=True)
    ]
    return dark & np.array(even)


def _sharpness(coverage: np.ndarray) -> np.ndarray:
    """For each frame, the area with more than 3/4 of the shapes' own coverage over that with more than 1/4 of it."""
    sharpness = np.zeros(len(coverage))
    for i, frame in enumerate(coverage):
        covered = frame[frame > 0.5]
        if covered.size:
            strength = np.median(covered)
            sharpness[i] = np.sum(frame > 0.75 * strength) / np.sum(frame > 0.25 * strength)
    return sharpness


def find_in(clip: np.ndarray, coverage: np.ndarray, colours: np.ndarray) -> list[list[Detection]]:
    """The largest piece of each colour in each frame, if it is larger than a crumb.

    coverage, colours: the clip's, from `coverage_of`.
    """
    found = [[] for _ in clip]
    crumb = max(4, 0.004 * clip.shape[1] * clip.shape[2])
    for colour in range(len(PALETTE)):
        reach = colours == colour
        mask = (coverage > 0.5) & reach
        if mask.sum((1, 2)).max() < crumb:
            continue
        # Along the line where two shapes meet, mixtures can look like a third colour.
        inner = ndimage.binary_erosion(mask, _CROSS)
        mask = ndimage.binary_dilation(inner, _CROSS) & mask
        labels, _ = ndimage.label(mask, _IN_FRAME)
        for i in np.flatnonzero(mask.any((1, 2))):
            numbers, areas = np.unique(labels[i][mask[i]], return_counts=True)
            region = labels[i] == numbers[areas.argmax()]
            if areas.max() < crumb:
                continue
            whole = np.sum(areas) - areas.max() <= 0.25 * areas.max()
            detection = _describe(
                clip[i],
                coverage[i],
                colour=colour,
                region=region,
                interior=region & inner[i],
                reach=reach[i],
                whole=bool(whole),
            )
            found[i].append(detection)
    return found


def _describe(
    frame: np.ndarray,
    coverage: np.ndarray,
    *,
    colour: int,
    region: np.ndarray,
    interior: np.ndarray,
    reach: np.ndarray,
    whole: bool,
) -> Detection:
    """The detection of a shape whose pixels are `region`, in a frame (height, width, 3).

    interior: the pixels away from its edge. reach: all pixels in which its colour is the nearest.
    """
    places = np.argwhere(region)
    around = np.argwhere(ndimage.binary_dilation(region, _CROSS[1]) & reach)
    centre = np.average(around, axis=0, weights=np.clip(coverage[tuple(around.T)], 0, 1))
    # Each pixel is a unit square, whose own variance is 1/12.
    covariance = np.cov(places.T, bias=True) + np.eye(2) / 12
    compactness = len(places) / (4 * np.pi * np.sqrt(np.linalg.det(covariance)))
    pixels = frame[interior].astype(np.float64)
    return Detection(colour, pixels.mean(0), centre, len(places), compactness, pixels.std(0).max(), whole)


def _in_order(found: list[Detection], shapes: list[int], side: int) -> bool:
    """Whether a frame shows only shapes of the clip, each whole, compact and of the right size."""
    for d in found:
        if d.colour not in shapes or d.spread > MAX_SPREAD or d.area > np.pi * (RADII[1] * side) ** 2:
            return False
        small = d.area < np.pi * (RADII[0] * side) ** 2
        if is_apart(d, found) and (small or d.compactness < MIN_COMPACTNESS or not d.whole):
            return False
    return True


def _all_there(frame: int, tracks: dict[int, list[Detection | None]], side: int) -> bool:
    """Whether each shape is visible in the frame, or hidden: a sliver beside another shape when last and next seen."""
    for shape, track in tracks.items():
        if track[frame] is None:
            sliver = SLIVER * max(np.pi * (RADII[0] * side) ** 2, *(d.area for d in track if d))
            last = [i for i in range(frame) if track[i]][-1:]
            following = [i for i in range(frame, len(track)) if track[i]][:1]
            for i in last + following:
                others = [other[i] for colour, other in tracks.items() if colour != shape and other[i]]
                if track[i].area > sliver or not any(_meet(track[i], other) for other in others):
                    return False
    return True


def is_apart(d: Detection, found: list[Detection]) -> bool:
    """Whether no other shape of the frame is near enough to cover part of this one."""
    return not any(_meet(d, other) for other in found if other is not d)


def _meet(a: Detection, b: Detection) -> bool:
    """Whether one of two shapes may cover part of the other."""
    reach = 1.3 * (np.sqrt(a.area / np.pi) + np.sqrt(b.area / np.pi)) + 2
    return bool(np.linalg.norm(a.centre - b.centre) < reach)


def _judge_motion(tracks: dict[int, list[Detection | None]], frames: list[list[Detection]], side: int) -> str:
    """What is wrong with the shapes' paths, or "".

    Roughness is von Neumann's ratio: a path's mean squared step over twice the variance of its positions. The visible
    part of a partly hidden shape wobbles, so only shapes that are apart from others in most frames are judged, if there
    are any.
    """
    paths, paths_apart = [], []
    for track in tracks.values():
        path = np.array([d.centre if d else (np.nan, np.nan) for d in track]) / side
        apart = np.array([bool(d) and is_apart(d, found) for d, found in zip(track, frames, strict=True)])
        path_apart = np.where(apart[:, None], path, np.nan)
        seen = np.array([d.area if d else 0 for d in track]) / max(d.area for d in track if d)
        seen = np.where(apart, 1, seen)
        seen = np.minimum(seen[1:], seen[:-1])
        steps = np.linalg.norm(np.diff(path, axis=0), axis=-1)
        if np.any((steps > MAX_STEP) & (seen > MOSTLY_SEEN)) or np.any((steps > MAX_HIDDEN_STEP) & (seen > SLIVER)):
            return "a shape jumps"
        paths.append(path)
        if np.mean(apart) > 0.5:
            paths_apart.append(path_apart)
    paths = paths_apart or paths
    squared_steps = [np.sum(np.diff(path, axis=0) ** 2, axis=-1) for path in paths]
    if any(np.isnan(steps).all() for steps in squared_steps):
        return "a shape is never seen in two consecutive frames"
    squared_step = sum(np.nanmean(steps) for steps in squared_steps)
    variance = sum(np.nanvar(path, axis=0).sum() for path in paths)
    if variance < len(paths) * MIN_MOTION**2:
        return "nothing moves"
    return "" if squared_step < 2 * MAX_ROUGHNESS * variance else "the shapes' paths are not smooth"
