"""Turns clips into latents for stage 2: the run's autoencoder on all devices."""

import pathlib
from collections.abc import Mapping
from itertools import pairwise

import jax
import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import plane_shape
from pvdm_jax.models.pixels import to_float
from pvdm_jax.runtime import sharding
from pvdm_jax.weights.run_autoencoder import load_autoencoder


class Encoder:
    """The run's autoencoder on all devices: takes this process's clips, returns the latents of all processes."""

    def __init__(self, model: AutoencoderConfig, workdir: str | pathlib.Path, mesh: Mesh):
        graphdef, self._params = load_autoencoder(model, workdir, mesh)
        self.identity = functional.fingerprint(sharding.to_numpy(self._params))
        self.mesh = mesh
        self.frames = model.frames

        def encode(params, video):
            model = functional.merge(graphdef, sharding.gather(mesh, params))
            return model.encode(to_float(video)).pack()

        self._encode = jax.jit(encode, out_shardings=sharding.batch_sharding(mesh))

    def encode(self, video: np.ndarray) -> jax.Array:
        """uint8 (b, n * frames, h, w, 3) of this process to float32 (b * n of all processes, positions, channels)."""
        # The n clips of a window are n items of the autoencoder's batch.
        clips = video.reshape(-1, self.frames, *video.shape[2:])
        return self._encode(self._params, sharding.global_batch(self.mesh, clips))


def latent_segments(model: AutoencoderConfig) -> Mapping[str, slice]:
    """The parts of packed latents whose statistics differ: {name: its positions}, in order and without gaps."""
    shape = plane_shape(model)
    sizes = {"yx": np.prod(shape.yx), "tx": np.prod(shape.tx), "ty": np.prod(shape.ty)}
    bounds = np.cumsum([0, *sizes.values()]).tolist()
    return {name: slice(*ends) for name, ends in zip(sizes, pairwise(bounds), strict=True)}


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of a batch that is split over all devices."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
