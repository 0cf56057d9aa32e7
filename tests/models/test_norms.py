import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pvdm_jax.models.ops.norms import EPSILON, group_norm


def with_parameters(norm, weight, bias):
    norm.scale[...], norm.bias[...] = weight, bias
    return norm


def ours(weight, bias, x, scale, shift):
    norm = group_norm(x.shape[-1], dtype=jnp.float32, rngs=nnx.Rngs(0))
    return with_parameters(norm, weight, bias)(x, scale, shift)


def flax(weight, bias, x, scale, shift):
    """What Flax makes of it, with gradients that JAX derives."""
    features = x.shape[-1]
    norm = nnx.GroupNorm(features, num_groups=32, epsilon=EPSILON, use_fast_variance=False, rngs=nnx.Rngs(0))
    spread = (x.shape[0], *(1,) * (x.ndim - 2), features)
    return with_parameters(norm, weight, bias)(x) * (1 + scale.reshape(spread)) + shift.reshape(spread)


@pytest.mark.parametrize("shape", [(2, 6, 5, 64), (3, 7, 32), (1, 4, 4, 96)])
def test_values_and_gradients_are_those_of_flax(shape):
    rng = np.random.default_rng(0)
    batch, features = shape[0], shape[-1]
    arrays = [(features,), (features,), (batch, features), (batch, features), shape]
    weight, bias, scale, shift, target = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in arrays)
    x = jnp.asarray(rng.normal(3.0, 2.0, shape), jnp.float32)

    def loss(function):
        return lambda *arguments: jnp.sum(target * function(*arguments))

    arguments = (weight, bias, x, scale, shift)
    np.testing.assert_allclose(ours(*arguments), flax(*arguments), atol=2e-5)
    found, expected = (jax.grad(loss(f), argnums=range(5))(*arguments) for f in (ours, flax))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_without_an_embedding_nothing_is_modulated():
    norm = group_norm(64, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 8, 64)) + 5
    y = np.asarray(norm(x)).reshape(2, 8, 32, 2)
    np.testing.assert_allclose(y.mean(axis=(1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(1, 3)), 1, atol=1e-4)
    np.testing.assert_array_equal(norm(x), norm(x, jnp.zeros((2, 64)), jnp.zeros((2, 64))))


def test_bfloat16_has_statistics_in_float32():
    norm = group_norm(32, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = (jax.random.normal(jax.random.key(0), (2, 4096, 32)) + 100).astype(jnp.bfloat16)
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(axis=1, keepdims=True)) / np.sqrt(exact.var(axis=1, keepdims=True) + EPSILON)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=0.02)
