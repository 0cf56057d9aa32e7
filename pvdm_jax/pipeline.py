"""PVDM: a trained model, ready to use.

`pvdm_jax.load(directory)` reads a run's folder (the EMA weights of the newest checkpoints of its stages). Sampling is
one compiled call: all clips of all videos, all steps, decoding and conversion to uint8, sharded over the devices.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax import sharding
from pvdm_jax.config import Config, MeshConfig, config_from_dict
from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.sampling import sample_video
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, plane_shape
from pvdm_jax.models.unet import UNet
from pvdm_jax.training.autoencoder import to_float, to_uint8
from pvdm_jax.triplane import Planes, unpack


def load(directory: str | pathlib.Path, mesh: Mesh | None = None) -> "PVDM":
    """The model of a run's folder. Before stage 2's first checkpoint, it can encode, decode and reconstruct.

    mesh: the devices to use (None: all of them, each with a copy of the weights), whatever the run was trained on.
    Raises FileNotFoundError where the folder holds no trained autoencoder.
    """
    from pvdm_jax.checkpoint import read_part
    from pvdm_jax.training import autoencoder, diffusion, latents

    directory = pathlib.Path(directory)
    stage = directory / autoencoder.FOLDER
    if not (stage / "config.json").exists():
        raise FileNotFoundError(f"{directory} is not a run's folder: there is no {stage / 'config.json'}")
    later = directory / diffusion.FOLDER
    path = next(folder / "config.json" for folder in (later, stage) if (folder / "config.json").exists())
    settings = json.loads(path.read_text())
    fields = {field.name for field in dataclasses.fields(Config)}
    config = config_from_dict(Config, {name: value for name, value in settings.items() if name in fields})
    _, weights = latents.load_autoencoder(config.autoencoder, directory)
    _, abstract = functional.abstract(lambda: UNet(config.unet, rngs=nnx.Rngs(0)))
    try:
        denoiser = read_part(later, "ema", abstract)
    except FileNotFoundError:
        denoiser = None
    return PVDM(config, weights, denoiser, tuple(settings.get("class_names", ())), mesh)


class PVDM:
    """A video model: the autoencoder's and (or None) the denoiser's weights, with the configuration that made them.

    Videos are uint8 (b, t, height, width, 3) of the size in `config.autoencoder`. Options of `sample` and `extend`
    that are None come from `config.sample`.
    """

    def __init__(
        self,
        config: Config,
        autoencoder: functional.Params,
        denoiser: functional.Params | None = None,
        class_names: tuple[str, ...] = (),
        mesh: Mesh | None = None,
    ):
        self.config, self.class_names = config, class_names
        self.plane_shape = plane_shape(config.autoencoder)
        self.mesh = mesh or sharding.make_mesh(MeshConfig())
        weights = {"autoencoder": autoencoder} | ({} if denoiser is None else {"denoiser": denoiser})
        self.weights = jax.device_put(weights, sharding.parameter_shardings(self.mesh, weights))
        self._autoencoder, _ = functional.abstract(lambda: Autoencoder(config.autoencoder, rngs=nnx.Rngs(0)))
        self._unet, _ = functional.abstract(lambda: UNet(config.unet, rngs=nnx.Rngs(0)))
        self._process = Process(config.process)
        self._encode = jax.jit(self._encode_video)
        self._decode = jax.jit(self._decode_latents)
        self._generate = jax.jit(self._generate_videos, static_argnames=("clips", "given", "guided", "options"))

    def encode(self, video: np.ndarray | jax.Array) -> Planes:
        """The latents of clips: uint8, or float in [-1, 1], (b, frames, height, width, 3)."""
        self._check_video(video, one_clip=True)
        return unpack(jnp.asarray(self._over_batches(self._encode, np.asarray(video))), self.plane_shape)

    def decode(self, planes: Planes) -> np.ndarray:
        """Clips of latents: uint8 (b, frames, height, width, 3)."""
        return self._over_batches(self._decode, np.asarray(planes.pack()))

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """Encodes and decodes uint8 videos (b, t, height, width, 3), clip by clip; t must be a multiple of a clip's
        frames."""
        self._check_video(video)
        frames = self.config.autoencoder.frames
        if video.shape[1] % frames:
            raise ValueError(f"video has {video.shape[1]} frames; it must be a multiple of a clip's {frames}")
        clips = np.asarray(video).reshape(-1, frames, *video.shape[2:])
        return self.decode(self.encode(clips)).reshape(video.shape)

    def sample(
        self,
        key: jax.Array,
        num_videos: int,
        num_frames: int | None = None,
        *,
        labels: np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """New videos, uint8 (num_videos, num_frames, height, width, 3); the same key gives the same videos.

        num_frames: any number (None: one clip), sampled clip by clip. labels: (num_videos,) class indices, -1 for
        none. options: fields of SampleConfig: sampler, steps, later_steps, eta, guidance. Video i depends on the key
        and i alone, not on num_videos or the devices.
        """
        context = np.zeros(
            (num_videos, self.plane_shape.positions, self.config.autoencoder.latent_channels), np.float32
        )
        return self._sample(key, context, num_frames, labels, given=False, options=options)

    def extend(
        self,
        video: np.ndarray,
        num_frames: int,
        key: jax.Array,
        *,
        labels: np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """`num_frames` new frames that follow each video: uint8 (b, num_frames, height, width, 3).

        video: uint8 (b, t, height, width, 3), of at least one clip, whose last clip is gone on from. Other arguments
        as in `sample`. Raises ValueError on a model that takes no previous clip.
        """
        self._check_video(video)
        frames = self.config.autoencoder.frames
        if video.shape[1] < frames:
            raise ValueError(f"video has {video.shape[1]} frames; going on from it takes at least a clip's {frames}")
        if not self.config.unet.cond_model:
            raise ValueError("this model's denoiser takes no previous clip (unet.cond_model=False): it can't extend")
        context = np.asarray(self.encode(video[:, -frames:]).pack())
        return self._sample(key, context, num_frames, labels, given=True, options=options)

    def _sample(self, key, context, num_frames, labels, given, options):
        if "denoiser" not in self.weights:
            raise ValueError("this model has no denoiser: stage 2 has not been trained")
        chosen = {name: value for name, value in options.items() if value is not None}
        settings = dataclasses.replace(self.config.sample, **chosen)
        count, frames = len(context), self.config.autoencoder.frames
        num_frames = frames if num_frames is None else num_frames
        if num_frames < 1 or count < 1:
            raise ValueError(f"{count} videos of {num_frames} frames were asked for; both must be positive")
        clips = -(-num_frames // frames)
        if clips > 1 and not self.config.unet.cond_model:
            raise ValueError(
                f"{num_frames} frames take {clips} clips, but this model's denoiser takes no previous clip"
            )
        if labels is not None and not self.config.unet.num_classes:
            raise ValueError("labels were given, but this model was trained without classes")
        labels = np.full(count, -1, np.int32) if labels is None else np.asarray(labels, np.int32)

        # Every device gets as many videos; those that fill up are dropped.
        padded = -(-count // self.mesh.size) * self.mesh.size
        index = np.minimum(np.arange(padded), count - 1)
        batch = {"index": index.astype(np.uint32), "context": context[index], "label": labels[index]}
        batch = jax.device_put(batch, sharding.batch_sharding(self.mesh))
        video = self._generate(
            self.weights,
            key,
            batch,
            eta=settings.eta,
            guidance=settings.guidance,
            clips=clips,
            given=given,
            guided=settings.guidance > 0,
            options=(settings.sampler, settings.steps, settings.later_steps),
        )
        return sharding.to_numpy(video)[:count, :num_frames]

    def _generate_videos(self, weights, key, batch, *, eta, guidance, clips, given, guided, options):
        """Everything of a sampling call, in one program: (b, clips * frames, height, width, 3) uint8."""
        unet = functional.merge(self._unet, weights["denoiser"])
        sampler, steps, later_steps = options

        def denoise(x, step, context):
            planes = unet(
                unpack(x, self.plane_shape),
                step,
                unpack(context, self.plane_shape) if self.config.unet.cond_model else None,
                jnp.resize(batch["label"], len(x)) if self.config.unet.num_classes else None,
            )
            return planes.pack()

        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["index"])
        video = sample_video(
            denoise,
            lambda latents: self._decode_latents(weights, latents),
            self._process,
            keys,
            batch["context"],
            clips,
            given=given,
            sampler=sampler,
            steps=steps,
            later_steps=later_steps,
            eta=eta,
            guidance=guidance if guided else None,
        )
        return jnp.moveaxis(video, 0, 1).reshape(video.shape[1], -1, *video.shape[3:])

    def _encode_video(self, weights: Any, video: jax.Array) -> jax.Array:
        video = to_float(video) if video.dtype == jnp.uint8 else video
        return functional.merge(self._autoencoder, weights["autoencoder"]).encode(video).pack()

    def _decode_latents(self, weights: Any, latents: jax.Array) -> jax.Array:
        planes = unpack(latents, self.plane_shape)
        return to_uint8(functional.merge(self._autoencoder, weights["autoencoder"]).decode(planes))

    def _over_batches(self, function: Any, items: np.ndarray) -> np.ndarray:
        """`function(weights, batch)` over items, a batch of at most `config.encode.batch_size` at a time."""
        size = min(self.config.encode.batch_size, len(items))
        return sharding.map_batches(self.mesh, lambda batch: function(self.weights, batch), items, size)

    def _check_video(self, video: np.ndarray | jax.Array, one_clip: bool = False) -> None:
        model = self.config.autoencoder
        expected = ("b", model.frames if one_clip else "t", model.height, model.width, 3)
        fits = video.ndim == 5 and all(
            size == wanted for size, wanted in zip(video.shape, expected, strict=True) if isinstance(wanted, int)
        )
        if not fits:
            raise ValueError(f"video has shape {video.shape}; this model takes ({', '.join(map(str, expected))})")
