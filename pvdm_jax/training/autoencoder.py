"""Stage 1: the autoencoder learns to reconstruct clips (paper section 3.1).

A first phase minimises pixel losses and LPIPS. A second, adversarial phase adds patch discriminators of frames and of
clips, which train alongside the autoencoder; `training.phases` decides when it begins and whether it diverges. The
losses are in `pvdm_jax.losses`.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig, AutoencoderTrainingConfig, Config, ConfigError, config_to_dict, require
from pvdm_jax.inference import on_mesh
from pvdm_jax.inference.latent_model import clips_at_once
from pvdm_jax.losses.lpips import LPIPS
from pvdm_jax.losses.lpips import SMALLEST as LPIPS_SMALLEST
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.pixels import to_uint8
from pvdm_jax.runtime import sharding
from pvdm_jax.runtime.keys import make_key
from pvdm_jax.storage.run_folder import DATASET, RunFolder
from pvdm_jax.storage.run_lock import single_writer
from pvdm_jax.training.adversarial import AdversarialState, make_discriminator_optimizer, with_discriminators
from pvdm_jax.training.autoencoder_losses import AutoencoderLosses
from pvdm_jax.training.optimizer import (
    LossFn,
    TrainState,
    accumulate_gradients,
    advance,
    apply_gradients,
    init_network,
    init_state,
    is_finite,
    make_optimizer,
    update,
)
from pvdm_jax.training.phases import BOTH, DISCRIMINATOR, GENERATOR, RECONSTRUCTION, AdversarialSchedule
from pvdm_jax.training.step import Batch, Constants, Metrics, whole
from pvdm_jax.weights.run_autoencoder import check_not_imported

# Parts of the configuration that do not affect this stage's numbers.
UNRELATED = ("denoiser.*", "latents.*", "process.*", "train_diffusion.*", "encode.*")
PICTURED = 4  # clips in the evaluation's picture


class AutoencoderStage:
    """State, steps and evaluation of stage 1, for the training loop.

    held_out: {"video": uint8 (n, frames, height, width, 3)}, held-out clips.
    lpips: required if config.perceptual_weight is positive.

    A step's batch has "video" (b, frames, height, width, 3), uint8 or float in [-1, 1], and optionally "frame" (b,),
    the index of the frame that LPIPS and the image discriminator see; without it one is drawn. constants: {"lpips":
    its weights}, or {}.
    """

    name = "autoencoder"
    split = staticmethod(whole)

    def __init__(
        self,
        model: AutoencoderConfig,
        config: AutoencoderTrainingConfig,
        held_out: dict[str, Any],
        mesh: Mesh,
        lpips: LPIPS | None = None,
    ):
        self.config, self.adversarial = config, config.adversarial
        self.optimizer = make_optimizer(config.optimizer, config.steps, Autoencoder.NOT_MATRICES)
        self.losses = AutoencoderLosses(model, config, mesh, lpips)
        self.constants = self.losses.constants
        phase_steps = self.adversarial.steps or config.steps
        self.discriminator_optimizer = make_discriminator_optimizer(self.adversarial.optimizer, phase_steps)
        # The same frames at every evaluation, so that evaluations can be compared.
        frame = np.random.default_rng(0).integers(model.frames, size=len(held_out["video"]), dtype=np.int32)
        self.held_out, self.mesh = {"video": held_out["video"], "frame": frame}, mesh
        self.measure, self.measure_hinge = jax.jit(self._measure), jax.jit(self._measure_hinge)
        self.steps = {RECONSTRUCTION: self.reconstruction_step}
        if self.adversarial.enabled:
            self.steps |= {
                BOTH: self.adversarial_step,
                GENERATOR: self.generator_step,
                DISCRIMINATOR: self.discriminator_step,
            }

    def init(self, key: jax.Array) -> TrainState:
        """The state before training; an AdversarialState if the run has an adversarial phase."""
        _, params = functional.split(self.losses.make_autoencoder(key))
        state = init_state(params, self.optimizer)
        if not self.adversarial.enabled:
            return state
        _, params = functional.split(self.losses.make_discriminators(jax.random.fold_in(key, 1)))
        return with_discriminators(state, init_network(params, self.discriminator_optimizer))

    def reconstruction_step(
        self, state: TrainState, batch: Batch, key: jax.Array, constants: Constants
    ) -> tuple[TrainState, Metrics]:
        """One update of the autoencoder by the reconstruction loss alone."""

        def loss(params, batch, key):
            batch = self.losses.prepare(batch, key)
            return self.losses.reconstruction(self.losses.reconstruct(params, batch["video"], key), batch, constants)

        grads, metrics = self._gradients(loss, state.params, batch, key)
        return update(state, grads, self.optimizer, self.config.ema_decay, self.config.ema_every), metrics

    def generator_step(
        self, state: AdversarialState, batch: Batch, key: jax.Array, constants: Constants
    ) -> tuple[AdversarialState, Metrics]:
        """One update of the autoencoder, by all losses."""
        strength = state.scale * self._strength(state)

        def loss(params, batch, key):
            batch = self.losses.prepare(batch, key)
            reconstruction = self.losses.reconstruct(params, batch["video"], key)
            return self.losses.generator(reconstruction, state.discriminators.params, batch, constants, strength)

        grads, metrics = self._gradients(loss, state.params, batch, key)
        finite = is_finite(grads)
        network = apply_gradients(state.network, grads, self.optimizer, finite, state.scale)
        return advance(state, finite, self.config.ema_decay, self.config.ema_every, network=network), metrics

    def discriminator_step(
        self, state: AdversarialState, batch: Batch, key: jax.Array, constants: Constants
    ) -> tuple[AdversarialState, Metrics]:
        """One update of the discriminators."""

        def loss(params, batch, key):
            batch = self.losses.prepare(batch, key)
            return self.losses.discriminator(params, self.losses.reconstruct(state.params, batch["video"], key), batch)

        grads, metrics = self._gradients(loss, state.discriminators.params, batch, key)
        finite = is_finite(grads)
        discriminators = apply_gradients(state.discriminators, grads, self.discriminator_optimizer, finite, state.scale)
        changed = advance(state, finite, self.config.ema_decay, self.config.ema_every, discriminators=discriminators)
        return changed, metrics

    def adversarial_step(
        self, state: AdversarialState, batch: Batch, key: jax.Array, constants: Constants
    ) -> tuple[AdversarialState, Metrics]:
        """One update of the autoencoder and one of the discriminators, from the same reconstruction."""
        strength = state.scale * self._strength(state)

        def loss(params, batch, key):
            batch = self.losses.prepare(batch, key)
            autoencoder, discriminators = params
            reconstruction = self.losses.reconstruct(autoencoder, batch["video"], key)
            fixed = jax.lax.stop_gradient(discriminators)
            generator, metrics = self.losses.generator(reconstruction, fixed, batch, constants, strength)
            fixed = jax.lax.stop_gradient(reconstruction)
            discriminator, found = self.losses.discriminator(discriminators, fixed, batch)
            return generator + discriminator, metrics | found

        both = (state.params, state.discriminators.params)
        grads, metrics = self._gradients(loss, both, batch, key)
        finite = is_finite(grads)
        changed = advance(
            state,
            finite,
            self.config.ema_decay,
            self.config.ema_every,
            network=apply_gradients(state.network, grads[0], self.optimizer, finite, state.scale),
            discriminators=apply_gradients(
                state.discriminators, grads[1], self.discriminator_optimizer, finite, state.scale
            ),
        )
        return changed, metrics

    def _gradients(self, loss: LossFn, params: Any, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        params = on_mesh.gather_once(self.mesh, params, self.losses.model.remat, self.config.accumulate)
        return accumulate_gradients(loss, params, batch, key, self.config.accumulate)

    def _strength(self, state: AdversarialState) -> jax.Array | float:
        """The factor of the phase's weights in the next update, 0 to 1: warm-up times decay.

        Both count from the start of the phase or from its last roll-back.
        """
        config, strength = self.adversarial, 1.0
        done = state.step - state.warmup_start
        if config.warmup_steps:
            strength *= jnp.clip((done + 1) / config.warmup_steps, 0.0, 1.0)
        if config.decay == "cosine":
            steps = config.steps or self.config.steps - state.warmup_start
            strength *= 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done / steps, 0.0, 1.0)))
        return strength

    def _measure(self, params: functional.Params, batch: Batch, constants: Constants) -> dict[str, jax.Array]:
        """Reconstructions in uint8, and the loss of each clip (b,)."""

        def measure(shared, batch):
            params, constants = shared
            batch = self.losses.prepare(batch, make_key(0))
            found = self.losses.reconstruct(params, batch["video"])
            error = self.losses.reconstruction(found, batch, constants, (1, 2, 3, 4))[0]
            return {"video": to_uint8(found), "error": error}

        return self._in_parts(measure, (params, constants), batch)

    def _measure_hinge(self, state: AdversarialState, batch: Batch) -> jax.Array:
        """The discriminators' loss on a batch and its reconstructions, repeated for each clip (b,)."""

        def measure(shared, batch):
            autoencoder, discriminators = shared
            batch = self.losses.prepare(batch, make_key(0))
            found = self.losses.reconstruct(autoencoder, batch["video"])
            return jnp.full(len(found), self.losses.discriminator(discriminators, found, batch)[0])

        return self._in_parts(measure, (state.params, state.discriminators.params), batch)

    def _in_parts(self, measure: Any, shared: Any, batch: Batch) -> Any:
        shared = sharding.gather(self.mesh, shared)
        return sharding.map_parts(self.mesh, measure, shared, batch, clips_at_once(self.losses.model))

    def evaluate(self, state: TrainState, folder: pathlib.Path) -> dict[str, float]:
        """Measures how well the EMA reconstructs the held-out clips. Writes some of them as reconstruction.gif.

        Returns psnr (dB); still_psnr, that of each clip's mean frame as a still; gradient_energy, the fraction that is
        kept; ssim, if frames are large enough; error, the pixel and LPIPS terms of the loss, by which the best
        checkpoint is chosen. If the run has an adversarial phase, also error_now, the error of the current parameters,
        and within the phase discriminator_loss, the hinge loss on held-out clips.
        """
        from pvdm_jax.evaluation.reconstruction import SSIM_SIDE, gradient_energy_ratio, psnr, ssim, still_psnr
        from pvdm_jax.video.grid import video_grid
        from pvdm_jax.video.write import write_video_or_frames

        def over_clips(function):
            return sharding.map_batches(self.mesh, function, self.held_out, self.config.batch_size)

        video = self.held_out["video"]
        measured = over_clips(lambda part: self.measure(state.ema, part, self.constants))
        found = measured["video"]
        if jax.process_index() == 0:
            pictured = np.stack([video[:PICTURED], found[:PICTURED]], axis=1).reshape(-1, *video.shape[1:])
            write_video_or_frames(folder / "reconstruction.gif", video_grid(pictured, columns=2))
        energy = gradient_energy_ratio(video, found)
        values = {
            "psnr": float(np.mean(psnr(video, found))),
            "still_psnr": float(np.mean([still_psnr(v) for v in video])),
            "gradient_energy": float(np.mean(energy[np.isfinite(energy)])),
            "error": float(np.mean(measured["error"], dtype=np.float64)),
        }
        if min(video.shape[2:4]) >= SSIM_SIDE:
            values["ssim"] = float(np.mean(ssim(video, found)))
        if self.adversarial.enabled:
            now = over_clips(lambda part: self.measure(state.params, part, self.constants)["error"])
            values["error_now"] = float(np.mean(now, dtype=np.float64))
            if int(state.warmup_start) >= 0:
                hinge = over_clips(lambda part: self.measure_hinge(state, part))
                values["discriminator_loss"] = float(np.mean(hinge, dtype=np.float64))
        return values


def load_perceptual(model: AutoencoderConfig, config: AutoencoderTrainingConfig) -> LPIPS | None:
    """LPIPS for a run; None if its weight in the loss is 0; a stand-in, with a warning, if no files are given.

    Raises ConfigError if clips are too small or if the files do not hold LPIPS, FileNotFoundError if a file does not
    exist.
    """
    from pvdm_jax.weights.official.lpips import load_lpips

    if config.perceptual_weight == 0:
        return None
    small = min(model.height, model.width)
    allowed = f"LPIPS needs frames of {LPIPS_SMALLEST} pixels or more, these have {small}; set it to 0"
    require(small >= LPIPS_SMALLEST, f"{config.section}.perceptual_weight", config.perceptual_weight, allowed)
    try:
        return load_lpips([path.strip() for path in config.perceptual_weights.split(",") if path.strip()])
    except ValueError as error:
        raise ConfigError(f"{config.section}.perceptual_weights is {config.perceptual_weights!r}; {error}") from error


@single_writer
def train(config: Config, workdir: str | pathlib.Path) -> TrainState:
    """Trains stage 1 of the run in `workdir`, resuming from its newest checkpoint. Returns the last state.

    Raises ConfigError if the run uses an autoencoder that was trained elsewhere.
    """
    from pvdm_jax.data.dataset_identity import dataset_identity
    from pvdm_jax.data.loader import fixed_clips, train_batches
    from pvdm_jax.data.sources import open_held_out, open_source
    from pvdm_jax.data.streams import BatchSpec, ProcessShare
    from pvdm_jax.training.loop import train as run

    config.data.check_held_out()
    check_not_imported(workdir)
    mesh, stage_config = sharding.make_mesh(config.mesh), config.train_autoencoder
    sharding.check_batch(mesh, stage_config.batch_size, "train_autoencoder.batch_size", stage_config.accumulate)
    lpips = load_perceptual(config.autoencoder, stage_config)
    source = open_source(config.data, config.autoencoder, "train", config.seed)
    held_out = open_held_out(config.data, config.autoencoder, config.seed)
    clips = fixed_clips(held_out, config.autoencoder, config.data, stage_config.eval_clips)

    def batches(start: int):
        spec = BatchSpec(stage_config.batch_size, config.seed, start, ProcessShare.current())
        return train_batches(source, config.autoencoder, config.data, spec)

    return run(
        AutoencoderStage(config.autoencoder, stage_config, clips, mesh, lpips),
        AdversarialSchedule(stage_config.adversarial),
        batches,
        directory=RunFolder(workdir).autoencoder.path,
        config=stage_config,
        settings=config_to_dict(config) | {DATASET: dataset_identity(config.data)},
        mesh=mesh,
        seed=config.seed,
        unrelated=UNRELATED,
    )
