"""Fingerprints of trees of arrays: equal bits give equal fingerprints, on any mesh and on any device.

Each 32-bit word of an array is mixed with its place, and the mixed words are added up modulo 2^32, in two sums. A
change of a single word always changes the first sum. The order of additions does not matter, so an array may be split
over devices and processes in any way. On accelerators, large arrays are summed on the device.
"""

import concurrent.futures
import hashlib
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 2**16  # words that the host mixes at once, which stay in the processor's cache
ON_HOST = 2**20  # an accelerator's arrays with fewer elements are summed on the host: each shape takes a compilation
PLACE, FIRST, SECOND = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35  # odd multipliers (golden ratio; MurmurHash3's finalizer)
WORDS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint32"}  # how elements are read, by their size in bytes


def fingerprint_arrays(tree: Any) -> str:
    """A fingerprint of all NumPy and JAX arrays of a tree, with their places in the tree, shapes and types.

    If arrays span several processes, all of them must call this; all get the same result.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    on_host = [leaf for _, leaf in leaves if _is_for_host(leaf)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        sums_on_host = pool.map(_host_sums, on_host)
        # The devices start on all of their arrays before the first result is fetched.
        sums_on_devices = iter([_device_sums(leaf) for _, leaf in leaves if not _is_for_host(leaf)])
        digest = hashlib.sha256()
        for path, leaf in leaves:
            sums = next(sums_on_host if _is_for_host(leaf) else sums_on_devices)
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            digest.update(f"{name} {leaf.dtype} {leaf.shape} {[int(x) for x in np.asarray(sums)]}\n".encode())
    return digest.hexdigest()[:32]


def _is_for_host(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return False
    return leaf.size < ON_HOST or all(device.platform == "cpu" for device in leaf.devices())


def _host_sums(array: Any) -> np.ndarray:
    """Both sums of an array that this process holds: uint32 (2,)."""
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view(WORDS[flat.dtype.itemsize])
    sums = np.zeros(2, np.uint32)
    for start in range(0, len(words), CHUNK):
        chunk = words[start : start + CHUNK].astype(np.uint32)
        # Places are counted modulo 2^32, as on devices.
        place = np.arange(start + 1, start + 1 + len(chunk), dtype=np.uint64).astype(np.uint32)
        mixed = _mix(chunk, place, np.uint32)
        weighted = mixed * (place + place + np.uint32(1))
        sums += np.array([np.sum(x, dtype=np.uint32) for x in (mixed, weighted)])
    return sums


@jax.jit
def _device_sums(array: jax.Array) -> jax.Array:
    """As `_host_sums`, for an array on devices. The array's axes are kept, so that no shard moves."""
    if array.dtype == jnp.bool_:
        words = array.astype(jnp.uint32)
    else:
        words = jax.lax.bitcast_convert_type(array, WORDS[array.dtype.itemsize]).astype(jnp.uint32)
    place, stride = jnp.uint32(1), 1
    for axis in reversed(range(words.ndim)):
        place = place + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    mixed = _mix(words, place, jnp.uint32)
    weighted = mixed * (place + place + jnp.uint32(1))
    return jnp.stack([_total(mixed), _total(weighted)])


def _mix(words: Any, place: Any, uint32: Any) -> Any:
    """One number for each word and its place; for a given place, different words give different numbers."""
    h = words ^ (place * uint32(PLACE))
    h = (h ^ (h >> uint32(16))) * uint32(FIRST)
    h = (h ^ (h >> uint32(13))) * uint32(SECOND)
    return h ^ (h >> uint32(16))


def _total(words: jax.Array) -> jax.Array:
    """The sum of all words, one axis at a time: XLA's CPU code sums to a scalar in one thread."""
    while words.ndim:
        words = jnp.sum(words, axis=-1, dtype=jnp.uint32)
    return words
