"""Moving shapes, drawn on the fly: both stages train within minutes on a laptop CPU.

    pvdm demo --workdir=runs/demo

or one stage at a time:

    pvdm train-autoencoder --config=demo --workdir=runs/demo
    pvdm encode            --config=demo --workdir=runs/demo
    pvdm train-diffusion   --config=demo --workdir=runs/demo
    pvdm sample            --model=runs/demo --output=runs/demo/samples
"""

from ml_collections import ConfigDict

from pvdm_jax.config.loading import default_config
from pvdm_jax.config.recipes import default_diffusion, short_autoencoder, short_diffusion


def get_config() -> ConfigDict:
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

    config.denoiser.model_channels = 64
    config.denoiser.channel_mult = (1, 1)
    config.denoiser.num_res_blocks = 1
    # At this size attention adds only time to what the planes tell each other on the axes that they share.
    config.denoiser.attention_across = False
    config.denoiser.attention_resolutions = ()
    config.denoiser.num_heads = 1
    config.denoiser.num_classes = 3

    default_diffusion(config)
    stage = config.train_diffusion
    short_diffusion(stage)
    stage.steps = 2800
    stage.batch_size = 8
    stage.context_prob = 0.4
    stage.ema_decay = 0.995
    stage.eval_every = 1400
    stage.eval_clips = 64
    stage.checkpoint_every = 1400

    # 11 calls of the denoiser. After minutes of training, samplers that add no noise give better clips.
    config.sample.sampler = "heun"
    config.sample.grid = "quadratic"
    config.sample.steps = 6
    config.sample.later_steps = 6
    return config
