"""Attention on a CPU against JAX's own, with its gradients, whether or not the weights are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.models.ops import attention as module
from pvdm_jax.models.ops.attention import attention


@pytest.mark.parametrize("together", [2**21, 3 * 7 * 11])  # all heads at once; three at a time
@pytest.mark.parametrize("scale", [1.0, 30.0])  # the second has weights that are nearly 0 and 1
def test_attention_agrees_with_jax(monkeypatch, together, scale):
    monkeypatch.setattr(module, "CPU_WEIGHTS", together)
    keys = jax.random.split(jax.random.key(0), 4)
    query, gradient = (jax.random.normal(key, (2, 7, 3, 4)) for key in keys[:2])
    key, value = (scale**0.5 * jax.random.normal(key, (2, 11, 3, 4)) for key in keys[2:])
    query = scale**0.5 * query

    def both(function):
        result, backward = jax.vjp(function, query, key, value)
        return result, *backward(gradient)

    for ours, theirs in zip(both(attention), both(jax.nn.dot_product_attention), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * float(jnp.abs(theirs).max()))


def test_attention_in_bfloat16_stays_there():
    query, key, value = (x.astype(jnp.bfloat16) for x in jax.random.normal(jax.random.key(1), (3, 1, 5, 2, 8)))
    result, backward = jax.vjp(attention, query, key, value)
    found = (result, *backward(result))
    assert all(x.dtype == jnp.bfloat16 for x in found)
    exact, backward = jax.vjp(attention, *(x.astype(jnp.float32) for x in (query, key, value)))
    for ours, theirs in zip(found, (exact, *backward(result.astype(jnp.float32))), strict=True):
        np.testing.assert_allclose(ours.astype(np.float32), theirs, atol=0.03 * float(jnp.abs(theirs).max()))
