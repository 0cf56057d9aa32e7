"""A denoiser with an expert: which of its networks answers, and that each learns from its own clips alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditions import condition
from flax import nnx
from tiny_config import CONFIG

from pvdm_jax.config import Config, ConfigError, MeshConfig, UNetConfig
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import latent_spec
from pvdm_jax.models.denoiser import denoiser_class, make_denoiser
from pvdm_jax.models.experts import EXPERT, REST
from pvdm_jax.models.triplane import PlaneShape
from pvdm_jax.runtime.sharding import make_mesh
from pvdm_jax.training.diffusion import DiffusionStage

SPEC = PlaneShape(4, 2, 6).latent_spec(4)
LAST = CONFIG.process.num_steps - 1
UNET = UNetConfig(model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), num_heads=1)


@pytest.fixture(scope="module")
def stage():
    denoiser = dataclasses.replace(CONFIG.denoiser, expert_from=LAST)
    training = dataclasses.replace(CONFIG.train_diffusion, context_last_time=0.0, expert_share=0.5)
    config = dataclasses.replace(CONFIG, denoiser=denoiser, train_diffusion=training)
    return DiffusionStage(config, make_mesh(MeshConfig(), jax.devices()[:1]))


def windows(count, has_previous):
    shape = (count, *latent_spec(CONFIG.autoencoder).shape)
    clip, previous = jax.random.normal(jax.random.key(3), (2, *shape))
    return LatentBatch(clip, previous, jnp.full(count, has_previous), jnp.zeros(count, jnp.int32))


def test_each_sample_is_answered_by_the_network_of_its_time():
    model = make_denoiser(dataclasses.replace(UNET, expert_from=LAST), SPEC, rngs=nnx.Rngs(0))
    for part in (model.expert, model.rest):  # they begin as 0
        part.conv_out.kernel[...] = jax.random.normal(jax.random.key(1), part.conv_out.kernel.shape)
    x = jax.random.normal(jax.random.key(0), (4, *SPEC.shape))
    shown = condition(model.rest, 4, previous=-x).keep(previous=jnp.array([True, True, False, False]))
    mixed = jnp.array([LAST, LAST - 1, LAST, 0])
    call = nnx.jit(lambda network, *inputs: network(*inputs))
    expert, rest = call(model.expert, x, mixed, shown), call(model.rest, x, mixed, shown)
    assert float(jnp.abs(expert - rest).min(axis=(1, 2)).max()) > 0
    wanted = np.concatenate([expert[:1], rest[1:]])
    np.testing.assert_allclose(call(model, x, mixed, shown), wanted, atol=1e-5)
    for time, previous, network in ((LAST, True, model.expert), (LAST, False, model.rest), (3, True, model.rest)):
        inputs = x, jnp.full(4, time), condition(model.rest, 4, previous=-x).keep(previous=previous)
        np.testing.assert_allclose(call(model, *inputs), call(network, *inputs), atol=1e-5)


def test_layers_of_both_networks_are_named():
    config = dataclasses.replace(UNET, expert_from=LAST)
    kind = denoiser_class(config)
    assert kind is denoiser_class(config)  # one class: jit compares graph definitions
    layers = functional.split(make_denoiser(config, SPEC, rngs=nnx.Rngs(0)))[1]
    for path in (*kind.NOT_MATRICES, *kind.BLOCKS):
        network, name = path.split("/")
        assert name in layers[network]


def test_no_weight_learns_from_both_losses(stage):
    """The rest learns what it would learn alone, the expert from clips with a previous one."""
    params = stage.init(jax.random.key(0)).params
    alone = DiffusionStage(
        dataclasses.replace(CONFIG, train_diffusion=stage.config, denoiser=CONFIG.denoiser), stage.mesh
    )
    key, batch = jax.random.key(5), windows(4, True)
    grads, metrics = jax.jit(jax.grad(stage.loss, has_aux=True))(params, batch, key)
    wanted, known = jax.jit(jax.grad(alone.loss, has_aux=True))(params[REST], batch, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5), grads[REST], wanted)
    assert float(metrics["loss"]) == pytest.approx(float(known["loss"]), rel=1e-5) and metrics["expert_loss"] > 0.1
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads[EXPERT]))


def test_without_previous_clips_the_expert_has_nothing_to_learn(stage):
    params = stage.init(jax.random.key(0)).params
    loss, grads = jax.jit(jax.value_and_grad(stage.expert_loss))(params, windows(4, False), jax.random.key(5))
    assert float(loss) == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"denoiser": UNetConfig(expert_from=1000)}, "denoiser.expert_from is 1000"),
        (
            {
                "denoiser": UNetConfig(expert_from=999),
                "train_diffusion": dataclasses.replace(CONFIG.train_diffusion, context_last_time=0.5),
            },
            "train_diffusion.context_last_time is 0.5",
        ),
    ],
)
def test_settings_that_contradict_each_other(fields, text):
    with pytest.raises(ConfigError, match=text):
        Config(**fields)


def test_an_expert_needs_a_neighbour():
    with pytest.raises(ConfigError, match="denoiser.expert_from is 999"):
        UNetConfig(previous_clip=False, expert_from=999)
