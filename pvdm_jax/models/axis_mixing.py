"""Dense layers along the axes of each plane: where a body goes is read from a whole row and drawn into another one.

A motion plane shows a body's path through the frames. To continue the path, a network has to find positions along a row
and to shift what it draws by them, which takes many convolutions. A perceptron over all positions of a row or column
does it at once (MLP-Mixer, Tolstikhin et al. 2021, but over positions and features together). It is cheap: a
convolution works once for each position, such a perceptron once for each row.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pvdm_jax.models.ops.layers import linear, silu, zeros
from pvdm_jax.models.ops.norms import group_norm
from pvdm_jax.models.triplane import Planes, PlaneShape, unpack


class _Perceptron(nnx.Module):
    """Two dense layers with SiLU between them, over one axis of a plane and the features; its initial output is 0."""

    def __init__(self, axis: int, length: int, features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.axis = axis
        self.read = linear(length * features, features, dtype=dtype, rngs=rngs)
        self.write = linear(features, length * features, init=zeros, dtype=dtype, rngs=rngs)

    def __call__(self, plane: jax.Array) -> jax.Array:
        """(b, rows, columns, features) to the same shape. axis: 1 mixes each column, 2 each row."""
        lines = plane.swapaxes(1, 2) if self.axis == 1 else plane
        mixed = self.write(silu(self.read(lines.reshape(*lines.shape[:2], -1)))).reshape(lines.shape)
        return mixed.swapaxes(1, 2) if self.axis == 1 else mixed


class AxisMixing(nnx.Module):
    """Adds to each plane the outputs of its own two perceptrons, one along each of its axes.

    Unlike the other layers, it works for one size of the planes only.
    """

    def __init__(self, features: int, shape: PlaneShape, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm = group_norm(features, dtype=dtype, rngs=rngs)
        self.yx, self.tx, self.ty = (
            nnx.List(
                _Perceptron(axis, length, features, dtype=dtype, rngs=rngs) for axis, length in enumerate(sizes, 1)
            )
            for sizes in (shape.yx, shape.tx, shape.ty)
        )

    def __call__(self, planes: Planes) -> Planes:
        """Planes of `features` channels to planes of the same shape."""
        seen = unpack(self.norm(planes.pack()), planes.shape)
        return Planes(
            yx=planes.yx + sum(mix(seen.yx) for mix in self.yx),
            tx=planes.tx + sum(mix(seen.tx) for mix in self.tx),
            ty=planes.ty + sum(mix(seen.ty) for mix in self.ty),
        )
