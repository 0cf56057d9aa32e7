"""Stage 1's losses as functions of the networks' parameters, for its steps and its evaluation."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig, AutoencoderTrainingConfig
from pvdm_jax.inference import on_mesh
from pvdm_jax.losses.adversarial import discriminator_terms
from pvdm_jax.losses.generator import generator_loss
from pvdm_jax.losses.latent_noise import add_noise
from pvdm_jax.losses.lpips import LPIPS
from pvdm_jax.losses.reconstruction import reconstruction_loss
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.discriminators import Discriminators
from pvdm_jax.models.pixels import to_float
from pvdm_jax.runtime import sharding
from pvdm_jax.training.step import Batch, Constants, Metrics


class AutoencoderLosses:
    """The networks of stage 1 and their losses.

    Batches have "video" (b, frames, height, width, 3) in [-1, 1] and "frame" (b,), the index of the frame that LPIPS
    and the image discriminator see. constants: {"lpips": its weights}, or {}; the losses take them as an argument, so
    that a compiled step does not contain them. lpips: required if config.perceptual_weight is positive.
    """

    def __init__(
        self, model: AutoencoderConfig, config: AutoencoderTrainingConfig, mesh: Mesh, lpips: LPIPS | None = None
    ):
        self.model, self.config, self.mesh = model, config, mesh
        self.autoencoder, _ = functional.abstract(self.make_autoencoder)
        self.discriminators, _ = functional.abstract(self.make_discriminators)
        self.constants, self.lpips = {}, None
        if config.perceptual_weight > 0:
            self.lpips, weights = functional.split(lpips)
            self.constants = {"lpips": sharding.place(mesh, weights)}

    def make_autoencoder(self, key: jax.Array | int = 0) -> Autoencoder:
        return Autoencoder(self.model, rngs=functional.rngs(key))

    def make_discriminators(self, key: jax.Array | int = 0) -> Discriminators:
        return Discriminators(self.config.adversarial.discriminator, rngs=functional.rngs(key))

    def prepare(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch with its video in [-1, 1], from uint8 or float, and with a "frame": a random one if it has none."""
        video = batch["video"]
        if "frame" in batch:
            frame = batch["frame"]
        else:
            frame = jax.random.randint(jax.random.fold_in(key, 1), video.shape[:1], 0, video.shape[1], jnp.int32)
        return {"video": to_float(video) if video.dtype == jnp.uint8 else video, "frame": frame}

    def reconstruct(self, params: functional.Params, video: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The reconstruction of clips in [-1, 1]; with a key, noise of config.latent_noise is added to the latents."""
        params = on_mesh.gather(self.mesh, params, Autoencoder, self.model.remat)
        model = functional.merge(self.autoencoder, params)
        with on_mesh.running_on(self.mesh):
            latents = model.encode(video)
            return model.decode(latents if key is None else add_noise(latents, self.config.latent_noise, key))

    def reconstruction(
        self, reconstruction: jax.Array, batch: Batch, constants: Constants, axes: tuple[int, ...] | None = None
    ) -> tuple[jax.Array, Metrics]:
        """Pixel losses and LPIPS: `losses.reconstruction`."""
        return reconstruction_loss(self.config, reconstruction, batch, self._perceptual(constants), axes)

    def generator(
        self,
        reconstruction: jax.Array,
        discriminators: functional.Params,
        batch: Batch,
        constants: Constants,
        strength: jax.Array | float = 1.0,
    ) -> tuple[jax.Array, Metrics]:
        """The autoencoder's loss in the adversarial phase: `losses.generator`."""
        return generator_loss(
            self.config,
            self._merge_discriminators(discriminators),
            reconstruction,
            batch,
            perceptual=self._perceptual(constants),
            strength=strength,
        )

    def discriminator(
        self, discriminators: functional.Params, reconstruction: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Metrics]:
        """The discriminators' hinge losses and their sum; `reconstruction` and batch["video"] in [-1, 1]."""
        modules = self._merge_discriminators(discriminators)
        terms = discriminator_terms(modules, batch["video"], reconstruction, batch["frame"])
        loss = sum(terms.values())
        return loss, {"discriminator_loss": loss, **terms}

    def _perceptual(self, constants: Constants) -> LPIPS | None:
        """LPIPS with its weights, or None if it has no weight in the loss."""
        if self.lpips is None:
            return None
        return functional.merge(self.lpips, sharding.gather(self.mesh, constants["lpips"]))

    def _merge_discriminators(self, params: functional.Params) -> Discriminators:
        return functional.merge(self.discriminators, sharding.gather(self.mesh, params))
