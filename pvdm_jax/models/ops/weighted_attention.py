"""Attention in plain array operations, with its own gradient, for which the weights are kept or recomputed.

The three functions agree up to rounding. All take query (b, n, heads, d), key and value (b, m, heads, d), compute the
softmax and all sums over positions in float32, and return (b, n, heads, d) in the query's dtype.
"""

import functools

import jax
import jax.numpy as jnp

# Most attention weights computed at once on a CPU: more would leave its caches.
CPU_WEIGHTS = 2**21
# Most weights per head computed at once on other devices, where they are recomputed for the gradient.
PART_WEIGHTS = 2**18


def heads_first(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """For CPUs: the heads are moved to the front, where XLA multiplies batched matrices fastest.

    If there are many weights, some heads at a time are computed, and their weights are recomputed for the gradient.
    Thus weights stay in the caches, and no memory for n x m weights is needed.
    """
    b, n, heads, d = query.shape
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    together = max(1, CPU_WEIGHTS // (n * key.shape[2]))
    matrices = b * heads if isinstance(b, int) else heads  # an exported program's batch size is open
    if isinstance(b, int) and together >= matrices:
        return jnp.swapaxes(_weighted(query, key, value, True), 1, 2)
    together = next(size for size in range(together, 0, -1) if matrices % size == 0)
    parts = (x.reshape(-1, together, *x.shape[2:]) for x in (query, key, value))
    found = jax.lax.map(lambda part: _weighted(*part, False), tuple(parts))
    return jnp.swapaxes(found.reshape(b, heads, n, d), 1, 2)


def kept(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """All weights at once; the gradient keeps them, in the query's dtype."""
    return jnp.swapaxes(_weighted(*(jnp.swapaxes(x, 1, 2) for x in (query, key, value)), True), 1, 2)


def recomputed(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Some queries at a time; the gradient keeps the result and one number for each query, not their weights."""
    return jnp.swapaxes(_in_parts(*(jnp.swapaxes(x, 1, 2) for x in (query, key, value))), 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _weighted(query, key, value, keep):
    """Attention of (..., n, d) to (..., m, d). keep: whether the gradient keeps the weights or recomputes them."""
    return _forward(query, key, value, keep)[0]


def _forward(query, key, value, keep):
    logits = _logits(query, key)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = (weights / total).astype(query.dtype)
    result = jnp.matmul(weights, value)
    return result, (query, key, value, result, weights if keep else largest + jnp.log(total))


def _backward(keep, saved, gradient):
    query, key, value, result, kept = saved
    weights = kept if keep else jnp.exp(_logits(query, key) - kept).astype(query.dtype)
    of_query, of_key, of_value = _gradients(query, key, value, result, weights, gradient)
    return of_query, of_key.astype(key.dtype), of_value.astype(value.dtype)


_weighted.defvjp(_forward, _backward)


def _gradients(query, key, value, result, weights, gradient):
    """The gradients of query, key and value; those of key and value, which are sums over the queries, are float32."""
    of_value = jnp.matmul(jnp.swapaxes(weights, -1, -2), gradient, preferred_element_type=jnp.float32)
    of_weights = jnp.matmul(gradient, jnp.swapaxes(value, -1, -2), preferred_element_type=jnp.float32)
    # Equal to the sum of weights * of_weights over the keys, but without n x m products.
    along = jnp.sum(gradient.astype(jnp.float32) * result.astype(jnp.float32), axis=-1, keepdims=True)
    of_logits = (weights * (of_weights - along)).astype(query.dtype) * query.shape[-1] ** -0.5
    of_key = jnp.matmul(jnp.swapaxes(of_logits, -1, -2), query, preferred_element_type=jnp.float32)
    return jnp.matmul(of_logits, key), of_key, of_value


def _logits(query, key):
    scaled = query * query.shape[-1] ** -0.5
    return jnp.matmul(scaled, jnp.swapaxes(key, -1, -2), preferred_element_type=jnp.float32)


@jax.custom_vjp
def _in_parts(query, key, value):
    """Attention of (b, heads, n, d) to (b, heads, m, d), some queries at a time."""
    return _forward_in_parts(query, key, value)[0]


def _forward_in_parts(query, key, value):
    def part(some):
        result, (*_, total) = _forward(some, key, value, False)
        return result, total

    size = _queries_at_once(query, key)
    result, total = (_join(x, query.shape[2]) for x in jax.lax.map(part, _split(query, size)))
    return result, (query, key, value, result, total)


def _backward_in_parts(saved, gradient):
    query, key, value, result, total = saved

    def part(sums, some):
        query, result, total, gradient = some
        weights = jnp.exp(_logits(query, key) - total).astype(query.dtype)
        of_query, *found = _gradients(query, key, value, result, weights, gradient)
        return jax.tree.map(jnp.add, sums, tuple(found)), of_query

    size = _queries_at_once(query, key)
    parts = tuple(_split(x, size) for x in (query, result, total, gradient))
    zeros = (jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32))
    (of_key, of_value), of_query = jax.lax.scan(part, zeros, parts)
    return _join(of_query, query.shape[2]), of_key.astype(key.dtype), of_value.astype(value.dtype)


_in_parts.defvjp(_forward_in_parts, _backward_in_parts)


def _queries_at_once(query, key) -> int:
    """The number of queries in a part: parts have equal sizes, and the last one is padded."""
    n = query.shape[2]
    parts = -(-n // max(1, PART_WEIGHTS // key.shape[2]))
    return -(-n // parts)


def _split(x, size):
    """(b, heads, n, d) to (parts, b, heads, size, d); the last part is padded with zeros, whose gradients are zero."""
    b, heads, n, d = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (0, -n % size), (0, 0)))
    return jnp.moveaxis(x.reshape(b, heads, -1, size, d), 2, 0)


def _join(x, n):
    """The inverse of `_split`, for n queries."""
    parts, b, heads, size, d = x.shape
    return jnp.moveaxis(x, 0, 2).reshape(b, heads, parts * size, d)[:, :, :n]
