"""The networks of one configuration as pure functions of their weights: the one place that calls them.

Training's evaluation, the loaded model, the exported sampler and the benchmark all go through here.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig, DenoiserConfig
from pvdm_jax.diffusion.predictions import NoisyBatch, squared_error
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, latent_spec
from pvdm_jax.models.condition import Condition
from pvdm_jax.models.denoiser import make_denoiser
from pvdm_jax.models.latent import Tokens
from pvdm_jax.models.pixels import to_float, to_uint8
from pvdm_jax.runtime import sharding


class LatentModel:
    """An autoencoder and a denoiser of its latents. Nothing here knows of files or losses.

    spec: the latent of a clip. denoiser: None for a model that only encodes and decodes. mesh: where the weights are
    split over devices, the mesh over which they are gathered before they are used; None where every device has them
    whole.
    """

    def __init__(
        self, autoencoder: AutoencoderConfig, denoiser: DenoiserConfig | None = None, mesh: Mesh | None = None
    ):
        self.autoencoder, self.denoiser, self.mesh = autoencoder, denoiser, mesh
        self.spec = latent_spec(autoencoder)

    @functools.cached_property
    def _abstract_autoencoder(self) -> tuple[nnx.GraphDef, functional.Params]:
        return functional.abstract(lambda: Autoencoder(self.autoencoder, rngs=nnx.Rngs(0)))

    @functools.cached_property
    def _abstract_denoiser(self) -> tuple[nnx.GraphDef, functional.Params]:
        return functional.abstract(lambda: make_denoiser(self.denoiser, self.spec, rngs=nnx.Rngs(0)))

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
        return functional.split(make_denoiser(self.denoiser, self.spec, rngs=nnx.Rngs(key)))[1]

    def encode(self, params: functional.Params, video: jax.Array) -> Tokens:
        """Clips (b, frames, height, width, 3), uint8 or float in [-1, 1], to latents (b, positions, channels)."""
        video = to_float(video) if video.dtype == jnp.uint8 else video
        return self._merge(self._abstract_autoencoder[0], params).encode(video)

    def decode(self, params: functional.Params, latents: Tokens) -> jax.Array:
        """Latents (b, positions, channels) to clips, uint8 (b, frames, height, width, 3)."""
        return to_uint8(self._merge(self._abstract_autoencoder[0], params).decode(latents))

    def denoise(self, params: functional.Params, x: Tokens, time: jax.Array, condition: Condition) -> Tokens:
        """The denoiser's answer (b, positions, channels) to noisy latents x at the times (b,)."""
        return self._merge(self._abstract_denoiser[0], params)(x, time, condition)

    def errors(self, params: functional.Params, noisy: NoisyBatch, condition: Condition) -> jax.Array:
        """Squared errors (b,) of what the denoiser predicts for noisy latents, without the weights of their times."""
        return squared_error(self.denoise(params, noisy.x, noisy.time, condition), noisy.target)

    def absent(self, count: int) -> Condition:
        """The condition of `count` samples that have no neighbouring clip and no class."""
        return Condition.absent(self.denoiser, self.spec, count)

    def _merge(self, graphdef: nnx.GraphDef, params: functional.Params) -> nnx.Module:
        return functional.merge(graphdef, params if self.mesh is None else sharding.gather(self.mesh, params))
