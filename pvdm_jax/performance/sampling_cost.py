"""What a call of the sampler costs beyond the denoiser's and the decoder's own time: `pvdm benchmark --sampling`."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.inference.pipeline import PVDM


def measure_sampling(model: PVDM, num_videos: int = 4, repeats: int = 3, **options: Any) -> dict[str, float]:
    """Times one call of `model.sample` for a clip each of `num_videos`, and its parts alone.

    options: as of `sample`, without guidance (which changes the denoiser's batch). Returns, in seconds, medians of
    `repeats`: "first_call" (with compilation, or its cache), "call", "denoiser" (all its calls, as one program),
    "decoder", and "overhead", the share of a call that is neither. On a machine with other work the parts and the
    whole are slowed differently: repeat it there.
    """
    if options.get("guidance") or options.get("class_guidance"):
        raise ValueError("guidance changes the denoiser's batch; leave it out")
    options = {"guidance": 0.0, "class_guidance": 0.0, "plane_order": "keep"} | options
    program, calls = model.program, model.calls(**options)
    shape = (num_videos, *program.latent_shape)
    context = jnp.zeros((num_videos, *program.context_shape))
    label = jnp.full(num_videos, -1, jnp.int32)
    noise = jax.random.normal(jax.random.key(0), shape)

    @jax.jit
    def denoise(weights, x, steps):
        def call(x, step):
            # The next call waits for this one, as in sampling.
            return 0.9 * x + 0.1 * program.denoise(weights, x, jnp.full(num_videos, step), context, label), None

        return jax.lax.scan(call, x, steps)[0]

    steps = jnp.linspace(model.config.process.num_steps - 1, 0, calls).astype(jnp.int32)
    decode = jax.jit(program.decode)
    first = _seconds(lambda: model.sample(jax.random.key(0), num_videos, **options))
    parts = {
        "call": lambda: model.sample(jax.random.key(1), num_videos, **options),
        "denoiser": lambda: denoise(model.weights, noise, steps),
        "decoder": lambda: decode(model.weights, jnp.tanh(noise)),
    }
    for run in parts.values():  # compiled before anything is timed
        _seconds(run)
    # In turn, so that a machine that gets slower slows all of them.
    times = [{name: _seconds(run) for name, run in parts.items()} for _ in range(repeats)]
    medians = {name: float(np.median([each[name] for each in times])) for name in parts}
    overhead = 1 - (medians["denoiser"] + medians["decoder"]) / medians["call"]
    return {"first_call": first, **medians, "videos": num_videos, "calls_of_denoiser": calls, "overhead": overhead}


def describe(found: dict[str, float]) -> str:
    """`measure_sampling`'s result in words."""
    return "\n".join(
        [
            f"a call for {found['videos']} videos: {found['call']:.2f} s (the first one {found['first_call']:.2f} s)",
            f"denoiser: {found['denoiser']:.2f} s in {found['calls_of_denoiser']} calls",
            f"decoder: {found['decoder']:.2f} s",
            f"neither: {found['overhead']:.1%} of a call",
        ]
    )


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began
