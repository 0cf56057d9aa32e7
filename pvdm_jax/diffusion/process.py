"""The Gaussian diffusion process (paper section 3.2; Ho et al. 2020).

With betas b_t for t = 0 .. T - 1 and A_t = prod_{s <= t} (1 - b_s),

    (1)  q(x_t | x_0)          = N(sqrt(A_t) x_0, (1 - A_t) I)
    (2)  x_0                   = x_t / sqrt(A_t) - sqrt(1 / A_t - 1) eps
    (3)  q(x_{t-1} | x_t, x_0) = N(c1_t x_0 + c2_t x_t, v_t I)

A step t = -1 stands for the data, A_{-1} = 1. Everything is computed in float64 and kept in float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.config import ProcessConfig


class Process:
    """The schedule's arrays, (num_steps,) float32, and the formulas above. Latents are (b, ...)."""

    def __init__(self, config: ProcessConfig):
        betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_steps, dtype=np.float64) ** 2
        cumulative = np.cumprod(1 - betas)
        previous = np.append(1.0, cumulative[:-1])
        variance = betas * (1 - previous) / (1 - cumulative)
        self.num_steps = config.num_steps
        self.betas = betas.astype(np.float32)
        self.alphas_cumprod = cumulative.astype(np.float32)
        self.signal = np.sqrt(cumulative).astype(np.float32)  # sqrt(A_t)
        self.noise = np.sqrt(1 - cumulative).astype(np.float32)  # sqrt(1 - A_t)
        self.inverse_signal = np.sqrt(1 / cumulative).astype(np.float32)
        self.noise_to_signal = np.sqrt(1 / cumulative - 1).astype(np.float32)
        self.posterior_mean_x0 = (betas * np.sqrt(previous) / (1 - cumulative)).astype(np.float32)  # c1_t
        self.posterior_mean_xt = ((1 - previous) * np.sqrt(1 - betas) / (1 - cumulative)).astype(np.float32)  # c2_t
        self.posterior_variance = variance.astype(np.float32)  # v_t
        self.posterior_log_variance = np.log(np.maximum(variance, 1e-20)).astype(np.float32)

    def diffuse(self, x0: jax.Array, step: jax.Array, noise: jax.Array) -> jax.Array:
        """x_t of (1) for x0 and standard normal noise (b, ...), step (b,)."""
        return at(self.signal, step, x0) * x0 + at(self.noise, step, x0) * noise

    def predict_x0(self, x: jax.Array, step: jax.Array, noise: jax.Array) -> jax.Array:
        """x_0 by (2) from x_t and its predicted noise, step (b,)."""
        return at(self.inverse_signal, step, x) * x - at(self.noise_to_signal, step, x) * noise


def at(table: np.ndarray, step: jax.Array, like: jax.Array) -> jax.Array:
    """table[step], (b,), with further axes of length 1 up to the rank of `like`."""
    return jnp.asarray(table)[step].reshape(-1, *(1,) * (like.ndim - 1))


@dataclasses.dataclass(frozen=True)
class NoisePrediction:
    """What a training step of the denoiser regresses: its noisy input, the steps and the noise in it."""

    x: jax.Array
    step: jax.Array
    noise: jax.Array


def draw_noise_prediction(process: Process, x0: jax.Array, key: jax.Array) -> NoisePrediction:
    """Uniform steps and normal noise for clean latents x0 (b, ...)."""
    step_key, noise_key = jax.random.split(key)
    step = jax.random.randint(step_key, x0.shape[:1], 0, process.num_steps)
    noise = jax.random.normal(noise_key, x0.shape, jnp.float32)
    return NoisePrediction(process.diffuse(x0, step, noise), step, noise)


def noise_prediction_loss(predicted: jax.Array, noise: jax.Array) -> jax.Array:
    """Mean squared error of each sample, (b,): the simple loss of Ho et al., equation 14."""
    return jnp.mean(jnp.square(predicted - noise), axis=tuple(range(1, noise.ndim)))
