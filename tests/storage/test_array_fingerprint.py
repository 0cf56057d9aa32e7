"""Fingerprints of arrays: the same on hosts, devices and meshes, and another one after any flipped bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.storage import array_fingerprint
from pvdm_jax.storage.array_fingerprint import _device_sums, _host_sums, fingerprint_arrays


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"])
def test_hosts_and_devices_agree(dtype):
    array = jnp.asarray(3 * np.random.default_rng(0).standard_normal((3, 50, 70))).astype(dtype)
    np.testing.assert_array_equal(_host_sums(array), _device_sums(array))


def test_chunks_do_not_matter(monkeypatch):
    array = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    whole = _host_sums(array)
    monkeypatch.setattr(array_fingerprint, "CHUNK", 64)
    np.testing.assert_array_equal(_host_sums(array), whole)


def test_every_flipped_bit_is_seen():
    tree = {"a": np.zeros(3, np.float32), "b": np.array([1.5], np.float16), "c": np.ones((), np.int32)}
    seen = {fingerprint_arrays(tree)}
    flips = 0
    for name, array in tree.items():
        for bit in range(8 * array.nbytes):
            data = bytearray(array.tobytes())
            data[bit // 8] ^= 1 << bit % 8
            changed = np.frombuffer(bytes(data), array.dtype).reshape(array.shape)
            seen.add(fingerprint_arrays(tree | {name: changed}))
            flips += 1
    assert len(seen) == 1 + flips == 1 + 96 + 16 + 32


def test_places_names_shapes_and_types_count():
    rows = np.arange(6, dtype=np.float32)
    trees = (
        {"a": rows},
        {"b": rows},
        {"a": rows[::-1]},
        {"a": rows.reshape(2, 3)},
        {"a": rows.view(np.int32)},
        {"a": np.append(rows, np.float32(0))},
        {"a": rows[:3], "b": rows[3:]},
    )
    assert len({fingerprint_arrays(tree) for tree in trees}) == len(trees)
    assert fingerprint_arrays({"a": jax.device_put(rows)}) == fingerprint_arrays({"a": rows})
