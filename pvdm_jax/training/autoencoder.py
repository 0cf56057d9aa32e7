"""Stage 1: the autoencoder learns to reconstruct clips (paper section 3.1).

A first phase minimises pixel losses and LPIPS. A second one adds patch discriminators of frames and of clips, which
learn beside the autoencoder; `training.phases` decides when it begins and whether it goes well.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig, AutoencoderTrainingConfig, Config, ConfigError, config_to_dict, require
from pvdm_jax.losses.lpips import LPIPS
from pvdm_jax.losses.lpips import SMALLEST as LPIPS_SMALLEST
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.discriminators import Discriminators
from pvdm_jax.models.pixels import to_float, to_uint8
from pvdm_jax.models.triplane import Planes
from pvdm_jax.runtime import sharding
from pvdm_jax.storage.run_folder import RunFolder
from pvdm_jax.training.adversarial import (
    AdversarialState,
    Metrics,
    discriminator_terms,
    generator_terms,
    make_discriminator_optimizer,
    pick_frames,
)
from pvdm_jax.training.optimizer import (
    TrainState,
    accumulate_gradients,
    advance,
    apply_gradients,
    init_state,
    is_finite,
    make_optimizer,
    update,
)
from pvdm_jax.training.phases import DISCRIMINATOR, GENERATOR, RECONSTRUCTION, Phases
from pvdm_jax.weights.run_autoencoder import check_own

# Parts of the configuration that this stage's numbers don't depend on.
UNRELATED = ("unet.*", "process.*", "train_diffusion.*", "encode.*")
PICTURED = 4  # clips in the evaluation's picture


def add_noise(planes: Planes, scale: float, key: jax.Array) -> Planes:
    """The planes with normal noise of standard deviation `scale`; with 0 as they are."""
    if scale == 0:
        return planes
    leaves, structure = jax.tree.flatten(planes)
    keys = jax.random.split(key, len(leaves))
    noisy = [leaf + scale * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


class AutoencoderStage:
    """State, steps and evaluation of stage 1, for the training loop.

    held_out: {"video": uint8 (n, frames, height, width, 3)} of clips that training never sees.
    lpips: needed where config.perceptual_weight is positive.
    """

    name = "autoencoder"

    def __init__(
        self,
        model: AutoencoderConfig,
        config: AutoencoderTrainingConfig,
        held_out: dict[str, Any],
        mesh: Mesh,
        lpips: LPIPS | None = None,
    ):
        self.model, self.config, self.adversarial = model, config, config.adversarial
        self.optimizer = make_optimizer(config.optimizer, config.steps)
        self.graphdef, _ = functional.abstract(lambda: Autoencoder(model, rngs=nnx.Rngs(0)))
        self.discriminators, _ = functional.abstract(self._make_discriminators)
        phase_steps = self.adversarial.steps or config.steps
        self.discriminator_optimizer = make_discriminator_optimizer(self.adversarial.optimizer, phase_steps)
        self.constants, self.lpips = {}, None
        if config.perceptual_weight > 0:
            self.lpips_name = lpips.name  # "random_vgg" for the stand-in, so that nobody takes its numbers for LPIPS
            self.lpips, weights = functional.split(lpips)
            self.constants = {"lpips": sharding.place(mesh, weights)}
        # Always the same frames, so that evaluations can be compared.
        frame = np.random.default_rng(0).integers(model.frames, size=len(held_out["video"]), dtype=np.int32)
        self.held_out, self.mesh = {"video": held_out["video"], "frame": frame}, mesh
        self.measure, self.measure_hinge = jax.jit(self._measure), jax.jit(self._measure_hinge)

    def _make_discriminators(self, key: jax.Array | int = 0) -> Discriminators:
        return Discriminators(self.adversarial.discriminator, rngs=nnx.Rngs(key))

    def _merge_discriminators(self, params: functional.Params) -> Discriminators:
        return functional.merge(self.discriminators, sharding.gather(self.mesh, params))

    def init(self, key: jax.Array) -> TrainState:
        """The state before training."""
        _, params = functional.split(Autoencoder(self.model, rngs=nnx.Rngs(key)))
        state = init_state(params, self.optimizer)
        if not self.adversarial.enabled:
            return state
        _, discriminators = functional.split(self._make_discriminators(jax.random.fold_in(key, 1)))
        return AdversarialState(
            **{field.name: getattr(state, field.name) for field in dataclasses.fields(state)},
            discriminators=discriminators,
            discriminator_opt_state=self.discriminator_optimizer.init(discriminators),
            warmup_start=jnp.full((), -1, jnp.int32),
            scale=jnp.ones(()),
        )

    def begin(self, state: AdversarialState) -> AdversarialState:
        """The state with which the adversarial phase begins."""
        start = jax.device_put(np.asarray(state.step), state.warmup_start.sharding)
        return dataclasses.replace(state, warmup_start=start)

    def roll_back(self, best: AdversarialState, state: AdversarialState, rollbacks: int) -> AdversarialState:
        """The state that goes on from `best` at the step of `state`, warmed up anew with lower weights and rates."""

        def keep_counts(best, now):
            # Learning rates follow the steps done.
            return jax.tree.map(lambda b, n: n if jnp.issubdtype(b.dtype, jnp.integer) else b, best, now)

        scale = np.float32(self.adversarial.guard_factor**rollbacks)
        return dataclasses.replace(
            self.begin(state),
            params=best.params,
            ema=best.ema,
            opt_state=keep_counts(best.opt_state, state.opt_state),
            discriminators=best.discriminators,
            discriminator_opt_state=keep_counts(best.discriminator_opt_state, state.discriminator_opt_state),
            scale=jax.device_put(scale, state.scale.sharding),
        )

    def reconstruct(self, params: functional.Params, video: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The reconstruction of clips in [-1, 1]; with a key, under the noise of config.latent_noise."""
        model = functional.merge(self.graphdef, sharding.gather(self.mesh, params))
        planes = model.encode(video)
        return model.decode(planes if key is None else add_noise(planes, self.config.latent_noise, key))

    def reconstruction_loss(
        self, reconstruction: jax.Array, batch: Metrics, constants: Any, axes: tuple[int, ...] | None = None
    ) -> tuple[jax.Array, Metrics]:
        """Pixel losses and LPIPS, their weighted sum and each of them: scalars, or (b,) with `axes` (1, 2, 3, 4).

        batch: "video" (b, frames, height, width, 3) in [-1, 1]; "frame" (b,), the index of the one LPIPS compares.
        """
        config, error = self.config, reconstruction - batch["video"]
        terms = {"l1": jnp.mean(jnp.abs(error), axes), "l2": jnp.mean(jnp.square(error), axes)}
        loss = config.l1_weight * terms["l1"] + config.l2_weight * terms["l2"]
        if self.lpips is not None:
            images = (pick_frames(x, batch["frame"]) for x in (batch["video"], reconstruction))
            distances = functional.merge(self.lpips, sharding.gather(self.mesh, constants["lpips"]))(*images)
            terms[self.lpips_name] = distances if axes else jnp.mean(distances)
            loss += config.perceptual_weight * terms[self.lpips_name]
        return loss, {"loss": loss, **terms}

    def generator_loss(
        self,
        reconstruction: jax.Array,
        discriminators: functional.Params,
        batch: Metrics,
        constants: Any,
        strength: jax.Array | float = 1.0,
    ) -> tuple[jax.Array, Metrics]:
        """The autoencoder's loss in the adversarial phase, for gradients with respect to `reconstruction`.

        strength: of the adversarial and the feature matching weight, 0 to 1. With `adaptive` weights the value
        returned has the right gradient, and the loss itself is in the metrics.
        """
        config, modules = self.adversarial, self._merge_discriminators(discriminators)

        def terms(x):
            found = generator_terms(modules, batch["video"], x, batch["frame"])
            return found["adversarial"], found["feature_matching"]

        weight, feature_weight = config.weight * strength, config.feature_weight * strength
        if not config.adaptive:
            loss, metrics = self.reconstruction_loss(reconstruction, batch, constants)
            adversarial, matching = terms(reconstruction)
            loss = surrogate = loss + weight * adversarial + feature_weight * matching
        else:
            # The gradients in the pixels, one by one; the autoencoder then sees their sum.
            x = jax.lax.stop_gradient(reconstruction)
            gradient = jax.value_and_grad(lambda x: self.reconstruction_loss(x, batch, constants), has_aux=True)
            (loss, metrics), plain = gradient(x)
            (adversarial, matching), pull = jax.vjp(terms, x)
            one, zero = jnp.ones_like(adversarial), jnp.zeros_like(adversarial)
            towards_real, towards_features = pull((one, zero))[0], pull((zero, one))[0]
            size = optax.tree.norm(plain)
            weight *= size / jnp.maximum(optax.tree.norm(towards_real), 1e-8)
            feature_weight *= size / jnp.maximum(optax.tree.norm(towards_features), 1e-8)
            loss += weight * adversarial + feature_weight * matching
            pixels = plain + weight * towards_real + feature_weight * towards_features
            surrogate = jnp.sum(jax.lax.stop_gradient(pixels) * reconstruction)
        weights = {"adversarial_weight": jnp.asarray(weight), "feature_weight": jnp.asarray(feature_weight)}
        added = {"adversarial": adversarial, "feature_matching": matching} | weights
        return surrogate, metrics | added | {"loss": loss}

    def discriminator_loss(
        self, discriminators: functional.Params, reconstruction: jax.Array, batch: Metrics
    ) -> tuple[jax.Array, Metrics]:
        """The discriminators' hinge losses and their sum; `reconstruction` and batch["video"] in [-1, 1]."""
        modules = self._merge_discriminators(discriminators)
        terms = discriminator_terms(modules, batch["video"], reconstruction, batch["frame"])
        loss = sum(terms.values())
        return loss, {"discriminator_loss": loss, **terms}

    def step(
        self,
        state: TrainState,
        batch: dict[str, jax.Array],
        key: jax.Array,
        kind: str = RECONSTRUCTION,
        constants: Any = None,
    ) -> tuple[TrainState, Metrics]:
        """One update of what `kind` (of `training.phases`) trains.

        batch: "video" (b, frames, height, width, 3), uint8 or float in [-1, 1], and by choice "frame" (b,), the index
        of the frame that LPIPS and the image discriminator see; drawn where it is missing.
        """
        options = self.config.ema_decay, self.config.ema_every
        if kind == RECONSTRUCTION:

            def loss(params, batch, key):
                batch = self._prepare(batch, key)
                return self.reconstruction_loss(self.reconstruct(params, batch["video"], key), batch, constants)

            grads, metrics = accumulate_gradients(loss, state.params, batch, key, self.config.accumulate)
            return update(state, grads, self.optimizer, *options), metrics

        models = {"autoencoder": state.params, "discriminators": state.discriminators}
        optimizers = {"autoencoder": self.optimizer, "discriminators": self.discriminator_optimizer}
        moments = {"autoencoder": state.opt_state, "discriminators": state.discriminator_opt_state}
        untrained = {GENERATOR: "discriminators", DISCRIMINATOR: "autoencoder"}.get(kind)
        trained = {name: model for name, model in models.items() if name != untrained}
        strength = state.scale * self._strength(state)

        def loss(trained, batch, key):
            batch = self._prepare(batch, key)
            autoencoder, discriminators = ((models | trained)[name] for name in ("autoencoder", "discriminators"))
            reconstruction = self.reconstruct(autoencoder, batch["video"], key)
            total, metrics = 0.0, {}
            if "autoencoder" in trained:
                fixed = jax.lax.stop_gradient(discriminators)
                total, metrics = self.generator_loss(reconstruction, fixed, batch, constants, strength)
            if "discriminators" in trained:
                fixed = jax.lax.stop_gradient(reconstruction)
                value, found = self.discriminator_loss(discriminators, fixed, batch)
                total, metrics = total + value, metrics | found
            return total, metrics

        grads, metrics = accumulate_gradients(loss, trained, batch, key, self.config.accumulate)
        finite = is_finite(grads)
        for name in trained:
            models[name], moments[name] = apply_gradients(
                models[name], moments[name], grads[name], optimizers[name], finite, state.scale
            )
        changed = {"params": models["autoencoder"], "opt_state": moments["autoencoder"]}
        changed |= {"discriminators": models["discriminators"], "discriminator_opt_state": moments["discriminators"]}
        return advance(state, finite, *options, **changed), metrics

    def _strength(self, state: AdversarialState) -> jax.Array | float:
        """Of the phase's weights in the next update, 0 to 1: warm-up times decay, both from the phase's start or its
        last roll-back on."""
        config, strength = self.adversarial, 1.0
        done = state.step - state.warmup_start
        if config.warmup_steps:
            strength *= jnp.clip((done + 1) / config.warmup_steps, 0.0, 1.0)
        if config.decay == "cosine":
            steps = config.steps or self.config.steps - state.warmup_start
            strength *= 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done / steps, 0.0, 1.0)))
        return strength

    def _prepare(self, batch: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """The batch with its video in [-1, 1] and a random frame of each clip."""
        video = batch["video"]
        if "frame" in batch:
            frame = batch["frame"]
        else:
            frame = jax.random.randint(jax.random.fold_in(key, 1), video.shape[:1], 0, video.shape[1])
        return {"video": to_float(video) if video.dtype == jnp.uint8 else video, "frame": frame}

    def _measure(self, params: functional.Params, batch: dict[str, jax.Array], constants: Any) -> dict[str, jax.Array]:
        """Reconstructions in uint8, and the loss of each (b,)."""
        batch = self._prepare(batch, jax.random.key(0))
        found = self.reconstruct(params, batch["video"])
        return {"video": to_uint8(found), "error": self.reconstruction_loss(found, batch, constants, (1, 2, 3, 4))[0]}

    def _measure_hinge(self, state: AdversarialState, batch: dict[str, jax.Array]) -> jax.Array:
        """The discriminators' loss on a batch and its reconstructions, repeated for each clip (b,)."""
        batch = self._prepare(batch, jax.random.key(0))
        found = self.reconstruct(state.params, batch["video"])
        return jnp.full(len(found), self.discriminator_loss(state.discriminators, found, batch)[0])

    def evaluate(self, state: TrainState, folder: pathlib.Path) -> dict[str, float]:
        """How well the EMA reconstructs the held-out clips. Writes some of them as reconstruction.gif.

        psnr (dB), beside still_psnr of each clip's mean as a still; gradient_energy kept; ssim (of frames that are
        large enough); error: the pixel and LPIPS terms of the loss, by which the best checkpoint is chosen. Where an
        adversarial phase is planned, error_now is that of the current parameters, and within it discriminator_loss
        the hinge loss on held-out clips.
        """
        from pvdm_jax.evaluation.reconstruction import SSIM_SIDE, gradient_energy_ratio, psnr, ssim, still_psnr
        from pvdm_jax.video.grid import video_grid
        from pvdm_jax.video.write import write_video

        def over_clips(function):
            return sharding.map_batches(self.mesh, function, self.held_out, self.config.batch_size)

        video = self.held_out["video"]
        measured = over_clips(lambda part: self.measure(state.ema, part, self.constants))
        found = measured["video"]
        if jax.process_index() == 0:
            pictured = np.stack([video[:PICTURED], found[:PICTURED]], axis=1).reshape(-1, *video.shape[1:])
            write_video(folder / "reconstruction.gif", video_grid(pictured, columns=2))
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
    """LPIPS for a run: None where it has no weight, and a stand-in, with a warning, where no weights are given.

    Raises ConfigError for clips that are too small for it and for files that don't hold it, FileNotFoundError for
    files that aren't there.
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


def train(config: Config, workdir: str | pathlib.Path) -> TrainState:
    """Trains stage 1 of the run in `workdir`, going on from its newest checkpoint. Returns the last state.

    Raises ConfigError for a run that took its autoencoder over.
    """
    from pvdm_jax.data.loader import fixed_clips, train_batches
    from pvdm_jax.data.sources import open_held_out, open_source
    from pvdm_jax.training.loop import train as run

    check_own(workdir)
    mesh, stage_config = sharding.make_mesh(config.mesh), config.train_autoencoder
    sharding.check_batch(mesh, stage_config.batch_size, "train_autoencoder.batch_size", stage_config.accumulate)
    lpips = load_perceptual(config.autoencoder, stage_config)
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

    stage = AutoencoderStage(config.autoencoder, stage_config, clips, mesh, lpips)
    directory, settings = RunFolder(workdir).autoencoder.path, config_to_dict(config)
    phases = Phases(stage_config.adversarial)
    return run(stage, batches, directory, stage_config, settings, mesh, config.seed, UNRELATED, phases)
