"""The run's trained autoencoder as stage 2 takes it: from stage 1's checkpoints, on all devices, named by a hash."""

import hashlib
import pathlib

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax import sharding
from pvdm_jax.config import AutoencoderConfig
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.pixels import to_float
from pvdm_jax.training.autoencoder import FOLDER as AUTOENCODER_FOLDER


def fingerprint(params: functional.Params) -> str:
    """A hash of all weights (nested dicts of arrays), with their names."""
    digest = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: str(item[0])):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()


def load_autoencoder(
    model: AutoencoderConfig, workdir: str | pathlib.Path, mesh: Mesh | None = None
) -> tuple[nnx.GraphDef, functional.Params]:
    """The trained autoencoder of a run: its EMA weights, shared out over the mesh, or on this process's first device.

    Raises FileNotFoundError where stage 1 left no checkpoint.
    """
    from pvdm_jax.checkpoint import read_part

    graphdef, abstract = functional.abstract(lambda: Autoencoder(model, rngs=nnx.Rngs(0)))
    wanted = abstract if mesh is None else sharding.place(mesh, abstract)
    return graphdef, read_part(pathlib.Path(workdir) / AUTOENCODER_FOLDER, "ema", wanted)


class Encoder:
    """The run's autoencoder on all devices: pixels of this process's pairs in, latents of all out."""

    def __init__(self, model: AutoencoderConfig, workdir: str | pathlib.Path, mesh: Mesh):
        graphdef, self._params = load_autoencoder(model, workdir, mesh)
        self.identity = fingerprint(sharding.to_numpy(self._params))
        self.mesh, self.frames = mesh, model.frames
        self._encode = jax.jit(
            lambda params, video: functional.merge(graphdef, params).encode(to_float(video)).pack(),
            out_shardings=sharding.batch_sharding(mesh),
        )

    def encode(self, video: np.ndarray) -> jax.Array:
        """uint8 (b, n frames, h, w, 3) of this process to float32 (n b of all processes, positions, channels)."""
        # The n clips of a window go through the autoencoder as n.
        clips = video.reshape(-1, self.frames, *video.shape[2:])
        return self._encode(self._params, sharding.global_batch(self.mesh, clips))


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of a batch that is split over all devices."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
