"""Stage 2: the denoiser learns to predict noise (or x_0, v, the flow) in latents, jointly with and without the clips
beside them (paper section 3.2, equation 8).

It trains from the cache that `training.latents` wrote: windows of consecutive clips, of which the last may have a
next one. With probability `context_prob` a sample is a clip given the one before, else a clip alone: any
of the window, or with encode.lone_clips one that begins anywhere in it, as in the official code. The `default` recipe
decides that for each clip, `official` for the whole batch. A clip without a previous one says so in the cache: it is
never told by black pixels.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax.config import Config, config_to_dict, require
from pvdm_jax.diffusion.guidance import guide
from pvdm_jax.diffusion.predictions import draw_exercise, squared_error
from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.sampling import sample_clip
from pvdm_jax.models import functional
from pvdm_jax.models.pixels import to_uint8
from pvdm_jax.models.triplane import PlaneShape, unpack
from pvdm_jax.models.unet import UNet
from pvdm_jax.runtime import sharding
from pvdm_jax.storage.run_folder import RunFolder
from pvdm_jax.training.latents import training_latents
from pvdm_jax.training.optimizer import TrainState, accumulate_gradients, init_state, make_optimizer, update
from pvdm_jax.training.phases import Watch
from pvdm_jax.weights.run_autoencoder import load_autoencoder, take_over

# Parts of the configuration that this stage's numbers don't depend on: the latents' identity is checked by the cache.
UNRELATED = ("train_autoencoder.*",)
PICTURED = 4  # clips sampled at each evaluation, rounded up to the number of devices

Batch = dict[str, jax.Array]


class DiffusionStage:
    """State, step and evaluation of stage 2, for the training loop.

    autoencoder: graph definition and weights of stage 1, which decodes the samples of the evaluation.
    held_out: {"previous", "clip": (n, positions, channels), "has_previous", "label": (n,)} that training never sees;
    with unet.cond_next also "next" and "has_next", with encode.lone_clips "lone".
    real: uint8 (n, frames, height, width, 3), held-out clips that as many sampled ones are compared with; None: none.
    """

    name = "diffusion"

    def __init__(
        self,
        config: Config,
        autoencoder: tuple[nnx.GraphDef, functional.Params],
        shape: PlaneShape,
        held_out: dict[str, Any],
        mesh: Mesh,
        real: np.ndarray | None = None,
    ):
        self.real = real
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
    ) -> tuple[jax.Array, jax.Array]:
        """Squared errors (b,) of what is predicted for `clip` (b, positions, c) at random steps, given packed context
        and label, and the weights (b,) of the steps drawn."""
        drawn = draw_exercise(self.process, clip, key)
        return squared_error(self._predict(params, drawn.x, drawn.step, context, label), drawn.target), drawn.weight

    def _predict(self, params, x, step, context, label):
        planes = functional.merge(self.graphdef, sharding.gather(self.mesh, params))(
            unpack(x, self.shape),
            step,
            unpack(context, self.shape) if self.model.cond_model else None,
            label if self.model.num_classes else None,
        )
        return planes.pack()

    def loss(self, params: functional.Params, batch: Batch, key: jax.Array):
        """Mean squared error over the batch: a share of it given the clips beside it, the rest without."""
        context_key, which_key, label_key, noise_key = jax.random.split(key, 4)
        given = self.given_neighbours(batch, context_key)
        alone = ~jnp.any(jnp.stack(list(given.values())), axis=0)
        clip = self.lone_clip(batch, alone, which_key)
        context = _pack_context(batch, given) if self.model.cond_model else _nothing(clip, self.model.latent_channels)
        shown = jax.random.bernoulli(label_key, self.config.label_prob, batch["label"].shape)
        errors, weights = self.errors(params, clip, context, jnp.where(shown, batch["label"], -1), noise_key)
        loss = jnp.mean(weights * errors)
        return loss, {"loss": loss}

    def given_neighbours(self, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Which clips are shown their neighbours: "previous" and, with cond_next, "next", each bool (b,).

        With cond_next half of those that are shown any are shown both, a quarter only the previous and a quarter only
        the next. A neighbour that the data lack is never shown.
        """
        coin_key, which_key = jax.random.split(key)
        count = batch["label"].shape
        if "coin" in batch:  # one for the whole batch
            coin = batch["coin"]
        else:
            coin = jax.random.bernoulli(coin_key, self.config.context_prob, count)
        coin = coin & self.model.cond_model
        if not self.model.cond_next:
            return {"previous": coin & batch["has_previous"]}
        quarter = jax.random.randint(which_key, count, 0, 4)
        shown = {"previous": quarter != 0, "next": quarter != 1}
        return {name: coin & chosen & batch[f"has_{name}"] for name, chosen in shown.items()}

    def lone_clip(self, batch: Batch, alone: jax.Array, key: jax.Array) -> jax.Array:
        """The clips to learn (b, positions, c): the window's own, but where none is given the one at a random place in
        the window ("lone"), or without such a one any of its clips."""
        clip = batch["clip"]
        if "lone" in batch:
            return jnp.where(alone[:, None, None], batch["lone"], clip)
        names = [name for name in ("previous", "next") if name in batch]
        which = jax.random.randint(key, alone.shape, 0, 1 + len(names))
        for number, name in enumerate(names, 1):
            chosen = alone & batch[f"has_{name}"] & (which == number)
            clip = jnp.where(chosen[:, None, None], batch[name], clip)
        return clip

    def step(self, state: TrainState, batch: Batch, key: jax.Array):
        """One update; `batch` has the cache's fields."""
        if self.config.recipe == "official":
            coin = jax.random.bernoulli(jax.random.fold_in(key, 1), self.config.context_prob)
            batch = batch | {"coin": jnp.broadcast_to(coin, batch["label"].shape)}
        grads, metrics = accumulate_gradients(self.loss, state.params, batch, key, self.config.accumulate)
        return update(state, grads, self.optimizer, self.config.ema_decay, self.config.ema_every), metrics

    def _held_out_errors(self, params: functional.Params, batch: Batch) -> dict[str, jax.Array]:
        key = jax.random.key(0)  # the same noise at every evaluation
        clip, channels = batch["clip"], self.model.context_channels or self.model.latent_channels
        errors = {"alone": self.errors(params, clip, _nothing(clip, channels), batch["label"], key)[0]}
        kinds = {"given_previous": ("previous",)} if self.model.cond_model else {}
        if self.model.cond_next:
            kinds["given_both"] = ("previous", "next")
        for kind, names in kinds.items():
            given = {name: jnp.full(len(clip), name in names) for name in self._neighbours()}
            errors[kind] = self.errors(params, clip, _pack_context(batch, given), batch["label"], key)[0]
        return errors

    def _neighbours(self) -> tuple[str, ...]:
        return ("previous", "next") if self.model.cond_next else ("previous",)

    def _draw(self, params: functional.Params, decoder: functional.Params, batch: Batch) -> jax.Array:
        """One clip for each key, uint8 (b, frames, height, width, 3)."""
        options, count = self.sampling, len(batch["label"])
        shape = (self.shape.positions, self.model.latent_channels)
        nothing = jnp.zeros((count, self.shape.positions, self.model.context_channels or shape[1]))
        latents = sample_clip(
            guide(functools.partial(self._predict, params), nothing, batch["label"]),
            self.process,
            jax.random.wrap_key_data(batch["key"]),
            shape,
            sampler=options.sampler,
            steps=options.steps,
            grid=options.grid,
            eta=options.eta,
            clip_x0=options.clip_x0,
        )
        model = functional.merge(self.decoder, sharding.gather(self.mesh, decoder))
        return to_uint8(model.decode(unpack(latents, self.shape)))

    def evaluate(self, state: TrainState, folder: pathlib.Path) -> dict[str, float]:
        """The EMA's loss on held-out clips, without and (for those that have them) with the clips beside them.

        Writes clips that the EMA samples, always from the same noise: samples.gif. With `eval_samples`, also the
        Frechet distance of as many of them from held-out clips, in the scattering space.
        """
        from pvdm_jax.evaluation.features import video_features
        from pvdm_jax.evaluation.frechet import frechet_distance
        from pvdm_jax.video.grid import video_grid
        from pvdm_jax.video.write import write_video

        errors = sharding.map_batches(
            self.mesh,
            lambda batch: self.held_out_errors(state.ema, batch),
            self.held_out,
            self.config.batch_size,
        )
        known = {"alone": np.ones(len(self.held_out["label"]), bool), "given_previous": self.held_out["has_previous"]}
        if self.model.cond_next:
            known["given_both"] = known["given_previous"] & self.held_out["has_next"]
        values = {f"loss_{kind}": float(np.mean(errors[kind][known[kind]])) for kind in errors if known[kind].any()}

        compared = 0 if self.real is None else self.config.eval_samples
        count = max(PICTURED, compared)
        keys = jax.random.key_data(jax.random.split(jax.random.key(0), count))
        batch = {"key": np.asarray(keys), "label": np.arange(count, dtype=np.int32) % max(1, self.model.num_classes)}
        draw = functools.partial(self.draw, state.ema, self.decoder_weights)
        clips = sharding.map_batches(self.mesh, draw, batch, min(count, max(PICTURED, self.config.batch_size)))
        if compared:
            values["frechet_scattering"] = frechet_distance(video_features(self.real), video_features(clips[:compared]))
        if jax.process_index() == 0:
            write_video(folder / "samples.gif", video_grid(clips[:PICTURED], columns=2))
        return values


def train(config: Config, workdir: str | pathlib.Path, autoencoder: str | pathlib.Path | None = None) -> TrainState:
    """Trains stage 2 of the run in `workdir`, going on from its newest checkpoint.

    It takes the cached latents, or with `encode.cache` False makes them from pixels in every step. autoencoder: a model
    folder or another run's folder, whose autoencoder the run takes over (first_stage.py). Returns the last state.
    Raises ConfigError where `pvdm encode` has not been run or its latents don't fit.
    """
    from pvdm_jax.training.loop import train as run

    workdir = pathlib.Path(workdir)
    mesh, stage_config = sharding.make_mesh(config.mesh), config.train_diffusion
    sharding.check_batch(mesh, stage_config.batch_size, "train_diffusion.batch_size", stage_config.accumulate)
    if autoencoder is not None:
        take_over(autoencoder, config, workdir)
    latents, held_out = training_latents(config, workdir, mesh)
    classes = len(latents.class_names)
    allowed = f"the data has {classes} classes: set it to that, or to 0 to train without classes"
    require(config.unet.num_classes in (0, classes), "unet.num_classes", config.unet.num_classes, allowed)

    def batches(start: int):
        return latents.batches(config, stage_config.batch_size, start)

    decoder = load_autoencoder(config.autoencoder, workdir, mesh)
    held_out_clips = _stack(held_out, stage_config.eval_clips)
    real = _held_out_videos(config)
    stage = DiffusionStage(config, decoder, latents.shape, held_out_clips, mesh, real)
    settings = config_to_dict(config) | {"latents": latents.identity, "class_names": list(latents.class_names)}
    watch = Watch(stage_config.best_metric) if stage_config.best_metric else None
    return run(
        stage, batches, RunFolder(workdir).diffusion.path, stage_config, settings, mesh, config.seed, UNRELATED, watch
    )


def _pack_context(batch: Batch, given: dict[str, jax.Array]) -> jax.Array:
    """The neighbours' latents (b, positions, c or 2c), zeros where one isn't given."""
    return jnp.concatenate([jnp.where(mask[:, None, None], batch[name], 0.0) for name, mask in given.items()], axis=-1)


def _held_out_videos(config: Config) -> np.ndarray | None:
    """The clips that samples are compared with in training; None where `eval_samples` is 0."""
    from pvdm_jax.data.loader import fixed_clips
    from pvdm_jax.data.sources import open_held_out
    from pvdm_jax.evaluation.features import MIN_FRAMES, MIN_SIDE

    count, clip = config.train_diffusion.eval_samples, config.autoencoder
    if count == 0:
        return None
    fits = clip.frames >= MIN_FRAMES and min(clip.height, clip.width) >= MIN_SIDE
    allowed = f"comparing samples takes clips of at least {MIN_FRAMES} frames of {MIN_SIDE} x {MIN_SIDE} pixels"
    require(fits, "train_diffusion.eval_samples", count, allowed)
    source = open_held_out(config.data, clip, config.seed)
    return fixed_clips(source, clip, config.data, count)["video"]


def _nothing(clip: jax.Array, channels: int) -> jax.Array:
    return jnp.zeros((*clip.shape[:-1], channels), clip.dtype)


def _stack(latents: Sequence[dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """`count` items, evenly spread, as one batch."""
    index = np.linspace(0, len(latents) - 1, min(count, len(latents))).astype(int)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(latents[int(i)] for i in index))
