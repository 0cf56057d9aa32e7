"""What a latent looks like from outside of `models`: one axis of positions, in named segments.

Every autoencoder packs the latent of a clip into `Tokens`, an array (b, positions, channels). A `LatentSpec` says what
the positions are, so that a denoiser can tell them apart, and nothing else needs to know how they are structured.
"""

from typing import NamedTuple

import jax
import numpy as np

Tokens = jax.Array  # (b, positions, channels), float32

AXES = ("t", "y", "x")  # frame, row, column


class Segment(NamedTuple):
    """Consecutive positions that form an array over some of the axes, in C order."""

    name: str
    axes: tuple[str, ...]
    sizes: tuple[int, ...]  # of these axes
    start: int  # the first position

    @property
    def positions(self) -> int:
        return int(np.prod(self.sizes))

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.positions)


class LatentSpec(NamedTuple):
    """The latent of one clip: (positions, channels)."""

    channels: int
    parts: tuple[Segment, ...]  # in their order, without gaps
    # Two segments that a denoiser without position features takes for one another, if there are such.
    interchangeable: tuple[str, str] | None = None

    @property
    def positions(self) -> int:
        return sum(part.positions for part in self.parts)

    @property
    def shape(self) -> tuple[int, int]:
        return self.positions, self.channels

    @property
    def segments(self) -> dict[str, slice]:
        """Which positions belong to each segment, by its name."""
        return {part.name: part.slice for part in self.parts}

    def places(self) -> np.ndarray:
        """The centre of each position on the axes t, y, x, from 0 to 1: (positions, 3) float64, NaN for an axis that
        its segment lacks."""
        places = np.full((self.positions, len(AXES)), np.nan)
        for part in self.parts:
            index = np.indices(part.sizes).reshape(len(part.sizes), -1)
            for axis, size, row in zip(part.axes, part.sizes, index, strict=True):
                places[part.slice, AXES.index(axis)] = (row + 0.5) / size
        return places

    def exchange(self) -> np.ndarray:
        """The order of positions in which the two interchangeable segments have changed places, (positions,) int32.

        Raises ValueError for a latent without such segments.
        """
        if self.interchangeable is None:
            raise ValueError(f"no two of the latent's segments ({', '.join(self.segments)}) are interchangeable")
        first, second = (self.segments[name] for name in self.interchangeable)
        order = np.arange(self.positions, dtype=np.int32)
        order[first], order[second] = order[second].copy(), order[first].copy()
        return order
