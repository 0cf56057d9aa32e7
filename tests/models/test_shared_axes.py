"""What the planes tell each other, on planes of a few channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pvdm_jax.config import UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.denoiser import make_denoiser
from pvdm_jax.models.shared_axes import SharedAxes
from pvdm_jax.models.triplane import Planes, PlaneShape

SHAPE = PlaneShape(5, 3, 4)


@pytest.fixture(scope="module")
def shared_axes():
    return jax.jit(SharedAxes(32, dtype=jnp.float32, rngs=nnx.Rngs(0)).__call__)


def random_planes(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    sizes = (SHAPE.yx, SHAPE.tx, SHAPE.ty)
    return Planes(*(jax.random.normal(key, (2, *size, 32)) for key, size in zip(keys, sizes, strict=True)))


def replace(planes, **changed):
    return Planes(**{name: changed.get(name, getattr(planes, name)) for name in ("yx", "tx", "ty")})


def told(shared_axes, planes):
    return jax.tree.map(jnp.subtract, shared_axes(planes), planes)


def test_the_order_of_what_is_pooled_does_not_matter_and_that_of_the_shared_axis_does(shared_axes):
    planes = random_planes()
    before = told(shared_axes, planes)
    frames = told(shared_axes, replace(planes, tx=planes.tx[:, ::-1]))
    columns = told(shared_axes, replace(planes, tx=planes.tx[:, :, ::-1]))
    # The content plane isn't told of frames, the other motion plane isn't told of columns.
    np.testing.assert_allclose(frames.yx, before.yx, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        frames.ty - before.ty, (frames.ty - before.ty)[:, :, :1] + jnp.zeros((1, 1, 3, 1)), atol=1e-5
    )
    np.testing.assert_allclose(columns.ty, before.ty, rtol=1e-5, atol=1e-5)
    assert np.max(np.abs(frames.ty - before.ty)) > 0.1 and np.max(np.abs(columns.yx - before.yx)) > 0.1


def test_rows_and_columns_are_treated_alike(shared_axes):
    planes = random_planes()
    turned = Planes(yx=planes.yx.swapaxes(1, 2), tx=planes.ty, ty=planes.tx)
    before, after = shared_axes(planes), shared_axes(turned)
    for found, expected in ((after.yx, before.yx.swapaxes(1, 2)), (after.tx, before.ty), (after.ty, before.tx)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_samples_do_not_mix(shared_axes):
    planes, other = random_planes(), random_planes(1)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b[1:]]), planes, other)
    for found, expected in zip(jax.tree.leaves(shared_axes(mixed)), jax.tree.leaves(shared_axes(planes)), strict=True):
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)


def test_a_unet_has_it_in_each_block():
    config = UNetConfig(model_channels=32, channel_mult=(1, 1), num_res_blocks=1, attention_resolutions=(), num_heads=2)
    spec = SHAPE.latent_spec(4)
    for asked in (False, True):
        fields = {**vars(config), "shared_axes": asked}
        model = nnx.eval_shape(lambda fields=fields: make_denoiser(UNetConfig(**fields), spec, rngs=functional.rngs(0)))
        blocks = [*model.input_blocks, model.middle_block, *model.output_blocks]
        assert [block.shared_axes is not None for block in blocks] == [asked] * len(blocks)
