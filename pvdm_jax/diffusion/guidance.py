"""Classifier-free guidance (Ho and Salimans 2022) away from conditions that lack a part, with a weight for each, over a
part of the process (Kynkaanniemi et al. 2024)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# (x (b, positions, c), times (b,), condition) to the prediction
Denoise = Callable[[jax.Array, jax.Array, Any], jax.Array]
# (x (b, positions, c), time ()) to the prediction
Predict = Callable[[jax.Array, jax.Array], jax.Array]


def guide(
    denoise: Denoise,
    condition: Any,
    away: Sequence[tuple[jax.Array, Any]] = (),
    *,
    interval: tuple[jax.Array, jax.Array] | None = None,
) -> Predict:
    """The prediction (1 + w_1 + w_2 + ..) f(condition) - w_1 f(lacking_1) - w_2 f(lacking_2) - .., in one batch.

    away: pairs (w_i, lacking_i) of a scalar and the condition without one of its parts, pytrees like `condition`. With
    one pair it is the official formula. interval: the first and the last time at which guidance is on; None: always.
    """

    def plain(x, times):
        return denoise(x, times, condition)

    def guided(x, times):
        conditions = [condition, *(lacking for _, lacking in away)]
        count = len(conditions)
        together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *conditions)
        answers = denoise(jnp.concatenate([x] * count), jnp.concatenate([times] * count), together)
        given, *without = (answers[i * x.shape[0] : (i + 1) * x.shape[0]] for i in range(count))
        weights = [weight for weight, _ in away]
        result = (1 + sum(weights)) * given
        for weight, answer in zip(weights, without, strict=True):
            result = result - weight * answer
        return result

    def predict(x, time):
        times = jnp.broadcast_to(jnp.asarray(time, jnp.int32), x.shape[:1])
        if not away:
            return plain(x, times)
        if interval is None:
            return guided(x, times)
        active = (interval[0] <= time) & (time <= interval[1])
        return jax.lax.cond(active, guided, plain, x, times)

    return predict
