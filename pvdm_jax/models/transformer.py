"""Transformers of the autoencoder: the video transformer with divided attention, and the one that makes a plane.

Both are pre-norm residual stacks of equal blocks. A stack keeps its blocks' parameters stacked on a leading axis and
scans over them, so that compile time does not grow with depth; very short stacks are unrolled.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from pvdm_jax.models import functional
from pvdm_jax.models.ops.attention import attention
from pvdm_jax.models.ops.layers import gelu, linear
from pvdm_jax.models.ops.norms import layer_norm
from pvdm_jax.models.ops.remat import remat
from pvdm_jax.models.ops.rotary import rotate, space_rotation, time_rotation

# So few blocks compile as fast unrolled, and what the gradient needs of each is not copied into a stacked array.
UNROLLED = 2


class SelfAttention(nnx.Module):
    """Multi-head self-attention over the second axis of (b, n, channels), without biases on queries, keys, values."""

    def __init__(self, channels: int, num_heads: int, head_dim: int, *, dtype, rngs: nnx.Rngs):
        self.heads = (num_heads, head_dim)
        inner = num_heads * head_dim
        self.query = linear(channels, inner, bias=False, dtype=dtype, rngs=rngs)
        self.key = linear(channels, inner, bias=False, dtype=dtype, rngs=rngs)
        self.value = linear(channels, inner, bias=False, dtype=dtype, rngs=rngs)
        self.out = linear(inner, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, rotation=None, queries: int | None = None) -> jax.Array:
        """rotation: (sin, cos) tables for queries and keys. queries: compute only this many first positions."""
        query, key, value = self.query(x[:, :queries]), self.key(x), self.value(x)
        query, key, value = (y.reshape(*y.shape[:2], *self.heads) for y in (query, key, value))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        attended = attention(query, key, value)
        return self.out(attended.reshape(*attended.shape[:2], -1))


class GatedFeedForward(nnx.Module):
    """GEGLU: a linear map to values and gates, value * gelu(gate), and a linear map back."""

    def __init__(self, channels: int, hidden: int, *, dtype, rngs: nnx.Rngs):
        self.value = linear(channels, hidden, dtype=dtype, rngs=rngs)
        self.gate = linear(channels, hidden, dtype=dtype, rngs=rngs)
        self.down = linear(hidden, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.value(x) * gelu(self.gate(x)))


class FeedForward(nnx.Module):
    """Linear, GELU, linear."""

    def __init__(self, channels: int, hidden: int, *, dtype, rngs: nnx.Rngs):
        self.up = linear(channels, hidden, dtype=dtype, rngs=rngs)
        self.down = linear(hidden, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(gelu(self.up(x)))


class DividedBlock(nnx.Module):
    """Attention over time, attention over space, gated feed-forward (TimeSformer's divided space-time attention)."""

    def __init__(self, channels: int, num_heads: int, head_dim: int, mlp_ratio: int, *, dtype, rngs: nnx.Rngs):
        heads = num_heads, head_dim
        self.time_norm = layer_norm(channels, dtype=dtype, rngs=rngs)
        self.time_attention = SelfAttention(channels, *heads, dtype=dtype, rngs=rngs)
        self.space_norm = layer_norm(channels, dtype=dtype, rngs=rngs)
        self.space_attention = SelfAttention(channels, *heads, dtype=dtype, rngs=rngs)
        self.mlp_norm = layer_norm(channels, dtype=dtype, rngs=rngs)
        self.mlp = GatedFeedForward(channels, mlp_ratio * channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, t, h, w, channels) to the same shape."""
        batch, frames, height, width, channels = x.shape
        head_dim = self.time_attention.heads[1]
        y = self.time_norm(x).reshape(batch, frames, height * width, channels)
        y = jnp.swapaxes(y, 1, 2).reshape(batch * height * width, frames, channels)
        y = self.time_attention(y, time_rotation(frames, head_dim))
        y = jnp.swapaxes(y.reshape(batch, height * width, frames, channels), 1, 2)
        x = x + y.reshape(x.shape)
        y = self.space_norm(x).reshape(batch * frames, height * width, channels)
        y = self.space_attention(y, space_rotation(height, width, head_dim))
        x = x + y.reshape(x.shape)
        return x + self.mlp(self.mlp_norm(x))


class PlaneBlock(nnx.Module):
    """Attention and feed-forward over the tokens of one line of the grid."""

    def __init__(self, channels: int, num_heads: int, head_dim: int, hidden: int, *, dtype, rngs: nnx.Rngs):
        self.norm = layer_norm(channels, dtype=dtype, rngs=rngs)
        self.attention = SelfAttention(channels, num_heads, head_dim, dtype=dtype, rngs=rngs)
        self.mlp_norm = layer_norm(channels, dtype=dtype, rngs=rngs)
        self.mlp = FeedForward(channels, hidden, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, queries: int | None = None) -> jax.Array:
        """(b, n, channels) to the same shape, or to (b, queries, channels)."""
        x = x[:, :queries] + self.attention(self.norm(x), queries=queries)
        return x + self.mlp(self.mlp_norm(x))


def stack(make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """`depth` modules as one, with every parameter stacked on a new leading axis."""
    graphdef, _ = functional.abstract(lambda: make(functional.rngs(0)))
    keys = jax.random.split(rngs.params(), depth)
    params = jax.vmap(lambda key: functional.split(make(functional.rngs(key)))[1])(keys)
    return functional.merge(graphdef, params)


def scan(stacked: nnx.Module, x: jax.Array, policy: str = "none", *shared: jax.Array) -> jax.Array:
    """Applies the modules of `stack` one after the other: x = module(x, *shared).

    policy: what each module keeps for the gradient (`models.ops.remat`).
    """
    graphdef, params = functional.split(stacked)
    return _scan(graphdef, params, x, policy, *shared)


def scan_to_first(stacked: nnx.Module, x: jax.Array, policy: str = "none") -> jax.Array:
    """As `scan`, but only position 0 of the second axis: (b, n, channels) to (b, channels).

    The last block computes that position alone.
    """
    graphdef, params = functional.split(stacked)
    before, last = (jax.tree.map(lambda p, s=s: p[s], params) for s in (slice(None, -1), -1))
    x = _scan(graphdef, before, x, policy)
    return _block(graphdef, policy, queries=1)(last, x)[:, 0]


def _scan(graphdef, params, x, policy, *shared):
    unroll = len(jax.tree.leaves(params)[0]) <= UNROLLED
    block = _block(graphdef, policy, scanned=not unroll)
    return jax.lax.scan(lambda x, layer: (block(layer, x, *shared), None), x, params, unroll=unroll)[0]


def _block(graphdef, policy, scanned=False, **options):
    def apply(layer, *inputs):
        layer = layer if policy == "none" else functional.prepared_block(layer)
        return functional.merge(graphdef, layer)(*inputs, **options)

    return remat(apply, policy, scanned)
