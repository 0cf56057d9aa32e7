"""Patch discriminators of stage 1 (PatchGAN, Isola et al. 2017), of images and of videos.

Each is a stack of convolutions with kernel 4, the first `layers` of them of stride 2 in every axis, that says for
each patch how real it looks. Batch norm always uses the statistics of the current batch, as in the official code, which
never reads the running statistics that it keeps. A module is therefore a pure function of its parameters. Real and
reconstructed data must be separate batches, in two calls. Under jit, over a sharded batch, the statistics are those of
the global batch.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pvdm_jax.config import DiscriminatorConfig
from pvdm_jax.models.ops.convolution import convolve
from pvdm_jax.models.ops.layers import uniform
from pvdm_jax.models.ops.norms import EPSILON

KERNEL, PADDING, SLOPE = 4, 2, 0.2
MAX_WIDTH = 512


@dataclasses.dataclass(frozen=True, eq=False)
class RunningStatistics:
    """Running statistics of a converted discriminator's batch norms under their official names.

    Nothing here reads or updates them. They are a static attribute, not parameters, so that neither an optimizer nor a
    checkpoint sees them. `official.to_torch` writes them back.
    """

    arrays: Mapping[str, np.ndarray]


class BatchNorm(nnx.Module):
    """Normalises features by their mean and variance over all other axes of the batch; computed in float32."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(1 + 0.02 * jax.random.normal(rngs.params(), (features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        axes, ones = tuple(range(x.ndim - 1)), (1,) * (x.ndim - 1)
        y = x.astype(jnp.float32)
        mean = jnp.mean(y, axes, keepdims=True)
        variance = jnp.mean(jnp.square(y - mean), axes, keepdims=True)
        y = (y - mean) * (jax.lax.rsqrt(variance + EPSILON) * self.scale[...].reshape(*ones, -1))
        return (y + self.bias[...].reshape(*ones, -1)).astype(x.dtype)


class PatchLayer(nnx.Module):
    """Convolution, optionally with batch norm and leaky ReLU."""

    def __init__(self, dims, features_in, features, *, stride, norm, activation, dtype, rngs: nnx.Rngs):
        self.activation = activation
        self.conv = nnx.Conv(
            features_in,
            features,
            kernel_size=(KERNEL,) * dims,
            strides=stride,
            padding=PADDING,
            kernel_init=nnx.initializers.normal(0.02),
            bias_init=uniform(features_in * KERNEL**dims),
            conv_general_dilated=convolve,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(features, rngs=rngs) if norm else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return jax.nn.leaky_relu(x, SLOPE) if self.activation else x


class PatchDiscriminator(nnx.Module):
    """A discriminator of images (`dims` 2) or of videos (`dims` 3)."""

    def __init__(self, config: DiscriminatorConfig, dims: int, *, rngs: nnx.Rngs):
        self.config, self.dims = config, dims
        self.statistics: RunningStatistics | None = None
        widths = [min(config.width * 2**i, MAX_WIDTH) for i in range(config.layers + 1)]
        strides = [2] * config.layers + [1, 1]
        features = [3, *widths, 1]
        last = len(strides) - 1
        self.layers = nnx.List(
            PatchLayer(
                dims,
                features[i],
                features[i + 1],
                stride=stride,
                norm=0 < i < last,
                activation=i < last,
                dtype=jnp.dtype(config.dtype),
                rngs=rngs,
            )
            for i, stride in enumerate(strides)
        )

    def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Images (b, h, w, 3) or videos (b, t, h, w, 3) in [-1, 1] to logits (b, ..., 1), float32, and the output of
        every layer, the logits last, which `losses.feature_matching` compares.

        Raises ValueError for an input of another rank.
        """
        if x.ndim != self.dims + 2 or x.shape[-1] != 3:
            wanted = "(b, h, w, 3)" if self.dims == 2 else "(b, t, h, w, 3)"
            raise ValueError(f"the discriminator's input has shape {x.shape}; it takes {wanted}")
        features = []
        x = x.astype(self.config.dtype)
        for layer in self.layers:
            x = layer(x)
            features.append(x.astype(jnp.float32))
        return features[-1], features


class Discriminators(nnx.Module):
    """The two that stage 1 trains: `image` sees one frame of each clip, `video` the whole clip."""

    def __init__(self, config: DiscriminatorConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.image = PatchDiscriminator(config, 2, rngs=rngs)
        self.video = PatchDiscriminator(config, 3, rngs=rngs)
