"""The reconstruction loss: a weighted sum of the pixel losses and the perceptual distance.

A new loss that compares a clip with its reconstruction is a function in a file of its own, a row of LOSSES, and its
weight in the config, named after it ("l1": `l1_weight`).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from pvdm_jax.config import AutoencoderTrainingConfig
from pvdm_jax.losses.frames import pick_frames
from pvdm_jax.losses.lpips import LPIPS
from pvdm_jax.losses.pixel import l1, l2

# Functions of (reconstruction, video, axes).
LOSSES: dict[str, Callable[[jax.Array, jax.Array, tuple[int, ...] | None], jax.Array]] = {"l1": l1, "l2": l2}


def reconstruction_loss(
    config: AutoencoderTrainingConfig,
    reconstruction: jax.Array,
    batch: Mapping[str, jax.Array],
    perceptual: LPIPS | None = None,
    axes: tuple[int, ...] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum, and {"loss": the sum, name: each loss without its weight}. Scalars, or (b,) per clip.

    reconstruction: (b, frames, height, width, 3) in [-1, 1]. batch: "video", of the same shape, and "frame" (b,), the
    index of the frame that the perceptual distance compares. perceptual: None if its weight is 0. axes: (1, 2, 3, 4)
    for the loss of each clip.
    """
    terms = {name: loss(reconstruction, batch["video"], axes) for name, loss in LOSSES.items()}
    total = sum(getattr(config, f"{name}_weight") * value for name, value in terms.items())
    if perceptual is not None:
        images = (pick_frames(video, batch["frame"]) for video in (batch["video"], reconstruction))
        distances = perceptual(*images)
        # The stand-in without weights has a name of its own, so that its values are not taken for LPIPS.
        terms[perceptual.name] = distances if axes else jnp.mean(distances)
        total += config.perceptual_weight * terms[perceptual.name]
    return total, {"loss": total, **terms}
