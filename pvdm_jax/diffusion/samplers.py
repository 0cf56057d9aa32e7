"""Samplers: one step from x_t to x_s, s < t, given the predicted noise. The loop over steps is in `sampling`.

Both clip the predicted x_0 to [-1, 1], where the autoencoder's latents lie, and leave the predicted noise as it is,
as the official code does. Latents are (b, ...), times are scalars, s = -1 stands for the data.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.diffusion.process import Process


def ddim_step(
    process: Process, x: jax.Array, predicted: jax.Array, t: jax.Array, s: jax.Array, noise: jax.Array, eta: jax.Array
) -> jax.Array:
    """DDIM (Song et al. 2021, equation 12): eta 0 is deterministic, eta 1 as noisy as the ancestral sampler."""
    x0 = _clipped_x0(process, x, predicted, t)
    cumulative = jnp.asarray(process.alphas_cumprod)
    signal_t, signal_s = cumulative[t], cumulative[jnp.maximum(s, 0)]
    sigma = eta * jnp.sqrt((1 - signal_t / signal_s) * (1 - signal_s) / (1 - signal_t))
    direction = jnp.sqrt(1 - signal_s - sigma**2)
    return jnp.where(s < 0, x0, jnp.sqrt(signal_s) * x0 + direction * predicted + sigma * noise)


def ddpm_step(process: Process, x: jax.Array, predicted: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """The ancestral step from t to t - 1 (Ho et al. 2020, algorithm 2); the step from 0 adds no noise."""
    x0 = _clipped_x0(process, x, predicted, t)
    mean = jnp.asarray(process.posterior_mean_x0)[t] * x0 + jnp.asarray(process.posterior_mean_xt)[t] * x
    deviation = jnp.exp(0.5 * jnp.asarray(process.posterior_log_variance)[t])
    return mean + jnp.where(t > 0, deviation, 0.0) * noise


def time_grid(num_steps: int, steps: int) -> np.ndarray:
    """The times of a sampler of `steps` steps, falling from num_steps - 1 to -1: (steps + 1,) int32.

    Evenly spaced in float32 and cut to integers as the official code does: counted from the start in the first half,
    from the end in the second. In float64 some numbers of steps (60, 120, 240 among them) would give other times.
    """
    if not 1 <= steps <= num_steps:
        raise ValueError(f"steps is {steps}; the process has {num_steps}: it lies between 1 and that")
    start, end = np.float32(-1), np.float32(num_steps - 1)
    spacing = (end - start) / np.float32(steps)
    index = np.arange(steps + 1, dtype=np.float32)
    forward, backward = start + spacing * index, end - spacing * (np.float32(steps) - index)
    times = np.where(np.arange(steps + 1) < (steps + 1) // 2, forward, backward)
    return np.trunc(times).astype(np.int32)[::-1].copy()


def _clipped_x0(process: Process, x: jax.Array, predicted: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.clip(process.predict_x0(x, jnp.full(x.shape[:1], t), predicted), -1, 1)
