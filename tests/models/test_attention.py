"""Every way to compute attention against JAX's own, with its gradients; and the rule that chooses among them."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.models.ops import attention as rule
from pvdm_jax.models.ops import fused_attention, weighted_attention
from pvdm_jax.models.ops.attention import attention, implementation
from pvdm_jax.models.ops.fused_attention import splash
from pvdm_jax.models.ops.weighted_attention import heads_first, kept, recomputed

TOLERANCE = {"float32": 2e-5, "bfloat16": 0.03}  # of the largest number


def agree(ours, theirs, query, key, value, gradient, tolerance):
    """Whether two functions and their gradients agree; `theirs` gets float32."""

    @functools.partial(jax.jit, static_argnums=0)
    def both(function, *arrays):
        result, backward = jax.vjp(function, *arrays)
        return result, *backward(gradient.astype(result.dtype))

    found = both(ours, query, key, value)
    assert all(x.dtype == query.dtype for x in found)
    expected = both(theirs, *(x.astype(jnp.float32) for x in (query, key, value)))
    for mine, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.astype(np.float32), exact, atol=tolerance * float(jnp.abs(exact).max()))


def arrays(queries, keys, heads, head, scale=1.0, dtype="float32", batch=2):
    four = jax.random.split(jax.random.key(0), 4)
    query, gradient = (jax.random.normal(each, (batch, queries, heads, head)) for each in four[:2])
    key, value = (jax.random.normal(each, (batch, keys, heads, head)) for each in four[2:])
    return *(x.astype(dtype) for x in (scale**0.5 * query, scale**0.5 * key, value)), gradient


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("part", [2**30, 40])  # of the weights: all at once, those of four queries
@pytest.mark.parametrize("compute", [heads_first, recomputed, kept])
def test_attention_in_parts_is_attention(monkeypatch, compute, part, dtype):
    monkeypatch.setattr(weighted_attention, "CPU_WEIGHTS", part)
    monkeypatch.setattr(weighted_attention, "PART_WEIGHTS", part)
    for scale in (1.0, 30.0) if dtype == "float32" else (1.0,):  # of 30, weights are nearly 0 and 1
        agree(compute, jax.nn.dot_product_attention, *arrays(13, 10, 3, 8, scale, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernel_for_tpus_is_attention(dtype):
    def interpreted(query, key, value):
        return splash(query, key, value, interpret=True)

    agree(interpreted, jax.nn.dot_product_attention, *arrays(128, 256, 1, 64, 1.0, dtype, 1), TOLERANCE[dtype])


def test_odd_lengths_are_padded_for_cudnn(monkeypatch):
    """The padding adds nothing: what is asked of the kernel, computed by XLA instead."""
    asked, xla = [], jax.nn.dot_product_attention

    def kernel(query, key, value, implementation, **lengths):
        asked.append((query.shape[1], key.shape[1], implementation))
        return xla(query, key, value, **lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    for queries, keys in ((17, 17), (1, 33), (16, 16)):
        agree(fused_attention.cudnn, xla, *arrays(queries, keys, 2, 8), TOLERANCE["float32"])
    assert [lengths[:2] for lengths in asked] == [(18, 18), (2, 34), (16, 16)]
    assert all(lengths[2] == "cudnn" for lengths in asked)


def test_the_rule(monkeypatch):
    monkeypatch.setattr(fused_attention, "_has_cudnn", lambda: True)
    chosen = {
        # platform, dtype, head, queries and keys
        ("cpu", "bfloat16", 64, 2048, 2048): "heads",
        ("cuda", "bfloat16", 64, 2048, 2048): "cudnn",
        ("cuda", "float16", 128, 1024, 512): "cudnn",
        ("cuda", "bfloat16", 64, 401, 401): "cudnn",
        ("cuda", "bfloat16", 48, 1, 17): "kept",
        ("cuda", "bfloat16", 48, 33, 33): "kept",
        ("cuda", "bfloat16", 36, 1024, 1024): "recomputed",
        ("cuda", "bfloat16", 256, 1024, 1024): "recomputed",
        ("cuda", "float32", 64, 2048, 2048): "recomputed",
        ("cuda", "float32", 48, 33, 33): "kept",
        ("tpu", "bfloat16", 64, 1024, 1024): "splash",
        ("tpu", "float32", 32, 2048, 128): "splash",
        ("tpu", "bfloat16", 64, 400, 400): "recomputed",
        ("tpu", "bfloat16", 48, 17, 17): "kept",
        ("rocm", "bfloat16", 64, 128, 128): "recomputed",
        ("", "bfloat16", 64, 2048, 2048): "recomputed",
    }
    found = {
        call: implementation(platform, dtype, (2, queries, 4, head), keys)
        for call in chosen
        for platform, dtype, head, queries, keys in [call]
    }
    assert found == chosen
    assert implementation("cuda", "bfloat16", (2**16, 128, 4, 48), 128) == "recomputed"  # more than a grid holds
    monkeypatch.setattr(fused_attention, "_has_cudnn", lambda: False)
    assert implementation("cuda", "bfloat16", (2, 2048, 4, 64), 2048) == "recomputed"


def test_without_cudnn_nothing_fused_is_chosen():
    """On a machine with no NVIDIA GPU the question alone must not fail."""
    assert fused_attention._has_cudnn() in (True, False)
    assert attention(*arrays(5, 5, 2, 8)[:3]).shape == (2, 5, 2, 8)


@pytest.mark.parametrize(("capability", "fused"), [("9.0", True), ("8.0", True), ("7.5", False), ("gfx942", False)])
def test_gpus_without_the_kernel_are_not_asked_for_it(monkeypatch, capability, fused):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(compute_capability=capability)])
    monkeypatch.setattr(jax, "eval_shape", lambda *_: None)  # JAX finds cuDNN
    assert fused_attention._has_cudnn.__wrapped__() == fused


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_weights_of_many_positions_are_not_kept(platform):
    """The gradient's memory grows with the positions, not with their square; in any type, on any device."""
    name = implementation(platform, jnp.float32, (4, 1024, 8, 16), 1024)
    compute = rule.IMPLEMENTATIONS[name]
    x = jax.ShapeDtypeStruct((4, 1024, 8, 16), jnp.float32)
    kept_bytes = sum(
        aval.size * aval.dtype.itemsize
        for aval in jax.tree.leaves(jax.eval_shape(lambda *inputs: jax.vjp(compute, *inputs)[1], x, x, x))
    )
    assert kept_bytes < 6 * x.size * 4
    gradient = jax.jit(jax.grad(lambda q, k, v: jnp.sum(compute(q, k, v)), argnums=(0, 1, 2)))
    stats = gradient.lower(x, x, x).compile().memory_analysis()
    assert stats.temp_size_in_bytes < 4 * 8 * 1024 * 1024 * 4
