"""Planes: a clip's latent as three 2D arrays (paper section 3.1). No parameters here.

A grid of (frames t, rows h, columns w) is represented by the content plane over (h, w) and the two motion planes
over (t, w) and (t, h). Channels are last. Packed, the planes are one axis of h*w + t*w + t*h positions, in that
order, each plane in C order: the official code's flat latent (its "xy", "yt" and "xt").
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pvdm_jax.models.latent import LatentSpec, Segment


class PlaneShape(NamedTuple):
    """Size of the latent grid: frames, rows and columns (for the paper's clips 16, 32, 32)."""

    frames: int
    height: int
    width: int

    @property
    def yx(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def tx(self) -> tuple[int, int]:
        return self.frames, self.width

    @property
    def ty(self) -> tuple[int, int]:
        return self.frames, self.height

    @property
    def positions(self) -> int:
        """Positions of all three planes together (the paper's 2,048)."""
        return self.height * self.width + self.frames * (self.height + self.width)

    def latent_spec(self, channels: int) -> LatentSpec:
        """The packed planes as one latent. The motion planes can be exchanged where they have the same size."""
        parts, start = [], 0
        for name, sizes in (("yx", self.yx), ("tx", self.tx), ("ty", self.ty)):
            parts.append(Segment(name, tuple(name), sizes, start))
            start = parts[-1].slice.stop
        return LatentSpec(channels, tuple(parts), ("tx", "ty") if self.tx == self.ty else None)

    @staticmethod
    def of(spec: LatentSpec) -> "PlaneShape":
        """The grid whose packed planes a latent is. Raises ValueError for a latent of another structure."""
        sizes = {part.name: part.sizes for part in spec.parts}
        if tuple(sizes) != ("yx", "tx", "ty"):
            raise ValueError(f"the latent has the segments {', '.join(sizes)}; planes are yx, tx and ty")
        return PlaneShape(sizes["tx"][0], *sizes["yx"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Planes:
    """Three latent planes of a batch: yx (b, h, w, c), tx (b, t, w, c), ty (b, t, h, c)."""

    yx: jax.Array
    tx: jax.Array
    ty: jax.Array

    @property
    def shape(self) -> PlaneShape:
        """The grid's size, read off the planes."""
        height, width = self.yx.shape[-3:-1]
        return PlaneShape(self.tx.shape[-3], height, width)

    def pack(self) -> jax.Array:
        """(b, positions, c), in the official order yx, tx, ty."""
        flat = [plane.reshape(*plane.shape[:-3], -1, plane.shape[-1]) for plane in (self.yx, self.tx, self.ty)]
        return jnp.concatenate(flat, axis=-2)

    def expand(self) -> jax.Array:
        """(b, t, h, w, c): each plane broadcast along its missing axis, and the three summed."""
        return self.yx[..., None, :, :, :] + self.tx[..., :, None, :, :] + self.ty[..., :, :, None, :]


def unpack(packed: jax.Array, shape: PlaneShape) -> Planes:
    """The inverse of `Planes.pack`: (b, positions, c) to Planes. Raises ValueError where the sizes don't fit."""
    if packed.shape[-2] != shape.positions:
        raise ValueError(f"packed planes have {packed.shape[-2]} positions; {shape} has {shape.positions}")
    batch, channels = packed.shape[:-2], packed.shape[-1]
    first = shape.height * shape.width
    second = first + shape.frames * shape.width
    return Planes(
        yx=packed[..., :first, :].reshape(*batch, *shape.yx, channels),
        tx=packed[..., first:second, :].reshape(*batch, *shape.tx, channels),
        ty=packed[..., second:, :].reshape(*batch, *shape.ty, channels),
    )
