"""The networks of one configuration as pure functions of their weights. Only this file calls them.

Training's evaluation, the loaded model, the exported sampler and the benchmark all go through here.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig, DenoiserConfig
from pvdm_jax.diffusion.predictions import NoisyBatch, squared_error
from pvdm_jax.inference import on_mesh
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, latent_spec
from pvdm_jax.models.condition import Condition
from pvdm_jax.models.denoiser import denoiser_class, make_denoiser
from pvdm_jax.models.latent import Tokens
from pvdm_jax.models.pixels import to_float, to_uint8
from pvdm_jax.runtime import sharding

TOKENS_AT_ONCE = 2**16  # the autoencoder's tokens per device: those of four clips of 16 x 256 x 256 in patches of 8
POSITIONS_AT_ONCE = 2**16  # sampled latent positions per device: those of 32 such clips


def clips_at_once(config: AutoencoderConfig) -> int:
    """How many clips a device encodes or decodes at a time: enough to keep it busy, few enough for its memory."""
    tokens = config.frames * (config.height // config.patch_size) * (config.width // config.patch_size)
    return max(1, TOKENS_AT_ONCE // tokens)


class LatentModel:
    """An autoencoder and a denoiser of its latents. Nothing here knows about files or losses.

    spec: the latent of a clip. denoiser: None for a model that only encodes and decodes. mesh: the devices that the
    model runs on, over which its weights may be split. None for a program that must not depend on its devices, such as
    an exported one; its weights are whole.

    encode, decode and denoise_in_parts process a bounded number of clips at a time on each device, so their activations
    take the same memory for any number of clips.
    """

    def __init__(
        self, autoencoder: AutoencoderConfig, denoiser: DenoiserConfig | None = None, mesh: Mesh | None = None
    ):
        self.autoencoder, self.denoiser, self.mesh = autoencoder, denoiser, mesh
        self.spec = latent_spec(autoencoder)

    @functools.cached_property
    def _abstract_autoencoder(self) -> tuple[nnx.GraphDef, functional.Params]:
        return functional.abstract(lambda: Autoencoder(self.autoencoder, rngs=functional.rngs(0)))

    @functools.cached_property
    def _abstract_denoiser(self) -> tuple[nnx.GraphDef, functional.Params]:
        return functional.abstract(lambda: make_denoiser(self.denoiser, self.spec, rngs=functional.rngs(0)))

    @functools.cached_property
    def one_network(self) -> "LatentModel":
        """This model with a single network of its denoiser's kind if the denoiser has two; itself otherwise."""
        if not self.denoiser.expert_from:
            return self
        return LatentModel(self.autoencoder, dataclasses.replace(self.denoiser, expert_from=0), self.mesh)

    @property
    def autoencoder_shapes(self) -> functional.Params:
        """The autoencoder's weights as jax.ShapeDtypeStruct."""
        return self._abstract_autoencoder[1]

    @property
    def denoiser_shapes(self) -> functional.Params:
        """The denoiser's weights as jax.ShapeDtypeStruct."""
        return self._abstract_denoiser[1]

    def init_denoiser(self, key: jax.Array) -> functional.Params:
        """The denoiser's weights before training."""
        return functional.split(make_denoiser(self.denoiser, self.spec, rngs=functional.rngs(key)))[1]

    def encode(self, params: functional.Params, video: jax.Array) -> Tokens:
        """Clips (b, frames, height, width, 3), uint8 or float in [-1, 1], to latents (b, positions, channels)."""

        def encode(params, video):
            video = to_float(video) if video.dtype == jnp.uint8 else video
            return functional.merge(self._abstract_autoencoder[0], params).encode(video)

        return self._in_parts(encode, params, video, clips_at_once(self.autoencoder))

    def decode(self, params: functional.Params, latents: Tokens) -> jax.Array:
        """Latents (b, positions, channels) to clips, uint8 (b, frames, height, width, 3)."""

        def decode(params, latents):
            return to_uint8(functional.merge(self._abstract_autoencoder[0], params).decode(latents))

        return self._in_parts(decode, params, latents, clips_at_once(self.autoencoder))

    def denoise(self, params: functional.Params, x: Tokens, time: jax.Array, condition: Condition) -> Tokens:
        """The denoiser's answer (b, positions, channels) to noisy latents x at the times (b,)."""
        params = on_mesh.gather(self.mesh, params, denoiser_class(self.denoiser), self.denoiser.remat)
        with on_mesh.running_on(self.mesh):
            return functional.merge(self._abstract_denoiser[0], params)(x, time, condition)

    def denoise_in_parts(self, params: functional.Params, x: Tokens, time: jax.Array, condition: Condition) -> Tokens:
        """`denoise`, for sampling."""

        def denoise(params, inputs):
            return self.denoise(params, *inputs)

        at_once = max(1, POSITIONS_AT_ONCE // self.spec.positions)
        return self._in_parts(denoise, params, (x, time, condition), at_once)

    def errors(
        self, params: functional.Params, noisy: NoisyBatch, condition: Condition, weights: jax.Array | None = None
    ) -> jax.Array:
        """Squared errors (b,) of the denoiser's predictions for noisy latents, not weighted by their times.

        weights: the weights of the positions, (b or 1, positions, 1).
        """
        return squared_error(self.denoise(params, noisy.x, noisy.time, condition), noisy.target, weights)

    def absent(self, count: int) -> Condition:
        """The condition of `count` samples that have no neighbouring clip and no class."""
        return Condition.absent(self.denoiser, self.spec, count)

    def _in_parts(self, function: Any, params: functional.Params, items: Any, at_once: int) -> Any:
        params = params if self.mesh is None else sharding.gather(self.mesh, params)
        with on_mesh.running_on(self.mesh):
            return sharding.map_parts(self.mesh, function, params, items, at_once)
