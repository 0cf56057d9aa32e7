"""The autoencoder's loss in the adversarial phase: reconstruction, adversarial and feature matching losses.

With `adaptive`, the weights of the last two are relative: the norms of their gradients with respect to the pixels are
`weight` and `feature_weight` times the norm of the reconstruction loss's gradient.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from pvdm_jax.config import AutoencoderTrainingConfig
from pvdm_jax.losses.adversarial import generator_terms
from pvdm_jax.losses.lpips import LPIPS
from pvdm_jax.losses.reconstruction import reconstruction_loss
from pvdm_jax.models.discriminators import Discriminators

SMALLEST_NORM = 1e-8  # the smallest gradient norm that adaptive weights are divided by


def generator_loss(
    config: AutoencoderTrainingConfig,
    discriminators: Discriminators,
    reconstruction: jax.Array,
    batch: Mapping[str, jax.Array],
    perceptual: LPIPS | None = None,
    strength: jax.Array | float = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A value whose gradient with respect to `reconstruction` is the loss's, and the metrics.

    Arguments as in `reconstruction_loss`. strength: factor of the adversarial and the feature matching weight, 0 to 1.
    With `adaptive` weights the value itself is not the loss; metrics["loss"] always is.
    """
    adversarial_config = config.adversarial
    weight = adversarial_config.weight * strength
    feature_weight = adversarial_config.feature_weight * strength

    def terms(x):
        found = generator_terms(discriminators, batch["video"], x, batch["frame"])
        return found["adversarial"], found["feature_matching"]

    if not adversarial_config.adaptive:
        loss, metrics = reconstruction_loss(config, reconstruction, batch, perceptual)
        adversarial, matching = terms(reconstruction)
        loss = value = loss + weight * adversarial + feature_weight * matching
    else:
        # One gradient in the pixels for each loss.
        x = jax.lax.stop_gradient(reconstruction)
        gradient = jax.value_and_grad(lambda x: reconstruction_loss(config, x, batch, perceptual), has_aux=True)
        (loss, metrics), towards_clip = gradient(x)
        (adversarial, matching), pull = jax.vjp(terms, x)
        one, zero = jnp.ones_like(adversarial), jnp.zeros_like(adversarial)
        towards_real = pull((one, zero))[0]
        towards_features = pull((zero, one))[0]
        # The weights that make the norms relative.
        norm = optax.tree.norm(towards_clip)
        weight *= norm / jnp.maximum(optax.tree.norm(towards_real), SMALLEST_NORM)
        feature_weight *= norm / jnp.maximum(optax.tree.norm(towards_features), SMALLEST_NORM)
        loss += weight * adversarial + feature_weight * matching
        # A value whose gradient in the pixels is the weighted sum of the three.
        pixels = towards_clip + weight * towards_real + feature_weight * towards_features
        value = jnp.sum(jax.lax.stop_gradient(pixels) * reconstruction)
    metrics |= {
        "loss": loss,
        "adversarial": adversarial,
        "feature_matching": matching,
        "adversarial_weight": jnp.asarray(weight),
        "feature_weight": jnp.asarray(feature_weight),
    }
    return value, metrics
