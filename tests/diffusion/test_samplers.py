"""Samplers against formulas: their time grids, and sampling from data whose denoiser is known."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.config import ProcessConfig
from pvdm_jax.config.diffusion import GRIDS, PREDICTIONS, SAMPLERS
from pvdm_jax.diffusion import grids, samplers
from pvdm_jax.diffusion.grids import time_grid
from pvdm_jax.diffusion.guidance import guide
from pvdm_jax.diffusion.predictions import normal_answer, target
from pvdm_jax.diffusion.process import Process, at
from pvdm_jax.diffusion.sampling import sample_clip, sample_video

# SHA-256 over torch.linspace(-1, 999, steps + 1).int(), reversed, for steps = 1 .. 1000, as little-endian int32
# (PyTorch 2.13.0).
OFFICIAL_GRIDS = "4e8bfcbe65737e91b68f3db83138ec3db2d6d4110db7d508cfdead4e0c3a5f33"


@pytest.fixture(scope="module")
def process():
    return Process(ProcessConfig())


def test_time_grids_are_the_official_ones(process):
    digest = hashlib.sha256()
    for steps in range(1, 1001):
        digest.update(time_grid(process, steps).astype("<i4").tobytes())
    assert digest.hexdigest() == OFFICIAL_GRIDS


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(process, steps):
    with pytest.raises(ValueError, match=f"steps is {steps}"):
        time_grid(process, steps)


def test_an_unknown_grid_is_refused(process):
    with pytest.raises(ValueError, match="grid is 'karras'; choose one of uniform, trailing"):
        time_grid(process, 10, "karras")


@pytest.mark.parametrize("prediction", ["eps", "flow"])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_falls_from_noise_to_data(grid, prediction):
    process = Process(ProcessConfig(prediction=prediction))
    for steps in (1, 2, 3, 17, 50, 333, 999, 1000):
        times = time_grid(process, steps, grid)
        assert (len(times), times[0], times[-1]) == (steps + 1, 999, -1)
        assert np.all(np.diff(times) < 0)
        if grid in ("logsnr", "quadratic") and steps > 1:
            assert times[-2] == 0


def test_grids_are_evenly_spaced_in_what_their_names_say(process):
    half_log_snr = process.log_snr(time_grid(process, 12, "logsnr")[:-1])
    np.testing.assert_allclose(np.diff(half_log_snr), np.diff(half_log_snr).mean(), atol=0.2)
    roots = np.sqrt(time_grid(process, 12, "quadratic")[:-1])
    np.testing.assert_allclose(np.diff(roots), np.diff(roots).mean(), atol=0.4)
    assert time_grid(process, 3, "trailing").tolist() == [999, 666, 332, -1]


def test_every_name_of_the_configuration_has_a_row():
    assert tuple(samplers.SAMPLERS) == SAMPLERS and tuple(grids.GRIDS) == GRIDS


def test_heun_calls_twice_but_for_the_last_step(process):
    for name in SAMPLERS:
        rows = samplers.SAMPLERS[name].plan(process, np.array([999, 600, 200, -1]))
        assert len(rows["t"]) == 2 * samplers.SAMPLERS[name].calls_per_step + 1
    assert samplers.SAMPLERS["heun"].plan(process, np.array([999, 600, 200, -1]))["t"].tolist() == [
        *(999, 600, 600, 200, 200)
    ]


MEAN, DEVIATION = 0.1, 0.25


def gaussian_prediction(process, x, step, mean=MEAN):
    """What the best denoiser predicts for data N(mean, DEVIATION^2), in the process's own terms."""
    steps = jnp.broadcast_to(step, x.shape[:1])
    signal, noise = at(process.signal, steps, x), at(process.noise, steps, x)
    deviation = (x - signal * mean) / (signal**2 * DEVIATION**2 + noise**2)
    # The prediction is linear in (x_0, noise), so its mean is that of their means.
    return target(process, mean + signal * DEVIATION**2 * deviation, steps, noise * deviation)


CASES = [
    *({"sampler": "ddpm"}, {"steps": 250}, {"steps": 1000, "eta": 1.0}),
    *({"sampler": "dpmpp", "steps": 25, "grid": "logsnr"}, {"sampler": "heun", "steps": 25, "grid": "quadratic"}),
    *({"sampler": "dpmpp_sde", "steps": 100, "grid": "logsnr"}, {"sampler": "euler", "steps": 250}),
]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("options", CASES)
def test_samples_have_the_data_s_mean_and_deviation(process, options, clip):
    keys = jax.random.split(jax.random.key(0), 4000)
    predict = functools.partial(gaussian_prediction, process)
    draw = jax.jit(
        lambda keys: sample_clip(predict, process, keys, (1, 1), bounds=(-1.0, 1.0) if clip else None, **options)
    )
    samples = np.asarray(draw(keys))
    assert abs(samples.mean() - MEAN) < 0.02
    assert abs(samples.std() - DEVIATION) < 0.02


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_prediction_samples_the_same_data(sampler, prediction):
    process = Process(ProcessConfig(prediction=prediction))
    keys = jax.random.split(jax.random.key(0), 4000)
    predict = functools.partial(gaussian_prediction, process)
    samples = np.asarray(sample_clip(predict, process, keys, (1, 1), sampler=sampler, steps=100, grid="logsnr"))
    assert abs(samples.mean() - MEAN) < 0.02
    assert abs(samples.std() - DEVIATION) < 0.02


def test_clipping_keeps_samples_in_range(process):
    """A denoiser that predicts data at 3: with clipping, the samples end at 1."""
    keys = jax.random.split(jax.random.key(0), 4)
    predict = functools.partial(gaussian_prediction, process, mean=3.0)
    for sampler in SAMPLERS:
        options = dict(sampler=sampler, steps=20)
        clipped = sample_clip(predict, process, keys, (1, 1), **options)
        free = sample_clip(predict, process, keys, (1, 1), bounds=None, **options)
        assert float(jnp.abs(clipped).max()) <= 1 + 1e-6, sampler
        assert float(free.min()) > 1.5, sampler


def test_the_trace_ends_with_the_sample(process):
    keys = jax.random.split(jax.random.key(0), 3)
    predict = functools.partial(gaussian_prediction, process)
    found, estimates, steps = sample_clip(predict, process, keys, (2, 1), steps=5, trace=True)
    assert estimates.shape == (5, 3, 2, 1)
    assert steps.tolist() == time_grid(process, 5)[:-1].tolist()
    np.testing.assert_allclose(estimates[-1], found, atol=1e-6)


def videos(denoiser, process, keys, context, num_clips, *, given, number=0, weight=None, **options):
    """Clips whose latents are kept as they are."""

    def sample(keys, context, later):
        predict = guide(denoiser, context, [] if weight is None else [(weight, jnp.zeros_like(context))])
        return sample_clip(predict, process, keys, context.shape[1:], **options)

    return sample_video(sample, lambda x, later: (x, x), keys, context, num_clips, given=given, number=number)


def test_each_clip_is_given_the_one_before(process):
    """A denoiser whose data are 0.1 above their context: the clips of a video climb in steps of 0.1."""

    def denoiser(x, step, context):
        return gaussian_prediction(process, x, step, context + 0.1)

    keys = jax.random.split(jax.random.key(0), 500)
    context = jnp.full((500, 1, 1), -0.5)
    for given in (True, False):
        clips, last = videos(denoiser, process, keys, context, 4, given=given, steps=50)
        np.testing.assert_allclose(clips.mean(axis=(1, 2, 3)), -0.5 + 0.1 * np.arange(1, 5), atol=0.04)
        np.testing.assert_array_equal(clips[-1], last)


def test_a_video_can_be_made_in_several_calls(process):
    def denoiser(x, step, context):
        return gaussian_prediction(process, x, step, 0.5 * context)

    keys, context = jax.random.split(jax.random.key(0), 3), jnp.zeros((3, 2, 1))
    whole, _ = videos(denoiser, process, keys, context, 4, given=False, steps=10, eta=1.0)
    part, context = videos(denoiser, process, keys, context, 2, given=False, steps=10, eta=1.0)
    rest, _ = videos(denoiser, process, keys, context, 2, given=True, number=jnp.int32(2), steps=10, eta=1.0)
    np.testing.assert_allclose(jnp.concatenate([part, rest]), whole, atol=1e-6)


def test_guidance_moves_away_from_the_unconditional_prediction(process):
    """Weights (1 + w) and -w of Gaussians with means 0.2 and 0 and equal width give the mean (1 + w) 0.2."""

    def denoiser(x, step, context):
        return gaussian_prediction(process, x, step, context)

    keys, context = jax.random.split(jax.random.key(0), 500), jnp.full((500, 1, 1), 0.2)
    for weight, mean in ((None, 0.2), (0.0, 0.2), (1.5, 0.5)):
        clips, _ = videos(denoiser, process, keys, context, 1, given=True, weight=weight, steps=100)
        assert abs(float(clips.mean()) - mean) < 0.04


def test_previous_clip_and_class_have_weights_of_their_own(process):
    """Means add: 0.2 of the context and 0.1 of the class 1 give 0.3 + w 0.2 + v 0.1."""

    def denoiser(x, step, condition):
        context, label = condition
        return gaussian_prediction(process, x, step, context + 0.1 * jnp.maximum(label, 0)[:, None, None])

    keys, context = jax.random.split(jax.random.key(0), 500), jnp.full((500, 1, 1), 0.2)
    label = jnp.ones(500, jnp.int32)
    no_context, no_label = (jnp.zeros_like(context), label), (context, -label)
    for away, mean in (
        ([], 0.3),
        ([(1.0, no_context)], 0.5),
        ([(2.0, no_label)], 0.5),
        ([(0.5, no_context), (1.0, no_label)], 0.5),
    ):
        predict = guide(denoiser, (context, label), away)
        assert abs(float(sample_clip(predict, process, keys, (1, 1), steps=100).mean()) - mean) < 0.04, away


def test_guidance_is_off_outside_its_interval():
    def denoiser(x, step, context):
        return jnp.broadcast_to(context, x.shape)

    x, context = jnp.zeros((2, 3, 1)), jnp.ones((2, 3, 1))
    away = [(2.0, jnp.zeros_like(context))]
    predict = guide(denoiser, context, away, interval=(jnp.float32(100), jnp.float32(500)))
    values = [float(predict(x, jnp.int32(step)).mean()) for step in (99, 100, 500, 501)]
    assert values == [1.0, 3.0, 3.0, 1.0]


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
def test_normal_answer_is_the_best_one_for_normal_data(prediction):
    """Regression of the target on x_t, over many draws of normally distributed data and noise, has its slope."""
    process = Process(ProcessConfig(prediction=prediction))
    for step in (30, 400, 900):
        x0, noise = jax.random.normal(jax.random.key(step), (2, 40_000, 1))
        steps = jnp.full(len(x0), step)
        x = process.diffuse(x0, steps, noise)
        slope = jnp.mean(x * target(process, x0, steps, noise)) / jnp.mean(x * x)
        found = normal_answer(process, x, steps)
        np.testing.assert_allclose(found, slope * x, atol=0.02 * float(jnp.abs(x).max()))


def test_prior_guidance_leads_away_from_what_normal_data_would_be(process):
    """f + v (f - g) inside of the interval and f outside, beside guidance away from a lacking condition."""

    def denoiser(x, step, context):
        return jnp.broadcast_to(context, x.shape)

    x, context = jnp.ones((2, 3, 1)), jnp.full((2, 3, 1), 2.0)
    prior = (jnp.float32(0.5), lambda x, times: 4.0 * x)
    interval = (jnp.float32(100), jnp.float32(500))
    for away, inside, outside in (([], 2.0 + 0.5 * (2.0 - 4.0), 2.0), ([(1.0, 0 * context)], 4.0 - 1.0, 2.0)):
        predict = guide(denoiser, context, away, prior=prior, interval=interval)
        values = [float(predict(x, jnp.int32(step)).mean()) for step in (99, 100, 500, 501)]
        assert values == [outside, inside, inside, outside]
        always = guide(denoiser, context, away, prior=prior)
        assert float(always(x, jnp.int32(0)).mean()) == inside
