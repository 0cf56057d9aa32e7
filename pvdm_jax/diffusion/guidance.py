"""Classifier-free guidance (Ho and Salimans 2022) on the previous clip, on the class, or on both with weights of their
own, over a part of the process (Kynkaanniemi et al. 2024)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (x (b, positions, c), step (b,), context (b, positions, k), label (b,) or None) to the prediction
Denoiser = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]
# (x (b, positions, c), step ()) to the prediction
Predict = Callable[[jax.Array, jax.Array], jax.Array]


def guide(
    denoiser: Denoiser,
    context: jax.Array,
    label: jax.Array | None = None,
    *,
    weight: jax.Array | None = None,
    class_weight: jax.Array | None = None,
    interval: tuple[jax.Array, jax.Array] | None = None,
) -> Predict:
    """The prediction (1 + w + v) f(context, label) - w f(nothing, label) - v f(context, no class), in one batch.

    weight, class_weight: scalars w and v; None leaves that part out and saves its call of the denoiser. With one of
    them it is the official formula. interval: the first and the last step at which guidance is on; None is all.
    """

    def plain(x, step):
        return denoiser(x, step, context, label)

    def guided(x, step):
        variants = [(context, label)]
        if weight is not None:
            variants.append((jnp.zeros_like(context), label))
        if class_weight is not None:
            variants.append((context, jnp.full_like(label, -1)))
        count = len(variants)
        labels = None if label is None else jnp.concatenate([variant[1] for variant in variants])
        contexts = jnp.concatenate([variant[0] for variant in variants])
        answers = denoiser(jnp.concatenate([x] * count), jnp.concatenate([step] * count), contexts, labels)
        given, *without = (answers[i * x.shape[0] : (i + 1) * x.shape[0]] for i in range(count))
        weights = [w for w in (weight, class_weight) if w is not None]
        result = (1 + sum(weights)) * given
        for w, answer in zip(weights, without, strict=True):
            result = result - w * answer
        return result

    def predict(x, step):
        steps = jnp.broadcast_to(jnp.asarray(step, jnp.int32), x.shape[:1])
        if weight is None and class_weight is None:
            return plain(x, steps)
        if interval is None:
            return guided(x, steps)
        active = (interval[0] <= step) & (step <= interval[1])
        return jax.lax.cond(active, guided, plain, x, steps)

    return predict
