"""Fixed features of the diffusion time and of the positions of a latent."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.models.latent import AXES, LatentSpec

HALF_WAVES = 9  # features of each axis: cos(k pi place), k = 0 .. 8
POSITION_FEATURES = len(AXES) * HALF_WAVES


def time_embedding(time: jax.Array, channels: int) -> jax.Array:
    """Diffusion times (b,) as (b, channels), channels even: cosines, then sines, of time * 10000^(-i / half)."""
    half = channels // 2
    frequencies = np.exp(-math.log(10000) * np.arange(half, dtype=np.float32) / half)
    angles = time.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def class_embedding(classes: Callable[[jax.Array], jax.Array], label: jax.Array) -> jax.Array:
    """The embeddings (b, channels) of labels (b,); zero where the label is -1, for none."""
    return jnp.where((label >= 0)[:, None], classes(jnp.maximum(label, 0)), 0)


def position_features(spec: LatentSpec) -> np.ndarray:
    """Where each position lies: (positions, POSITION_FEATURES) float32, nine half waves for each of the axes t, y, x.

    Positions at the same place on an axis have the same features for that axis, whatever segment they are in. The
    features for an axis that a segment lacks are zero.
    """
    places = spec.places()[..., None]  # (positions, axes, 1)
    waves = np.cos(np.pi * places * np.arange(HALF_WAVES))
    return np.where(np.isnan(places), 0.0, waves).astype(np.float32).reshape(spec.positions, POSITION_FEATURES)
