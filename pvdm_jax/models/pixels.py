"""Pixels as files have them, uint8, and as the models take them, float32 in [-1, 1]."""

import jax
import jax.numpy as jnp


def to_float(video: jax.Array) -> jax.Array:
    """uint8 video to float32 in [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1


def to_uint8(video: jax.Array) -> jax.Array:
    """float video in [-1, 1] to uint8, rounded."""
    return jnp.round((jnp.clip(video, -1, 1) + 1) * 127.5).astype(jnp.uint8)
