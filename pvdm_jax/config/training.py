"""The two training stages and their optimizer."""

import dataclasses
import typing

from pvdm_jax.config.checks import at_least_zero, one_of, positive, probability, require
from pvdm_jax.config.models import DiscriminatorConfig


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or, for the hidden matrices, Muon; the learning rates and the gradient's clipping."""

    learning_rate: float = 1e-4
    muon_learning_rate: float = 0.0  # of the hidden matrices, by Muon; 0: AdamW for them too
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.01
    warmup_steps: int = 0  # linear, from 0
    decay: str = "constant"  # or cosine, to 0 at the last step
    clip_norm: float = 0.0  # global norm; 0: none

    def __post_init__(self):
        positive("optimizer", self, "learning_rate")
        at_least_zero("optimizer", self, "muon_learning_rate", "weight_decay", "warmup_steps", "clip_norm")
        one_of("optimizer", self, "decay", ("constant", "cosine"))
        for name in ("b1", "b2"):
            require(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """What both training stages share. Steps are optimizer updates; batches are global, over all devices."""

    steps: int = 100_000
    batch_size: int = 64
    accumulate: int = 1  # micro-batches that a batch is split into; their gradients are averaged
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float = 0.9999
    ema_every: int = 1  # updates between two EMA updates; the n-th uses min(ema_decay, (1 + n) / (10 + n))
    log_every: int = 50
    eval_every: int = 1000
    eval_clips: int = 32
    checkpoint_every: int = 1000
    keep: int = 2  # newest checkpoints kept
    keep_every: int = 0  # checkpoints of every so many updates are made, and kept for good; 0: none
    max_skipped: int = 10  # updates in a row without a finite gradient, all left out, that a run puts up with
    max_rollbacks: int = 2  # times that it goes back to a checkpoint after more of them; the next time ends it

    section: typing.ClassVar[str] = "train"  # how error messages name this part

    def __post_init__(self):
        positive(
            self.section,
            self,
            "steps",
            "batch_size",
            "accumulate",
            "ema_every",
            "log_every",
            "eval_every",
            "eval_clips",
            "checkpoint_every",
            "keep",
        )
        at_least_zero(self.section, self, "keep_every", "max_skipped", "max_rollbacks")
        require(0 <= self.ema_decay < 1, f"{self.section}.ema_decay", self.ema_decay, "at least 0 and below 1")
        require(
            self.batch_size % self.accumulate == 0,
            f"{self.section}.accumulate",
            self.accumulate,
            f"it must divide batch_size ({self.batch_size})",
        )


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """Stage 1's second phase, in which discriminators of frames and of clips help the autoencoder to draw detail.

    It begins after `start_step` updates, or earlier at a plateau of the held-out reconstruction error. The guard
    looks at every evaluation of the phase, and rolls a run that diverges back to its best checkpoint.
    """

    start_step: int = 0  # updates of the reconstruction phase, at most; 0: there is no adversarial phase
    plateau: int = 0  # evaluations in a row without a gain that begin the phase earlier; 0: only start_step does
    plateau_gain: float = 0.01  # how much the error must fall, relative to itself, to count as a gain
    steps: int = 0  # updates of the phase, after which the run ends; 0: all that are left
    alternate: bool = False  # autoencoder and discriminators take turns, as in the official code; else both, always
    weight: float = 0.1  # of minus the logits
    feature_weight: float = 0.2  # of feature matching
    adaptive: bool = True  # both are relative: norms of their gradients in the pixels to that of the reconstruction's
    warmup_steps: int = 500  # over which both weights rise from 0, at the start and after each roll-back
    decay: str = "constant"  # of both weights, beside the warm-up; cosine: to 0 at the end of the phase
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optimizer: OptimizerConfig = OptimizerConfig(b1=0.5, b2=0.9, clip_norm=1.0)  # clip_norm: of each discriminator
    guard_tolerance: float = 0.25  # rise over the lowest error so far that counts as divergence; 0: no guard
    guard_collapse: float = 0.02  # discriminators' held-out hinge loss (2: they know nothing) at which they have won
    guard_explosion: float = 6.0  # and at which they have lost their bearings
    guard_rollbacks: int = 3  # the divergence after these ends the run
    guard_factor: float = 0.5  # of the phase's weights and learning rates at each roll-back

    section: typing.ClassVar[str] = "train_autoencoder.adversarial"

    def __post_init__(self):
        at_least_zero(self.section, self, "start_step", "plateau", "steps", "weight", "feature_weight", "warmup_steps")
        at_least_zero(self.section, self, "guard_tolerance", "guard_collapse", "guard_rollbacks")
        one_of(self.section, self, "decay", ("constant", "cosine"))
        allowed = "at least 0 and below 1, a part of the error"
        require(0 <= self.plateau_gain < 1, f"{self.section}.plateau_gain", self.plateau_gain, allowed)
        require(0 < self.guard_factor <= 1, f"{self.section}.guard_factor", self.guard_factor, "above 0 and at most 1")
        require(
            self.guard_explosion > self.guard_collapse,
            f"{self.section}.guard_explosion",
            self.guard_explosion,
            f"it must exceed guard_collapse ({self.guard_collapse})",
        )
        require(
            self.start_step > 0 or self.plateau == 0,
            f"{self.section}.plateau",
            self.plateau,
            "it needs start_step, at which the phase begins at the latest",
        )
        require(
            self.start_step == 0 or self.weight + self.feature_weight > 0,
            f"{self.section}.weight",
            self.weight,
            "one of weight and feature_weight must be positive where the phase is on",
        )

    @property
    def enabled(self) -> bool:
        return self.start_step > 0


@dataclasses.dataclass(frozen=True)
class AutoencoderTrainingConfig(StageConfig):
    """Stage 1: a weighted sum of pixel losses on values in [-1, 1] and of LPIPS, then adversarial losses too."""

    l1_weight: float = 4.0
    l2_weight: float = 0.0
    perceptual_weight: float = 0.0  # of LPIPS on one random frame of each clip
    perceptual_weights: str = ""  # LPIPS's files, separated by commas; none: a random VGG16, which the run warns of
    latent_noise: float = 0.0  # deviation of noise on the latents, for a decoder that forgives stage 2 its errors
    adversarial: AdversarialConfig = AdversarialConfig()

    section = "train_autoencoder"

    def __post_init__(self):
        super().__post_init__()
        at_least_zero(self.section, self, "l1_weight", "l2_weight", "perceptual_weight", "latent_noise")
        require(
            self.l1_weight + self.l2_weight + self.perceptual_weight > 0,
            "train_autoencoder.l1_weight",
            self.l1_weight,
            "one of l1_weight, l2_weight and perceptual_weight must be positive",
        )


@dataclasses.dataclass(frozen=True)
class DiffusionTrainingConfig(StageConfig):
    """Stage 2: noise prediction, jointly with and without the previous clip (paper section 3.2)."""

    recipe: str = "default"  # default: each clip is shown the one before or not; official: all of a batch, or none
    context_prob: float = 0.3  # of predicting a clip given the one before it
    label_prob: float = 0.9  # of showing the class, on a model with classes
    eval_samples: int = 0  # clips sampled at every evaluation and compared with as many held-out ones; 0: none
    best_metric: str = ""  # evaluation's number whose lowest value makes a checkpoint the best, kept and used; "": none

    section = "train_diffusion"

    def __post_init__(self):
        super().__post_init__()
        allowed = "0, or at least 2 clips, whose covariance can be taken"
        require(
            self.eval_samples == 0 or self.eval_samples >= 2, f"{self.section}.eval_samples", self.eval_samples, allowed
        )
        one_of(self.section, self, "recipe", ("default", "official"))
        metrics = ("", "loss_alone", "loss_given_previous", "loss_given_both", "frechet_scattering")
        one_of(self.section, self, "best_metric", metrics)
        require(
            self.best_metric != "frechet_scattering" or self.eval_samples > 0,
            f"{self.section}.best_metric",
            self.best_metric,
            "it needs eval_samples, clips that are sampled at every evaluation",
        )
        probability(self.section, self, "context_prob", "label_prob")
