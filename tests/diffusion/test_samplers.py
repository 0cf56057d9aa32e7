"""Samplers against formulas: their time grids, and sampling from data whose denoiser is known."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.config import ProcessConfig
from pvdm_jax.diffusion.process import Process, at
from pvdm_jax.diffusion.samplers import time_grid
from pvdm_jax.diffusion.sampling import sample_clip, sample_video

# SHA-256 over torch.linspace(-1, 999, steps + 1).int(), reversed, for steps = 1 .. 1000, as little-endian int32
# (PyTorch 2.13.0).
OFFICIAL_GRIDS = "4e8bfcbe65737e91b68f3db83138ec3db2d6d4110db7d508cfdead4e0c3a5f33"


def test_time_grids_are_the_official_ones():
    digest = hashlib.sha256()
    for steps in range(1, 1001):
        digest.update(time_grid(1000, steps).astype("<i4").tobytes())
    assert digest.hexdigest() == OFFICIAL_GRIDS


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}"):
        time_grid(1000, steps)


@pytest.fixture(scope="module")
def process():
    return Process(ProcessConfig())


MEAN, DEVIATION = 0.1, 0.25


def gaussian_noise(process, x, step, mean=MEAN):
    """The noise that the best denoiser predicts for data N(mean, DEVIATION^2)."""
    signal, noise = at(process.signal, step, x), at(process.noise, step, x)
    return noise * (x - signal * mean) / (signal**2 * DEVIATION**2 + noise**2)


@pytest.mark.parametrize("options", [{"sampler": "ddpm"}, {"steps": 250, "eta": 0.0}, {"steps": 1000, "eta": 1.0}])
def test_samples_have_the_data_s_mean_and_deviation(process, options):
    keys = jax.random.split(jax.random.key(0), 4000)
    predict = functools.partial(gaussian_noise, process)
    samples = np.asarray(jax.jit(lambda keys: sample_clip(predict, process, keys, (1, 1), **options))(keys))
    assert abs(samples.mean() - MEAN) < 0.02
    assert abs(samples.std() - DEVIATION) < 0.02


def test_each_clip_is_given_the_one_before(process):
    """A denoiser whose data are 0.1 above their context: the clips of a video climb in steps of 0.1."""

    def denoiser(x, step, context):
        return gaussian_noise(process, x, step, context + 0.1)

    keys = jax.random.split(jax.random.key(0), 500)
    context = jnp.full((500, 1, 1), -0.5)
    options = dict(steps=50, later_steps=50, eta=0.0)
    for given, start in ((True, -0.5), (False, -0.5)):
        clips = sample_video(denoiser, lambda x: x, process, keys, context, 4, given=given, **options)
        np.testing.assert_allclose(clips.mean(axis=(1, 2, 3)), start + 0.1 * np.arange(1, 5), atol=0.04)


def test_guidance_moves_away_from_the_unconditional_prediction(process):
    """Weights (1 + w) and -w of Gaussians with means 0.2 and 0 and equal width give the mean (1 + w) 0.2."""

    def denoiser(x, step, context):
        return gaussian_noise(process, x, step, context)

    keys, context = jax.random.split(jax.random.key(0), 500), jnp.full((500, 1, 1), 0.2)
    options = dict(given=True, later_steps=100, eta=0.0)
    for weight, mean in ((None, 0.2), (0.0, 0.2), (1.5, 0.5)):
        clips = sample_video(denoiser, lambda x: x, process, keys, context, 1, guidance=weight, **options)
        assert abs(float(clips.mean()) - mean) < 0.04
