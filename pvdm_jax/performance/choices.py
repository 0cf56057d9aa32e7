"""What `pvdm benchmark` can be asked for: sizes of the models, and operations."""

from pvdm_jax.config import AutoencoderConfig, DiTConfig, UNetConfig

# The benchmark runs without ml_collections, so it can't read configs/demo.py; a test compares the two.
DEMO_AUTOENCODER = AutoencoderConfig(
    frames=16,
    height=32,
    width=32,
    patch_size=4,
    channels=64,
    depth=2,
    num_heads=2,
    head_dim=32,
    mlp_ratio=2,
    plane_depth=1,
    plane_num_heads=4,
    plane_head_dim=32,
    plane_mlp_dim=128,
)
DEMO_DENOISER = UNetConfig(
    model_channels=64,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(),
    num_heads=1,
    position_embedding=True,
    edge_features=True,
    attention_across=False,
    shared_axes=True,
    axis_mixing=True,
    num_classes=3,
    expert_from=999,
)
# The paper's sizes are the defaults of the configuration classes.
SIZES = {
    "demo": (DEMO_AUTOENCODER, DEMO_DENOISER),
    "s": (AutoencoderConfig(), UNetConfig(model_channels=128)),
    "l": (AutoencoderConfig(), UNetConfig()),
    "dit-s": (AutoencoderConfig(), DiTConfig()),
    "dit-l": (AutoencoderConfig(), DiTConfig(width=1024, depth=28, num_heads=16)),
}
OPERATIONS = ("encode", "decode", "autoencoder_train", "denoiser", "denoiser_train", "sample", "data")
