"""A denoiser with an expert: which of its networks answers, and that each learns by itself, as if it were alone."""

import dataclasses
import functools

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
from pvdm_jax.training.optimizer import init_state, make_optimizer

SPEC = PlaneShape(4, 2, 6).latent_spec(4)
LAST = CONFIG.process.num_steps - 1
UNET = UNetConfig(model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), num_heads=1)


@pytest.fixture(scope="module")
def stage():
    denoiser = dataclasses.replace(CONFIG.denoiser, expert_from=LAST)
    training = dataclasses.replace(CONFIG.train_diffusion, steps=3, expert_every=3)
    config = dataclasses.replace(CONFIG, denoiser=denoiser, train_diffusion=training)
    return DiffusionStage(config, make_mesh(MeshConfig(), jax.devices()[:1]))


def same(tree, wanted):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6), tree, wanted
    )


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


def test_the_networks_take_turns(stage):
    """An update changes one of them, and the rest learns what it would learn alone, by its own number of updates."""
    training = dataclasses.replace(stage.config, steps=2)  # the rest of these three updates
    config = dataclasses.replace(CONFIG, train_diffusion=training)
    alone, key, batch = DiffusionStage(config, stage.mesh), jax.random.key(5), windows(4, True)
    (both,) = set(stage.steps.values())  # one program
    step, alone_step = jax.jit(both), jax.jit(alone.step)

    state = stage.init(jax.random.key(0))
    assert [stage.step_name(number) for number in (1, 2, 3, 4, 6)] == [
        *("denoiser", "denoiser", "expert", "denoiser", "expert")
    ]
    wanted = init_state(state.params[REST], make_optimizer(training.optimizer, 2, stage.not_matrices))
    first = state
    for number in (1, 2, 3):
        before = state
        part, put_back = stage.split(stage.step_name(number), state)
        state, metrics = put_back(*step(part, batch, jax.random.fold_in(key, number), stage.constants))
        untouched = REST if number == 3 else EXPERT
        same(state.params[untouched], before.params[untouched])
        same(state.ema[untouched], before.ema[untouched])
        assert set(metrics) == ({"expert_loss"} if number == 3 else {"loss"})
        if number < 3:
            wanted, _ = alone_step(wanted, batch, jax.random.fold_in(key, number), alone.constants)
    assert int(state.step) == 3 and int(state.skipped) == 0
    same(state.params[REST], wanted.params)
    same(state.ema[REST], wanted.ema)
    for part in (EXPERT, REST):
        changes = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params[part], first.params[part])
        assert max(jax.tree.leaves(changes)) > 0


def test_without_previous_clips_the_expert_has_nothing_to_learn(stage):
    params = stage.init(jax.random.key(0)).params[EXPERT]
    gradient = jax.jit(jax.value_and_grad(functools.partial(stage.losses.loss, expert=jnp.bool_(True)), has_aux=True))
    (loss, _), grads = gradient(params, windows(4, False), jax.random.key(5))
    assert float(loss) == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
    (loss, _), grads = gradient(params, windows(4, True), jax.random.key(5))
    assert float(loss) > 0.1 and any(np.any(leaf) for leaf in jax.tree.leaves(grads))


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
