"""Dense layers along the planes' axes, on planes of a few channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pvdm_jax.config import UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.axis_mixing import AxisMixing
from pvdm_jax.models.denoiser import make_denoiser
from pvdm_jax.models.triplane import PlaneShape, unpack

SHAPE = PlaneShape(5, 3, 4)
FEATURES = 32
NAMES = ("yx", "tx", "ty")


def make(random_output):
    mixing = AxisMixing(FEATURES, SHAPE, dtype=jnp.float32, rngs=nnx.Rngs(0))
    if random_output:
        for name in NAMES:
            for number, perceptron in enumerate(getattr(mixing, name)):
                kernel = perceptron.write.kernel
                kernel[...] = jax.random.normal(jax.random.key(number), kernel.shape)
    return jax.jit(mixing.__call__)


def random_planes():
    return unpack(jax.random.normal(jax.random.key(3), (2, SHAPE.positions, FEATURES)), SHAPE)


def test_it_begins_as_the_identity():
    planes = random_planes()
    for found, given in zip(jax.tree.leaves(make(False)(planes)), jax.tree.leaves(planes), strict=True):
        np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("name", NAMES)
def test_a_position_is_told_of_its_row_and_column_alone(name):
    mix, planes = make(True), random_planes()

    def changed(planes):
        # Two positions exchange their values: the statistics of the group norm stay as they are.
        plane = getattr(planes, name)
        exchanged = plane.at[0, 2, 1].set(plane[0, 0, 2]).at[0, 0, 2].set(plane[0, 2, 1])
        return type(planes)(**{**vars(planes), name: exchanged})

    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(-1), mix(changed(planes)), mix(planes))
    for other in NAMES:
        found = np.array(getattr(difference, other)) > 1e-4
        expected = np.zeros_like(found)
        if other == name:
            expected[0, [0, 2]] = True
            expected[0][:, [1, 2]] = True
        np.testing.assert_array_equal(found, expected)


def test_a_unet_has_it_in_its_first_and_last_block():
    fields = {"model_channels": 32, "channel_mult": (1, 1), "num_res_blocks": 1, "num_heads": 2}
    spec = PlaneShape(4, 2, 6).latent_spec(4)
    for asked in (False, True):
        config = UNetConfig(**fields, axis_mixing=asked)
        model = nnx.eval_shape(lambda config=config: make_denoiser(config, spec, rngs=functional.rngs(0)))
        blocks = [*model.input_blocks, model.middle_block, *model.output_blocks]
        assert [block.mixing is not None for block in blocks] == [asked, *[False] * (len(blocks) - 2), asked]
