"""The official autoencoder's weights: names, layouts, and how sizes are inferred."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pvdm_jax.config import AutoencoderConfig
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.weights.official.layouts import (
    Weight,
    build,
    clean,
    count,
    linear,
    names,
    norm,
    official_weights,
    shapes,
    vector,
)

PLANES = {"yx": "xy", "tx": "yt", "ty": "xt"}  # our name: the official one


def autoencoder_from_torch(state_dict: Mapping[str, Any], **overrides: Any) -> Autoencoder:
    """An `Autoencoder` with the official weights. Sizes are inferred from shapes.

    overrides: fields of AutoencoderConfig that can't be inferred (num_heads or head_dim, plane_num_heads or
    plane_head_dim, dtype). Raises ValueError naming each missing, surplus or misshapen weight.
    """
    weights = clean(state_dict)
    config = _config(weights, names(overrides))
    return build(lambda rngs: Autoencoder(config, rngs=rngs), _weights, weights)


def autoencoder_to_torch(model: Autoencoder) -> dict[str, np.ndarray]:
    """The autoencoder's weights and buffers under the official names."""
    return official_weights(_weights(model), model) | _buffers(model.config)


def _config(weights: dict[str, np.ndarray], overrides: dict[str, Any]) -> AutoencoderConfig:
    shape = shapes(weights)
    patch_size = shape("to_pixel.1.weight")[2]
    channels, first = shape("encoder.to_patch_embedding.weight")[0], "encoder.layers.0"
    inner = shape(f"{first}.0.fn.to_qkv.weight")[0] // 3
    plane_inner = shape("xy_quant_attn.layers.0.0.fn.to_qkv.weight")[0] // 3
    read = dict(
        frames=shape("xy_pos_embedding")[1] - 1,
        height=(shape("yt_pos_embedding")[1] - 1) * patch_size,
        width=(shape("xt_pos_embedding")[1] - 1) * patch_size,
        patch_size=patch_size,
        channels=channels,
        latent_channels=shape("pre_xy.weight")[0],
        depth=count(weights, "encoder.layers."),
        mlp_ratio=shape(f"{first}.2.fn.net.3.weight")[1] // channels,
        plane_depth=count(weights, "xy_quant_attn.layers."),
        plane_mlp_dim=shape("xy_quant_attn.layers.0.1.fn.net.0.weight")[0],
    )
    read |= _heads(inner, overrides, "num_heads", "head_dim", 8)
    read |= _heads(plane_inner, overrides, "plane_num_heads", "plane_head_dim", 4)
    return AutoencoderConfig(**(read | overrides))


def _heads(inner: int, overrides: dict[str, Any], number: str, size: str, default: int) -> dict[str, int]:
    """Number and size of the heads that share `inner` channels: shapes only determine the product."""
    heads = overrides.get(number, inner // overrides[size] if overrides.get(size) else default)
    if heads < 1 or inner % heads:
        raise ValueError(f"the weights don't fit: {number} is {heads}; the {inner} channels of all heads don't divide")
    return {number: heads, size: inner // heads}


def _weights(model: Autoencoder) -> Iterator[Weight]:
    config = model.config
    yield from linear("encoder.to_patch_embedding", "from_pixels")
    for name in ("encoder", "decoder"):
        for i in range(config.depth):
            block = f"{name}.layers.{i}"
            for j, part in enumerate(("time", "space")):
                yield from norm(f"{block}.{j}.norm", f"{name}/{part}_norm", i)
                yield from _attention(f"{block}.{j}.fn", f"{name}/{part}_attention", config.head_dim, i)
            yield from norm(f"{block}.2.norm", f"{name}/mlp_norm", i)
            yield from _halves(f"{block}.2.fn.net.0", (f"{name}/mlp/value", f"{name}/mlp/gate"), i)
            yield from linear(f"{block}.2.fn.net.3", f"{name}/mlp/down", 0, i)
    for ours, theirs in PLANES.items():
        projection = f"project_{ours}"
        yield vector(f"{theirs}_token", f"{projection}/token", 2)
        yield vector(f"{theirs}_pos_embedding", f"{projection}/positions", 1)
        for i in range(config.plane_depth):
            block, path = f"{theirs}_quant_attn.layers.{i}", f"{projection}/blocks"
            yield from norm(f"{block}.0.norm", f"{path}/norm", i)
            yield from _attention(f"{block}.0.fn", f"{path}/attention", None, i)
            yield from norm(f"{block}.1.norm", f"{path}/mlp_norm", i)
            yield from linear(f"{block}.1.fn.net.0", f"{path}/mlp/up", 0, i)
            yield from linear(f"{block}.1.fn.net.3", f"{path}/mlp/down", 0, i)
        yield from linear(f"pre_{theirs}", f"{projection}/out", 2)
        yield from linear(f"post_{theirs}", f"lift_{ours}", 2)
    patch = config.patch_size

    def split(x):  # (channels, rgb, row, column) to (channels, (row, column, rgb))
        return (x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1),)

    def join(x):
        return x.reshape(-1, patch, patch, 3).transpose(0, 3, 1, 2)

    yield Weight("to_pixel.1.weight", ("to_pixels/kernel",), split, join)
    yield vector("to_pixel.1.bias", "colour_bias")


def _buffers(config: AutoencoderConfig) -> dict[str, np.ndarray]:
    half = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    buffers = {"coords": np.linspace(-1, 1, config.frames, dtype=np.float32)[:, None]}
    for part in ("encoder", "decoder"):
        buffers[f"{part}.frame_rot_emb.inv_freqs"] = (1.0 / 10000.0**half).astype(np.float32)
        scales = np.logspace(0.0, np.log2(5.0), config.head_dim // 4, base=2, dtype=np.float32)
        buffers[f"{part}.image_rot_emb.scales"] = scales
    return buffers


def _attention(name: str, path: str, head_dim: int | None, layer: int) -> list[Weight]:
    """The transformers' self-attention; with `head_dim`, queries and keys are reordered for the rotary embedding."""

    def reorder(x, inverse):
        if head_dim is None:
            return x
        heads = x.reshape(-1, head_dim, x.shape[-1])
        order = np.r_[0:head_dim:2, 1:head_dim:2]
        return heads[:, np.argsort(order) if inverse else order].reshape(x.shape)

    def split(x):
        query, key, value = np.split(x, 3)
        return reorder(query, False).T, reorder(key, False).T, value.T

    def join(query, key, value):
        return np.concatenate([reorder(query.T, True), reorder(key.T, True), value.T])

    paths = tuple(f"{path}/{part}/kernel" for part in ("query", "key", "value"))
    return [
        Weight(f"{name}.to_qkv.weight", paths, split, join, layer),
        *linear(f"{name}.to_out.0", f"{path}/out", 0, layer),
    ]


def _halves(name: str, paths: tuple[str, str], layer: int) -> list[Weight]:
    """One linear layer of the official code that is two here."""
    kernels, biases = (tuple(f"{path}/{part}" for path in paths) for part in ("kernel", "bias"))
    return [
        Weight(
            f"{name}.weight",
            kernels,
            lambda x: tuple(half.T for half in np.split(x, 2)),
            lambda *halves: np.concatenate([half.T for half in halves]),
            layer,
        ),
        Weight(f"{name}.bias", biases, lambda x: tuple(np.split(x, 2)), lambda *halves: np.concatenate(halves), layer),
    ]
