"""The diffusion process (paper section 3.2): how clean latents become noise, x_t = alpha_t x_0 + sigma_t noise.

Gaussian diffusion (Ho et al. 2020) with betas b_t for t = 0 .. T - 1 and A_t = prod_{s <= t} (1 - b_s) has
alpha_t = sqrt(A_t) and sigma_t = sqrt(1 - A_t), and its reverse step is

    q(x_{t-1} | x_t, x_0) = N(c1_t x_0 + c2_t x_t, v_t I).

Rectified flow (Liu et al. 2023) is the straight line from data to noise: sigma_t = (t + 1) / T, alpha_t = 1 - sigma_t.
A step t = -1 stands for the data: alpha 1, sigma 0. Everything is computed in float64; tables are kept in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.config import ProcessConfig


class Process:
    """The schedule's arrays, (num_steps,) float32, and the formulas above. Latents are (b, ...)."""

    def __init__(self, config: ProcessConfig):
        self.config, self.num_steps = config, config.num_steps
        if config.prediction == "flow":
            deviation = np.arange(1, config.num_steps + 1, dtype=np.float64) / config.num_steps
            self._alpha, self._sigma = 1 - deviation, deviation
        else:
            cumulative = np.array(config.cumulative())
            self._alpha, self._sigma = np.sqrt(cumulative), np.sqrt(1 - cumulative)
        self.signal = self._alpha.astype(np.float32)
        self.noise = self._sigma.astype(np.float32)

    def alpha(self, steps: np.ndarray) -> np.ndarray:
        """The share of the data at `steps` (integers, -1: the data), float64."""
        return np.where(np.asarray(steps) < 0, 1.0, self._alpha[np.maximum(steps, 0)])

    def sigma(self, steps: np.ndarray) -> np.ndarray:
        """The deviation of the noise at `steps` (integers, -1: the data), float64."""
        return np.where(np.asarray(steps) < 0, 0.0, self._sigma[np.maximum(steps, 0)])

    def log_snr(self, steps: np.ndarray) -> np.ndarray:
        """log(alpha / sigma) at `steps`, half of the log signal-to-noise ratio, float64; inf for the data."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha(steps)) - np.log(self.sigma(steps))

    def posterior(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """c1, c2 and v of q(x_{t-1} | x_t, x_0) for t in `steps`, float64."""
        alpha, sigma = self.alpha(steps), self.sigma(steps)
        before, noise_before = self.alpha(np.asarray(steps) - 1), self.sigma(np.asarray(steps) - 1)
        ratio = alpha / before
        added = sigma**2 - (ratio * noise_before) ** 2  # the variance that the step from t - 1 to t adds
        return before * added / sigma**2, ratio * (noise_before / sigma) ** 2, added * (noise_before / sigma) ** 2

    def diffuse(self, x0: jax.Array, step: jax.Array, noise: jax.Array) -> jax.Array:
        """x_t for x0 and standard normal noise (b, ...), step (b,)."""
        return at(self.signal, step, x0) * x0 + at(self.noise, step, x0) * noise


def at(table: np.ndarray, step: jax.Array, like: jax.Array) -> jax.Array:
    """table[step] for `step` (b,), with axes of length 1 appended up to the rank of `like`."""
    return jnp.asarray(table)[step].reshape(-1, *(1,) * (like.ndim - 1))
