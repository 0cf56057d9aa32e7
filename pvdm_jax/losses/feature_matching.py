"""Feature matching (pix2pixHD, Wang et al. 2018): reconstructions should look real to a discriminator's layers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def feature_matching(fake: Sequence[jax.Array], real: Sequence[jax.Array]) -> jax.Array:
    """The mean absolute difference of a discriminator's features, summed over all layers but the last, the logits.

    No gradient flows into the real side. The official loss is the sum of this for images and for videos.
    """
    pairs = zip(fake[:-1], real[:-1], strict=True)
    return sum(jnp.mean(jnp.abs(ours - jax.lax.stop_gradient(theirs))) for ours, theirs in pairs)
