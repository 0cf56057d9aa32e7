"""The two training stages and their optimizer."""

import dataclasses
import typing

from pvdm_jax.config.checks import (
    LARGEST,
    at_least_zero,
    at_most,
    check_numbers,
    decay,
    one_of,
    positive,
    probability,
    require,
    within,
)
from pvdm_jax.config.data import MAX_CLIPS
from pvdm_jax.config.models import DiscriminatorConfig

MAX_LEARNING_RATE = 10  # AdamW changes every weight by about the learning rate in each update
MAX_SHIFT = 16  # of the logits of times
MAX_SEAM_WEIGHT = 1000


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
        check_numbers("optimizer", self)
        positive("optimizer", self, "learning_rate")
        at_most("optimizer", self, MAX_LEARNING_RATE, "learning_rate", "muon_learning_rate")
        at_least_zero("optimizer", self, "muon_learning_rate", "weight_decay", "warmup_steps", "clip_norm")
        one_of("optimizer", self, "decay", ("constant", "cosine"))
        decay("optimizer", self, "b1", "b2")
        rate = max(self.learning_rate, self.muon_learning_rate)
        allowed = f"times the learning rate ({rate}) at most 1: an update removes that fraction of the weights"
        require(self.weight_decay * rate <= 1, "optimizer.weight_decay", self.weight_decay, allowed)


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
    keep: int = 2  # how many of the newest checkpoints are kept
    keep_every: int = 0  # makes a checkpoint every N updates that is never removed; 0: none
    max_skipped: int = 10  # updates in a row that may be skipped because their gradient is not finite
    max_rollbacks: int = 2  # how often the run then goes back to a checkpoint before it ends

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
        check_numbers(self.section, self)
        at_most(self.section, self, MAX_CLIPS, "batch_size", "accumulate", "eval_clips")
        at_least_zero(self.section, self, "keep_every", "max_skipped", "max_rollbacks")
        decay(self.section, self, "ema_decay")
        require(
            self.batch_size % self.accumulate == 0,
            f"{self.section}.accumulate",
            self.accumulate,
            f"it must divide batch_size ({self.batch_size})",
        )


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """Stage 1's second phase, in which discriminators of frames and of clips add detail.

    It begins after `start_step` updates, or earlier at a plateau of the held-out reconstruction error. The guard
    checks every evaluation of the phase, and returns a run that diverges to its best checkpoint.
    """

    start_step: int = 0  # most updates of the reconstruction phase; 0: no adversarial phase
    plateau: int = 0  # evaluations in a row without a gain that begin the phase earlier; 0: only start_step does
    plateau_gain: float = 0.01  # how much the error must fall, relative to itself, to count as a gain
    steps: int = 0  # updates of the phase, after which the run ends; 0: all that remain
    alternate: bool = False  # autoencoder and discriminators take turns, as in the official code
    weight: float = 0.1  # of minus the logits
    feature_weight: float = 0.2  # of feature matching
    adaptive: bool = True  # both weights are ratios of gradient norms (in the pixels), to the reconstruction loss's
    warmup_steps: int = 500  # over which both weights rise from 0, at the start and after each roll-back
    decay: str = "constant"  # of both weights, on top of the warm-up; cosine: to 0 at the end of the phase
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optimizer: OptimizerConfig = OptimizerConfig(b1=0.5, b2=0.9, clip_norm=1.0)  # clip_norm: of each discriminator
    guard_tolerance: float = 0.25  # rise over the lowest error so far that counts as divergence; 0: no guard
    guard_collapse: float = (
        0.02  # held-out hinge loss (2: no better than chance) below which the discriminators have won
    )
    guard_explosion: float = 6.0  # held-out hinge loss above which the discriminators have diverged
    guard_rollbacks: int = 3  # the next divergence ends the run
    guard_factor: float = 0.5  # of the phase's weights and learning rates at each roll-back

    section: typing.ClassVar[str] = "train_autoencoder.adversarial"

    def __post_init__(self):
        check_numbers(self.section, self)
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
    """Stage 1: a weighted sum of pixel losses (on values in [-1, 1]) and LPIPS, later with adversarial losses."""

    l1_weight: float = 4.0
    l2_weight: float = 0.0
    perceptual_weight: float = 0.0  # of LPIPS on one random frame of each clip
    perceptual_weights: str = ""  # LPIPS's files, separated by commas; none: a random VGG16, with a warning
    latent_noise: float = 0.0  # deviation of noise on the latents, so that the decoder tolerates stage 2's errors
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
    """Stage 2: learning to denoise, jointly with and without the previous clip (paper section 3.2)."""

    recipe: str = "default"  # whether the previous clip is shown is drawn for each clip; official: for each batch
    context_prob: float = 0.3  # probability of showing the previous clip
    label_prob: float = 0.9  # probability of showing the class, in a model with classes
    times: str = "uniform"  # which times are drawn: uniform, or logit_normal (Esser et al. 2024)
    times_shift: float = 0.0  # logit_normal: values above 0 draw noisier times
    times_spread: float = 1.0  # logit_normal: its standard deviation
    context_times_shift: float = 0.0  # replaces times_shift for samples that see their previous clip
    context_last_time: float = 0.0  # fraction of them at the last time, where they see nothing but the previous clip
    seam_weight: float = 0.0  # how much more an error counts in the frame that adjoins a shown neighbour
    expert_every: int = 3  # with denoiser.expert_from: one update in so many trains the expert, the others the rest
    eval_samples: int = 0  # clips sampled at every evaluation and compared with as many held-out ones; 0: none
    best_metric: str = ""  # the evaluation's metric whose lowest value marks the best checkpoint; "": none

    section = "train_diffusion"

    def __post_init__(self):
        super().__post_init__()
        allowed = "0, or at least 2 clips, whose covariance can be taken"
        require(
            self.eval_samples == 0 or self.eval_samples >= 2, f"{self.section}.eval_samples", self.eval_samples, allowed
        )
        at_most(self.section, self, MAX_CLIPS, "eval_samples")
        one_of(self.section, self, "recipe", ("default", "official"))
        one_of(self.section, self, "times", ("uniform", "logit_normal"))
        positive(self.section, self, "times_spread")
        within(self.section, self, 0, MAX_SEAM_WEIGHT, "seam_weight")
        within(self.section, self, 2, LARGEST, "expert_every")  # the expert and the rest take turns
        # Beyond these, sigmoid(shift + spread * n) is 0 or 1 in float32: only the first or the last time is drawn.
        within(self.section, self, -MAX_SHIFT, MAX_SHIFT, "times_shift", "context_times_shift", "times_spread")
        for name in ("times_shift", "context_times_shift"):
            value, allowed = getattr(self, name), "it needs times=logit_normal"
            require(value == 0 or self.times == "logit_normal", f"{self.section}.{name}", value, allowed)
        metrics = ("", "loss_unconditional", "loss_given_previous", "loss_given_both", "frechet_scattering")
        one_of(self.section, self, "best_metric", metrics)
        require(
            self.best_metric != "frechet_scattering" or self.eval_samples > 0,
            f"{self.section}.best_metric",
            self.best_metric,
            "it needs eval_samples, clips that are sampled at every evaluation",
        )
        probability(self.section, self, "context_prob", "label_prob", "context_last_time")
