"""Moving shapes, made on the fly: both stages within minutes on a laptop CPU.

    pvdm demo --workdir=runs/demo

or stage by stage:

    pvdm train-autoencoder --config=demo --workdir=runs/demo
    pvdm encode            --config=demo --workdir=runs/demo
    pvdm train-diffusion   --config=demo --workdir=runs/demo
    pvdm sample            --model=runs/demo --output=runs/demo/samples
"""

from ml_collections import ConfigDict

from pvdm_jax.settings import default_config


def get_config() -> ConfigDict:
    config = default_config()

    config.data.source = "synthetic"

    config.autoencoder.frames = 16
    config.autoencoder.height = 32
    config.autoencoder.width = 32
    config.autoencoder.patch_size = 4
    config.autoencoder.channels = 96
    config.autoencoder.depth = 2
    config.autoencoder.num_heads = 4
    config.autoencoder.head_dim = 24
    config.autoencoder.plane_depth = 1
    config.autoencoder.plane_head_dim = 24
    config.autoencoder.plane_mlp_dim = 192

    stage = config.train_autoencoder
    stage.steps = 600
    stage.batch_size = 16
    stage.optimizer.learning_rate = 1e-3
    stage.optimizer.warmup_steps = 50
    stage.optimizer.decay = "cosine"
    stage.optimizer.clip_norm = 1.0
    stage.ema_decay = 0.99
    stage.log_every = 20
    stage.eval_every = 200
    stage.checkpoint_every = 200

    config.encode.windows = 4

    config.unet.model_channels = 64
    config.unet.channel_mult = (1, 2)
    config.unet.num_res_blocks = 1
    config.unet.attention_resolutions = (2, 1)
    config.unet.num_heads = 4

    stage = config.train_diffusion
    stage.steps = 600
    stage.batch_size = 32
    stage.optimizer.learning_rate = 5e-4
    stage.optimizer.warmup_steps = 50
    stage.optimizer.clip_norm = 1.0
    stage.context_prob = 0.5
    stage.ema_decay = 0.99
    stage.log_every = 20
    stage.eval_every = 200
    stage.eval_clips = 16
    stage.checkpoint_every = 200

    config.sample.steps = 50
    config.sample.later_steps = 25
    return config
