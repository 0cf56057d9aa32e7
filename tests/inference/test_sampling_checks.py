"""What a model refuses to sample, from Python as from a command, and that no setting of JAX changes a video."""

import jax
import numpy as np
import pytest
from tiny_model import FRAMES, formula_model

from pvdm_jax.config import ConfigError
from pvdm_jax.runtime.keys import GENERATOR, make_key

KEY = make_key(3)


@pytest.fixture(scope="module")
def unconditional():
    return formula_model(previous_clip=False, num_classes=0)


@pytest.fixture(scope="module")
def model():
    return formula_model()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 1.5}, "guidance is 1.5; this model's denoiser takes no previous clip"),
        ({"class_guidance": np.float32(2)}, "class_guidance is 2.0; the model was trained without classes"),
        ({"num_frames": FRAMES + 1}, "continuing a clip needs a denoiser that takes the previous clip"),
    ],
)
def test_what_this_model_can_not_sample(unconditional, options, message):
    with pytest.raises(ConfigError, match=message):
        unconditional.sample(KEY, 1, **options)
    if "num_frames" not in options:
        with pytest.raises(ConfigError, match=message):
            unconditional.calls(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": float("inf")}, "sample.guidance is inf"),
        ({"guidance": float("nan")}, "sample.guidance is nan"),
        ({"later_prior_guidance": -0.5}, "sample.later_prior_guidance is -0.5; 0 or more, or -1 for the same"),
        ({"prior_guidance": 1.0}, "sample.prior_guidance is 1.0; 0, as it needs latents.normalize=True"),
        ({"guidance": "1"}, "sample.guidance is '1'; float is needed"),
        ({"steps": 2.5}, "sample.steps is 2.5; int is needed"),
        ({"step": 2}, "sample.step is 2; there is no such field"),
        ({"num_frames": 2.5}, "num_frames is 2.5"),
        ({"num_frames": 2**31}, "num_frames is 2147483648"),
        ({"labels": [0.5]}, r"labels are \[0.5\]"),
        ({"labels": [2**40]}, "labels are"),
        ({"labels": ["a"]}, "labels are"),
        ({"indices": [0.0]}, "indices are"),
        ({"indices": 0}, "indices are"),
    ],
)
def test_values_that_mean_nothing(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.sample(KEY, **{"num_videos": 1} | options)
    assert model.sample(KEY, np.int64(1), guidance=np.float64(0.5), steps=np.int32(2)).shape[0] == 1


def test_interpolation_and_extension_say_what_they_need(unconditional):
    clip = np.zeros((1, FRAMES, 16, 16, 3), np.uint8)
    with pytest.raises(ConfigError, match="denoiser.next_clip is False"):
        unconditional.interpolate(clip, clip, KEY)
    with pytest.raises(ConfigError, match="continuing a clip"):
        unconditional.extend(clip, 2, KEY)


@pytest.mark.parametrize("setting", ["rbg", "unsafe_rbg"])
def test_the_generator_of_keys_does_not_depend_on_the_environment(model, setting):
    """Under another generator, the second video of a batch was not the one that is made alone."""
    expected = model.sample(KEY, 2)
    before = jax.config.jax_default_prng_impl
    jax.config.update("jax_default_prng_impl", setting)
    try:
        assert str(jax.random.key_impl(make_key(3))) == GENERATOR
        np.testing.assert_array_equal(model.sample(make_key(3), 2), expected)
        own = jax.random.key(5)  # a caller's key of that generator
        both = model.sample(own, 2)
        alone = model.sample(own, 1, indices=[1])
    finally:
        jax.config.update("jax_default_prng_impl", before)
    difference = np.abs(both[1].astype(int) - alone[0])
    assert difference.max() <= 1 and (both[0] != both[1]).any()


def test_keys_of_the_old_kind_and_what_is_no_key(model):
    np.testing.assert_array_equal(model.sample(jax.random.PRNGKey(3), 1), model.sample(KEY, 1))
    for key in (3, np.zeros(2, np.uint32), jax.random.split(KEY, 2)):
        with pytest.raises(ValueError, match="key"):
            model.sample(key, 1)


def test_64_bits_change_nothing():
    expected = formula_model().sample(KEY, 2, 2 * FRAMES)
    with jax.enable_x64(True):
        model = formula_model()
        assert model.model.absent(2).previous.latents.dtype == np.float32
        found = model.sample(make_key(3), 2, 2 * FRAMES)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("seed", [-1, 2**32, -(2**32), 2**63, 1.0, "1", True])
def test_seeds_have_32_bits(seed):
    with pytest.raises(ConfigError, match="seed is"):
        make_key(seed)
    assert make_key(2**32 - 1) != make_key(0)
