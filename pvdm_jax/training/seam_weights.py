"""Weights of the squared errors at each position of a latent: larger in the frames that adjoin a neighbouring clip, to
make the seam less visible."""

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.models.condition import Condition
from pvdm_jax.models.latent import LatentSpec

REACH = 2.0  # frames after which the additional weight has fallen to 1 / e


def seam_weights(spec: LatentSpec, frames: int, weight: float) -> dict[str, np.ndarray]:
    """The weights (positions, 1), float32 with mean 1, for a clip with a "previous" neighbour, and for a clip with a
    "next" one.

    An error counts 1 + `weight` times in the frame that adjoins the neighbour, and less in each frame further away.
    Positions that belong to no frame count as much as an average frame.
    """
    frame = spec.places()[:, 0] * frames - 0.5
    found = {}
    for name, distance in (("previous", frame), ("next", frames - 1 - frame)):
        weights = 1 + weight * np.exp(-distance / REACH)
        weights = np.where(np.isnan(weights), np.nanmean(weights), weights)
        found[name] = (weights / weights.mean())[:, None].astype(np.float32)
    return found


def weights_of(weights: dict[str, np.ndarray], condition: Condition) -> jax.Array:
    """The weights of each sample (b, positions, 1), by the neighbours that it sees; 1 where it sees none."""
    total = jnp.ones((1, 1, 1))
    for name, each in weights.items():
        neighbour = getattr(condition, name)
        if neighbour is not None:
            total = total + neighbour.present[:, None, None] * (each - 1)[None]
    return total
