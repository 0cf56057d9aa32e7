"""Noise on the latents, a regulariser: the decoder learns to tolerate the errors in stage 2's latents."""

from typing import Any

import jax
import jax.numpy as jnp


def add_noise(latents: Any, scale: float, key: jax.Array) -> Any:
    """A tree of latents with normal noise of standard deviation `scale` added; unchanged if that is 0."""
    if scale == 0:
        return latents
    leaves, structure = jax.tree.flatten(latents)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, leaf.shape, jnp.float32) for leaf, k in zip(leaves, keys, strict=True)]
    noisy = [leaf + scale * x for leaf, x in zip(leaves, noise, strict=True)]
    return jax.tree.unflatten(structure, noisy)
