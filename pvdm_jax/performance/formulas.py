"""How many floating point operations the models do, from their sizes: 2 for a multiplication and its addition.

Only matrix products and convolutions count. A training step is three times a forward pass: the gradients of the inputs
and of the weights cost as much as the forward pass each.
"""

from pvdm_jax.config import AutoencoderConfig, UNetConfig
from pvdm_jax.models.autoencoder import plane_shape
from pvdm_jax.models.triplane import PlaneShape

TRAINING = 3  # forward passes that a training step is worth


def _video_transformer(config: AutoencoderConfig, shape: PlaneShape) -> int:
    tokens, channels = shape.frames * shape.height * shape.width, config.channels
    inner, hidden = config.num_heads * config.head_dim, config.mlp_ratio * config.channels
    attention = sum(8 * channels * inner + 4 * n * inner for n in (shape.frames, shape.height * shape.width))
    return config.depth * tokens * (attention + 6 * channels * hidden)


def _projection(config: AutoencoderConfig, length: int, positions: int, whole: bool) -> int:
    channels, inner, hidden = config.channels, config.plane_num_heads * config.plane_head_dim, config.plane_mlp_dim
    tokens = length + 1
    layer = tokens * (8 * channels * inner + 4 * tokens * inner + 4 * channels * hidden)
    last = tokens * (4 * channels * inner + 4 * inner) + 4 * channels * inner + 4 * channels * hidden
    layers = config.plane_depth * layer if whole else (config.plane_depth - 1) * layer + last
    return positions * (layers + 2 * channels * config.latent_channels)


def encode_flops(config: AutoencoderConfig, whole: bool = False) -> int:
    """Of one clip. whole: with all of the projections' last layer, as in the official code, which then reads one
    position of it."""
    shape = plane_shape(config)
    frames, height, width = shape
    pixels = 2 * frames * height * width * 3 * config.patch_size**2 * config.channels
    reduced = ((frames, height * width), (height, frames * width), (width, frames * height))
    return pixels + _video_transformer(config, shape) + sum(_projection(config, *sizes, whole) for sizes in reduced)


def decode_flops(config: AutoencoderConfig) -> int:
    """Of one clip."""
    shape = plane_shape(config)
    pixels = 2 * shape.frames * shape.height * shape.width * 3 * config.patch_size**2 * config.channels
    return pixels + _video_transformer(config, shape) + 2 * shape.positions * config.latent_channels * config.channels


def autoencoder_flops(config: AutoencoderConfig) -> int:
    """Of one clip's reconstruction."""
    return encode_flops(config) + decode_flops(config)


def denoiser_flops(config: UNetConfig, shape: PlaneShape) -> int:
    """Of one call for one clip of latents; without the position embedding, computed once for a whole batch."""
    width, embedded = config.model_channels, 4 * config.model_channels

    def planes(factor: int) -> list[int]:
        """Positions of each plane at a downsampling factor."""
        return [rows // factor * (columns // factor) for rows, columns in (shape.yx, shape.tx, shape.ty)]

    def convolution(features_in: int, features: int, factor: int) -> int:
        return 18 * features_in * features * sum(planes(factor))

    def block(features_in: int, features: int, factor: int) -> int:
        total = convolution(features_in, features, factor) + convolution(features, features, factor)
        total += 3 * 2 * embedded * (1 + config.use_scale_shift_norm) * features
        return total + (2 * features_in * features * sum(planes(factor)) if features_in != features else 0)

    def attention(features: int, positions: list[int]) -> int:
        return sum(8 * n * features**2 + 4 * n**2 * features for n in positions)

    def across(features: int, factor: int) -> int:
        return attention(features, [sum(planes(factor))])

    def resample(features: int, factor: int) -> int:
        if config.resblock_updown:
            return block(features, features, factor)
        return convolution(features, features, factor) if config.conv_resample else 0

    def layers(features_in: int, features: int, factor: int) -> int:
        inside = attention(features, planes(factor)) if factor in config.attention_resolutions else 0
        return block(features_in, features, factor) + inside

    total = 2 * width * embedded + 2 * embedded**2
    total += convolution((1 + config.previous_clip + config.next_clip) * config.latent_channels, width, 1)
    skips, features, factor, last = [width], width, 1, len(config.channel_mult) - 1
    for level, multiplier in enumerate(config.channel_mult):
        for _ in range(config.num_res_blocks):
            total += layers(features, multiplier * width, factor)
            features = multiplier * width
            total += across(features, factor)
            skips.append(features)
        if level != last:
            factor *= 2
            total += resample(features, factor) + across(features, factor)
            skips.append(features)
    total += 2 * block(features, features, factor) + attention(features, planes(factor)) + across(features, factor)
    for level in range(last, -1, -1):
        for index in range(config.num_res_blocks + 1):
            total += layers(features + skips.pop(), config.channel_mult[level] * width, factor)
            features = config.channel_mult[level] * width
            if level and index == config.num_res_blocks:
                factor //= 2
                total += resample(features, factor)
            total += across(features, factor)
    return total + convolution(width, config.latent_channels, 1)
