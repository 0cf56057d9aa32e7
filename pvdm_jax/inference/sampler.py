"""The sampler as one pure function: from weights, a key, labels and guidance to finished videos.

`PVDM` compiles it and `pvdm export` makes a portable artifact of it. Weights and every number that isn't a size are
arguments, so that other seeds, labels, weights or strengths of guidance need no new program; what shapes the program
is a `Method`, which is hashable.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pvdm_jax.config import Config, SampleConfig
from pvdm_jax.diffusion.guidance import guide
from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.sampling import sample_clip, sample_video
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, plane_shape
from pvdm_jax.models.pixels import to_float, to_uint8
from pvdm_jax.models.triplane import Planes, unpack
from pvdm_jax.models.unet import UNet

Weights = Mapping[str, functional.Params]  # "autoencoder", "denoiser"
Batch = Mapping[str, jax.Array]  # "index" (b,) uint32, "context" (b, positions, k), "label" (b,) int32


@dataclasses.dataclass(frozen=True)
class Method:
    """What shapes the program of sampling."""

    sampler: str
    steps: int
    later_steps: int
    grid: str
    clip_x0: bool
    guided: bool  # by the previous clip
    class_guided: bool
    interval: bool  # whether guidance is off during a part of the process
    reencode: bool
    confirm: bool  # whether the autoencoder decides the order of a first clip's motion planes


class Strengths(NamedTuple):
    """Numbers of the method: float32 scalars."""

    eta: Any
    guidance: Any
    class_guidance: Any
    guidance_from: Any
    guidance_to: Any


def settings_of(config: Config, options: Mapping[str, Any] | None) -> SampleConfig:
    """A model's own settings of sampling with `options`, fields of SampleConfig, in place of those that aren't None.

    Raises ConfigError where the whole configuration refuses them.
    """
    chosen = {name: value for name, value in (options or {}).items() if value is not None}
    return dataclasses.replace(config, sample=dataclasses.replace(config.sample, **chosen)).sample


def clips_of(config: Config, num_frames: int | None) -> int:
    """How many clips a video of `num_frames` (None: one clip) takes."""
    return -(-(num_frames or 1) // config.autoencoder.frames)


def method_of(config: Config, settings: SampleConfig) -> Method:
    """The method that `settings` ask for on a model."""
    confusable = not config.unet.position_embedding and config.autoencoder.height == config.autoencoder.width
    return Method(
        settings.sampler,
        settings.steps,
        settings.later_steps,
        settings.grid,
        settings.clip_x0,
        guided=settings.guidance > 0 and config.unet.cond_model,
        class_guided=settings.class_guidance > 0 and config.unet.num_classes > 0,
        interval=(settings.guidance_from, settings.guidance_to) != (0.0, 1.0),
        reencode=settings.reencode,
        confirm=settings.plane_order == "confirm" or (settings.plane_order == "auto" and confusable),
    )


def strengths_of(settings: SampleConfig) -> Strengths:
    return Strengths(*(np.float32(getattr(settings, name)) for name in Strengths._fields))


class SamplingProgram:
    """Pure functions of weights and inputs, for one configuration. Nothing here knows of devices or files."""

    def __init__(self, config: Config):
        self.config, self.process = config, Process(config.process)
        self.plane_shape = plane_shape(config.autoencoder)
        self.latent_shape = (self.plane_shape.positions, config.autoencoder.latent_channels)
        # A model that takes no other clips is handed empty room for them.
        self.context_shape = (self.plane_shape.positions, config.unet.context_channels)
        self._autoencoder, _ = functional.abstract(lambda: Autoencoder(config.autoencoder, rngs=nnx.Rngs(0)))
        self._unet, _ = functional.abstract(lambda: UNet(config.unet, rngs=nnx.Rngs(0)))

    def encode(self, weights: Weights, video: jax.Array) -> jax.Array:
        """Clips (b, frames, height, width, 3), uint8 or float in [-1, 1], to packed latents (b, positions, c)."""
        video = to_float(video) if video.dtype == jnp.uint8 else video
        return functional.merge(self._autoencoder, weights["autoencoder"]).encode(video).pack()

    def decode(self, weights: Weights, latents: jax.Array) -> jax.Array:
        """Packed latents (b, positions, c) to clips, uint8 (b, frames, height, width, 3)."""
        planes = unpack(latents, self.plane_shape)
        return to_uint8(functional.merge(self._autoencoder, weights["autoencoder"]).decode(planes))

    def denoise(
        self, weights: Weights, x: jax.Array, step: jax.Array, context: jax.Array, label: jax.Array
    ) -> jax.Array:
        """The denoiser's answer (b, positions, c) to noisy latents."""
        planes = functional.merge(self._unet, weights["denoiser"])(
            unpack(x, self.plane_shape),
            step,
            unpack(context, self.plane_shape) if self.config.unet.cond_model else None,
            label if self.config.unet.num_classes else None,
        )
        return planes.pack()

    def confirm(self, weights: Weights, latents: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Latents (b, positions, c) with their motion planes in the order that the autoencoder confirms.

        The autoencoder nearly gives back the latents of a video that it has decoded, but not those of the rubbish that
        exchanged planes decode to. Returns the latents, their clips as in `decode`, and which were exchanged (b,).
        Raises ValueError where the planes' sizes differ: they can't be mistaken for each other.
        """
        planes = unpack(latents, self.plane_shape)
        if planes.tx.shape != planes.ty.shape:
            raise ValueError(f"the motion planes of a {self.plane_shape} grid differ in size; there is one order only")
        orders = jnp.concatenate([latents, Planes(planes.yx, planes.ty, planes.tx).pack()])
        videos = self.decode(weights, orders)
        errors = jnp.mean(jnp.square(self.encode(weights, videos) - orders), axis=(1, 2))
        count = latents.shape[0]
        exchanged = errors[count:] < errors[:count]

        def pick(x):
            return jnp.where(exchanged.reshape(-1, *(1,) * (x.ndim - 1)), x[count:], x[:count])

        return pick(orders), pick(videos), exchanged

    def as_context(self, latents: jax.Array) -> jax.Array:
        """The context (b, positions, k) of the clip that comes after one with these latents."""
        missing = self.context_shape[1] - latents.shape[2]
        if missing <= 0:
            return latents[:, :, : self.context_shape[1]]
        return jnp.concatenate([latents, jnp.zeros((*latents.shape[:2], missing))], axis=-1)

    def generate(
        self,
        weights: Weights,
        key: jax.Array,
        number: jax.Array,
        batch: Batch,
        strengths: Strengths,
        *,
        method: Method,
        clips: int,
        given: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Videos, uint8 (b, clips * frames, height, width, 3), and the context to go on with.

        Video i has the noise of (key, index[i]), clips `number` and on. given: whether the batch's context holds a
        clip to go on from.
        """

        def finish(latents, later):
            if method.confirm and not later:
                latents, video, _ = self.confirm(weights, latents)
            else:
                video = self.decode(weights, latents)
            return video, self.as_context(self.encode(weights, video) if method.reencode else latents)

        sample = functools.partial(self._sample, weights, batch, strengths, method)
        video, context = sample_video(
            sample, finish, self._keys(key, batch), batch["context"], clips, given=given, number=number
        )
        video = jnp.moveaxis(video, 0, 1)
        return video.reshape(video.shape[0], -1, *video.shape[3:]), context

    def preview(
        self, weights: Weights, key: jax.Array, batch: Batch, strengths: Strengths, *, method: Method
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One clip's latents (b, positions, c), the estimates of them at every call of the denoiser
        (calls, b, positions, c), and the steps of these calls."""
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(self._keys(key, batch))
        return self._sample(weights, batch, strengths, method, keys, batch["context"], False, trace=True)

    def _keys(self, key: jax.Array, batch: Batch) -> jax.Array:
        return jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["index"])

    def _sample(self, weights, batch, strengths, method, keys, context, later, trace=False):
        interval = None
        if method.interval:
            # A step t lies at the fraction (t + 1) / num_steps of the process.
            ends = (strengths.guidance_from, strengths.guidance_to)
            interval = tuple(end * self.process.num_steps - 1 for end in ends)
        predict = guide(
            functools.partial(self.denoise, weights),
            context,
            batch["label"],
            weight=strengths.guidance if method.guided and later else None,
            class_weight=strengths.class_guidance if method.class_guided else None,
            interval=interval,
        )
        return sample_clip(
            predict,
            self.process,
            keys,
            self.latent_shape,
            sampler=method.sampler,
            steps=method.later_steps if later else method.steps,
            grid=method.grid,
            eta=strengths.eta,
            clip_x0=method.clip_x0,
            trace=trace,
        )
