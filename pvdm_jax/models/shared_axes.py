"""What the planes of a clip tell each other: each plane shares one axis with each of the others.

A body at row y and column x in frame t appears in the content plane at (y, x), and in the motion planes at (t, x) and
(t, y). Attention across the planes has to learn which positions belong together. Pooling each plane along the axis that
the other plane lacks provides this directly, as Rodin (Wang et al. 2022, section 4.2) does for the planes of a solid.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pvdm_jax.models.ops.layers import linear
from pvdm_jax.models.ops.maximum import maximum_along
from pvdm_jax.models.ops.norms import group_norm
from pvdm_jax.models.triplane import Planes, unpack


class SharedAxes(nnx.Module):
    """Adds to each position what the other two planes hold where they share its row, its column or its frame.

    The content plane's rows and columns are told what the motion planes hold there in any frame. The motion planes are
    told what the content plane holds in their rows or columns, and what the other motion plane holds in their frame.
    Rows and columns share their weights.
    """

    def __init__(self, features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm = group_norm(features, dtype=dtype, rngs=rngs)
        self.to_content, self.to_motion, self.within_frames = (
            linear(2 * features, features, dtype=dtype, rngs=rngs) for _ in range(3)
        )

    def __call__(self, planes: Planes) -> Planes:
        """Planes of `features` channels to planes of the same shape."""
        seen = unpack(self.norm(planes.pack()), planes.shape)
        # Each (b, rows or columns or frames, 2 * features); yx is (b, rows, columns, features), tx and ty begin with
        # the frames.
        rows, rows_over_time = _pool(seen.yx, 2), _pool(seen.ty, 1)
        columns, columns_over_time = _pool(seen.yx, 1), _pool(seen.tx, 1)
        frames_of_columns, frames_of_rows = _pool(seen.tx, 2), _pool(seen.ty, 2)
        told = Planes(
            yx=self.to_content(rows_over_time)[:, :, None] + self.to_content(columns_over_time)[:, None],
            tx=self.within_frames(frames_of_rows)[:, :, None] + self.to_motion(columns)[:, None],
            ty=self.within_frames(frames_of_columns)[:, :, None] + self.to_motion(rows)[:, None],
        )
        return jax.tree.map(jnp.add, planes, told)


def _pool(plane: jax.Array, axis: int) -> jax.Array:
    """The mean and the maximum of (b, rows, columns, features) along an axis: (b, length, 2 * features)."""
    return jnp.concatenate([plane.mean(axis), maximum_along(plane, axis)], axis=-1)
