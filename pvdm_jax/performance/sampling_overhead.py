"""`pvdm benchmark --sampling`: the time of a sampling call beyond its denoiser and its decoder."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.runtime.keys import make_key


def measure_sampling(model: PVDM, num_videos: int = 4, repeats: int = 3, **options: Any) -> dict[str, float]:
    """Times a call of `model.sample` for `num_videos` videos of one clip, and the parts of the call separately.

    options: those of `sample`, except guidance, which changes the denoiser's batch. Returns seconds: "first_call"
    (which compiles, or reads the compilation cache), and the medians over `repeats` of "call", "denoiser" (all its
    calls, as one program) and "decoder"; and "overhead", the fraction of a call spent in neither denoiser nor decoder.
    Other work on the machine slows these down unequally, so repeat the measurement if it is busy. Raises ValueError if
    guidance is on.
    """
    if options.get("guidance") or options.get("class_guidance"):
        raise ValueError("guidance must be off: it changes the denoiser's batch")
    options = {"guidance": 0.0, "class_guidance": 0.0, "plane_order": "keep"} | options
    networks, calls = model.model, model.calls(**options)
    condition = networks.absent(num_videos)
    noise = jax.random.normal(make_key(0), (num_videos, *networks.spec.shape), jnp.float32)

    @jax.jit
    def denoise(params, x, times):
        def call(x, time):
            # As in sampling, the next call needs this one's result.
            return 0.9 * x + 0.1 * networks.denoise(params, x, jnp.full(num_videos, time), condition), None

        return jax.lax.scan(call, x, times)[0]

    times = jnp.linspace(model.config.process.num_steps - 1, 0, calls).astype(jnp.int32)
    decode = jax.jit(networks.decode)
    first = _seconds(lambda: model.sample(make_key(0), num_videos, **options))
    parts = {
        "call": lambda: model.sample(make_key(1), num_videos, **options),
        "denoiser": lambda: denoise(model.weights["denoiser"], noise, times),
        "decoder": lambda: decode(model.weights["autoencoder"], jnp.tanh(noise)),
    }
    for run in parts.values():  # compiles everything before the timed runs
        _seconds(run)
    # Take turns, so that a slowdown of the machine affects all parts.
    times = [{name: _seconds(run) for name, run in parts.items()} for _ in range(repeats)]
    medians = {name: float(np.median([each[name] for each in times])) for name in parts}
    overhead = 1 - (medians["denoiser"] + medians["decoder"]) / medians["call"]
    return {"first_call": first, **medians, "videos": num_videos, "calls_of_denoiser": calls, "overhead": overhead}


def describe(found: dict[str, float]) -> str:
    """The result of `measure_sampling` as text."""
    return "\n".join(
        [
            f"a call for {found['videos']} videos: {found['call']:.2f} s (the first one {found['first_call']:.2f} s)",
            f"denoiser: {found['denoiser']:.2f} s in {found['calls_of_denoiser']} calls",
            f"decoder: {found['decoder']:.2f} s",
            f"overhead: {found['overhead']:.1%} of a call",
        ]
    )


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began
