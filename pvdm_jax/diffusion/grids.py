"""Which times a sampler visits: integers falling from num_steps - 1 to -1, which stands for the data.

    uniform    evenly spaced and truncated to integers, as in the official code
    trailing   evenly spaced and rounded (Lin et al. 2024)
    logsnr     evenly spaced in log(alpha / sigma) down to step 0, then the data (Lu et al. 2022)
    quadratic  the square roots evenly spaced, down to step 0, then the data (Song et al. 2021)

The first two end with a long step from num_steps / steps to the data; the other two with a short one from step 0. A
long last step reduces a second-order solver to first order, so such a solver needs one of the other two.
"""

from collections.abc import Callable

import numpy as np

from pvdm_jax.diffusion.process import Process


def time_grid(process: Process, steps: int, grid: str = "uniform") -> np.ndarray:
    """The times of a sampler of `steps` steps: (steps + 1,) int32, strictly falling. Raises ValueError for an unknown
    grid, or if `steps` is not between 1 and the process's number of steps."""
    if not 1 <= steps <= process.num_steps:
        raise ValueError(f"steps is {steps}; it must lie between 1 and the process's {process.num_steps}")
    if grid not in GRIDS:
        raise ValueError(f"grid is {grid!r}; choose one of {', '.join(GRIDS)}")
    times = GRIDS[grid](process, steps).astype(np.int64)
    return np.append(_strictly_falling(times), -1).astype(np.int32)


def _official(process: Process, steps: int) -> np.ndarray:
    """Evenly spaced in float32 and truncated to integers, as PyTorch does it in the official code: counted from the
    start in the first half, from the end in the second. In float64 some numbers of steps (such as 60, 120 and 240)
    would give other times."""
    start, end = np.float32(-1), np.float32(process.num_steps - 1)
    spacing = (end - start) / np.float32(steps)
    index = np.arange(steps + 1, dtype=np.float32)
    forward, backward = start + spacing * index, end - spacing * (np.float32(steps) - index)
    times = np.where(np.arange(steps + 1) < (steps + 1) // 2, forward, backward)
    return np.trunc(times)[:0:-1]  # without the data


def _trailing(process: Process, steps: int) -> np.ndarray:
    return np.rint(process.num_steps - np.arange(steps) * process.num_steps / steps) - 1


def _quadratic(process: Process, steps: int) -> np.ndarray:
    return np.rint(np.linspace((process.num_steps - 1) ** 0.5, 0, steps) ** 2)


def _evenly_in_log_snr(process: Process, steps: int) -> np.ndarray:
    values = process.log_snr(np.arange(process.num_steps))
    first = process.num_steps - 1
    if not np.isfinite(values[first]):  # rectified flow's last step is pure noise: start there, space out the rest
        if steps == 1:
            return np.array([first])
        wanted = np.linspace(values[first - 1], values[0], steps)[1:]
        return np.append(first, np.interp(-wanted, -values[:-1], np.arange(first)).round())
    wanted = np.linspace(values[first], values[0], steps)
    return np.interp(-wanted, -values, np.arange(process.num_steps)).round()


def _strictly_falling(times: np.ndarray) -> np.ndarray:
    """The times with equal ones moved apart; all stay between 0 and the first."""
    times = np.maximum(times, np.arange(len(times))[::-1])
    for i in range(1, len(times)):
        times[i] = min(times[i], times[i - 1] - 1)
    return times


# Functions of (process, steps) that give the falling times before the data, (steps,). Their names are those of
# `config.diffusion.GRIDS`.
GRIDS: dict[str, Callable[[Process, int], np.ndarray]] = {
    "uniform": _official,
    "trailing": _trailing,
    "logsnr": _evenly_in_log_snr,
    "quadratic": _quadratic,
}
