"""Convolutions that are fast on every device: what `nnx.Conv` takes as `conv_general_dilated`.

Accelerators have convolutions of their own. XLA's CPU code for images of a few pixels and many channels, and for the
gradients of any, falls far below the matrix product, up to 50 times. There the gradients, and small convolutions, are
written as patches times one matrix.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Positions of an example up to which the forward pass takes patches too. XLA is as fast on more, and compiles sooner.
FEW_POSITIONS = 128
# Larger patches of one example (elements) stay with XLA: the matrix would leave the caches and fill memory.
MOST_PATCHES = 2**24


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence, **options) -> jax.Array:
    """`jax.lax.conv_general_dilated` of (b, *sizes, features_in) with (*kernel sizes, features_in, features).

    padding: (low, high) of each axis, or what `conv_general_dilated` takes. Both ways are equal up to rounding.
    """

    def device(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    plain = options.get("feature_group_count", 1) == 1 and options.get("preferred_element_type") is None
    plain &= all(d == 1 for name in ("lhs_dilation", "rhs_dilation") for d in options.get(name) or (1,))
    if not plain or isinstance(padding, str):
        return device(x, kernel)
    sizes = _output_sizes(x.shape, kernel.shape, strides, padding)
    if math.prod(sizes) * math.prod(kernel.shape[:-1]) > MOST_PATCHES:
        return device(x, kernel)
    cpu = functools.partial(_by_patches, tuple(strides), tuple(map(tuple, padding)))
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=device)


def _output_sizes(shape, kernel_shape, strides, padding) -> tuple[int, ...]:
    return tuple(
        (size + sum(pad) - taps) // stride + 1
        for size, taps, stride, pad in zip(shape[1:-1], kernel_shape[:-2], strides, padding, strict=True)
    )


def _patches(x: jax.Array, taps: tuple[int, ...], strides, padding) -> jax.Array:
    """(b, *sizes, features) to (b * positions, taps * features): what the kernel sees at each position."""
    sizes = _output_sizes(x.shape, (*taps, 0, 0), strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    shifted = []
    for index in range(math.prod(taps)):
        start, rest = [], index
        for count in reversed(taps):
            rest, offset = divmod(rest, count)
            start.insert(0, offset)
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, sizes, strides, strict=True)]
        part = jax.lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))
        shifted.append(part.reshape(-1, x.shape[-1]))
    return jnp.concatenate(shifted, axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_patches(strides, padding, x, kernel):
    sizes = _output_sizes(x.shape, kernel.shape, strides, padding)
    if math.prod(sizes) > FEW_POSITIONS:
        axes = "DHW"[-len(sizes) :]
        layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)
    patches = _patches(x, kernel.shape[:-2], strides, padding)
    return (patches @ kernel.reshape(-1, kernel.shape[-1])).reshape(x.shape[0], *sizes, -1)


def _forward(strides, padding, x, kernel):
    return _by_patches(strides, padding, x, kernel), (x, kernel)


def _backward(strides, padding, saved, gradient):
    # The patches are made anew: kept, they would be as many times larger than x as the kernel has taps.
    x, kernel = saved
    patches, spread = jax.vjp(lambda x: _patches(x, kernel.shape[:-2], strides, padding), x)
    gradient = gradient.reshape(-1, kernel.shape[-1])
    of_kernel = (patches.T @ gradient).reshape(kernel.shape)
    (of_x,) = spread(gradient @ kernel.reshape(-1, kernel.shape[-1]).T)
    return of_x, of_kernel


_by_patches.defvjp(_forward, _backward)
