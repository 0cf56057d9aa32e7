"""Walks through a game, rendered by ViZDoom: a benchmark that anyone can repeat. docs/benchmark.md has the protocol.

Variants: `64` (the default) has clips of 16 frames of 64 x 64, `128` of 128 x 128. `64-official` and `128-official` use
the official code's recipe and denoiser, `64-dit` and `128-dit` a transformer as denoiser.

    pip install "pvdm_jax[doom]"
    pvdm prepare           --source=vizdoom:all --num-videos=1024 --frames=128 --output=data/doom
    pvdm train-autoencoder --config=doom --workdir=runs/doom
    pvdm encode            --config=doom --workdir=runs/doom
    pvdm train-diffusion   --config=doom --workdir=runs/doom
    pvdm sample            --model=runs/doom --output=runs/doom/samples
    pvdm evaluate          --model=runs/doom --set split=test --output=runs/doom/evaluation

For `128`: `pvdm prepare ... --height=128 --width=128 --output=data/doom128`. The default of data.path is data/doom, or
data/doom128 for `128`. Checkpoints are chosen on the split `holdout`; the split `test` is for the final evaluation.
"""

from ml_collections import ConfigDict

from pvdm_jax.config import require
from pvdm_jax.config.loading import default_config
from pvdm_jax.config.recipes import (
    default_diffusion,
    short_autoencoder,
    short_diffusion,
    short_schedule,
    small_denoiser,
)

SIDES = ("64", "128")
KINDS = ("", "official", "dit")  # of the denoiser and its recipe


def get_config(variant: str = "64") -> ConfigDict:
    side, _, kind = variant.partition("-")
    names = [f"{s}-{k}".rstrip("-") for s in SIDES for k in KINDS]
    require(variant in names, "variant", variant, f"doom has {', '.join(names)}")
    large = side == "128"
    config = default_config()

    config.data.source = "tfds"
    config.data.path = "data/doom128" if large else "data/doom"
    config.data.split = "train"
    config.data.eval_split = "holdout"

    config.autoencoder.frames = 16
    config.autoencoder.height = int(side)
    config.autoencoder.width = int(side)
    config.autoencoder.patch_size = 8 if large else 4
    config.autoencoder.channels = 128 if large else 64
    config.autoencoder.latent_channels = 8
    config.autoencoder.depth = 2
    config.autoencoder.num_heads = 2
    config.autoencoder.head_dim = 64 if large else 32
    config.autoencoder.mlp_ratio = 2
    config.autoencoder.plane_depth = 1
    config.autoencoder.plane_num_heads = 8
    config.autoencoder.plane_head_dim = 16
    config.autoencoder.plane_mlp_dim = 256

    stage = config.train_autoencoder
    short_autoencoder(stage, learning_rate=1.5e-3)
    stage.latent_noise = 0.1
    stage.steps = 4000
    stage.eval_every = 1000
    stage.checkpoint_every = 1000

    config.encode.windows = 8
    small_denoiser(config, "dit" if kind == "dit" else "unet", large)
    config.denoiser.latent_channels = 8
    config.denoiser.num_classes = 6

    stage = config.train_diffusion
    stage.steps = 6000
    stage.batch_size = 8
    stage.context_prob = 0.5
    stage.ema_decay = 0.995
    stage.eval_every = 1500
    stage.eval_clips = 64
    stage.checkpoint_every = 1500
    if kind == "official":
        _set_official_recipe(config)
    else:
        short_diffusion(stage)
        default_diffusion(config)
        config.sample.sampler = "heun"
        config.sample.grid = "quadratic"
        config.sample.steps = 10
        config.sample.later_steps = 10
    return config


def _set_official_recipe(config: ConfigDict) -> None:
    """Noise prediction, times drawn uniformly, AdamW, DDIM with eta 1: as in the official code."""
    stage = config.train_diffusion
    stage.recipe = "official"
    short_schedule(stage)
    stage.optimizer.learning_rate = 1e-4
    config.encode.unconditional_anywhere = True
    config.sample.steps = 100
    config.sample.later_steps = 20
