"""Stage 1's adversarial losses (paper section 3.1; VQGAN's hinge loss and pix2pixHD's feature matching)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def hinge_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """A discriminator's loss by its logits of real and of reconstructed data: 0.5 * (relu(1 - real) + relu(1 + fake)),
    each averaged. The official loss is the sum of this for images and for videos."""
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)))


def generator_loss(*fake: jax.Array) -> jax.Array:
    """Minus the mean logit of reconstructed data, summed over the discriminators' logits."""
    return -sum(jnp.mean(logits) for logits in fake)


def feature_matching(fake: Sequence[jax.Array], real: Sequence[jax.Array]) -> jax.Array:
    """Sum over a discriminator's features, all but the last (its logits), of the mean absolute difference.

    No gradient flows into the real side. The official loss is the sum of this for images and for videos.
    """
    pairs = zip(fake[:-1], real[:-1], strict=True)
    return sum(jnp.mean(jnp.abs(ours - jax.lax.stop_gradient(theirs))) for ours, theirs in pairs)
