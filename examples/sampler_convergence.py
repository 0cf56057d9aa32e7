"""Draws how fast each sampler converges to the exact result as its steps grow.

    python examples/sampler_convergence.py docs/images/sampler_convergence.png

The target is a mixture of two normal distributions in one dimension, whose denoiser is a formula. Its probability flow
preserves quantiles, so the exact end of every path is known: x_0 = F_0^-1(F_T(x_T)), with F_t the distribution function
at time t. The process has 100,000 steps, so that its own discretisation is negligible.

Samplers with noise are judged on a single normal distribution. There a sampler is a linear map of its noise, and the
variance of its results follows. Needs matplotlib and scipy.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

from pvdm_jax.config import ProcessConfig
from pvdm_jax.diffusion.grids import time_grid
from pvdm_jax.diffusion.predictions import estimate, target
from pvdm_jax.diffusion.process import Process, at
from pvdm_jax.diffusion.samplers import SAMPLERS, count_calls

FINE = 100_000
MEANS, DEVIATIONS, WEIGHTS = np.array([-0.6, 0.5]), np.array([0.2, 0.3]), np.array([0.4, 0.6])
DEVIATION = 0.3  # of the single normal distribution
QUANTILES = (np.arange(64) + 0.5) / 64


def process_of(num_steps: int, prediction: str = "eps") -> Process:
    """The official process with `num_steps` steps instead of 1,000, or a rectified flow."""
    scale = 1000 / num_steps
    return Process(ProcessConfig(num_steps, 0.0015 * scale, 0.0195 * scale, prediction))


def mixture_prediction(process: Process, x: jax.Array, step: jax.Array) -> jax.Array:
    """The optimal denoiser's prediction of x_t (n, 1) for data from the mixture."""
    return _prediction(process, x, step, MEANS, DEVIATIONS, WEIGHTS)


def normal_prediction(process: Process, x: jax.Array, step: jax.Array) -> jax.Array:
    """The optimal denoiser's prediction of x_t (n, 1) for data from N(0, DEVIATION^2)."""
    return _prediction(process, x, step, np.zeros(1), np.full(1, DEVIATION), np.ones(1))


def _prediction(process, x, step, means, deviations, weights):
    steps = jnp.broadcast_to(step, x.shape[:1])
    alpha, sigma = at(process.signal, steps, x), at(process.noise, steps, x)
    means, deviations, weights = (jnp.asarray(values, jnp.float32)[None] for values in (means, deviations, weights))
    variance = (alpha * deviations) ** 2 + sigma**2
    error = x - alpha * means
    share = jax.nn.softmax(jnp.log(weights) - 0.5 * jnp.log(variance) - 0.5 * error**2 / variance, axis=-1)
    x0 = (share * (means + alpha * deviations**2 * error / variance)).sum(-1, keepdims=True)
    noise = (share * sigma * error / variance).sum(-1, keepdims=True)
    return target(process, x0, steps, noise)


def exact_path_ends(process: Process) -> tuple[np.ndarray, np.ndarray]:
    """Starts of exact paths, and the denoiser's estimates at their ends: x_T and x_0, both (quantiles, 1)."""

    def quantiles(step):
        alpha, sigma = process.alpha(step), process.sigma(step)
        parts = stats.norm(alpha * MEANS, np.sqrt((alpha * DEVIATIONS) ** 2 + sigma**2))
        return np.array([optimize.brentq(lambda x, q=q: WEIGHTS @ parts.cdf(x) - q, -9, 9) for q in QUANTILES])

    start, end = (jnp.asarray(quantiles(step)[:, None], jnp.float32) for step in (process.num_steps - 1, 0))
    final = estimate(process, end, jnp.zeros(len(end), jnp.int32), mixture_prediction(process, end, 0), bounds=None)
    return start, final.x0


def run(process: Process, name: str, grid: str, steps: int, predict, x: jax.Array, noise: jax.Array, eta: float):
    """Runs a sampler from x (n, 1), with noise (calls, n, 1) for its calls. Returns x_0 (n, 1)."""
    method = SAMPLERS[name]
    rows = method.plan(process, time_grid(process, steps, grid))

    def call(state, inputs):
        row, noise = inputs
        found = estimate(process, state["x"], jnp.full(len(x), row["t"]), predict(process, state["x"], row["t"]), None)
        return method.step(state, found, row, noise, eta), None

    return jax.lax.scan(call, method.start(x), (rows, noise))[0]["x"]


def path_error(process: Process, name: str, grid: str, steps: int) -> float:
    """Root mean squared distance of a deterministic sampler's results from the exact ones."""
    start, exact = exact_path_ends(process)
    noise = jnp.zeros((count_calls(name, steps, process), *start.shape))
    found = run(process, name, grid, steps, mixture_prediction, start, noise, 0.0)
    return float(np.sqrt(np.mean(np.square(np.asarray(found) - np.asarray(exact)))))


def variance_error(process: Process, name: str, grid: str, steps: int, eta: float) -> float:
    """Relative error of the variance of a sampler's results, for normal data."""
    alpha, sigma = process.alpha(0), process.sigma(0)
    exact = (alpha * DEVIATION**2) ** 2 / ((alpha * DEVIATION) ** 2 + sigma**2)  # for the denoiser's mean at step 0
    found = _variance_of_steps if not SAMPLERS[name].memory else _variance_of_columns
    return abs(found(process, name, grid, steps, eta) / exact - 1)


def _variance_of_steps(process: Process, name: str, grid: str, steps: int, eta: float) -> float:
    """Variance of the results, for samplers without memory.

    Each step turns x into a x + d noise. Applying it to (1, 0) and (0, 1) gives a and d.
    """
    method = SAMPLERS[name]
    times = np.arange(process.num_steps - 1, -2, -1) if method.every_step else time_grid(process, steps, grid)
    rows = {key: values[:, None] for key, values in method.plan(process, times).items()}

    def step(x, noise):
        x, steps = jnp.full(rows["t"].shape, x), rows["t"][:, 0]
        found = estimate(process, x, steps, normal_prediction(process, x, steps), bounds=None)
        return np.asarray(method.step({"x": x}, found, rows, jnp.full(x.shape, noise), eta)["x"][:, 0], np.float64)

    variance = 1.0
    for factor, deviation in zip(step(1.0, 0.0), step(0.0, 1.0), strict=True):
        variance = factor**2 * variance + deviation**2
    return variance


def _variance_of_columns(process: Process, name: str, grid: str, steps: int, eta: float) -> float:
    """Variance of the results, for samplers with memory: the sum of the squared responses to each noise.

    Column j of the run sees noise j only; noise 0 is the start.
    """
    unit = jnp.eye(count_calls(name, steps, process) + 1)[..., None]
    found = run(process, name, grid, steps, normal_prediction, unit[0], unit[1:], eta)
    return float(np.sum(np.square(np.asarray(found, np.float64))))


def order(errors: dict[int, float]) -> float:
    """Order of convergence: the negated slope of log(error) over log(steps)."""
    steps, values = np.log(list(errors)), np.log(list(errors.values()))
    return float(-np.polyfit(steps, values, 1)[0])


def main(path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, layout="constrained")
    counts = [8, 16, 32, 64, 128, 256]
    process = process_of(FINE)
    for name, grid, style in (
        ("euler", "uniform", "-"),
        ("euler", "logsnr", "-"),
        ("heun", "uniform", ":"),
        ("heun", "quadratic", "-"),
        ("dpmpp", "uniform", ":"),
        ("dpmpp", "logsnr", "-"),
    ):
        steps = [count // 2 if name == "heun" else count for count in counts]
        errors = [path_error(process, name, grid, n) for n in steps]
        axes[0].loglog(
            [count_calls(name, n, process) for n in steps], errors, style, marker="o", ms=3, label=f"{name}, {grid}"
        )
    axes[0].set_title("without noise: distance from the exact path", fontsize=9)
    for name, grid, eta in (("ddim", "uniform", 1.0), ("ddim", "logsnr", 1.0), ("dpmpp_sde", "logsnr", 1.0)):
        errors = [variance_error(process, name, grid, n, eta) for n in counts]
        label = f"{name}, eta {eta:g}, {grid}" if name == "ddim" else f"{name}, {grid}"
        axes[1].loglog(counts, errors, marker="o", ms=3, label=label)
    axes[1].set_title("with noise: relative error of the variance", fontsize=9)
    for axis in axes:
        axis.set_xlabel("calls of the denoiser")
        axis.grid(True, alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
