"""The two training stages and their optimizer."""

import dataclasses
import typing

from pvdm_jax.config.checks import at_least_zero, one_of, positive, probability, require


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its learning rate and the gradient's clipping."""

    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.01
    warmup_steps: int = 0  # linear, from 0
    decay: str = "constant"  # or cosine, to 0 at the last step
    clip_norm: float = 0.0  # global norm; 0: none

    def __post_init__(self):
        positive("optimizer", self, "learning_rate")
        at_least_zero("optimizer", self, "weight_decay", "warmup_steps", "clip_norm")
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
        require(0 <= self.ema_decay < 1, f"{self.section}.ema_decay", self.ema_decay, "at least 0 and below 1")
        require(
            self.batch_size % self.accumulate == 0,
            f"{self.section}.accumulate",
            self.accumulate,
            f"it must divide batch_size ({self.batch_size})",
        )


@dataclasses.dataclass(frozen=True)
class AutoencoderTrainingConfig(StageConfig):
    """Stage 1: a weighted sum of pixel losses on values in [-1, 1]."""

    l1_weight: float = 4.0
    l2_weight: float = 0.0
    latent_noise: float = 0.0  # deviation of noise on the latents, for a decoder that forgives stage 2 its errors

    section = "train_autoencoder"

    def __post_init__(self):
        super().__post_init__()
        at_least_zero(self.section, self, "l1_weight", "l2_weight", "latent_noise")
        require(
            self.l1_weight + self.l2_weight > 0,
            "train_autoencoder.l1_weight",
            self.l1_weight,
            "one of l1_weight and l2_weight must be positive",
        )


@dataclasses.dataclass(frozen=True)
class DiffusionTrainingConfig(StageConfig):
    """Stage 2: noise prediction, jointly with and without the previous clip (paper section 3.2)."""

    recipe: str = "default"  # default: each clip is shown the one before or not; official: all of a batch, or none
    context_prob: float = 0.3  # of predicting a clip given the one before it
    label_prob: float = 0.9  # of showing the class, on a model with classes

    section = "train_diffusion"

    def __post_init__(self):
        super().__post_init__()
        one_of(self.section, self, "recipe", ("default", "official"))
        probability(self.section, self, "context_prob", "label_prob")
