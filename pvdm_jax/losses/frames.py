"""The frame of each clip that image losses compare."""

import jax
import jax.numpy as jnp


def pick_frames(video: jax.Array, frame: jax.Array) -> jax.Array:
    """The frame with index `frame` (b,) of each clip (b, t, h, w, c), as images (b, h, w, c)."""
    return jnp.take_along_axis(video, frame[:, None, None, None, None], axis=1)[:, 0]
