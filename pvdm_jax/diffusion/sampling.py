"""Sampling videos: a scan over the denoiser's calls for a clip, and a scan over the clips of a video.

Every clip is sampled given the latents of the previous one (paper section 3.3, algorithm 2). Each video's noise is
drawn from its own key, so a video depends neither on the other videos of its batch nor on the number of devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.diffusion.grids import time_grid
from pvdm_jax.diffusion.guidance import Predict
from pvdm_jax.diffusion.predictions import Bounds, estimate
from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.samplers import SAMPLERS


def sample_clip(
    predict: Predict,
    process: Process,
    keys: jax.Array,
    shape: tuple[int, ...],
    *,
    sampler: str = "ddim",
    steps: int = 100,
    grid: str = "uniform",
    eta: float | jax.Array = 0.0,
    bounds: Bounds | None = (-1.0, 1.0),
    trace: bool = False,
) -> Any:
    """Latents (b, *shape), one for each key (b,), within `bounds` unless it is None.

    sampler, steps, grid: see `samplers` and `grids`; "ddpm" takes every step of the process. With `trace`, also returns
    the denoiser's estimate of x_0 at each of its calls, (calls, b, *shape), and the steps of these calls, (calls,).
    """
    method = SAMPLERS[sampler]
    if method.every_step:
        times = np.arange(process.num_steps - 1, -2, -1, dtype=np.int32)
    else:
        times = time_grid(process, steps, grid)
    rows = method.plan(process, times)

    def draw(index):
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32))(keys)

    def call(state, inputs):
        index, row = inputs
        x = state["x"]
        predicted = predict(x, row["t"])
        found = estimate(process, x, jnp.broadcast_to(row["t"], x.shape[:1]), predicted, bounds)
        return method.step(state, found, row, draw(index), eta), found.x0 if trace else None

    index = np.arange(1, len(rows["t"]) + 1, dtype=np.int32)
    state, estimates = jax.lax.scan(call, method.start(draw(0)), (index, rows))
    return (state["x"], estimates, rows["t"]) if trace else state["x"]


def sample_video(
    sample: Callable[[jax.Array, Any, bool], jax.Array],
    finish: Callable[[jax.Array, bool], tuple[Any, Any]],
    keys: jax.Array,
    condition: Any,
    num_clips: int,
    *,
    given: bool,
    number: int | jax.Array = 0,
) -> tuple[Any, Any]:
    """`num_clips` clips for each key (b,), each conditioned on the previous one.

    sample(keys, condition, later) gives a clip's latents. finish(latents, later) gives what is kept of a clip, and the
    condition of the next one, a pytree like `condition`. `later` is False only for a video's first clip without a
    neighbouring clip. condition: the first clip's condition. given: whether the first clip has a neighbouring clip.
    number: the first clip's number, which decides its noise, so that a video can be made in several calls. Returns what
    was kept, stacked on a leading axis, and the condition of the clip after the last one.
    """

    def clip_keys(number):
        return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)

    def later(condition, number):
        kept, condition = finish(sample(clip_keys(number), condition, True), True)
        return condition, kept

    if given:
        condition, kept = jax.lax.scan(later, condition, number + jnp.arange(num_clips, dtype=jnp.int32))
        return kept, condition
    kept, condition = finish(sample(clip_keys(number), condition, False), False)
    kept = jax.tree.map(lambda x: x[None], kept)
    if num_clips == 1:
        return kept, condition
    condition, rest = jax.lax.scan(later, condition, number + jnp.arange(1, num_clips, dtype=jnp.int32))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), kept, rest), condition
