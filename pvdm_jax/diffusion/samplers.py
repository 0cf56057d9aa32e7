"""Samplers: how each answer of the denoiser moves the sample from noise to data. The loop is in `sampling`.

A sampler is a plan and a step. `plan(process, times)` gives one row of float32 coefficients for each call of the
denoiser, computed ahead in float64; `row["t"]` (int32) is the step at which it is called, and the last row ends at the
data. `step(state, estimate, row, noise, eta)` is plain arithmetic: it takes the state and what the denoiser's answer
says about `state["x"]`, and gives the next state. `memory` names the other arrays that the state carries from call to
call; they start as zeros. Latents are (b, ...); alpha and sigma are those of the process, and h is the step's increase
of log(alpha / sigma).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.diffusion.predictions import Estimate
from pvdm_jax.diffusion.process import Process

Row = dict[str, np.ndarray]
State = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """One method. `every_step`: whether it visits all steps of the process, whatever number is asked for.
    `calls_per_step`: calls of the denoiser in each step; the last step, which ends at the data, always takes one."""

    plan: Callable[[Process, np.ndarray], Row]
    step: Callable[[State, Estimate, Row, jax.Array, jax.Array], State]
    memory: tuple[str, ...] = ()
    every_step: bool = False
    calls_per_step: int = 1

    def start(self, noise: jax.Array) -> State:
        """The state before the first call."""
        return {"x": noise} | {name: jnp.zeros_like(noise) for name in self.memory}


def _rows(times: np.ndarray, **coefficients: np.ndarray) -> Row:
    return {"t": times.astype(np.int32)} | {name: value.astype(np.float32) for name, value in coefficients.items()}


def _ddim_plan(process: Process, times: np.ndarray) -> Row:
    t, s = times[:-1], times[1:]
    alpha_s, sigma_s = process.alpha(s), process.sigma(s)
    # The deviation of the ancestral step from t to s: the most noise that eta can add.
    ancestral = sigma_s * np.sqrt(1 - (process.alpha(t) * sigma_s / (alpha_s * process.sigma(t))) ** 2)
    return _rows(t, signal=alpha_s, sigma=sigma_s, ancestral=ancestral)


def _ddim_step(state: State, estimate: Estimate, row: Row, noise: jax.Array, eta: jax.Array) -> State:
    added = eta * row["ancestral"]
    direction = jnp.sqrt(jnp.maximum(row["sigma"] ** 2 - added**2, 0.0))  # 0 at pure noise, up to rounding
    return {"x": row["signal"] * estimate.x0 + direction * estimate.noise + added * noise}


def _ddpm_plan(process: Process, times: np.ndarray) -> Row:
    from_x0, from_x, variance = process.posterior(times[:-1])
    return _rows(times[:-1], from_x0=from_x0, from_x=from_x, deviation=np.sqrt(variance))


def _ddpm_step(state: State, estimate: Estimate, row: Row, noise: jax.Array, eta: jax.Array) -> State:
    return {"x": row["from_x0"] * estimate.x0 + row["from_x"] * state["x"] + row["deviation"] * noise}


def _second_order(process: Process, times: np.ndarray) -> np.ndarray:
    """1 / (2 r) for each step, where r is the previous step's length over this one's, in log(alpha / sigma). It is 0
    where the previous answer can't be used: at the first step, and at steps from or to infinity."""
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.diff(process.log_snr(times))
        weight = 0.5 * gain[1:] / gain[:-1]
    return np.append(0.0, np.where(np.isfinite(weight) & np.isfinite(gain[:-1]), weight, 0.0))


def _dpmpp_plan(process: Process, times: np.ndarray) -> Row:
    t, s = times[:-1], times[1:]
    keep = process.sigma(s) / process.sigma(t)
    from_x0 = process.alpha(s) - process.alpha(t) * keep
    return _rows(t, keep=keep, from_x0=from_x0, before=_second_order(process, times))


def _dpmpp_step(state: State, estimate: Estimate, row: Row, noise: jax.Array, eta: jax.Array) -> State:
    x0 = estimate.x0 + row["before"] * (estimate.x0 - state["x0_before"])
    return {"x": row["keep"] * state["x"] + row["from_x0"] * x0, "x0_before": estimate.x0}


def _dpmpp_sde_plan(process: Process, times: np.ndarray) -> Row:
    t, s = times[:-1], times[1:]
    shrink = process.alpha(t) * process.sigma(s) / (process.alpha(s) * process.sigma(t))  # exp(-h)
    return _rows(
        t,
        keep=process.sigma(s) / process.sigma(t) * shrink,
        from_x0=process.alpha(s) * (1 - shrink**2),
        deviation=process.sigma(s) * np.sqrt(1 - shrink**2),
        before=_second_order(process, times),
    )


def _dpmpp_sde_step(state: State, estimate: Estimate, row: Row, noise: jax.Array, eta: jax.Array) -> State:
    after = _dpmpp_step(state, estimate, row, noise, eta)
    return after | {"x": after["x"] + row["deviation"] * noise}


def _line(process: Process, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(alpha + sigma, u) with u = sigma / (alpha + sigma): y = x / (alpha + sigma) is (1 - u) x_0 + u noise, so that
    the probability flow is dy/du = noise - x_0 for every process, and finite from u = 1 to u = 0."""
    total = process.alpha(times) + process.sigma(times)
    return total, process.sigma(times) / total


def _euler_plan(process: Process, times: np.ndarray) -> Row:
    t, s = times[:-1], times[1:]
    return _rows(
        t, alpha=process.alpha(t), sigma=process.sigma(t), next_alpha=process.alpha(s), next_sigma=process.sigma(s)
    )


def _euler_step(state: State, estimate: Estimate, row: Row, noise: jax.Array, eta: jax.Array) -> State:
    implied = (state["x"] - row["alpha"] * estimate.x0) / row["sigma"]
    return {"x": row["next_alpha"] * estimate.x0 + row["next_sigma"] * implied}


def _heun_plan(process: Process, times: np.ndarray) -> Row:
    """Each step but the last has two calls: at its start t, and at its end s on Euler's estimate of x_s."""
    t, s = times[:-1], times[1:]
    pairs = [(i, second) for i in range(len(t)) for second in (False, True) if not (second and s[i] < 0)]
    index, second = (np.array(column) for column in zip(*pairs, strict=True))
    called = np.where(second, s[index], t[index])
    total, place = _line(process, times)
    return _rows(
        called,
        alpha=process.alpha(called),
        sigma=process.sigma(called),
        into_line=1 / total[index],
        out_of_line=total[index + 1],
        length=place[index + 1] - place[index],
        second=second,
    )


def _heun_step(state: State, estimate: Estimate, row: Row, noise: jax.Array, eta: jax.Array) -> State:
    slope = (state["x"] - row["alpha"] * estimate.x0) / row["sigma"] - estimate.x0
    second = row["second"] > 0
    start = jnp.where(second, state["start"], state["x"])
    mean = jnp.where(second, 0.5 * (state["slope"] + slope), slope)
    x = (start * row["into_line"] + row["length"] * mean) * row["out_of_line"]
    return {"x": x, "start": start, "slope": slope}


SAMPLERS = {
    # DDIM (Song et al. 2021, equation 12): eta 0 is deterministic, eta 1 as noisy as the ancestral sampler.
    "ddim": Sampler(_ddim_plan, _ddim_step),
    # The ancestral sampler (Ho et al. 2020, algorithm 2).
    "ddpm": Sampler(_ddpm_plan, _ddpm_step, every_step=True),
    # DPM-Solver++(2M) and its SDE variant (Lu et al. 2022): second order with one call per step.
    "dpmpp": Sampler(_dpmpp_plan, _dpmpp_step, memory=("x0_before",)),
    "dpmpp_sde": Sampler(_dpmpp_sde_plan, _dpmpp_sde_step, memory=("x0_before",)),
    # Heun's method on the probability flow (Karras et al. 2022): second order with two calls per step.
    "heun": Sampler(_heun_plan, _heun_step, memory=("start", "slope"), calls_per_step=2),
    # Euler's method: DDIM with eta 0, except that the noise is what the clipped x_0 leaves of x_t.
    "euler": Sampler(_euler_plan, _euler_step),
}


def count_calls(sampler: str, steps: int, process: Process) -> int:
    """How often `sampler` calls the denoiser in `steps` steps."""
    method = SAMPLERS[sampler]
    steps = process.num_steps if method.every_step else steps
    return method.calls_per_step * (steps - 1) + 1
