"""Settings that configurations share: those of the paper's experiments (for `configs/ucf101.py` and
`configs/sky_timelapse.py`), of this project's stage 2, and of trainings that take minutes to hours.

The paper's configurations have two recipes. `official` trains as the official code does (with constants from its code
and from its author's answers). `default` differs where that improves stability or the exported model. docs/fidelity.md
compares them constant by constant.
"""

from ml_collections import ConfigDict

from pvdm_jax.config import require
from pvdm_jax.config.loading import default_config, use_denoiser

VARIANTS = ("l", "s", "dit-l", "dit-s", "l-official", "s-official")


def paper_config(name: str, variant: str, context_prob: float) -> ConfigDict:
    """Settings of PVDM-L or PVDM-S at 256 x 256 x 16, except those of the data.

    variant: one of VARIANTS; "l" and "s" have the paper's U-Net, "dit-l" and "dit-s" a diffusion transformer with about
    as many parameters (528 M and 132 M). context_prob: the probability of training on a clip given the previous one.
    Raises ConfigError, with the configuration's `name`, for another variant.
    """
    require(variant in VARIANTS, "variant", variant, f"{name} has {', '.join(VARIANTS)}")
    large = variant in ("l", "dit-l", "l-official")
    official = variant.endswith("official")
    config = default_config()  # its models are the autoencoder of the paper and PVDM-L
    config.data.resize = "bilinear"
    if variant.startswith("dit"):
        use_denoiser(config, "dit")
        config.denoiser.width = 1024 if large else 768
        config.denoiser.depth = 28 if large else 12
        config.denoiser.num_heads = 16 if large else 12
    else:
        config.denoiser.model_channels = 256 if large else 128
    (_official_autoencoder if official else _default_autoencoder)(config.train_autoencoder)
    if not official:
        default_diffusion(config)
    _fit_into_memory(config, variant)

    stage = config.train_diffusion
    stage.recipe = "official" if official else "default"
    config.encode.unconditional_anywhere = official
    stage.steps = 850_000 if large else 400_000
    stage.batch_size = 64
    stage.optimizer.learning_rate = 1e-4
    stage.ema_decay = 0.9999
    stage.ema_every = 25
    stage.context_prob = context_prob

    config.sample.steps = 200 if large else 100
    config.sample.later_steps = 200 if large else 20
    return config


def small_denoiser(config: ConfigDict, kind: str = "unet", large: bool = False) -> None:
    """The denoiser of the small configurations, a "unet" or a "dit" of about as many parameters.

    large: about 4 M parameters instead of 2 M. The kind is set first, because it decides which fields there are.
    """
    use_denoiser(config, kind)
    denoiser = config.denoiser
    if kind == "dit":
        denoiser.width = 192 if large else 128
        denoiser.depth = 6
        denoiser.num_heads = 6 if large else 4
    else:
        denoiser.model_channels = 96 if large else 64
        denoiser.channel_mult = (1, 1)
        denoiser.num_res_blocks = 1
        denoiser.attention_resolutions = (2, 1)
        denoiser.num_heads = 2 if large else 1


def short_schedule(stage: ConfigDict) -> None:
    """For trainings of minutes to hours: a short warm-up, and a learning rate that has decayed by the last step."""
    stage.optimizer.warmup_steps = 50
    stage.optimizer.decay = "cosine"
    stage.optimizer.clip_norm = 1.0
    stage.log_every = 50


def short_autoencoder(stage: ConfigDict, learning_rate: float) -> None:
    """What the small configurations share of stage 1: L2, and Muon for matrices."""
    stage.l1_weight = 0.0
    stage.l2_weight = 1.0
    stage.batch_size = 4
    stage.optimizer.learning_rate = learning_rate
    stage.optimizer.muon_learning_rate = 8e-3
    stage.optimizer.b2 = 0.95
    stage.ema_decay = 0.99
    short_schedule(stage)


def short_diffusion(stage: ConfigDict) -> None:
    """What the small configurations share of stage 2, except for an official recipe."""
    stage.optimizer.learning_rate = 1e-3
    stage.optimizer.muon_learning_rate = 8e-3
    stage.optimizer.b2 = 0.99
    short_schedule(stage)


def default_diffusion(config: ConfigDict) -> None:
    """Settings that make the next clip follow the previous one, and a clip's planes agree (docs/notes/coherence.md).

    Samples that see the previous clip get noisier times: what follows from it is decided while noise hides the rest.
    """
    config.latents.normalize = True
    config.process.prediction = "v"
    stage = config.train_diffusion
    stage.times = "logit_normal"
    stage.context_times_shift = 0.5
    stage.context_last_time = 0.25
    if config.denoiser.name == "unet":
        config.denoiser.position_embedding = True
        config.denoiser.edge_features = True
        config.denoiser.shared_axes = True


def _fit_into_memory(config: ConfigDict, variant: str) -> None:
    """Both stages in 40 GB on one GPU: docs/notes/plans_2026-11.md has what `pvdm plan` says.

    The official recipe computes in float32, like its code, and saves memory by recomputing activations. Micro-batches
    change results only by rounding.
    """
    official, transformer = variant.endswith("official"), variant.startswith("dit")
    config.autoencoder.dtype = config.denoiser.dtype = "float32" if official else "bfloat16"
    config.autoencoder.remat = "blocks"
    config.denoiser.remat = "blocks" if official or transformer else "none"
    config.train_diffusion.accumulate = 4


def _official_autoencoder(stage: ConfigDict) -> None:
    """An iteration of the official code is a micro-batch of 8 clips; three of them make an update."""
    stage.batch_size = 24
    stage.accumulate = 3
    stage.steps = 88_000  # 250k iterations, then 14k at most; the best of them is exported
    stage.l1_weight = 4.0
    stage.perceptual_weight = 4.0
    stage.optimizer.learning_rate = 1e-4
    stage.optimizer.b1 = 0.5
    stage.optimizer.b2 = 0.9
    stage.ema_decay = 0.0  # none
    stage.eval_every = 500

    phase = stage.adversarial
    phase.start_step = 83_333
    phase.steps = 4_667
    phase.alternate = True
    phase.weight = 1.0
    phase.adaptive = False
    phase.feature_weight = 4.0
    phase.warmup_steps = 0
    # The discriminators' optimizer has the official constants by default.


def _default_autoencoder(stage: ConfigDict) -> None:
    _official_autoencoder(stage)
    stage.optimizer.warmup_steps = 1_000
    stage.optimizer.clip_norm = 1.0
    stage.ema_decay = 0.999

    phase = stage.adversarial
    phase.plateau = 10
    phase.plateau_gain = 0.01
    phase.alternate = False
    phase.weight = 0.1
    phase.adaptive = True
    phase.feature_weight = 0.2
    phase.warmup_steps = 500
    phase.decay = "cosine"
