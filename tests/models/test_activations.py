"""GELU and SiLU: the same numbers with and without a gradient, in every type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from pvdm_jax.models.ops.layers import gelu, silu


def exact(x):
    x = np.asarray(x, np.float64)
    return 0.5 * x * special.erfc(-x * np.sqrt(0.5))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("function", [gelu, silu])
def test_training_and_inference_agree(function, dtype):
    x = jnp.linspace(-8, 8, 2001).astype(dtype)
    for transform in (lambda f: f, jax.jit):
        plain = transform(function)(x)
        trained = transform(lambda x: jax.vjp(function, x)[0])(x)
        assert plain.dtype == trained.dtype == dtype
        np.testing.assert_array_equal(plain, trained)


@pytest.mark.parametrize("dtype, relative, absolute", [(jnp.float32, 1e-6, 1e-6), (jnp.bfloat16, 2**-8, 1e-30)])
def test_gelu_is_exact(dtype, relative, absolute):
    x = jnp.linspace(-6, 6, 2001).astype(dtype)
    np.testing.assert_allclose(np.asarray(gelu(x), np.float64), exact(x), rtol=relative, atol=absolute)
