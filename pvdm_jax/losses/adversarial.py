"""The adversarial losses of the autoencoder and of the discriminators.

The discriminators learn by VQGAN's hinge loss (Esser et al. 2021). The autoencoder's loss is minus their logits.
Feature matching uses the same calls of the discriminators.
"""

import jax
import jax.numpy as jnp

from pvdm_jax.losses.feature_matching import feature_matching
from pvdm_jax.losses.frames import pick_frames
from pvdm_jax.models.discriminators import Discriminators


def hinge_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """A discriminator's loss from its logits: 0.5 * (relu(1 - real) + relu(1 + fake)), each averaged.

    The official loss is the sum of this for images and for videos.
    """
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)))


def adversarial_loss(*fake: jax.Array) -> jax.Array:
    """The autoencoder's loss from the discriminators' logits of reconstructions: minus their means, summed."""
    return -sum(jnp.mean(logits) for logits in fake)


def generator_terms(
    discriminators: Discriminators, video: jax.Array, reconstruction: jax.Array, frame: jax.Array
) -> dict[str, jax.Array]:
    """The autoencoder's "adversarial" and "feature_matching" losses, as scalars.

    Both videos are (b, t, h, w, 3) in [-1, 1]. The image discriminator sees the frame with index `frame` (b,). Real and
    reconstructed clips go through batch norm as separate batches.
    """
    fake_image, fake_image_features = discriminators.image(pick_frames(reconstruction, frame))
    fake_video, fake_video_features = discriminators.video(reconstruction)
    _, real_image_features = discriminators.image(pick_frames(video, frame))
    _, real_video_features = discriminators.video(video)
    return {
        "adversarial": adversarial_loss(fake_image, fake_video),
        "feature_matching": feature_matching(fake_image_features, real_image_features)
        + feature_matching(fake_video_features, real_video_features),
    }


def discriminator_terms(
    discriminators: Discriminators, video: jax.Array, reconstruction: jax.Array, frame: jax.Array
) -> dict[str, jax.Array]:
    """The two discriminators' hinge losses; arguments as in `generator_terms`."""
    real_image, _ = discriminators.image(pick_frames(video, frame))
    fake_image, _ = discriminators.image(pick_frames(reconstruction, frame))
    real_video, _ = discriminators.video(video)
    fake_video, _ = discriminators.video(reconstruction)
    return {"hinge_image": hinge_loss(real_image, fake_image), "hinge_video": hinge_loss(real_video, fake_video)}
