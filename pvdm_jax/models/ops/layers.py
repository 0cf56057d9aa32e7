"""Linear and convolution layers with the official code's initial values, and activations.

PyTorch draws the weights and biases of linear and convolution layers from U(-1/sqrt(fan_in), 1/sqrt(fan_in)); Flax
does not by default.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pvdm_jax.models.ops.convolution import convolve_each


def fusion_barrier(tree: Any) -> Any:
    """The same arrays. On TPUs the compiler fuses nothing across them, nor across their gradients.

    Use it for reshapes next to padded convolutions: libtpu (0.0.52, for v6e and v5p) may fuse the two, and then fails
    with "TransformWindow: merge of a padded window dim is not supported".
    """
    return jax.lax.platform_dependent(tree, tpu=jax.lax.optimization_barrier, default=lambda tree: tree)


def uniform(fan_in: int):
    """The initializer U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32, **_: jax.random.uniform(key, shape, dtype, -bound, bound)


class Linear(nnx.Linear):
    """A linear layer that flattens its input to a matrix: XLA's CPU gradients of higher ranks are 3 times slower."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return super().__call__(inputs.reshape(-1, inputs.shape[-1])).reshape(*inputs.shape[:-1], -1)


def linear(features_in: int, features_out: int, *, bias=True, init=None, dtype, rngs: nnx.Rngs) -> Linear:
    """A linear layer over the last axis; `init` replaces the initializer of kernel and bias."""
    init = init or uniform(features_in)
    return Linear(features_in, features_out, use_bias=bias, kernel_init=init, bias_init=init, dtype=dtype, rngs=rngs)


class Convolution(nnx.Conv):
    """A 3 x 3 convolution of images (b, rows, columns, features), padded by 1 on every side.

    Takes several batches of images, whose sizes may differ, and returns a tuple of as many.
    """

    def __call__(self, *images: jax.Array) -> tuple[jax.Array, ...]:
        *images, kernel, bias = (x.astype(self.dtype) for x in (*images, self.kernel[...], self.bias[...]))
        layout = ("NHWC", "HWIO", "NHWC")
        convolved = convolve_each(images, kernel, self.strides, self.padding, dimension_numbers=layout)
        return tuple(y + bias[None, None, None] for y in convolved)


def convolution(features_in: int, features_out: int, *, stride=1, init=None, dtype, rngs: nnx.Rngs) -> Convolution:
    """A `Convolution`; `init` replaces the initializer of kernel and bias."""
    init = init or uniform(9 * features_in)
    return Convolution(
        features_in,
        features_out,
        kernel_size=(3, 3),
        strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        kernel_init=init,
        bias_init=init,
        dtype=dtype,
        rngs=rngs,
    )


zeros = nnx.initializers.zeros_init()


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, x * Phi(x), computed in float32 and the same with and without a gradient.

    Its gradient reuses Phi(x). Recomputing it, as JAX would, takes XLA 3 times as long on a CPU.
    """
    return _gelu_forward(x)[0]


def _gelu_forward(x):
    wide = x.astype(jnp.float32)
    if x.dtype == jnp.float32:
        phi = 0.5 * (1 + jax.lax.erf(wide * math.sqrt(0.5)))  # on CPUs 4 times faster than erfc
    else:
        # In types of lower precision, 1 + erf would lose the digits of small values.
        phi = 0.5 * jax.lax.erfc(-wide * math.sqrt(0.5))
    return (wide * phi).astype(x.dtype), (x, phi.astype(x.dtype))


def _gelu_backward(saved, gradient):
    x, phi = saved
    density = math.sqrt(0.5 / math.pi) * jnp.exp(-0.5 * x * x)
    return (gradient * (phi + x * density),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def silu(x: jax.Array) -> jax.Array:
    """x * sigmoid(x), with a gradient that reuses sigmoid(x), as in `gelu`."""
    return jax.nn.silu(x)


def _silu_forward(x):
    sigmoid = jax.nn.sigmoid(x)
    return x * sigmoid, (x, sigmoid)


def _silu_backward(saved, gradient):
    x, sigmoid = saved
    return (gradient * sigmoid * (1 + x * (1 - sigmoid)),)


silu.defvjp(_silu_forward, _silu_backward)
