"""The pixel losses: mean absolute and mean squared differences."""

import jax
import jax.numpy as jnp


def l1(reconstruction: jax.Array, video: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """Mean absolute difference over `axes` (None: over all, to a scalar)."""
    return jnp.mean(jnp.abs(reconstruction - video), axes)


def l2(reconstruction: jax.Array, video: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """Mean squared difference over `axes` (None: over all, to a scalar)."""
    return jnp.mean(jnp.square(reconstruction - video), axes)
