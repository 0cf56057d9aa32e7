"""How much an error counts at each position of a latent: more in the frames that adjoin a neighbouring clip, so that
less of a seam is seen there."""

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.models.condition import Condition
from pvdm_jax.models.latent import LatentSpec

REACH = 2.0  # frames after which the additional weight has fallen to 1 / e


def seam_weights(spec: LatentSpec, frames: int, weight: float) -> dict[str, np.ndarray]:
    """The weights (positions, 1) float32, 1 on average, of a clip that follows another ("previous"), and of one that
    another follows ("next").

    An error counts 1 + `weight` times in the frame that adjoins the neighbour, and less in each further one. Positions
    that belong to no frame count as the average frame.
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
