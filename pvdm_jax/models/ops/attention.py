"""Scaled dot-product attention, and the rotary position embeddings of the video transformer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Attention weights that are made at once on a CPU (elements): more of them leave its caches.
CPU_WEIGHTS = 2**21
# Weights of one head that are made at once under rematerialisation.
REMAT_WEIGHTS = 2**18


def attention(query: jax.Array, key: jax.Array, value: jax.Array, remat: bool = False) -> jax.Array:
    """softmax(query key^T / sqrt(d)) value, for each head.

    query (b, n, heads, d), key and value (b, m, heads, d) give (b, n, heads, d). The softmax is computed in float32;
    the result has the query's dtype. All ways to compute it are equal up to rounding:

    - On a CPU the heads are moved to the front, where XLA multiplies batched matrices fastest. Where there are many
      weights, some heads at a time go through, and their weights are computed again for the gradient: they stay in
      the caches, and memory for n x m weights isn't needed.
    - Elsewhere `jax.nn.dot_product_attention`; with `remat` some queries at a time (of all heads and the whole batch,
      which may be spread over devices), whose weights are computed again for the gradient.
    """
    default = _some_queries if remat else jax.nn.dot_product_attention
    return jax.lax.platform_dependent(query, key, value, cpu=_heads_first, default=default)


def _heads_first(query, key, value):
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _weighted(query, key, value, keep):
    """Attention of (..., n, d) to (..., m, d). keep: the weights, for the gradient; else they are computed again."""
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
    of_value = jnp.matmul(jnp.swapaxes(weights, -1, -2), gradient)
    of_weights = jnp.matmul(gradient, jnp.swapaxes(value, -1, -2), preferred_element_type=jnp.float32)
    # The sum of weights * of_weights over the keys, without going through n x m numbers for it.
    along = jnp.sum(gradient.astype(jnp.float32) * result.astype(jnp.float32), axis=-1, keepdims=True)
    of_logits = (weights * (of_weights - along)).astype(query.dtype) * query.shape[-1] ** -0.5
    return jnp.matmul(of_logits, key), jnp.matmul(jnp.swapaxes(of_logits, -1, -2), query), of_value


_weighted.defvjp(_forward, _backward)


def _logits(query, key):
    scaled = query * query.shape[-1] ** -0.5
    return jnp.matmul(scaled, jnp.swapaxes(key, -1, -2), preferred_element_type=jnp.float32)


def _some_queries(query, key, value):
    b, n, heads, d = query.shape
    together = max(1, REMAT_WEIGHTS // key.shape[1])
    together = next((size for size in range(min(together, n), 0, -1) if n % size == 0), n)
    if together == n:
        return jax.nn.dot_product_attention(query, key, value)
    parts = jnp.moveaxis(query.reshape(b, n // together, together, heads, d), 1, 0)
    part = jax.checkpoint(lambda some: jax.nn.dot_product_attention(some, key, value), prevent_cse=False)
    return jnp.moveaxis(jax.lax.map(part, parts), 0, 1).reshape(query.shape)


def rotate(x: jax.Array, table: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """Applies rotary position embeddings to (..., n, heads, d) by (sin, cos) tables of (n, d).

    Component i of the first half is rotated with component i of the second. The official code rotates neighbours,
    (2i, 2i + 1); with the components of queries and keys reordered in the weights (see `pvdm_jax.weights.official`),
    the two are equal, and halves are contiguous in memory.
    """
    sin, cos = (jnp.asarray(part[None, :, None], x.dtype) for part in table)
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-second, first], axis=-1) * sin


@functools.cache
def time_rotation(frames: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(sin, cos) of (frames, dim) for attention over time: angles frame * 10000^(-2i / dim), the table twice."""
    frequencies = 1.0 / (10000.0 ** (np.arange(0, dim, 2, dtype=np.float32) / dim))
    angles = np.arange(frames, dtype=np.float32)[:, None] * np.concatenate([frequencies, frequencies])
    return _tables(angles)


@functools.cache
def space_rotation(height: int, width: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(sin, cos) of (height * width, dim) for attention within a frame.

    Axial: the first half of the frequencies turns with the row, the second with the column, positions
    linspace(-1, 1) * pi, dim / 4 scales from 1 to 5, log-spaced; each for a pair of components.
    """
    scales = np.logspace(0.0, np.log2(5.0), dim // 4, base=2, dtype=np.float32)
    rows, columns = (
        np.linspace(-1.0, 1.0, n, dtype=np.float32)[:, None] * scales * np.float32(np.pi) for n in (height, width)
    )
    rows = np.broadcast_to(rows[:, None], (height, width, dim // 4))
    columns = np.broadcast_to(columns[None], (height, width, dim // 4))
    angles = np.concatenate([rows, columns], axis=-1).reshape(height * width, dim // 2)
    return _tables(np.repeat(angles, 2, axis=-1))


def _tables(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.concatenate([np.arange(0, angles.shape[-1], 2), np.arange(1, angles.shape[-1], 2)])
    angles = angles[:, order].astype(np.float32)
    return np.sin(angles), np.cos(angles)
