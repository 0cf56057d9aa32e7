"""What denoisers do with their inputs, on models of a few channels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditions import condition
from flax import nnx

from pvdm_jax.config import ConfigError, DenoiserConfig, DiTConfig, UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.denoiser import DENOISERS, make_denoiser
from pvdm_jax.models.embeddings import position_features, time_embedding
from pvdm_jax.models.triplane import PlaneShape, unpack

SHAPE = PlaneShape(4, 2, 6)  # height and width differ
SPEC = SHAPE.latent_spec(4)
UNET = UNetConfig(model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,), num_heads=2)
DIT = DiTConfig(width=32, depth=2, num_heads=2)
EVERY = [
    pytest.param(UNET, id="unet"),
    pytest.param(
        dataclasses.replace(UNET, shared_axes=True, axis_mixing=True, attention_across=False, position_embedding=True),
        id="unet-axes",
    ),
    pytest.param(DIT, id="dit-channels"),
    pytest.param(DiTConfig(width=32, depth=2, num_heads=2, context="tokens"), id="dit-tokens"),
]
TIME = jnp.array([3, 700])


class Jitted:
    """A denoiser with random weights everywhere: those that start at zero would hide most of it."""

    def __init__(self, config, spec=SPEC):
        model = make_denoiser(config, spec, rngs=nnx.Rngs(0))
        self.config, self.spec = config, spec
        graphdef, params = functional.split(model)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
        self.params = jax.tree.unflatten(structure, leaves)
        self._call = jax.jit(lambda params, *args: functional.merge(graphdef, params)(*args))

    def __call__(self, x, time, **parts):
        return self._call(self.params, x, time, condition(self, len(x), **parts))


def with_fields(config, **fields):
    return dataclasses.replace(config, **fields)


def tokens(seed, spec=SPEC, batch=2):
    return jax.random.normal(jax.random.key(seed), (batch, *spec.shape))


def test_every_row_of_the_table_is_tried():
    assert {config.values[0].name for config in EVERY} == set(DENOISERS)
    for name, (config, _) in DENOISERS.items():
        assert config is DenoiserConfig.kind(name)


@pytest.mark.parametrize("config", EVERY)
def test_conditions_matter_and_absent_ones_do_not(config):
    denoiser = Jitted(with_fields(config, num_classes=3, next_clip=True))
    x, other = tokens(0), tokens(1)
    plain = denoiser(x, TIME)
    assert plain.shape == x.shape and plain.dtype == jnp.float32
    # What is in the place of an absent neighbour makes no difference.
    hidden = condition(denoiser, 2, previous=other, next=other).without("previous", "next")
    np.testing.assert_array_equal(denoiser._call(denoiser.params, x, TIME, hidden), plain)
    previous, following = denoiser(x, TIME, previous=other), denoiser(x, TIME, next=other)
    for changed in (previous, following):
        assert not np.allclose(changed, plain, atol=1e-3)
    assert not np.allclose(previous, following, atol=1e-3)
    labelled = denoiser(x, TIME, label=[2, -1])
    assert not np.allclose(labelled[0], plain[0], atol=1e-3)
    np.testing.assert_allclose(labelled[1], plain[1], atol=1e-5)
    assert not np.allclose(denoiser(x, TIME + 100), plain, atol=1e-3)


@pytest.mark.parametrize("config", EVERY)
def test_samples_of_a_batch_do_not_mix(config):
    denoiser, x = Jitted(config), tokens(0)
    np.testing.assert_allclose(denoiser(x, TIME)[1:], denoiser(x[1:], TIME[1:]), atol=1e-5)


@pytest.mark.parametrize("config", EVERY)
def test_every_segment_sees_the_others(config):
    denoiser, x = Jitted(config), tokens(0)
    change = np.abs(denoiser(x.at[:, 0].add(1.0), TIME) - denoiser(x, TIME))  # one position of the content plane
    for segment in SPEC.segments.values():
        assert change[:, segment].max() > 1e-4


@pytest.mark.parametrize("config", EVERY)
def test_conditions_that_a_model_lacks_are_refused(config):
    with pytest.raises(ValueError, match="takes none"):
        Jitted(with_fields(config, previous_clip=False))(tokens(0), TIME, previous=tokens(1))
    with pytest.raises(ValueError, match="num_classes=0"):
        Jitted(config)(tokens(0), TIME, label=[0, 0])
    with pytest.raises(ConfigError, match="next_clip is True; it needs denoiser.previous_clip"):
        with_fields(config, previous_clip=False, next_clip=True)


@pytest.mark.parametrize("updown", [True, False])
def test_levels_of_a_unet_halve_and_restore_the_planes(updown):
    fields = dict(channel_mult=(1, 1), attention_resolutions=(), resblock_updown=updown, use_scale_shift_norm=False)
    assert Jitted(with_fields(UNET, **fields))(tokens(0), TIME).shape == (2, *SPEC.shape)


def test_a_dit_begins_as_the_identity_of_its_blocks():
    """adaLN-zero: the gates, and the last layer, start at zero."""
    model = make_denoiser(DIT, SPEC, rngs=nnx.Rngs(0))
    assert not np.asarray(model.blocks.modulation.kernel[...]).any()
    assert not np.asarray(model(tokens(0), TIME, condition(model, 2))).any()


@pytest.mark.parametrize("name, millions", [("dit-l", 528.3), ("dit-s", 132.2)])
def test_paper_sizes_have_the_parameters_of_the_papers(name, millions):
    from pvdm_jax.config.loading import load_settings
    from pvdm_jax.models.autoencoder import latent_spec

    config = load_settings(f"ucf101:{name}")
    spec = latent_spec(config.autoencoder)
    _, params = functional.abstract(lambda: make_denoiser(config.denoiser, spec, rngs=functional.rngs(0)))
    assert functional.count(params) / 1e6 == pytest.approx(millions, rel=0.03)


def test_time_embedding_is_cosines_then_sines():
    found = time_embedding(jnp.array([7]), 8)[0]
    angles = [7 * 10000 ** (-i / 4) for i in range(4)]
    np.testing.assert_allclose(found, [*np.cos(angles), *np.sin(angles)], rtol=1e-5)


@pytest.mark.parametrize("config", [*EVERY, pytest.param(with_fields(UNET, position_embedding=True), id="positions")])
def test_only_a_network_that_knows_positions_tells_the_motion_planes_apart(config):
    """Exchanging equal-sized motion planes exchanges the output's, as in the official code, unless it knows them."""
    spec = PlaneShape(4, 2, 2).latent_spec(4)
    denoiser, x, order = Jitted(config, spec), tokens(0, spec), spec.exchange()
    same = np.allclose(denoiser(x, TIME), denoiser(x[:, order], TIME)[:, order], atol=1e-4)
    assert same != config.knows_positions


def test_positions_agree_where_planes_share_an_axis():
    found = unpack(position_features(SPEC)[None], SHAPE)
    found = jax.tree.map(lambda plane: np.asarray(plane[0]).reshape(*plane.shape[1:3], 3, -1), found)
    t, y, x = range(3)
    np.testing.assert_array_equal(found.yx[0, :, x], found.tx[0, :, x])
    np.testing.assert_array_equal(found.yx[:, 0, y], found.ty[0, :, y])
    np.testing.assert_array_equal(found.tx[:, 0, t], found.ty[:, 0, t])
    assert not found.yx[..., t, :].any() and not found.tx[..., y, :].any() and not found.ty[..., x, :].any()
    places = found.tx[:, 0, t]
    assert len({tuple(place) for place in places}) == SHAPE.frames
