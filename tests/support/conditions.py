"""Conditions of a denoiser from plain arrays."""

import dataclasses

import jax.numpy as jnp

from pvdm_jax.models.condition import Condition, Neighbour


def condition(denoiser, count, *, label=None, **neighbours):
    """The condition of `count` samples for a denoiser module: latents of neighbouring clips (b, positions, c) and
    labels (b,) where they are given, absent where they are not."""
    parts = Condition.absent(denoiser.config, denoiser.spec, count)
    given = {name: Neighbour(x, jnp.ones(count, bool)) for name, x in neighbours.items() if x is not None}
    if label is not None:
        given["label"] = jnp.asarray(label)
    return dataclasses.replace(parts, **given)
