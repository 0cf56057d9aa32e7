"""The official denoiser's weights: names, layouts, and how sizes are inferred."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx

from pvdm_jax.config import UNetConfig
from pvdm_jax.models.triplane import PlaneShape
from pvdm_jax.models.unet import AttentionBlock, Downsample, ResBlock, UNet, Upsample
from pvdm_jax.weights.official.layouts import (
    Weight,
    build,
    clean,
    convolution,
    count,
    linear,
    names,
    norm,
    official_weights,
    shapes,
    vector,
)

OFFICIAL_GRID = PlaneShape(16, 32, 32)  # the only one that the official U-Net knows
# Settings that have only one value in the official code.
OFFICIAL = {
    "next_clip": False,
    "expert_from": 0,
    "position_embedding": False,
    "edge_features": False,
    "shared_axes": False,
    "axis_mixing": False,
    "attention_across": True,
}


def unet_from_torch(state_dict: Mapping[str, Any], grid: PlaneShape = OFFICIAL_GRID, **overrides: Any) -> UNet:
    """A `UNet` with the official weights. Sizes are inferred from shapes.

    grid: the grid of the latents that the network will see; the weights don't depend on it.
    overrides: fields of UNetConfig that can't be inferred (num_heads or num_head_channels, dtype).
    Raises ValueError naming each missing, surplus or misshapen weight.
    """
    weights = clean(state_dict)
    config = _config(weights, names(overrides))
    return build(lambda rngs: UNet(config, grid.latent_spec(config.latent_channels), rngs=rngs), _weights, weights)


def unet_to_torch(model: UNet) -> dict[str, np.ndarray]:
    """The denoiser's weights and buffers under the official names.

    Raises ValueError if it has weights that the official code has no place for.
    """
    for name, official in OFFICIAL.items():
        value = getattr(model.config, name)
        if value != official:
            raise ValueError(
                f"denoiser.{name} is {value}; the official code has only networks for which it is {official}"
            )
    return official_weights(_weights(model), model) | _buffers(model.config)


def _config(weights: dict[str, np.ndarray], overrides: dict[str, Any]) -> UNetConfig:
    shape = shapes(weights)
    latent_channels, width = shape("out.2.weight")[0], shape("time_embed.0.weight")[1]
    blocks = count(weights, "output_blocks.")
    per_level, resampling = _level_size(weights, blocks)
    levels = blocks // per_level
    first = [1 + level * per_level for level in range(levels)]  # input block at which each level begins
    features = [shape(f"input_blocks.{i}.0.out_layers.3.weight")[0] for i in first]
    read = dict(
        latent_channels=latent_channels,
        model_channels=width,
        channel_mult=tuple(count // width for count in features),
        num_res_blocks=per_level - 1,
        attention_resolutions=tuple(
            2**level for level, i in enumerate(first) if f"input_blocks.{i}.1.qkv.weight" in weights
        ),
        use_scale_shift_norm=shape("input_blocks.1.0.emb_layers.1.weight")[0] == 2 * features[0],
        previous_clip=shape("input_blocks.0.0.weight")[1] == 2 * latent_channels,
        num_classes=weights["label_emb.weight"].shape[0] if "label_emb.weight" in weights else 0,
    )
    return UNetConfig(**(read | resampling | overrides))


def _level_size(weights: dict[str, np.ndarray], blocks: int) -> tuple[int, dict[str, bool]]:
    """How many output blocks a level has, and the settings of resampling between levels.

    The last output block of every level except the outermost ends with an upsampling layer. If that layer has no
    weights, its counterpart on the way down is an input block without weights, which has a number of its own.
    """
    for i in range(blocks):
        for j in (1, 2):
            if f"output_blocks.{i}.{j}.in_layers.0.weight" in weights:
                return i + 1, {"resblock_updown": True}
            if f"output_blocks.{i}.{j}.conv.weight" in weights:
                return i + 1, {"resblock_updown": False}
    for i in range(1, blocks):
        if f"input_blocks.{i}.0.in_layers.0.weight" not in weights and f"input_attns.{i}.norm.weight" in weights:
            return i, {"resblock_updown": False, "conv_resample": False}
    return blocks, {}


def _weights(model: UNet) -> Iterator[Weight]:
    yield from linear("time_embed.0", "embed_in")
    yield from linear("time_embed.2", "embed_out")
    if model.config.num_classes:
        yield vector("label_emb.weight", "classes/embedding")
    yield from convolution("input_blocks.0.0", "conv_in")
    for i, block in enumerate(model.input_blocks):
        yield from _block(block, f"input_blocks.{i + 1}", f"input_attns.{i + 1}", f"input_blocks/{i}")
    yield from _block(model.middle_block, "middle_block", "mid_attn", "middle_block")
    for i, block in enumerate(model.output_blocks):
        yield from _block(block, f"output_blocks.{i}", f"output_attns.{i}", f"output_blocks/{i}")
    yield from norm("out.0", "norm_out")
    yield from convolution("out.2", "conv_out")


def _block(block: Any, name: str, across: str, path: str) -> Iterator[Weight]:
    for j, module in enumerate(block.layers):
        theirs, ours = f"{name}.{j}", f"{path}/layers/{j}"
        match module:
            case ResBlock():
                yield from norm(f"{theirs}.in_layers.0", f"{ours}/norm_in")
                yield from convolution(f"{theirs}.in_layers.2", f"{ours}/conv_in")
                yield from linear(f"{theirs}.emb_layers.1", f"{ours}/embed")
                yield from norm(f"{theirs}.out_layers.0", f"{ours}/norm_out")
                yield from convolution(f"{theirs}.out_layers.3", f"{ours}/conv_out")
                if isinstance(module.shortcut, nnx.Module):
                    yield from linear(f"{theirs}.skip_connection", f"{ours}/shortcut", 2)
            case AttentionBlock():
                yield from _attention(module, theirs, ours)
            case Downsample(conv=nnx.Module()):
                yield from convolution(f"{theirs}.op", f"{ours}/conv")
            case Upsample(conv=nnx.Module()):
                yield from convolution(f"{theirs}.conv", f"{ours}/conv")
    yield from _attention(block.across, across, f"{path}/across")


def _attention(module: AttentionBlock, name: str, path: str) -> Iterator[Weight]:
    heads = module.num_heads

    def split(x):  # (heads * 3 * head_dim, ...) to three of (heads * head_dim, ...)
        parts = x.reshape(heads, 3, -1, *x.shape[1:])
        return tuple(parts[:, k].reshape(-1, *x.shape[1:]) for k in range(3))

    def join(*parts):
        return np.stack([x.reshape(heads, -1, *x.shape[1:]) for x in parts], axis=1).reshape(-1, *parts[0].shape[1:])

    kernels, biases = (
        tuple(f"{path}/{part}/{leaf}" for part in ("query", "key", "value")) for leaf in ("kernel", "bias")
    )
    yield from norm(f"{name}.norm", f"{path}/norm")
    yield Weight(
        f"{name}.qkv.weight",
        kernels,
        lambda x: tuple(part.T for part in split(x[..., 0])),
        lambda *parts: join(*(part.T for part in parts))[..., None],
    )
    yield Weight(f"{name}.qkv.bias", biases, split, join)
    yield from linear(f"{name}.proj_out", f"{path}/out", 1)


def _buffers(config: UNetConfig) -> dict[str, np.ndarray]:
    if not config.previous_clip:
        return {}
    return {"zeros": np.zeros((1, config.latent_channels, OFFICIAL_GRID.positions), np.float32)}
