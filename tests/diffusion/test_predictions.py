"""Targets, estimates and loss weights of each prediction, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.config import ConfigError, ProcessConfig
from pvdm_jax.config.diffusion import PREDICTIONS
from pvdm_jax.diffusion.predictions import draw_noisy_batch, estimate, loss_weights, squared_error, target
from pvdm_jax.diffusion.process import Process

STEPS = np.array([0, 300, 900])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_right_answer_gives_data_and_noise_back(prediction):
    process = Process(ProcessConfig(prediction=prediction))
    x0 = jnp.tanh(jax.random.normal(jax.random.key(0), (3, 5, 2)))
    noise = jax.random.normal(jax.random.key(1), x0.shape)
    x = process.diffuse(x0, STEPS, noise)
    found = estimate(process, x, STEPS, target(process, x0, STEPS, noise))
    np.testing.assert_allclose(found.x0, x0, atol=2e-5)
    # From x_0 the noise at step 0, where there is next to none, is known only roughly.
    np.testing.assert_allclose(found.noise, noise, atol=2e-5 if prediction != "x0" else 1e-4)


def test_targets_are_their_definitions():
    x0, noise = jnp.full((1, 2), 0.5), jnp.full((1, 2), 2.0)
    process = Process(ProcessConfig(num_steps=10, beta_start=0.15, beta_end=0.15, prediction="v"))
    cumulative = 0.85**4
    expected = np.sqrt(cumulative) * 2.0 - np.sqrt(1 - cumulative) * 0.5
    np.testing.assert_allclose(target(process, x0, np.array([3]), noise), expected, rtol=1e-6)
    flow = Process(ProcessConfig(num_steps=10, prediction="flow"))
    np.testing.assert_allclose(target(flow, x0, np.array([3]), noise), 1.5)
    np.testing.assert_allclose(flow.diffuse(x0, np.array([3]), noise), 0.6 * 0.5 + 0.4 * 2.0)
    np.testing.assert_array_equal(flow.diffuse(x0, np.array([9]), noise), noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weights(prediction):
    """Hang et al. 2023, section 3.4: min(SNR, 5) over SNR, 1 and SNR + 1 for noise, x_0 and v."""
    process = Process(ProcessConfig(prediction=prediction, loss_weight="min_snr"))
    weights, steps = loss_weights(process), np.arange(1000)
    if prediction == "flow":
        time = (steps + 1) / 1000
        ratio = ((1 - time) / time) ** 2
        divisor = 1 / time**2  # an error of the flow is one of x_0 divided by the time
    else:
        cumulative = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
        ratio = cumulative / (1 - cumulative)
        divisor = {"eps": ratio, "x0": np.ones(1000), "v": ratio + 1}[prediction]
    np.testing.assert_allclose(weights, np.minimum(ratio, 5) / divisor, rtol=1e-5)
    assert np.all(loss_weights(Process(ProcessConfig(prediction=prediction))) == 1)


def test_exercises_are_drawn_from_the_process():
    process = Process(ProcessConfig(loss_weight="min_snr"))
    x0 = jnp.full((4000, 3), 0.25)
    drawn = draw_noisy_batch(process, x0, jax.random.key(0))
    assert 0 <= int(drawn.time.min()) and int(drawn.time.max()) <= 999
    assert abs(float(drawn.time.mean()) - 499.5) < 20
    np.testing.assert_allclose(drawn.x, process.diffuse(x0, drawn.time, drawn.target), atol=1e-6)
    np.testing.assert_array_equal(drawn.weight, loss_weights(process)[drawn.time])
    assert abs(float(jnp.std(drawn.target)) - 1) < 0.02


def test_squared_errors_are_each_sample_s_own():
    found = squared_error(jnp.array([[1.0, 3.0], [0.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 0.0]]))
    assert found.tolist() == [2.5, 0.0]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [("prediction", "score", "x0, v, flow"), ("loss_weight", "edm", "min_snr"), ("min_snr_gamma", 0.0, "positive")],
)
def test_impossible_settings_are_refused(field, value, allowed):
    with pytest.raises(ConfigError, match=f"process.{field} is .*{allowed}"):
        ProcessConfig(**{field: value})
