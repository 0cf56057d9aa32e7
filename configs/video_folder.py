"""A folder of your own videos, clips of 16 frames of 64 x 64: both stages train within an hour on a laptop CPU.

    pvdm prepare           --source=my_videos --output=data/videos
    pvdm train-autoencoder --config=video_folder --config.data.path=data/videos --workdir=runs/videos
    pvdm encode            --config=video_folder --config.data.path=data/videos --workdir=runs/videos
    pvdm train-diffusion   --config=video_folder --config.data.path=data/videos --workdir=runs/videos
    pvdm sample            --model=runs/videos --output=runs/videos/samples

The default of data.path is data/videos. With a GPU, raise the sizes: `ucf101.py` has the paper's.
"""

from ml_collections import ConfigDict

from pvdm_jax.config.loading import default_config
from pvdm_jax.config.recipes import default_diffusion, short_autoencoder, short_diffusion, small_denoiser


def get_config() -> ConfigDict:
    config = default_config()

    config.data.source = "tfds"
    config.data.path = "data/videos"
    config.data.stride = 3  # 16 frames then span about two seconds of most videos
    config.data.flip = True
    config.data.crop_scale = 0.5  # random crops: a few videos are soon memorised

    config.autoencoder.frames = 16
    config.autoencoder.height = 64
    config.autoencoder.width = 64
    # Small patches and a narrow network learn local structure, which also holds for held-out scenes.
    config.autoencoder.patch_size = 4
    config.autoencoder.channels = 64
    config.autoencoder.latent_channels = 16
    config.autoencoder.depth = 2
    config.autoencoder.num_heads = 1
    config.autoencoder.head_dim = 64
    config.autoencoder.mlp_ratio = 2
    config.autoencoder.plane_depth = 1
    config.autoencoder.plane_num_heads = 8  # each can attend to a different part of the axis that the plane reduces
    config.autoencoder.plane_head_dim = 16
    config.autoencoder.plane_mlp_dim = 256

    stage = config.train_autoencoder
    short_autoencoder(stage, learning_rate=1.5e-3)
    stage.steps = 2000
    stage.eval_every = 500
    stage.checkpoint_every = 500

    # A folder has few videos, so take many windows of each.
    config.encode.windows = 32

    small_denoiser(config)
    config.denoiser.latent_channels = 16
    default_diffusion(config)
    stage = config.train_diffusion
    short_diffusion(stage)
    stage.steps = 1500
    stage.batch_size = 8
    stage.context_prob = 0.5
    stage.ema_decay = 0.995
    stage.eval_every = 500
    stage.eval_clips = 32
    stage.checkpoint_every = 500

    config.sample.steps = 50
    config.sample.later_steps = 50
    return config
