"""Layer and group norm with the official code's epsilon, and a group norm modulated by the step's embedding.

Statistics are in float32, and variances come from centred values: the mean of squares minus the squared mean would lose
digits. The group norm sums over positions first and over a group's features afterwards. Its gradient needs two such
sums; the gradient that JAX derives has five, each over an array that is written only for it.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

EPSILON = 1e-5
GROUPS = 32


def layer_norm(features: int, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm over the last axis."""
    return nnx.LayerNorm(features, epsilon=EPSILON, use_fast_variance=False, dtype=dtype, rngs=rngs)


def group_norm(features: int, *, dtype, rngs: nnx.Rngs) -> "GroupNorm":
    """Group norm in 32 groups over all axes but the first."""
    return GroupNorm(features, num_groups=GROUPS, epsilon=EPSILON, dtype=dtype, rngs=rngs)


class GroupNorm(nnx.GroupNorm):
    """Group norm (Wu and He, 2018), optionally with the scale and shift by which an embedding modulates it."""

    def __call__(self, x: jax.Array, scale: jax.Array | None = None, shift: jax.Array | None = None) -> jax.Array:
        """(b, ..., features) normalised; with `scale` and `shift` (b, features), times 1 + scale, plus shift."""
        batch, features = x.shape[0], x.shape[-1]
        weight, bias = self.scale[...][None], self.bias[...][None]
        if scale is not None:
            weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
        weight, bias = (jnp.broadcast_to(y, (batch, features)).astype(jnp.float32) for y in (weight, bias))
        y = normalize_groups(x.reshape(batch, -1, features), weight, bias, self.num_groups)
        return y.astype(self.dtype).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_groups(x: jax.Array, weight: jax.Array, bias: jax.Array, groups: int) -> jax.Array:
    """x (b, n, c), normalised in groups of c / groups features, times weight plus bias (b, c); float32."""
    return _forward(x, weight, bias, groups)[0]


def _forward(x, weight, bias, groups):
    mean = _over_groups(x.astype(jnp.float32).mean(axis=1), groups)
    variance = _over_groups(jnp.square(x - mean[:, None]).mean(axis=1), groups)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    return (x - mean[:, None]) * (inverse * weight)[:, None] + bias[:, None], (x, weight, mean, inverse)


def _backward(groups, saved, gradient):
    # With z the normalised x: the gradient of x is that of z minus its components along 1 and along z in every group.
    x, weight, mean, inverse = saved
    z = (x - mean[:, None]) * inverse[:, None]
    bias_gradient = gradient.sum(axis=1)
    weight_gradient = (gradient * z).sum(axis=1)
    along_one, along_z = (
        _over_groups(weight * total, groups) / x.shape[1] for total in (bias_gradient, weight_gradient)
    )
    x_gradient = (gradient * weight[:, None] - along_one[:, None] - z * along_z[:, None]) * inverse[:, None]
    return x_gradient.astype(x.dtype), weight_gradient, bias_gradient


normalize_groups.defvjp(_forward, _backward)


def _over_groups(x: jax.Array, groups: int) -> jax.Array:
    """(b, c) with each feature's value replaced by the mean over its group."""
    batch, features = x.shape
    mean = x.reshape(batch, groups, -1).mean(axis=-1, keepdims=True)
    return jnp.broadcast_to(mean, (batch, groups, features // groups)).reshape(batch, features)
