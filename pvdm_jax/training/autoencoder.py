"""Stage 1: the autoencoder learns to reconstruct clips (paper section 3.1; here the pixel losses)."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax import sharding
from pvdm_jax.config import AutoencoderConfig, AutoencoderTrainingConfig, Config, config_to_dict
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.training.optimizer import TrainState, accumulate_gradients, init_state, make_optimizer, update
from pvdm_jax.triplane import Planes

FOLDER = "autoencoder"  # of the stage, in a run's folder
# Parts of the configuration that this stage's numbers don't depend on.
UNRELATED = ("unet.*", "process.*", "train_diffusion.*", "encode.*")
PICTURED = 4  # clips in the evaluation's picture


def to_float(video: jax.Array) -> jax.Array:
    """uint8 video to float32 in [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1


def to_uint8(video: jax.Array) -> jax.Array:
    """float video in [-1, 1] to uint8, rounded."""
    return jnp.round((jnp.clip(video, -1, 1) + 1) * 127.5).astype(jnp.uint8)


def add_noise(planes: Planes, scale: float, key: jax.Array) -> Planes:
    """The planes with normal noise of standard deviation `scale`; with 0 as they are."""
    if scale == 0:
        return planes
    leaves, structure = jax.tree.flatten(planes)
    keys = jax.random.split(key, len(leaves))
    noisy = [leaf + scale * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


class AutoencoderStage:
    """State, step and evaluation of stage 1, for the training loop.

    held_out: {"video": uint8 (n, frames, height, width, 3)} of clips that training never sees.
    """

    name = "autoencoder"

    def __init__(
        self, model: AutoencoderConfig, config: AutoencoderTrainingConfig, held_out: dict[str, Any], mesh: Mesh
    ):
        self.model, self.config = model, config
        self.optimizer = make_optimizer(config.optimizer, config.steps)
        self.graphdef, _ = functional.abstract(lambda: Autoencoder(model, rngs=nnx.Rngs(0)))
        self.held_out, self.mesh = held_out, mesh
        self.reconstruct = jax.jit(lambda params, video: to_uint8(self._apply(params, to_float(video))))

    def _apply(self, params: functional.Params, video: jax.Array) -> jax.Array:
        return functional.merge(self.graphdef, params)(video)

    def init(self, key: jax.Array) -> TrainState:
        """The state before training."""
        _, params = functional.split(Autoencoder(self.model, rngs=nnx.Rngs(key)))
        return init_state(params, self.optimizer)

    def loss(self, params: functional.Params, batch: dict[str, jax.Array], key: jax.Array):
        """The weighted sum of the pixel losses, and each of them."""
        video = to_float(batch["video"])
        model = functional.merge(self.graphdef, params)
        error = model.decode(add_noise(model.encode(video), self.config.latent_noise, key)) - video
        l1, l2 = jnp.mean(jnp.abs(error)), jnp.mean(jnp.square(error))
        loss = self.config.l1_weight * l1 + self.config.l2_weight * l2
        return loss, {"loss": loss, "l1": l1, "l2": l2}

    def step(self, state: TrainState, batch: dict[str, jax.Array], key: jax.Array):
        """One update; the batch's "video" is uint8 (b, frames, height, width, 3)."""
        grads, metrics = accumulate_gradients(self.loss, state.params, batch, key, self.config.accumulate)
        return update(state, grads, self.optimizer, self.config.ema_decay, self.config.ema_every), metrics

    def evaluate(self, state: TrainState, folder: pathlib.Path) -> dict[str, float]:
        """PSNR of the EMA's reconstructions of the held-out clips, beside that of each clip's mean as a still."""
        from pvdm_jax.evaluation.reconstruction import psnr, still_psnr
        from pvdm_jax.media import video_grid, write_video

        video = self.held_out["video"]
        found = sharding.map_batches(
            self.mesh, lambda part: self.reconstruct(state.ema, part), video, self.config.batch_size
        )
        if jax.process_index() == 0:
            pictured = np.stack([video[:PICTURED], found[:PICTURED]], axis=1).reshape(-1, *video.shape[1:])
            write_video(folder / "reconstruction.gif", video_grid(pictured, columns=2))
        return {
            "psnr": float(np.mean(psnr(video, found))),
            "still_psnr": float(np.mean([still_psnr(v) for v in video])),
        }


def train(config: Config, workdir: str | pathlib.Path) -> TrainState:
    """Trains stage 1 of the run in `workdir`, going on from its newest checkpoint. Returns the last state."""
    from pvdm_jax.data.loader import fixed_clips, train_batches
    from pvdm_jax.data.sources import open_held_out, open_source
    from pvdm_jax.training.loop import train as run

    mesh, stage_config = sharding.make_mesh(config.mesh), config.train_autoencoder
    sharding.check_batch(mesh, stage_config.batch_size, "train_autoencoder.batch_size", stage_config.accumulate)
    source = open_source(config.data, config.autoencoder, "train", config.seed)
    held_out = open_held_out(config.data, config.autoencoder, config.seed)
    clips = fixed_clips(held_out, config.autoencoder, config.data, stage_config.eval_clips)

    def batches(start: int):
        return train_batches(
            source,
            config.autoencoder,
            config.data,
            stage_config.batch_size,
            config.seed,
            start,
            jax.process_index(),
            jax.process_count(),
        )

    stage = AutoencoderStage(config.autoencoder, stage_config, clips, mesh)
    directory = pathlib.Path(workdir) / FOLDER
    return run(stage, batches, directory, stage_config, config_to_dict(config), mesh, config.seed, UNRELATED)
