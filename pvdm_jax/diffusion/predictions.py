"""What a denoiser predicts, as a training target and as an estimate of the data and of the noise.

    eps   the noise (Ho et al. 2020; the official code)
    x0    the data
    v     alpha noise - sigma x_0 (Salimans and Ho 2022)
    flow  noise - x_0, the velocity of rectified flow (Liu et al. 2023)

Each is a linear function of (x_0, noise); together with x_t = alpha x_0 + sigma noise it determines both.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.diffusion.process import Process, at
from pvdm_jax.diffusion.times import Times, uniform_times


class Estimate(NamedTuple):
    """What a prediction says about x_t: the data and the noise in it, (b, ...)."""

    x0: jax.Array
    noise: jax.Array


Bounds = tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]


def estimate(
    process: Process, x: jax.Array, step: jax.Array, predicted: jax.Array, bounds: Bounds | None = (-1.0, 1.0)
) -> Estimate:
    """Data and noise according to the denoiser's answer to x_t (b, ...) at `step` (b,).

    bounds: the data are clipped to them, scalars or arrays that broadcast to x (None: no clipping). The noise is not
    changed by clipping, as in the official code.
    """
    kind = process.config.prediction
    alpha, sigma = at(process.signal, step, x), at(process.noise, step, x)
    if kind == "eps":
        inverse, ratio = _inverse_tables(process)
        x0, noise = at(inverse, step, x) * x - at(ratio, step, x) * predicted, predicted
    elif kind == "x0":
        x0, noise = predicted, (x - alpha * predicted) / sigma
    elif kind == "v":
        x0, noise = alpha * x - sigma * predicted, sigma * x + alpha * predicted
    else:
        x0, noise = x - sigma * predicted, x + alpha * predicted
    return Estimate(x0 if bounds is None else jnp.clip(x0, *bounds), noise)


def target(process: Process, x0: jax.Array, step: jax.Array, noise: jax.Array) -> jax.Array:
    """What the denoiser should answer for x_t made from x0 and noise (b, ...), at `step` (b,)."""
    kind = process.config.prediction
    if kind == "eps":
        return noise
    if kind == "x0":
        return x0
    if kind == "v":
        return at(process.signal, step, x0) * noise - at(process.noise, step, x0) * x0
    return noise - x0


def normal_answer(process: Process, x: jax.Array, step: jax.Array) -> jax.Array:
    """The answer to x (b, ...) at `step` (b,) of a denoiser that knows only the mean 0 and the deviation 1 of the data:
    the best one if every value of x_0 were normally distributed, independently of the others."""
    alpha, sigma = at(process.signal, step, x), at(process.noise, step, x)
    part = x / (alpha**2 + sigma**2)
    return target(process, alpha * part, step, sigma * part)


def loss_weights(process: Process) -> np.ndarray:
    """The weight of each step's squared error, (num_steps,) float32.

    uniform: 1, the simple loss of Ho et al., equation 14. min_snr: min(SNR, gamma) for the squared error of x_0 (Hang
    et al. 2023), whatever is predicted; an error of the prediction is an error of x_0 times the factor below.
    """
    config, steps = process.config, np.arange(process.num_steps)
    if config.loss_weight == "uniform":
        return np.ones(process.num_steps, np.float32)
    alpha, sigma = process.alpha(steps), process.sigma(steps)
    # min(SNR, gamma) times the squared factor, in a form that is finite where alpha is 0.
    if config.prediction == "eps":
        weights = np.minimum(1.0, config.min_snr_gamma * (sigma / alpha) ** 2)
    else:
        factor = 1.0 if config.prediction == "x0" else sigma
        weights = np.minimum((alpha / sigma) ** 2, config.min_snr_gamma) * factor**2
    return weights.astype(np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoisyBatch:
    """What is asked of the denoiser: noisy latents, their times, and the answers."""

    x: jax.Array
    time: jax.Array
    target: jax.Array
    weight: jax.Array  # (b,) of each squared error


def draw_noisy_batch(process: Process, x0: jax.Array, key: jax.Array, times: Times = uniform_times) -> NoisyBatch:
    """Clean latents x0 (b, ...) at random times under normal noise. times: draws the times (see `diffusion.times`)."""
    step_key, noise_key = jax.random.split(key)
    step = times(step_key, x0.shape[0], process.num_steps)
    return make_noisy_batch(process, x0, step, jax.random.normal(noise_key, x0.shape, jnp.float32))


def make_noisy_batch(process: Process, x0: jax.Array, step: jax.Array, noise: jax.Array) -> NoisyBatch:
    """Clean latents x0 (b, ...) at the times `step` (b,) under the given normal noise (b, ...)."""
    weight = jnp.asarray(loss_weights(process))[step]
    return NoisyBatch(process.diffuse(x0, step, noise), step, target(process, x0, step, noise), weight)


def squared_error(predicted: jax.Array, expected: jax.Array, weights: jax.typing.ArrayLike | None = None) -> jax.Array:
    """Mean squared error of each sample, (b,). weights: how much each error counts, of a shape that broadcasts."""
    errors = jnp.square(predicted - expected)
    return jnp.mean(errors if weights is None else weights * errors, axis=tuple(range(1, expected.ndim)))


def _inverse_tables(process: Process) -> tuple[np.ndarray, np.ndarray]:
    """1 / alpha and sigma / alpha of all steps, float32, rounded once."""
    steps = np.arange(process.num_steps)
    alpha, sigma = process.alpha(steps), process.sigma(steps)
    return (1 / alpha).astype(np.float32), (sigma / alpha).astype(np.float32)
