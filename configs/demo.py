"""Moving shapes, drawn on the fly: both stages train within minutes on a laptop CPU.

    pvdm demo --workdir=runs/demo

or one stage at a time:

    pvdm train-autoencoder --config=demo --workdir=runs/demo
    pvdm encode            --config=demo --workdir=runs/demo
    pvdm train-diffusion   --config=demo --workdir=runs/demo
    pvdm sample            --model=runs/demo --output=runs/demo/samples

Variants, for comparison (`examples/equal_compute.py`): `demo:dit` has a transformer as denoiser, `demo:official` the
denoiser and the recipe of stage 2 of the official code.
"""

from ml_collections import ConfigDict

from pvdm_jax.config import require
from pvdm_jax.config.loading import default_config
from pvdm_jax.config.recipes import default_diffusion, short_autoencoder, short_diffusion, small_denoiser

VARIANTS = ("", "dit", "official")


def get_config(variant: str = "") -> ConfigDict:
    require(variant in VARIANTS, "variant", variant, "demo has dit and official, or none")
    config = default_config()

    config.data.source = "synthetic"
    config.data.synthetic_videos = 3072

    config.autoencoder.frames = 16
    config.autoencoder.height = 32
    config.autoencoder.width = 32
    config.autoencoder.patch_size = 4
    config.autoencoder.channels = 64
    config.autoencoder.depth = 2
    config.autoencoder.num_heads = 2
    config.autoencoder.head_dim = 32
    config.autoencoder.mlp_ratio = 2
    config.autoencoder.plane_depth = 1
    config.autoencoder.plane_num_heads = 4
    config.autoencoder.plane_head_dim = 32
    config.autoencoder.plane_mlp_dim = 128

    # L2, because most of each clip is background: L1 is minimised by the median, so it first learns to draw nothing.
    stage = config.train_autoencoder
    short_autoencoder(stage, learning_rate=2e-3)
    stage.latent_noise = 0.1  # the decoder then keeps whole what stage 2 gets nearly right
    stage.steps = 1800
    stage.eval_every = 450
    stage.checkpoint_every = 450

    config.encode.windows = 1

    small_denoiser(config, "dit" if variant == "dit" else "unet")
    config.denoiser.num_classes = 3
    if variant == "":
        # At this size attention adds only time to what the planes tell each other on the axes that they share.
        config.denoiser.attention_across = False
        config.denoiser.attention_resolutions = ()
        config.denoiser.axis_mixing = True

    stage = config.train_diffusion
    short_diffusion(stage)
    if variant == "official":
        stage.recipe = "official"
        config.encode.unconditional_anywhere = True
    else:
        default_diffusion(config)
        stage.context_last_time = 0.5 if variant == "dit" else 0.0
    stage.context_prob = 0.4
    if variant == "":
        # What follows from the previous clip is learned by a network of its own, so the other one seldom needs to.
        config.denoiser.expert_from = config.process.num_steps - 1
        stage.expert_every = 4
        stage.context_prob = 0.1
        stage.seam_weight = 4.0
    stage.steps = 2100
    stage.batch_size = 8
    stage.ema_decay = 0.995
    stage.eval_every = 2100
    stage.eval_clips = 64
    stage.checkpoint_every = 700

    # After minutes of training, noise that is added on the way and guidance away from what all latents have in common
    # mend many first clips. What follows from the previous clip is decided in the first steps: the fewer there are, the
    # closer the next clip comes to it.
    config.sample.grid = "quadratic"
    if variant == "official":
        config.sample.sampler = "heun"  # of those tried, the best for it
        config.sample.steps = 8
    else:
        config.sample.sampler = "dpmpp_sde"
        config.sample.steps = 12
        config.sample.prior_guidance = 2.0
        config.sample.later_prior_guidance = 0.05
        config.sample.guidance_from = 0.3
    config.sample.later_sampler = "ddim"
    config.sample.later_grid = "trailing"
    config.sample.later_steps = 1 if variant == "" else 3  # the expert needs one
    config.sample.eta = 0.0
    return config
