"""Rotary position embeddings of the video transformer: along time, and axial within a frame."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


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
