"""What the denoiser does with its inputs, on models of a few channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pvdm_jax.config import UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.triplane import Planes, PlaneShape, unpack
from pvdm_jax.models.unet import UNet, positions, step_embedding

SHAPE = PlaneShape(4, 2, 6)  # height and width differ
SMALL = dict(model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,), num_heads=2)


def make(**fields):
    """A jitted denoiser with random weights everywhere: those that start at zero would hide most of it."""
    graphdef, params = functional.split(UNet(UNetConfig(**SMALL | fields), rngs=nnx.Rngs(0)))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(structure, leaves)
    return jax.jit(lambda *args: functional.merge(graphdef, params)(*args))


def planes(seed, batch=2):
    return unpack(jax.random.normal(jax.random.key(seed), (batch, SHAPE.positions, 4)), SHAPE)


STEP = jnp.array([3, 700])


def test_context_and_label_matter_and_none_is_nothing():
    unet = make(num_classes=3)
    x, context = planes(0), planes(1)
    plain = unet(x, STEP)
    assert plain.shape == SHAPE
    nothing = jax.tree.map(jnp.zeros_like, context)
    for same in (unet(x, STEP, nothing), unet(x, STEP, None, jnp.array([-1, -1]))):
        np.testing.assert_array_equal(same.pack(), plain.pack())
    assert not np.allclose(unet(x, STEP, context).pack(), plain.pack(), atol=1e-3)
    labelled = unet(x, STEP, None, jnp.array([2, -1])).pack()
    assert not np.allclose(labelled[0], plain.pack()[0], atol=1e-3)
    np.testing.assert_allclose(labelled[1], plain.pack()[1], atol=1e-5)


def test_samples_of_a_batch_do_not_mix():
    unet = make()
    x = planes(0)
    alone = unet(jax.tree.map(lambda plane: plane[1:], x), STEP[1:])
    np.testing.assert_allclose(unet(x, STEP).pack()[1:], alone.pack(), atol=1e-5)


def test_every_plane_sees_the_others():
    unet = make()
    x = planes(0)
    plain = unet(x, STEP)
    changed = unet(unpack(x.pack().at[:, 0].add(1.0), SHAPE), STEP)  # one position of the content plane
    for name in ("yx", "tx", "ty"):
        assert np.abs(getattr(changed, name) - getattr(plain, name)).max() > 1e-4


@pytest.mark.parametrize("updown", [True, False])
def test_levels_halve_and_restore_the_planes(updown):
    unet = make(channel_mult=(1, 1), attention_resolutions=(), resblock_updown=updown, use_scale_shift_norm=False)
    assert unet(planes(0), STEP).shape == SHAPE


def test_inputs_that_the_model_lacks_are_refused():
    with pytest.raises(ValueError, match="cond_model=False"):
        make(cond_model=False)(planes(0), STEP, planes(1))
    with pytest.raises(ValueError, match="num_classes=0"):
        make()(planes(0), STEP, None, STEP)


def test_step_embedding_is_cosines_then_sines():
    found = step_embedding(jnp.array([7]), 8)[0]
    angles = [7 * 10000 ** (-i / 4) for i in range(4)]
    np.testing.assert_allclose(found, [*np.cos(angles), *np.sin(angles)], rtol=1e-5)


def test_only_an_embedding_tells_the_motion_planes_apart():
    """Exchanging equal-sized motion planes exchanges the output's, as in the official code, unless embedded."""
    shape = PlaneShape(4, 2, 2)
    x = unpack(jax.random.normal(jax.random.key(0), (2, shape.positions, 4)), shape)
    for embedded in (False, True):
        unet = make(position_embedding=embedded)
        plain, exchanged = unet(x, STEP), unet(Planes(x.yx, x.ty, x.tx), STEP)
        same = np.allclose(plain.pack(), Planes(exchanged.yx, exchanged.ty, exchanged.tx).pack(), atol=1e-4)
        assert same != embedded


def test_positions_agree_where_planes_share_an_axis():
    found = jax.tree.map(lambda plane: np.asarray(plane[0]).reshape(*plane.shape[1:3], 3, -1), positions(SHAPE))
    t, y, x = range(3)
    np.testing.assert_array_equal(found.yx[0, :, x], found.tx[0, :, x])
    np.testing.assert_array_equal(found.yx[:, 0, y], found.ty[0, :, y])
    np.testing.assert_array_equal(found.tx[:, 0, t], found.ty[:, 0, t])
    assert not found.yx[..., t, :].any() and not found.tx[..., y, :].any() and not found.ty[..., x, :].any()
    places = found.tx[:, 0, t]
    assert len({tuple(place) for place in places}) == SHAPE.frames
