"""What a latent looks like outside `models`: one axis of positions, in named segments.

Every autoencoder packs the latent of a clip into `Tokens`, an array (b, positions, channels). A `LatentSpec` says what
the positions are, so that a denoiser can tell them apart, and nothing else needs to know how they are structured.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from pvdm_jax.config import LatentsConfig, require

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
    # Two segments that a denoiser without position features can't tell apart, if there are any.
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentScale:
    """The normalisation of latents: the diffusion process and the denoiser see (latents - mean) / std.

    mean, std: (positions, channels) float32, constant within a segment; None for latents that are taken as they are. A
    compiled function takes it as an argument, so that models with other statistics need no program of their own.
    """

    mean: np.ndarray | jax.Array | None = None
    std: np.ndarray | jax.Array | None = None

    @classmethod
    def of(cls, spec: LatentSpec, config: LatentsConfig) -> "LatentScale":
        """The normalisation that a configuration asks for. Raises ConfigError if its statistics are missing or aren't
        those of such a latent."""
        if not config.normalize:
            return cls()
        shape = len(spec.parts), spec.channels
        allowed = f"{shape[0]} segments x {shape[1]} channels are needed, which stage 2 measures when it begins"
        require(len(config.mean) == shape[0] * shape[1], "latents.mean", config.mean, allowed)
        sizes = [part.positions for part in spec.parts]
        mean, std = (np.asarray(values, np.float32).reshape(shape) for values in (config.mean, config.std))
        return cls(np.repeat(mean, sizes, axis=0), np.repeat(std, sizes, axis=0))

    def normalize(self, latents: Tokens) -> Tokens:
        """Latents (..., positions, channels) as the denoiser sees them."""
        return latents if self.mean is None else (latents - _as_rank(self.mean, latents)) / _as_rank(self.std, latents)

    def restore(self, x: Tokens) -> Tokens:
        """The inverse of `normalize`: what the autoencoder decodes."""
        return x if self.mean is None else x * _as_rank(self.std, x) + _as_rank(self.mean, x)

    @property
    def bounds(self) -> tuple[Tokens | float, Tokens | float]:
        """The bounds of normalised latents, which correspond to -1 and 1 for the autoencoder's: scalars, or arrays
        (1, positions, channels)."""
        if self.mean is None:
            return -1.0, 1.0
        return tuple(self.normalize(np.full((1, *self.mean.shape), end, np.float32)) for end in (-1, 1))


def _as_rank(values: np.ndarray | jax.Array, x: Tokens) -> np.ndarray | jax.Array:
    """(positions, channels) with axes of length 1 in front, up to the rank of x."""
    return values.reshape((1,) * (x.ndim - values.ndim) + values.shape)
