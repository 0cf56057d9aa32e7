"""A configuration of both stages on small synthetic videos, for calls within a test's own process."""

import dataclasses

from pvdm_jax.config import (
    AutoencoderConfig,
    AutoencoderTrainingConfig,
    Config,
    DataConfig,
    DiffusionTrainingConfig,
    EncodeConfig,
    SampleConfig,
    UNetConfig,
)

SIZES = dict(channels=32, depth=1, num_heads=2, head_dim=16, mlp_ratio=2)
PLANES = dict(plane_depth=1, plane_num_heads=2, plane_head_dim=16, plane_mlp_dim=32)
# One layer and one head everywhere, for tests that set the size of the clips themselves.
SMALLEST = dict(depth=1, num_heads=1, head_dim=16, mlp_ratio=1)
SMALLEST |= dict(plane_depth=1, plane_num_heads=1, plane_head_dim=16, plane_mlp_dim=16)
STAGE = dict(batch_size=4, log_every=1, eval_every=9, eval_clips=4, checkpoint_every=9)
CONFIG = Config(
    data=DataConfig(synthetic_videos=5, synthetic_frames=14, flip=True, crop_scale=0.8),
    autoencoder=AutoencoderConfig(frames=4, height=16, width=24, patch_size=4, **SIZES, **PLANES),
    denoiser=UNetConfig(
        model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,), num_heads=2, num_classes=3
    ),
    train_autoencoder=AutoencoderTrainingConfig(steps=1, **STAGE),
    encode=EncodeConfig(windows=2, batch_size=3),
    train_diffusion=DiffusionTrainingConfig(steps=2, **STAGE),
    sample=SampleConfig(steps=2, later_steps=2),
)


def changed(config=CONFIG, **groups):
    """`config` with changed(data={"stride": 2})."""
    made = {name: dataclasses.replace(getattr(config, name), **values) for name, values in groups.items()}
    return dataclasses.replace(config, **made)
