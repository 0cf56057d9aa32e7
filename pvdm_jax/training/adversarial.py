"""Stage 1's losses on a reconstruction, as pure functions, and the discriminators' optimizer (paper section 3.1)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pvdm_jax.config import OptimizerConfig
from pvdm_jax.losses.adversarial import feature_matching, generator_loss, hinge_loss
from pvdm_jax.models.discriminators import Discriminators
from pvdm_jax.training.optimizer import TrainState, make_optimizer

Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdversarialState(TrainState):
    """Stage 1's state where it has an adversarial phase; its params and ema are the autoencoder's.

    discriminators: {"image", "video"}, initial values until the phase begins.
    warmup_start: int32 scalar, the updates done when the phase began or was last rolled back; -1 before.
    scale: float32 scalar, of the phase's weights and learning rates; the guard lowers it.
    """

    discriminators: Any
    discriminator_opt_state: optax.OptState
    warmup_start: jax.Array
    scale: jax.Array


def make_discriminator_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """One optimizer for the tree {"image", "video"}, which clips the gradient of each by its own norm."""
    optimizer = make_optimizer(dataclasses.replace(config, clip_norm=0.0, muon_learning_rate=0.0), steps)
    if config.clip_norm == 0:
        return optimizer
    clip = optax.clip_by_global_norm(config.clip_norm)
    each = optax.stateless(lambda grads, _: {name: clip.update(g, clip.init(g))[0] for name, g in grads.items()})
    return optax.chain(each, optimizer)


def pick_frames(video: jax.Array, frame: jax.Array) -> jax.Array:
    """Of each clip (b, t, h, w, c) the frame with the given index (b,): (b, h, w, c)."""
    return jnp.take_along_axis(video, frame[:, None, None, None, None], axis=1)[:, 0]


def generator_terms(
    discriminators: Discriminators, video: jax.Array, reconstruction: jax.Array, frame: jax.Array
) -> Metrics:
    """What the discriminators ask of reconstructions: minus their logits, and the distances of their features.

    Both videos are (b, t, h, w, 3) in [-1, 1]. The image discriminator sees the frame of index `frame` (b,). Real and
    reconstructed clips go through batch norm as batches of their own.
    """
    fake_image, fake_image_features = discriminators.image(pick_frames(reconstruction, frame))
    fake_video, fake_video_features = discriminators.video(reconstruction)
    _, real_image_features = discriminators.image(pick_frames(video, frame))
    _, real_video_features = discriminators.video(video)
    return {
        "adversarial": generator_loss(fake_image, fake_video),
        "feature_matching": feature_matching(fake_image_features, real_image_features)
        + feature_matching(fake_video_features, real_video_features),
    }


def discriminator_terms(
    discriminators: Discriminators, video: jax.Array, reconstruction: jax.Array, frame: jax.Array
) -> Metrics:
    """The two discriminators' hinge losses; arguments as in `generator_terms`."""
    real_image, _ = discriminators.image(pick_frames(video, frame))
    fake_image, _ = discriminators.image(pick_frames(reconstruction, frame))
    real_video, _ = discriminators.video(video)
    fake_video, _ = discriminators.video(reconstruction)
    return {"hinge_image": hinge_loss(real_image, fake_image), "hinge_video": hinge_loss(real_video, fake_video)}
