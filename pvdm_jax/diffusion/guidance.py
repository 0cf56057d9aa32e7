"""Guidance: the denoiser's answer is moved away from a worse one, with a weight, over a part of the process
(Kynkaanniemi et al. 2024).

Worse are the denoiser's own answers to conditions that lack a part (classifier-free guidance, Ho and Salimans 2022),
and that of a denoiser which knows nothing of the data (autoguidance, Karras et al. 2024, with the worst of models).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# (x (b, positions, c), times (b,), condition) to the prediction
Denoise = Callable[[jax.Array, jax.Array, Any], jax.Array]
# (x (b, positions, c), times (b,)) to the prediction, whatever the condition
Answer = Callable[[jax.Array, jax.Array], jax.Array]
# (x (b, positions, c), time ()) to the prediction
Predict = Callable[[jax.Array, jax.Array], jax.Array]


def guide(
    denoise: Denoise,
    condition: Any,
    away: Sequence[tuple[jax.Array, Any]] = (),
    *,
    prior: tuple[jax.Array, Answer] | None = None,
    interval: tuple[jax.Array, jax.Array] | None = None,
) -> Predict:
    """The prediction (1 + w_1 + w_2 + .. + v) f(condition) - w_1 f(lacking_1) - w_2 f(lacking_2) - .. - v g.

    away: pairs (w_i, lacking_i) of a scalar and the condition without one of its parts, pytrees like `condition`; all
    of f is asked in one batch. With one pair alone it is the official formula. prior: the pair (v, g), g being an
    answer without a network. interval: the first and the last time at which guidance is on; None: always.
    """

    # Both give f(condition) and what guidance away from `away` makes of it.
    def plain(x, times):
        given = denoise(x, times, condition)
        return given, given

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
        return given, result

    def predict(x, time):
        times = jnp.broadcast_to(jnp.asarray(time, jnp.int32), x.shape[:1])
        active = True if interval is None else (interval[0] <= time) & (time <= interval[1])
        if away and interval is not None:
            given, result = jax.lax.cond(active, guided, plain, x, times)
        else:
            given, result = (guided if away else plain)(x, times)
        if prior is not None:
            weight, answer = prior
            result = result + jnp.where(active, weight, 0.0) * (given - answer(x, times))
        return result

    return predict
