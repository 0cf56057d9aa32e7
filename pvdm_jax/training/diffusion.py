"""Stage 2: the denoiser learns to predict noise (or x_0, v, the flow) in latents, jointly with and without the clips
beside them (paper section 3.2, equation 8).

It trains on the latents of `training.latents`: windows of two consecutive clips, or of three with denoiser.next_clip.
With probability `context_prob` a sample is a clip given the previous one, else an unconditional clip: any clip of the
window, or with encode.unconditional_anywhere one that begins anywhere in it, as in the official code. The `default`
recipe decides this for each clip, `official` for the whole batch. The data mark a clip without a previous one; black
pixels have no special meaning.

A denoiser with an expert (`denoiser.expert_from`) is two networks, which take turns: every `expert_every`-th update
trains the expert on clips that have a neighbour, at its own times; the others train the rest as above. Both are alike,
so one compiled step trains whichever it is given.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from pvdm_jax.config import Config, config_to_dict, require
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.diffusion.predictions import draw_noisy_batch, squared_error
from pvdm_jax.diffusion.times import uniform_times
from pvdm_jax.inference import on_mesh
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.inference.sampler import SampleBatch, SamplingProgram, split_settings
from pvdm_jax.models import functional
from pvdm_jax.models.denoiser import denoiser_class
from pvdm_jax.models.experts import EXPERT, REST
from pvdm_jax.runtime import sharding
from pvdm_jax.runtime.keys import make_key
from pvdm_jax.storage.run_folder import DATASET, ENCODED_BY, RunFolder
from pvdm_jax.storage.run_lock import single_writer
from pvdm_jax.training.diffusion_losses import DiffusionLosses
from pvdm_jax.training.latent_statistics import with_statistics
from pvdm_jax.training.latents import training_latents
from pvdm_jax.training.optimizer import (
    TrainState,
    accumulate_gradients,
    init_state,
    join_networks,
    make_optimizer,
    network_of,
    update,
    with_network,
)
from pvdm_jax.training.policy import BestByMetric
from pvdm_jax.training.step import Constants, Metrics, PutBack, whole
from pvdm_jax.weights.run_autoencoder import import_autoencoder, load_autoencoder

# Parts of the configuration that do not affect this stage's numbers; the cache checks the identity of the latents.
UNRELATED = ("train_autoencoder.*",)
DENOISER = "denoiser"  # the name of the stage's step; the expert's is EXPERT
PICTURED = 4  # clips sampled at each evaluation, rounded up to the number of devices


class DiffusionStage:
    """State, step and evaluation of stage 2, for the training loop.

    decoder: the autoencoder's weights, which decode the samples of the evaluation. held_out: a batch that is never
    trained on. real: uint8 (n, frames, height, width, 3), held-out clips to compare n sampled clips with; None: no
    comparison.
    """

    name = "diffusion"

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        decoder: functional.Params | None = None,
        held_out: LatentBatch | None = None,
        real: np.ndarray | None = None,
    ):
        self.denoiser, self.config, self.mesh = config.denoiser, config.train_diffusion, mesh
        self.model = LatentModel(config.autoencoder, config.denoiser, mesh)
        self.has_expert = config.denoiser.expert_from > 0
        network = self.model.one_network  # what an update trains
        self.losses = DiffusionLosses(config, network)
        self.not_matrices = denoiser_class(network.denoiser).NOT_MATRICES
        self.steps = {DENOISER: self.step}
        if self.has_expert:
            self.steps = dict.fromkeys((DENOISER, EXPERT), self.step_in_turn)
        # For the evaluation, which samples in the same way as users of the trained model.
        self.decoder, self.held_out, self.real = decoder, held_out, real
        program = SamplingProgram(config, self.model)
        self.sampling, self.numbers = split_settings(self.model, config.sample, config.latents)
        # As an argument of the step, so that other statistics need no other program.
        self.constants = {"scale": sharding.place(mesh, self.numbers["scale"])}
        generate = functools.partial(program.generate, settings=self.sampling, clips=1, given=False)
        self.sample = jax.jit(lambda *inputs: generate(*inputs)[0])  # without the next clip's condition
        self.held_out_errors = jax.jit(self._held_out_errors)

    def init(self, key: jax.Array) -> TrainState:
        """The state before training."""
        params, optimizer = self.model.init_denoiser(key), self._optimizer(self.config.steps)
        if not self.has_expert:
            return init_state(params, optimizer)
        return join_networks({name: init_state(params[name], optimizer) for name in (EXPERT, REST)})

    def _optimizer(self, steps: int | jax.Array) -> optax.GradientTransformationExtraArgs:
        return make_optimizer(self.config.optimizer, steps, self.not_matrices)

    def split(self, name: str, state: TrainState) -> tuple[TrainState, PutBack]:
        """As `training.step.Stage`: of two networks, the one that the step trains."""
        if not self.has_expert:
            return whole(name, state)
        network = EXPERT if name == EXPERT else REST

        def put_back(part: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
            if network == EXPERT:
                metrics = {"expert_loss" if key == "loss" else key: value for key, value in metrics.items()}
            return with_network(state, network, part), metrics

        return network_of(state, network), put_back

    def step_name(self, step: int) -> str:
        """The name in `steps` of the function that makes update number `step`, counted from 1."""
        return EXPERT if self.has_expert and step % self.config.expert_every == 0 else DENOISER

    def step(self, state: TrainState, batch: LatentBatch, key: jax.Array, constants: Constants):
        """One update of a denoiser that is one network."""
        return self._update(state, batch, key, constants, self._optimizer(self.config.steps))

    def step_in_turn(self, part: TrainState, batch: LatentBatch, key: jax.Array, constants: Constants):
        """One update of one of two networks, alone in its state: of the expert, if it is its turn (`step_name`)."""
        every, steps = self.config.expert_every, self.config.steps
        expert = (part.step + 1) % every == 0
        by_expert = part.step // every  # updates so far
        done = jnp.where(expert, by_expert, part.step - by_expert)
        total = jnp.where(expert, max(1, steps // every), steps - steps // every)
        alone = dataclasses.replace(part, step=done)
        changed, metrics = self._update(alone, batch, key, constants, self._optimizer(total), expert)
        return dataclasses.replace(changed, step=part.step + 1), metrics

    def _update(
        self,
        state: TrainState,
        batch: LatentBatch,
        key: jax.Array,
        constants: Constants,
        optimizer: optax.GradientTransformationExtraArgs,
        expert: jax.Array | None = None,
    ):
        """One update of a network that is alone in its state."""
        coin = None
        if self.config.recipe == "official":
            coin = jax.random.bernoulli(jax.random.fold_in(key, 1), np.float32(self.config.context_prob))
        loss = functools.partial(self.losses.loss, coin=coin, expert=expert)
        batch = batch.map_latents(constants["scale"].normalize)
        params = on_mesh.gather_once(self.mesh, state.params, self.denoiser.remat, self.config.accumulate)
        grads, metrics = accumulate_gradients(loss, params, batch, key, self.config.accumulate)
        return update(state, grads, optimizer, self.config.ema_decay, self.config.ema_every), metrics

    def _held_out_errors(
        self, params: functional.Params, batch: LatentBatch, constants: Constants
    ) -> dict[str, jax.Array]:
        """Squared errors (b,) at uniform times, by name of what the denoiser is shown. `expert`: given the previous
        clip, at times that the expert answers for."""
        batch = batch.map_latents(constants["scale"].normalize)
        key = make_key(0)  # the same noise at every evaluation
        losses, everything = self.losses, self.losses.condition(batch)
        conditions = {"unconditional": everything.without("previous", "next")}
        if self.denoiser.previous_clip:
            conditions["given_previous"] = everything.without("next")
        if self.denoiser.next_clip:
            conditions["given_both"] = everything
        noisy = dict.fromkeys(conditions, draw_noisy_batch(losses.process, batch.clip, key, uniform_times))
        if self.has_expert:
            conditions["expert"] = conditions["given_previous"]
            noisy["expert"] = draw_noisy_batch(losses.process, batch.clip, key, losses.expert_times)
        # All in one call: each further call would take seconds to compile.
        asked, condition = (jax.tree.map(lambda *x: jnp.concatenate(x), *each.values()) for each in (noisy, conditions))
        errors = squared_error(self.model.denoise_in_parts(params, asked.x, asked.time, condition), asked.target)
        return dict(zip(conditions, jnp.split(errors, len(conditions)), strict=True))

    def _sample(self, params: functional.Params, batch: dict[str, jax.Array]) -> jax.Array:
        """One clip for each index, uint8 (b, frames, height, width, 3)."""
        condition = self.model.absent(len(batch["index"]))
        if condition.label is not None:
            condition = dataclasses.replace(condition, label=batch["label"])
        weights = {"autoencoder": self.decoder, "denoiser": params}
        index = SampleBatch(batch["index"], condition)
        return self.sample(weights, make_key(0), np.int32(0), index, self.numbers)

    def evaluate(self, state: TrainState, folder: pathlib.Path) -> dict[str, float]:
        """The EMA's loss on held-out clips, without and (for clips that have them) with the neighbouring clips.

        Writes samples.gif: clips that the EMA samples with the run's own settings, always from the same noise. With
        `eval_samples`, also returns the Frechet distance between that many samples and held-out clips, in the
        scattering space.
        """
        from pvdm_jax.evaluation.frechet import frechet_distance
        from pvdm_jax.evaluation.scattering import video_features
        from pvdm_jax.video.grid import video_grid
        from pvdm_jax.video.write import write_video_or_frames

        held_out, size = self.held_out, self.config.batch_size

        def measure(part: LatentBatch) -> dict[str, jax.Array]:
            return self.held_out_errors(state.ema, part, self.constants)

        errors = sharding.map_batches(self.mesh, measure, held_out, size)
        known = {"unconditional": np.ones(len(held_out.label), bool), "given_previous": held_out.has_previous}
        if self.denoiser.next_clip:
            known["given_both"] = held_out.has_previous & held_out.has_next
        if self.has_expert:
            known["expert"] = held_out.has_previous
        values = {f"loss_{kind}": float(np.mean(errors[kind][known[kind]])) for kind in errors if known[kind].any()}

        compared = 0 if self.real is None else self.config.eval_samples
        count = max(PICTURED, compared)
        batch = {
            "index": np.arange(count, dtype=np.uint32),
            "label": np.arange(count, dtype=np.int32) % max(1, self.denoiser.num_classes),
        }
        sample = functools.partial(self._sample, state.ema)
        clips = sharding.map_batches(self.mesh, sample, batch, min(count, max(PICTURED, size)))
        if compared:
            values["frechet_scattering"] = frechet_distance(video_features(self.real), video_features(clips[:compared]))
        if jax.process_index() == 0:
            write_video_or_frames(folder / "samples.gif", video_grid(clips[:PICTURED], columns=2))
        return values


@single_writer
def train(config: Config, workdir: str | pathlib.Path, autoencoder: str | pathlib.Path | None = None) -> TrainState:
    """Trains stage 2 of the run in `workdir`, resuming from its newest checkpoint.

    It takes the cached latents, or with `encode.cache` False encodes pixels in every step. autoencoder: a model folder
    or another run's folder, whose autoencoder the run imports. Returns the last state. Raises ConfigError if
    `pvdm encode` has not been run or its latents don't fit.
    """
    from pvdm_jax.training.loop import train as run

    config.data.check_held_out()
    mesh, stage_config = sharding.make_mesh(config.mesh), config.train_diffusion
    sharding.check_batch(mesh, stage_config.batch_size, "train_diffusion.batch_size", stage_config.accumulate)
    if autoencoder is not None:
        import_autoencoder(autoencoder, config, workdir)
    latents, held_out = training_latents(config, workdir, mesh)
    config = with_statistics(config, latents, RunFolder(workdir).diffusion)
    classes, asked = len(latents.class_names), config.denoiser.num_classes
    allowed = f"the data has {classes} classes: set it to that, or to 0 to train without classes"
    require(asked in (0, classes), "denoiser.num_classes", asked, allowed)

    def batches(start: int):
        return latents.batches(config, stage_config.batch_size, start)

    stage = DiffusionStage(
        config,
        mesh,
        decoder=load_autoencoder(config.autoencoder, workdir, mesh),
        held_out=held_out,
        real=_held_out_videos(config),
    )
    made_of = {ENCODED_BY: latents.identity, DATASET: latents.dataset, "class_names": list(latents.class_names)}
    return run(
        stage,
        BestByMetric(stage.step_name, stage_config.best_metric),
        batches,
        directory=RunFolder(workdir).diffusion.path,
        config=stage_config,
        settings=config_to_dict(config) | made_of,
        mesh=mesh,
        seed=config.seed,
        unrelated=UNRELATED,
    )


def _held_out_videos(config: Config) -> np.ndarray | None:
    """The clips that samples are compared with in training; None where `eval_samples` is 0."""
    from pvdm_jax.data.loader import fixed_clips
    from pvdm_jax.data.sources import open_held_out
    from pvdm_jax.evaluation.scattering import MIN_FRAMES, MIN_SIDE

    count, clip = config.train_diffusion.eval_samples, config.autoencoder
    if count == 0:
        return None
    fits = clip.frames >= MIN_FRAMES and min(clip.height, clip.width) >= MIN_SIDE
    allowed = f"comparing samples takes clips of at least {MIN_FRAMES} frames of {MIN_SIDE} x {MIN_SIDE} pixels"
    require(fits, "train_diffusion.eval_samples", count, allowed)
    source = open_held_out(config.data, clip, config.seed)
    return fixed_clips(source, clip, config.data, count)["video"]
