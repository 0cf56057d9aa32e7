"""Rematerialisation changes memory, not results."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conditions import condition
from flax import nnx

from pvdm_jax.config import AutoencoderConfig, ConfigError, DiTConfig, UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.denoiser import make_denoiser
from pvdm_jax.models.triplane import PlaneShape

CLIP = dict(frames=4, height=16, width=16, patch_size=4, channels=32, depth=3, num_heads=2, head_dim=8, plane_depth=2)
SMALL = dict(CLIP, mlp_ratio=2, plane_num_heads=2, plane_head_dim=8, plane_mlp_dim=32)
UNET = dict(model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,), num_heads=2)


def spread(params):
    """Parameters without the zeros that hide most of a new denoiser."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        structure, [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


def autoencoder(policy):
    graphdef, params = functional.split(Autoencoder(AutoencoderConfig(**SMALL, remat=policy), rngs=nnx.Rngs(0)))
    video = jax.random.uniform(jax.random.key(2), (2, 4, 16, 16, 3), minval=-1)
    return params, lambda params: jnp.mean(jnp.square(functional.merge(graphdef, params)(video) - video))


def unet(policy):
    return denoiser(UNetConfig(**UNET, remat=policy))


def dit(policy):
    return denoiser(DiTConfig(width=32, depth=3, num_heads=2, remat=policy))


def denoiser(config):
    model = make_denoiser(config, PlaneShape(4, 4, 4).latent_spec(4), rngs=nnx.Rngs(0))
    graphdef, params = functional.split(model)
    x = jax.random.normal(jax.random.key(2), (2, *model.spec.shape))
    time, absent = jnp.array([3, 700]), condition(model, 2)
    return spread(params), lambda params: jnp.mean(jnp.square(functional.merge(graphdef, params)(x, time, absent)))


@pytest.mark.parametrize(
    "model", [*(pytest.param(model, marks=pytest.mark.slow) for model in (autoencoder, unet)), dit]
)
def test_policies_agree_and_save_memory(model):
    made = {policy: model(policy) for policy in ("none", "dots", "blocks")}
    params, _ = made["none"]
    found = {policy: jax.device_get(jax.jit(jax.value_and_grad(loss))(params)) for policy, (_, loss) in made.items()}
    value, grads = found["none"]
    for policy in ("dots", "blocks"):
        other, others = found[policy]
        np.testing.assert_allclose(other, value, rtol=1e-6)
        # By norms, as rounding is: single elements that nearly cancel may differ by more than they are.
        scale = optax.tree.norm(grads)
        for ours, theirs in zip(jax.tree.leaves(others), jax.tree.leaves(grads), strict=True):
            assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs) + 1e-8 * scale
    saved = {policy: saved_bytes(loss, params) for policy, (_, loss) in made.items()}
    assert saved["blocks"] < saved["dots"] < saved["none"]


def saved_bytes(loss, params):
    """Bytes that the forward pass keeps for the gradient."""
    from jax._src.ad_checkpoint import saved_residuals  # what jax.ad_checkpoint.print_saved_residuals prints

    return sum(aval.size * aval.dtype.itemsize for aval, source in saved_residuals(loss, params))


def test_unknown_policies_are_refused():
    for config in (AutoencoderConfig, UNetConfig, DiTConfig):
        with pytest.raises(ConfigError, match="remat is 'all'"):
            config(remat="all")
