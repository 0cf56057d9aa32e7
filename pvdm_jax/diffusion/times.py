"""The distributions of the times at which stage 2 trains.

uniform        every step equally often (Ho et al. 2020; the official code)
logit_normal   t / num_steps = sigmoid(shift + spread * n), n standard normal (Esser et al. 2024, section 3.1): a
               shift above 0 draws noisier times
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.config import DiffusionTrainingConfig

Times = Callable[[jax.Array, int, int], jax.Array]  # (key, count, num_steps) to steps, int32 (count,)


def draw_times(
    config: DiffusionTrainingConfig, key: jax.Array, count: int, num_steps: int, *, shown: jax.Array
) -> jax.Array:
    """The times (count,) to train at. shown: (count,), whether a sample sees a neighbouring clip."""
    if config.times == "uniform":
        times = uniform_times(key, count, num_steps)
    else:
        shift = jnp.where(shown, np.float32(config.context_times_shift), np.float32(config.times_shift))
        times = logit_normal_times(key, count, num_steps, shift=shift, spread=config.times_spread)
    if config.context_last_time == 0:
        return times
    last = jax.random.bernoulli(jax.random.fold_in(key, 1), np.float32(config.context_last_time), (count,))
    return jnp.where(shown & last, num_steps - 1, times)


def uniform_times(key: jax.Array, count: int, num_steps: int) -> jax.Array:
    """`count` steps of the process, int32 (count,)."""
    return jax.random.randint(key, (count,), 0, num_steps, jnp.int32)


def logit_normal_times(
    key: jax.Array, count: int, num_steps: int, *, shift: jax.typing.ArrayLike, spread: float
) -> jax.Array:
    """`count` steps of the process, int32 (count,). shift: a scalar, or (count,)."""
    place = jax.nn.sigmoid(shift + spread * jax.random.normal(key, (count,), jnp.float32))
    return jnp.minimum((place * num_steps).astype(jnp.int32), num_steps - 1)
