"""Stage 2: the denoiser learns to predict noise in latents, jointly with and without the previous clip
(paper section 3.2, equation 8).

It trains from the cache that `training.latents` wrote: pairs of latents of consecutive clips. With probability
`context_prob` a sample is the second clip given the first, else one of the two clips alone.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax import sharding
from pvdm_jax.config import Config, config_to_dict, require
from pvdm_jax.diffusion.process import Process, draw_noise_prediction, noise_prediction_loss
from pvdm_jax.diffusion.sampling import sample_video
from pvdm_jax.models import functional
from pvdm_jax.models.unet import UNet
from pvdm_jax.training.autoencoder import to_uint8
from pvdm_jax.training.latents import LatentCache, load_autoencoder, open_latents
from pvdm_jax.training.optimizer import TrainState, accumulate_gradients, init_state, make_optimizer, update
from pvdm_jax.triplane import PlaneShape, unpack

FOLDER = "diffusion"  # of the stage, in a run's folder
# Parts of the configuration that this stage's numbers don't depend on: the latents' identity is checked by the cache.
UNRELATED = ("train_autoencoder.*",)
PICTURED = 4  # clips sampled at each evaluation, rounded up to the number of devices


class DiffusionStage:
    """State, step and evaluation of stage 2, for the training loop.

    autoencoder: graph definition and weights of stage 1, which decodes the samples of the evaluation.
    held_out: {"previous", "clip": (n, positions, channels), "has_previous", "label": (n,)} that training never sees.
    """

    name = "diffusion"

    def __init__(
        self,
        config: Config,
        autoencoder: tuple[nnx.GraphDef, functional.Params],
        shape: PlaneShape,
        held_out: dict[str, Any],
        mesh: Mesh,
    ):
        self.model, self.config, self.sampling = config.unet, config.train_diffusion, config.sample
        self.process, self.shape = Process(config.process), shape
        self.optimizer = make_optimizer(self.config.optimizer, self.config.steps)
        self.graphdef, _ = functional.abstract(lambda: UNet(self.model, rngs=nnx.Rngs(0)))
        self.decoder, self.decoder_weights = autoencoder
        self.held_out, self.mesh = held_out, mesh
        self.held_out_errors = jax.jit(self._held_out_errors)
        self.draw = jax.jit(self._draw)

    def init(self, key: jax.Array) -> TrainState:
        """The state before training."""
        _, params = functional.split(UNet(self.model, rngs=nnx.Rngs(key)))
        return init_state(params, self.optimizer)

    def errors(
        self, params: functional.Params, clip: jax.Array, context: jax.Array, label: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Squared errors (b,) of the noise predicted in `clip` (b, positions, c), given packed context and label."""
        drawn = draw_noise_prediction(self.process, clip, key)
        predicted = self._predict(params, drawn.x, drawn.step, context, label)
        return noise_prediction_loss(predicted, drawn.noise)

    def _predict(self, params, x, step, context, label):
        planes = functional.merge(self.graphdef, params)(
            unpack(x, self.shape),
            step,
            unpack(context, self.shape) if self.model.cond_model else None,
            label if self.model.num_classes else None,
        )
        return planes.pack()

    def loss(self, params: functional.Params, batch: dict[str, jax.Array], key: jax.Array):
        """Mean squared error over the batch: a share of it given the previous clip, the rest without."""
        coin_key, which_key, label_key, noise_key = jax.random.split(key, 4)
        count = batch["label"].shape
        known = batch["has_previous"]
        given = known & jax.random.bernoulli(coin_key, self.config.context_prob, count) & self.model.cond_model
        # Alone, either clip of the pair serves as a random window.
        first = known & ~given & jax.random.bernoulli(which_key, 0.5, count)
        clip = jnp.where(first[:, None, None], batch["previous"], batch["clip"])
        context = jnp.where(given[:, None, None], batch["previous"], 0.0)
        shown = jax.random.bernoulli(label_key, self.config.label_prob, count)
        errors = self.errors(params, clip, context, jnp.where(shown, batch["label"], -1), noise_key)
        loss = jnp.mean(errors)
        return loss, {"loss": loss}

    def step(self, state: TrainState, batch: dict[str, jax.Array], key: jax.Array):
        """One update; `batch` has the cache's fields."""
        grads, metrics = accumulate_gradients(self.loss, state.params, batch, key, self.config.accumulate)
        return update(state, grads, self.optimizer, self.config.ema_decay, self.config.ema_every), metrics

    def _held_out_errors(self, params: functional.Params, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        key = jax.random.key(0)  # the same noise at every evaluation
        nothing = jnp.zeros_like(batch["previous"])
        errors = {"alone": self.errors(params, batch["clip"], nothing, batch["label"], key)}
        if self.model.cond_model:
            errors["given"] = self.errors(params, batch["clip"], batch["previous"], batch["label"], key)
        return errors

    def _draw(self, params: functional.Params, decoder: functional.Params, batch: dict[str, jax.Array]) -> jax.Array:
        """One clip for each key, uint8 (b, frames, height, width, 3)."""
        options = self.sampling

        def finish(latents):
            return to_uint8(functional.merge(self.decoder, decoder).decode(unpack(latents, self.shape)))

        return sample_video(
            lambda x, step, context: self._predict(params, x, step, context, batch["label"]),
            finish,
            self.process,
            jax.random.wrap_key_data(batch["key"]),
            jnp.zeros((len(batch["label"]), self.shape.positions, self.model.latent_channels)),
            1,
            given=False,
            sampler=options.sampler,
            steps=options.steps,
            eta=options.eta,
        )[0]

    def evaluate(self, state: TrainState, folder: pathlib.Path) -> dict[str, float]:
        """The EMA's loss on held-out clips, without and (for those that have one) with the previous clip.

        Writes clips that the EMA samples, always from the same noise: samples.gif.
        """
        from pvdm_jax.media import video_grid, write_video

        errors = sharding.map_batches(
            self.mesh,
            lambda batch: self.held_out_errors(state.ema, batch),
            self.held_out,
            self.config.batch_size,
        )
        known = self.held_out["has_previous"]
        values = {"loss_alone": float(np.mean(errors["alone"]))}
        if "given" in errors and known.any():
            values["loss_given_previous"] = float(np.mean(errors["given"][known]))

        keys = jax.random.key_data(jax.random.split(jax.random.key(0), PICTURED))
        batch = {"key": np.asarray(keys), "label": np.arange(PICTURED, dtype=np.int32) % max(1, self.model.num_classes)}
        draw = functools.partial(self.draw, state.ema, self.decoder_weights)
        clips = sharding.map_batches(self.mesh, draw, batch, PICTURED)
        if jax.process_index() == 0:
            write_video(folder / "samples.gif", video_grid(clips, columns=2))
        return values


def train(config: Config, workdir: str | pathlib.Path) -> TrainState:
    """Trains stage 2 of the run in `workdir` from its cached latents, going on from its newest checkpoint.

    Returns the last state. Raises ConfigError where `pvdm encode` has not been run or its latents don't fit.
    """
    from pvdm_jax.data.loader import latent_batches
    from pvdm_jax.training.loop import train as run

    workdir = pathlib.Path(workdir)
    mesh, stage_config = sharding.make_mesh(config.mesh), config.train_diffusion
    sharding.check_batch(mesh, stage_config.batch_size, "train_diffusion.batch_size", stage_config.accumulate)
    latents, held_out = (open_latents(config, workdir, split) for split in ("train", "holdout"))
    classes = len(latents.class_names)
    allowed = f"the data has {classes} classes: set it to that, or to 0 to train without classes"
    require(config.unet.num_classes in (0, classes), "unet.num_classes", config.unet.num_classes, allowed)

    def batches(start: int):
        return latent_batches(
            latents,
            stage_config.batch_size,
            config.seed,
            start,
            jax.process_index(),
            jax.process_count(),
            config.data.threads,
            config.data.prefetch,
        )

    graphdef, weights = load_autoencoder(config.autoencoder, workdir)
    weights = jax.device_put(weights, sharding.parameter_shardings(mesh, weights))
    held_out_clips = _stack(held_out, stage_config.eval_clips)
    stage = DiffusionStage(config, (graphdef, weights), latents.shape, held_out_clips, mesh)
    settings = config_to_dict(config) | {"latents": latents.identity, "class_names": list(latents.class_names)}
    return run(stage, batches, workdir / FOLDER, stage_config, settings, mesh, config.seed, UNRELATED)


def _stack(latents: LatentCache, count: int) -> dict[str, np.ndarray]:
    """`count` items, evenly spread, as one batch."""
    index = np.linspace(0, len(latents) - 1, min(count, len(latents))).astype(int)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(latents[int(i)] for i in index))
