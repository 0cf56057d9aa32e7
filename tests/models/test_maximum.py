"""The maximum along an axis: JAX's values and gradient, but nothing that could divide by zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.models.ops.maximum import maximum_along


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint])
def test_value_and_gradient(axis, wrap):
    x = jnp.asarray(np.random.default_rng(0).permutation(2 * 3 * 5 * 4).reshape(2, 3, 5, 4), jnp.float32)

    def loss(maximum):
        return lambda x: jnp.sum(jnp.sin(0.1 * wrap(maximum)(x)))

    value, gradient = jax.jit(jax.value_and_grad(loss(lambda x: maximum_along(x, axis))))(x)
    wanted, wanted_gradient = jax.value_and_grad(loss(lambda x: jnp.max(x, axis)))(x)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-5, atol=1e-7)


def test_the_first_of_equal_values_has_the_gradient():
    gradient = jax.grad(lambda x: jnp.sum(maximum_along(x, 1)))(jnp.ones((2, 3)))
    np.testing.assert_array_equal(gradient, [[1, 0, 0]] * 2)


def test_the_gradient_does_not_look_for_the_maximum_again():
    """XLA may compute the values twice and round differently: a share of how many equal the maximum is 0 / 0 then."""
    program = str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(maximum_along(x, 1))))(jnp.ones((2, 3))))
    assert " argmax[" in program and " div " not in program
    assert " div " in str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(jnp.max(x, 1))))(jnp.ones((2, 3))))
