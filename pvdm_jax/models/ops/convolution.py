"""Convolutions that are fast on every device: `convolve` is what `nnx.Conv` takes as `conv_general_dilated`.

Accelerators have good convolutions. On CPUs, XLA's code for images of a few pixels and many channels, and for the
gradients of all convolutions, is up to 50 times slower than its matrix product. There, gradients and small convolutions
are written as patches times one matrix.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Most positions per example for which the forward pass uses patches too. For more, XLA is as fast and compiles sooner.
FEW_POSITIONS = 128
# Most elements in the patches of one example. Larger ones are left to XLA: the matrix would leave the caches.
MOST_PATCHES = 2**24


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence, **options) -> jax.Array:
    """`jax.lax.conv_general_dilated` of (b, *sizes, features_in) with (*kernel sizes, features_in, features).

    padding: (low, high) of each axis, or what `conv_general_dilated` takes. The two functions agree up to rounding.
    """
    return _convolve((x,), kernel, strides, padding, options)[0]


def convolve_each(
    images: Sequence[jax.Array], kernel: jax.Array, strides: Sequence[int], padding: Sequence, **options
) -> tuple[jax.Array, ...]:
    """`convolve` of several batches of images with one kernel; padding: (low, high) of each axis.

    Sizes may differ, and so may batches if they are multiples of the smallest one. On a CPU, small images share a
    matrix product, because reading a kernel of many features takes as long as multiplying with it.
    """
    few = [_positions(x, kernel, strides, padding) <= FEW_POSITIONS for x in images]
    small = tuple(itertools.compress(images, few))
    together = iter(_convolve(small, kernel, strides, padding, options) if small else ())
    return tuple(
        next(together) if joined else convolve(x, kernel, strides, padding, **options)
        for x, joined in zip(images, few, strict=True)
    )


def _convolve(images, kernel, strides, padding, options) -> tuple[jax.Array, ...]:
    def device(images, kernel):
        return tuple(jax.lax.conv_general_dilated(x, kernel, strides, padding, **options) for x in images)

    plain = options.get("feature_group_count", 1) == 1 and options.get("preferred_element_type") is None
    plain &= all(d == 1 for name in ("lhs_dilation", "rhs_dilation") for d in options.get(name) or (1,))
    if not plain or isinstance(padding, str):
        return device(images, kernel)
    most = max(_positions(x, kernel, strides, padding) for x in images)
    if most * math.prod(kernel.shape[:-1]) > MOST_PATCHES:
        return device(images, kernel)
    cpu = functools.partial(_by_patches, tuple(strides), tuple(map(tuple, padding)))
    return jax.lax.platform_dependent(images, kernel, cpu=cpu, default=device)


def _positions(x: jax.Array, kernel: jax.Array, strides, padding) -> int:
    return math.prod(_output_sizes(x.shape, kernel.shape, strides, padding))


def _output_sizes(shape, kernel_shape, strides, padding) -> tuple[int, ...]:
    return tuple(
        (size + sum(pad) - taps) // stride + 1
        for size, taps, stride, pad in zip(shape[1:-1], kernel_shape[:-2], strides, padding, strict=True)
    )


def _patches(x: jax.Array, taps: tuple[int, ...], strides, padding) -> jax.Array:
    """(b, *sizes, features) to (b, *output sizes, taps * features): what the kernel sees at each position."""
    sizes = _output_sizes(x.shape, (*taps, 0, 0), strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    shifted = []
    for index in range(math.prod(taps)):
        start, rest = [], index
        for count in reversed(taps):
            rest, offset = divmod(rest, count)
            start.insert(0, offset)
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, sizes, strides, strict=True)]
        shifted.append(jax.lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1)))
    return jnp.concatenate(shifted, axis=-1)


def _join(images: Sequence[jax.Array]) -> jax.Array:
    """The positions of all images as rows (n, features), those of an example side by side, so that a batch split over
    devices is not moved."""
    batch = min(x.shape[0] for x in images)
    rows = [x.reshape(batch, -1, x.shape[-1]) for x in images]
    return jnp.concatenate(rows, axis=1).reshape(-1, rows[0].shape[-1])


def _split(rows: jax.Array, shapes: Sequence[tuple[int, ...]]) -> tuple[jax.Array, ...]:
    """The inverse of `_join`; `shapes`: the images' shapes without their features."""
    batch = min(count for count, *_ in shapes)
    rows, found, start = rows.reshape(batch, -1, rows.shape[-1]), [], 0
    for count, *sizes in shapes:
        stop = start + count // batch * math.prod(sizes)
        found.append(rows[:, start:stop].reshape(count, *sizes, -1))
        start = stop
    return tuple(found)


def _all_patches(images: tuple[jax.Array, ...], taps: tuple[int, ...], strides, padding) -> jax.Array:
    return _join([_patches(x, taps, strides, padding) for x in images])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_patches(strides, padding, images, kernel):
    """Images of at most FEW_POSITIONS together, or a single larger one."""
    if any(_positions(x, kernel, strides, padding) > FEW_POSITIONS for x in images):
        axes = "DHW"[-len(strides) :]
        layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        return tuple(
            jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout) for x in images
        )
    rows = _all_patches(images, kernel.shape[:-2], strides, padding) @ kernel.reshape(-1, kernel.shape[-1])
    shapes = [(x.shape[0], *_output_sizes(x.shape, kernel.shape, strides, padding)) for x in images]
    return _split(rows, shapes)


def _forward(strides, padding, images, kernel):
    return _by_patches(strides, padding, images, kernel), (images, kernel)


def _backward(strides, padding, saved, gradients):
    # The patches are recomputed: kept, they would take as many times the memory of x as the kernel has taps.
    images, kernel = saved
    patches, spread = jax.vjp(lambda images: _all_patches(images, kernel.shape[:-2], strides, padding), images)
    gradient = _join(gradients)
    of_kernel = (patches.T @ gradient).reshape(kernel.shape)
    (of_images,) = spread(gradient @ kernel.reshape(-1, kernel.shape[-1]).T)
    return of_images, of_kernel


_by_patches.defvjp(_forward, _backward)
