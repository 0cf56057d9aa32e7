"""Sampling videos: a scan over the steps of a clip, and a scan over the clips of a video.

Every clip is sampled given the latents of the clip before it (paper section 3.3, algorithm 2). Noise is drawn for
each video from its own key, so a video depends neither on the others of its batch nor on the number of devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.samplers import ddim_step, ddpm_step, time_grid

# (x (b, positions, c), step (b,)) to the predicted noise
Predict = Callable[[jax.Array, jax.Array], jax.Array]
# (x, step, context (b, positions, c)) to the predicted noise
Denoiser = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def guide(denoiser: Denoiser, context: jax.Array, weight: jax.Array | None) -> Predict:
    """Classifier-free guidance on the previous clip: (1 + w) eps(context) - w eps(nothing), nothing being zeros.

    weight: scalar w; None leaves guidance out and saves half of the network's calls.
    """
    if weight is None:
        return lambda x, step: denoiser(x, step, context)

    def predict(x, step):
        both = denoiser(
            jnp.concatenate([x, x]),
            jnp.concatenate([step, step]),
            jnp.concatenate([context, jnp.zeros_like(context)]),
        )
        conditional, unconditional = jnp.split(both, 2)
        return (1 + weight) * conditional - weight * unconditional

    return predict


def sample_clip(
    predict: Predict,
    process: Process,
    keys: jax.Array,
    shape: tuple[int, ...],
    *,
    sampler: str = "ddim",
    steps: int = 100,
    eta: float | jax.Array = 0.0,
) -> jax.Array:
    """Latents (b, *shape) in [-1, 1], one for each of the keys (b,).

    sampler: "ddim" with `steps` steps and noise eta, or "ddpm", which takes every step of the process.
    """
    times = np.arange(process.num_steps - 1, -2, -1, dtype=np.int32)
    if sampler == "ddim":
        times = time_grid(process.num_steps, steps)

    def draw(index):
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32))(keys)

    def step(x, inputs):
        index, t, s = inputs
        predicted = predict(x, jnp.full(x.shape[:1], t))
        noise = draw(index)
        if sampler == "ddim":
            return ddim_step(process, x, predicted, t, s, noise, eta), None
        return ddpm_step(process, x, predicted, t, noise), None

    index = np.arange(1, len(times), dtype=np.int32)
    return jax.lax.scan(step, draw(0), (index, times[:-1], times[1:]))[0]


def sample_video(
    denoiser: Denoiser,
    finish: Callable[[jax.Array], Any],
    process: Process,
    keys: jax.Array,
    context: jax.Array,
    num_clips: int,
    *,
    given: bool,
    sampler: str = "ddim",
    steps: int = 100,
    later_steps: int = 100,
    eta: float | jax.Array = 0.0,
    guidance: jax.Array | None = None,
) -> Any:
    """`num_clips` clips for each key (b,), each conditioned on the one before: what `finish` makes of each clip's
    latents (b, positions, c), stacked on a leading axis.

    context: (b, positions, c), the latents of the clip to go on from, or zeros. given: whether there is such a clip;
    if not, the first clip takes `steps` steps without guidance and the others `later_steps`, else all `later_steps`.
    """
    shape = context.shape[1:]

    def clip_keys(number):
        return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)

    def later(context, number):
        predict = guide(denoiser, context, guidance)
        latents = sample_clip(predict, process, clip_keys(number), shape, sampler=sampler, steps=later_steps, eta=eta)
        return latents, finish(latents)

    if given:
        return jax.lax.scan(later, context, np.arange(num_clips))[1]
    predict = guide(denoiser, context, None)
    first = sample_clip(predict, process, clip_keys(0), shape, sampler=sampler, steps=steps, eta=eta)
    finished = jax.tree.map(lambda x: x[None], finish(first))
    if num_clips == 1:
        return finished
    rest = jax.lax.scan(later, first, np.arange(1, num_clips))[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), finished, rest)
