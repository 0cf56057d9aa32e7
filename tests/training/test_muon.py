"""Muon: which leaves it takes, and that its updates are orthogonal."""

import jax
import numpy as np
import pytest

from pvdm_jax.config import AutoencoderConfig, DiTConfig, OptimizerConfig, UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, latent_spec
from pvdm_jax.models.dit import DiT
from pvdm_jax.models.unet import UNet
from pvdm_jax.training.muon import dimension_numbers
from pvdm_jax.training.optimizer import make_optimizer

KERNELS = {"blocks": {"up": {"kernel": (2, 6, 8), "bias": (2, 8)}}, "mid": {"conv": {"kernel": (3, 3, 4, 8)}}}


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    arrays = jax.tree.map(lambda shape: rng.normal(size=shape), KERNELS, is_leaf=lambda x: isinstance(x, tuple))
    return jax.tree.map(lambda x: x.astype(np.float32), arrays)


def test_hidden_kernels_are_matrices_and_the_rest_is_not(params):
    numbers = dimension_numbers(
        params | {"conv_in": params["mid"]["conv"], "colour_bias": np.zeros(3, np.float32)}, ("conv_in",)
    )
    assert numbers["blocks"]["up"]["kernel"] == ((1,), (2,))
    assert numbers["mid"]["conv"]["kernel"] == ((0, 1, 2), (3,))
    assert numbers["blocks"]["up"]["bias"] is None
    assert numbers["conv_in"]["kernel"] is None
    assert numbers["colour_bias"] is None


def test_a_first_update_is_orthogonal(params):
    """Newton-Schulz brings all singular values near 1; AdamW's signs would spread them widely."""
    optimizer = make_optimizer(OptimizerConfig(muon_learning_rate=1.0, weight_decay=0.0), 10, ())
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    for matrix in (*updates["blocks"]["up"]["kernel"], updates["mid"]["conv"]["kernel"].reshape(36, 8)):
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() / values.min() < 2


def test_an_update_has_the_size_of_adamws(params):
    """The learning rates of both are on one scale: 0.2 of the size that AdamW's first update has, its learning rate."""
    optimizer = make_optimizer(OptimizerConfig(muon_learning_rate=0.1, learning_rate=0.1, weight_decay=0.0), 10, ())
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    size = np.sqrt(np.mean(np.square(updates["mid"]["conv"]["kernel"])))
    assert size == pytest.approx(0.02, rel=0.3)


def test_equal_kernels_are_updated_one_by_one(params):
    """Stacked with others of its shape, a kernel takes the steps that it takes alone."""
    rng = np.random.default_rng(1)
    twin = {"kernel": rng.normal(size=(3, 3, 4, 8)).astype(np.float32)}
    optimizer = make_optimizer(OptimizerConfig(muon_learning_rate=0.1), 10, ())

    def two_steps(tree):
        state = optimizer.init(tree)
        for _ in range(2):
            updates, state = optimizer.update(jax.tree.map(lambda x: 0.5 * x, tree), state, tree)
            tree = jax.tree.map(lambda x, y: x + y, tree, updates)
        return tree

    alone, other = two_steps(params), two_steps({"twin": twin})
    together = two_steps(params | {"twin": twin})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), together, alone | other)


def test_a_model_must_say_what_it_excludes(params):
    with pytest.raises(ValueError, match="Muon needs not_matrices"):
        make_optimizer(OptimizerConfig(muon_learning_rate=0.1), 10)
    with pytest.raises(ValueError, match="not_matrices names mid; there is no such layer with a kernel"):
        dimension_numbers(params, ("blocks/up", "mid"))


UNET = UNetConfig(model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,), num_heads=1)
DIT = DiTConfig(width=64, depth=2, num_heads=2)
CLIP = AutoencoderConfig(frames=4, height=16, width=16, patch_size=4, channels=32, depth=1, plane_depth=1)


@pytest.mark.parametrize(("model", "config"), [(UNet, UNET), (DiT, DIT), (Autoencoder, CLIP)])
def test_it_takes_every_hidden_layer_of_a_model(model, config):
    """All kernels but those that read or write pixels or latents."""
    spec = () if model is Autoencoder else (latent_spec(CLIP),)
    _, params = functional.abstract(lambda: model(config, *spec, rngs=functional.rngs(0)))
    leaves = functional.flatten(params)
    kernels = {name: leaf.shape for name, leaf in leaves.items() if name.endswith("kernel")}
    outside = {3 * CLIP.patch_size**2, config.latent_channels, 2 * config.latent_channels}
    ends = {name for name, shape in kernels.items() if outside & set(shape[-2:])}
    numbers = jax.tree.structure(params).flatten_up_to(dimension_numbers(params, model.NOT_MATRICES))
    axes = dict(zip(leaves, numbers, strict=True))
    assert ends and {name for name in axes if axes[name] is not None} == kernels.keys() - ends
