"""Turns clips into latents for stage 2: the run's autoencoder on all devices."""

import pathlib

import jax
import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.models import functional
from pvdm_jax.runtime import sharding
from pvdm_jax.weights.run_autoencoder import load_autoencoder


class Encoder:
    """The run's autoencoder on all devices: takes this process's clips, returns the latents of all processes."""

    def __init__(self, model: AutoencoderConfig, workdir: str | pathlib.Path, mesh: Mesh):
        self._params = load_autoencoder(model, workdir, mesh)
        self.identity = functional.fingerprint(sharding.to_numpy(self._params))
        self.mesh = mesh
        self.frames = model.frames

        self._encode = jax.jit(LatentModel(model, mesh=mesh).encode, out_shardings=sharding.batch_sharding(mesh))

    def encode(self, video: np.ndarray) -> jax.Array:
        """This process's uint8 (b, n * frames, h, w, 3) to float32 (b * n of all processes, positions, channels)."""
        # The n clips of a window are n items of the autoencoder's batch.
        clips = video.reshape(-1, self.frames, *video.shape[2:])
        return self._encode(self._params, sharding.global_batch(self.mesh, clips))


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of a batch that is split over all devices."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
