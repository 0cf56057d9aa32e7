"""LPIPS, the learned perceptual distance of images (Zhang et al. 2018), over VGG16, and its stand-in without weights.

Features of five layers of VGG16 are scaled to unit length at each position; the squared difference, weighted for each
feature, is averaged over the positions and summed over the layers. The trained weights are not part of this package:
`pvdm_jax.weights.official.load_lpips` reads files that the user gives.

A new module is the stand-in without them: a VGG16 of fixed random weights, which is *not* LPIPS. Its `name` says so,
and so must the metrics of whoever uses it. The filters of its first layer have mean zero, so that it sees more than the
images' brightness, and its biases are small, so that flat regions count little. Later filters keep their mean. Without
it, a random network is chaotic: each stage doubles the gradient of a small difference and turns it away from the
direction that reduces the difference. With it, each stage changes small differences less than the previous one.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pvdm_jax.models.ops.convolution import convolve
from pvdm_jax.models.ops.maximum import maximum_along

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # features of each convolution
SMALLEST = 2 ** (len(STAGES) - 1)  # pixels of a side
# The mean and deviation of ImageNet's colours, for images in [-1, 1].
SHIFT = np.asarray([-0.030, -0.088, -0.188], np.float32)
SCALE = np.asarray([0.458, 0.448, 0.450], np.float32)
# Accelerators would otherwise round the inputs of products to a few digits, more than similar images differ by.
PRECISION = jax.lax.Precision.HIGHEST
EPSILON = 1e-10  # added to the features' lengths
RANDOM_WEIGHT, RANDOM_BIAS = 0.1, 0.1
LPIPS_NAME, RANDOM_NAME = "lpips", "random_vgg"


def _random_filters(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32, **_) -> jax.Array:
    """Normal filters, scaled to keep the variance through ReLU (He et al. 2015); the first layer's have mean zero."""
    filters = jax.random.normal(key, shape, dtype) * math.sqrt(2 / math.prod(shape[:-1]))
    of_images = shape[-2] == 3
    return filters - filters.mean(axis=tuple(range(len(shape) - 1)), keepdims=True) if of_images else filters


class LPIPS(nnx.Module):
    """Distance of images. `name` is "lpips" with the trained weights, "random_vgg" for the stand-in."""

    def __init__(self, dtype: str = "float32", *, rngs: nnx.Rngs):
        self.dtype, self.name = dtype, RANDOM_NAME
        stages, features_in = [], 3
        for stage in STAGES:
            layers = []
            for features in stage:
                layer = nnx.Conv(
                    features_in,
                    features,
                    kernel_size=(3, 3),
                    padding=1,
                    kernel_init=_random_filters,
                    bias_init=nnx.initializers.normal(RANDOM_BIAS),
                    conv_general_dilated=convolve,
                    precision=PRECISION,
                    dtype=jnp.dtype(dtype),
                    rngs=rngs,
                )
                layers.append(layer)
                features_in = features
            stages.append(nnx.List(layers))
        self.stages = nnx.List(stages)
        self.weights = nnx.List(nnx.Param(jnp.full((stage[-1],), RANDOM_WEIGHT, jnp.float32)) for stage in STAGES)

    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """(b, h, w, 3) twice, in [-1, 1], to distances (b,), float32.

        Raises ValueError for other shapes, and for sides below 16 pixels, which leave nothing for the last layer.
        """
        if first.shape != second.shape or first.ndim != 4 or first.shape[-1] != 3:
            raise ValueError(f"images of shapes {first.shape} and {second.shape}; both must be (b, h, w, 3), and equal")
        if min(first.shape[1:3]) < SMALLEST:
            raise ValueError(f"images of shape {first.shape}; both sides must be {SMALLEST} pixels or more")
        distance = jnp.zeros(first.shape[0], jnp.float32)
        for weight, ours, theirs in zip(self.weights, self._features(first), self._features(second), strict=True):
            difference = jnp.square(_unit(ours) - _unit(theirs))
            distance += jnp.mean(jnp.matmul(difference, weight[...], precision=PRECISION), axis=(1, 2))
        return distance

    def _features(self, images: jax.Array) -> list[jax.Array]:
        """The last output of each stage, float32."""
        x = ((images - SHIFT[None, None, None]) / SCALE[None, None, None]).astype(self.dtype)
        features = []
        for index, stage in enumerate(self.stages):
            x = _max_pool(x) if index else x
            for layer in stage:
                x = jax.nn.relu(layer(x))
            features.append(x.astype(jnp.float32))
        return features


def _max_pool(x: jax.Array) -> jax.Array:
    """The maximum over 2 x 2 pixels; an odd last row or column is dropped."""
    b, h, w, c = x.shape
    windows = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    return maximum_along(maximum_along(windows, 4), 2)


def _unit(x: jax.Array) -> jax.Array:
    """x scaled to length 1 over the last axis; zeros stay zero, and have no gradient."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    length = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    return x / (length + EPSILON)
