"""Weights of the official PyTorch code (github.com/sihyun-yu/PVDM) to our modules, and back.

A state dict is a mapping from official names to arrays; no PyTorch is needed. What the two sides store differently:

- linear and 1 x 1 convolution weights are transposed, 3 x 3 convolutions have their features last;
- queries, keys and values (and the values and gates of GEGLU) are one array there and separate kernels here, and the
  U-Net's qkv channels lie there as [q, k, v] for each head;
- components of the video transformer's queries and keys are reordered, even ones first, because our rotary embedding
  rotates halves where theirs rotates neighbours;
- blocks of a stack are numbered there and stacked on a leading axis here;
- the official "yt" plane is our tx, (frame, column), and its "xt" our ty, (frame, row).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pvdm_jax.config import AutoencoderConfig, UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.unet import AttentionBlock, Downsample, ResBlock, UNet, Upsample

PLANES = {"yx": "xy", "tx": "yt", "ty": "xt"}  # our name: the official one
PREFIXES = ("module.", "diffusion_model.")
BUFFERS = ("coords", "zeros", "inv_freqs", "scales", "num_batches_tracked")  # hold no learned weight
OFFICIAL_POSITIONS = 2048  # of the buffer that the official U-Net uses as the missing condition


@dataclasses.dataclass(frozen=True)
class Weight:
    """One official array and the leaves that it becomes: `split` makes them, `join` is its inverse."""

    name: str
    paths: tuple[str, ...]  # "encoder/mlp/down/kernel"
    split: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    join: Callable[..., np.ndarray]
    layer: int | None = None  # index on the leading axis of stacked leaves


def autoencoder_from_torch(state_dict: Mapping[str, Any], **overrides: Any) -> Autoencoder:
    """The official autoencoder's weights as an `Autoencoder`. Sizes are read off the shapes.

    overrides: fields of AutoencoderConfig, for what shapes don't tell (num_heads, plane_num_heads, dtype). Raises
    ValueError naming each missing, surplus or misshapen weight.
    """
    weights = _clean(state_dict)
    config = _autoencoder_config(weights, _names(overrides))
    return _build(lambda rngs: Autoencoder(config, rngs=rngs), _autoencoder_weights, weights)


def unet_from_torch(state_dict: Mapping[str, Any], **overrides: Any) -> UNet:
    """The official denoiser's weights as a `UNet`. Sizes are read off the shapes.

    overrides: fields of UNetConfig, for what shapes don't tell (num_heads, dtype). Raises ValueError naming each
    missing, surplus or misshapen weight.
    """
    weights = _clean(state_dict)
    config = _unet_config(weights, _names(overrides))
    return _build(lambda rngs: UNet(config, rngs=rngs), _unet_weights, weights)


def to_torch(model: Autoencoder | UNet) -> dict[str, np.ndarray]:
    """The model's weights under the official names and layouts, buffers included: the inverse of the two above.

    Raises ValueError for a denoiser with position embeddings, which the official code has no place for.
    """
    if isinstance(model, UNet) and model.config.position_embedding:
        raise ValueError("unet.position_embedding is True; the official code has no such weights")
    rules, buffers = {
        Autoencoder: (_autoencoder_weights, _autoencoder_buffers),
        UNet: (_unet_weights, _unet_buffers),
    }[type(model)]
    leaves = _flatten(functional.split(model)[1])
    official = {}
    for weight in rules(model):
        arrays = [leaves[path] if weight.layer is None else leaves[path][weight.layer] for path in weight.paths]
        official[weight.name] = np.ascontiguousarray(weight.join(*(np.asarray(array) for array in arrays)))
    return official | buffers(model.config)


def _names(overrides: dict[str, Any]) -> dict[str, Any]:
    """dtype may be given as a type."""
    return {key: jnp.dtype(value).name if key == "dtype" else value for key, value in overrides.items()}


def _clean(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    weights = {}
    for name, array in state_dict.items():
        while name.startswith(PREFIXES):
            name = name.removeprefix("module.").removeprefix("diffusion_model.")
        if name.rsplit(".", 1)[-1] not in BUFFERS:
            weights[name] = np.asarray(array)
    return weights


def _build(make: Callable[[nnx.Rngs], Any], rules: Callable[[Any], Iterator[Weight]], weights: dict[str, np.ndarray]):
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graphdef, expected = functional.split(model)
    expected = _flatten(expected)
    leaves: dict[str, np.ndarray] = {}
    problems, used = [], set()
    for weight in rules(model):
        used.add(weight.name)
        shapes = [expected[path].shape[weight.layer is not None :] for path in weight.paths]
        shape = weight.join(*(np.broadcast_to(False, shape) for shape in shapes)).shape
        if weight.name not in weights:
            problems.append(f"{weight.name} is missing, shape {shape}")
        elif weights[weight.name].shape != shape:
            problems.append(f"{weight.name} has shape {weights[weight.name].shape}; {shape} is needed")
        else:
            for path, part in zip(weight.paths, weight.split(weights[weight.name]), strict=True):
                if weight.layer is None:
                    leaves[path] = part
                else:
                    leaves.setdefault(path, np.empty(expected[path].shape, np.float32))[weight.layer] = part
    problems += [f"{name} is not a weight of this model" for name in sorted(weights.keys() - used)]
    if problems:
        raise ValueError("the weights don't fit:\n  " + "\n  ".join(problems))
    params = _unflatten({path: jnp.asarray(array, jnp.float32) for path, array in leaves.items()})
    return functional.merge(graphdef, params)


def _flatten(tree: functional.Params) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(entry.key for entry in path): leaf for path, leaf in flat}


def _unflatten(leaves: dict[str, Any]) -> functional.Params:
    tree: functional.Params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


# One official array in its layout, as a Weight


def _vector(name: str, path: str, ones: int = 0, layer: int | None = None) -> Weight:
    """Unchanged but for `ones` leading axes of length 1 that the official array has."""

    def split(x):
        return (x.reshape(x.shape[ones:]),)

    return Weight(name, (path,), split, lambda x: x.reshape((1,) * ones + x.shape), layer)


def _matrix(name: str, path: str, ones: int = 0, layer: int | None = None) -> Weight:
    """Linear layers, and 1 x 1 convolutions with `ones` trailing axes of length 1."""

    def split(x):
        return (x.reshape(x.shape[:2]).T,)

    return Weight(name, (path,), split, lambda x: x.T.reshape(x.shape[::-1] + (1,) * ones), layer)


def _layer(name: str, path: str, ones: int = 0, layer: int | None = None) -> list[Weight]:
    """A linear layer or 1 x 1 convolution with bias."""
    return [
        _matrix(f"{name}.weight", f"{path}/kernel", ones, layer),
        _vector(f"{name}.bias", f"{path}/bias", layer=layer),
    ]


def _norm(name: str, path: str, layer: int | None = None) -> list[Weight]:
    return [
        _vector(f"{name}.weight", f"{path}/scale", layer=layer),
        _vector(f"{name}.bias", f"{path}/bias", layer=layer),
    ]


def _convolution(name: str, path: str) -> list[Weight]:
    kernel = Weight(
        f"{name}.weight",
        (f"{path}/kernel",),
        lambda x: (x.transpose(2, 3, 1, 0),),
        lambda x: x.transpose(3, 2, 0, 1),
    )
    return [kernel, _vector(f"{name}.bias", f"{path}/bias")]


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
        *_layer(f"{name}.to_out.0", f"{path}/out", 0, layer),
    ]


def _halves(name: str, paths: tuple[str, str], layer: int) -> list[Weight]:
    """A linear layer there that is two here."""
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


# The autoencoder


def _autoencoder_config(weights: dict[str, np.ndarray], overrides: dict[str, Any]) -> AutoencoderConfig:
    shape = _shapes(weights)
    heads = {"num_heads": 8, "plane_num_heads": 4} | overrides
    patch_size = shape("to_pixel.1.weight")[2]
    channels, first = shape("encoder.to_patch_embedding.weight")[0], "encoder.layers.0"
    read = dict(
        frames=shape("xy_pos_embedding")[1] - 1,
        height=(shape("yt_pos_embedding")[1] - 1) * patch_size,
        width=(shape("xt_pos_embedding")[1] - 1) * patch_size,
        patch_size=patch_size,
        channels=channels,
        latent_channels=shape("pre_xy.weight")[0],
        depth=_count(weights, "encoder.layers."),
        head_dim=shape(f"{first}.0.fn.to_qkv.weight")[0] // 3 // heads["num_heads"],
        mlp_ratio=shape(f"{first}.2.fn.net.3.weight")[1] // channels,
        plane_depth=_count(weights, "xy_quant_attn.layers."),
        plane_head_dim=shape("xy_quant_attn.layers.0.0.fn.to_qkv.weight")[0] // 3 // heads["plane_num_heads"],
        plane_mlp_dim=shape("xy_quant_attn.layers.0.1.fn.net.0.weight")[0],
    )
    return AutoencoderConfig(**(read | heads))


def _autoencoder_weights(model: Autoencoder) -> Iterator[Weight]:
    config = model.config
    yield from _layer("encoder.to_patch_embedding", "from_pixels")
    for name in ("encoder", "decoder"):
        for i in range(config.depth):
            block = f"{name}.layers.{i}"
            for j, part in enumerate(("time", "space")):
                yield from _norm(f"{block}.{j}.norm", f"{name}/{part}_norm", i)
                yield from _attention(f"{block}.{j}.fn", f"{name}/{part}_attention", config.head_dim, i)
            yield from _norm(f"{block}.2.norm", f"{name}/mlp_norm", i)
            yield from _halves(f"{block}.2.fn.net.0", (f"{name}/mlp/value", f"{name}/mlp/gate"), i)
            yield from _layer(f"{block}.2.fn.net.3", f"{name}/mlp/down", 0, i)
    for ours, theirs in PLANES.items():
        projection = f"project_{ours}"
        yield _vector(f"{theirs}_token", f"{projection}/token", 2)
        yield _vector(f"{theirs}_pos_embedding", f"{projection}/positions", 1)
        for i in range(config.plane_depth):
            block, path = f"{theirs}_quant_attn.layers.{i}", f"{projection}/blocks"
            yield from _norm(f"{block}.0.norm", f"{path}/norm", i)
            yield from _attention(f"{block}.0.fn", f"{path}/attention", None, i)
            yield from _norm(f"{block}.1.norm", f"{path}/mlp_norm", i)
            yield from _layer(f"{block}.1.fn.net.0", f"{path}/mlp/up", 0, i)
            yield from _layer(f"{block}.1.fn.net.3", f"{path}/mlp/down", 0, i)
        yield from _layer(f"pre_{theirs}", f"{projection}/out", 2)
        yield from _layer(f"post_{theirs}", f"lift_{ours}", 2)
    patch = config.patch_size

    def split(x):  # (channels, rgb, row, column) to (channels, (row, column, rgb))
        return (x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1),)

    def join(x):
        return x.reshape(-1, patch, patch, 3).transpose(0, 3, 1, 2)

    yield Weight("to_pixel.1.weight", ("to_pixels/kernel",), split, join)
    yield _vector("to_pixel.1.bias", "colour_bias")


def _autoencoder_buffers(config: AutoencoderConfig) -> dict[str, np.ndarray]:
    half = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    buffers = {"coords": np.linspace(-1, 1, config.frames, dtype=np.float32)[:, None]}
    for part in ("encoder", "decoder"):
        buffers[f"{part}.frame_rot_emb.inv_freqs"] = (1.0 / 10000.0**half).astype(np.float32)
        scales = np.logspace(0.0, np.log2(5.0), config.head_dim // 4, base=2, dtype=np.float32)
        buffers[f"{part}.image_rot_emb.scales"] = scales
    return buffers


# The denoiser


def _unet_config(weights: dict[str, np.ndarray], overrides: dict[str, Any]) -> UNetConfig:
    shape = _shapes(weights)
    latent_channels, width = shape("out.2.weight")[0], shape("time_embed.0.weight")[1]
    blocks = _count(weights, "output_blocks.")
    # The last block of every level but the outermost ends with an upsampling layer: it tells the blocks per level.
    upsampling = [
        (i, kind)
        for i in range(blocks)
        for j in (1, 2)
        for kind in ("in_layers.0.weight", "conv.weight")
        if f"output_blocks.{i}.{j}.{kind}" in weights
    ]
    per_level = upsampling[0][0] + 1 if upsampling else blocks
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
        cond_model=shape("input_blocks.0.0.weight")[1] == 2 * latent_channels,
        num_classes=weights["label_emb.weight"].shape[0] if "label_emb.weight" in weights else 0,
    )
    if upsampling:
        read["resblock_updown"] = upsampling[0][1] == "in_layers.0.weight"
    return UNetConfig(**(read | overrides))


def _unet_weights(model: UNet) -> Iterator[Weight]:
    yield from _layer("time_embed.0", "embed_in")
    yield from _layer("time_embed.2", "embed_out")
    if model.config.num_classes:
        yield _vector("label_emb.weight", "classes/embedding")
    yield from _convolution("input_blocks.0.0", "conv_in")
    for i, block in enumerate(model.input_blocks):
        yield from _unet_block(block, f"input_blocks.{i + 1}", f"input_attns.{i + 1}", f"input_blocks/{i}")
    yield from _unet_block(model.middle_block, "middle_block", "mid_attn", "middle_block")
    for i, block in enumerate(model.output_blocks):
        yield from _unet_block(block, f"output_blocks.{i}", f"output_attns.{i}", f"output_blocks/{i}")
    yield from _norm("out.0", "norm_out")
    yield from _convolution("out.2", "conv_out")


def _unet_block(block: Any, name: str, across: str, path: str) -> Iterator[Weight]:
    for j, module in enumerate(block.layers):
        theirs, ours = f"{name}.{j}", f"{path}/layers/{j}"
        match module:
            case ResBlock():
                yield from _norm(f"{theirs}.in_layers.0", f"{ours}/norm_in")
                yield from _convolution(f"{theirs}.in_layers.2", f"{ours}/conv_in")
                yield from _layer(f"{theirs}.emb_layers.1", f"{ours}/embed")
                yield from _norm(f"{theirs}.out_layers.0", f"{ours}/norm_out")
                yield from _convolution(f"{theirs}.out_layers.3", f"{ours}/conv_out")
                if isinstance(module.shortcut, nnx.Module):
                    yield from _layer(f"{theirs}.skip_connection", f"{ours}/shortcut", 2)
            case AttentionBlock():
                yield from _unet_attention(module, theirs, ours)
            case Downsample():
                yield from _convolution(f"{theirs}.op", f"{ours}/conv")
            case Upsample():
                yield from _convolution(f"{theirs}.conv", f"{ours}/conv")
    yield from _unet_attention(block.across, across, f"{path}/across")


def _unet_attention(module: AttentionBlock, name: str, path: str) -> Iterator[Weight]:
    heads = module.num_heads

    def split(x):  # (heads * 3 * head_dim, ...) to three of (heads * head_dim, ...)
        parts = x.reshape(heads, 3, -1, *x.shape[1:])
        return tuple(parts[:, k].reshape(-1, *x.shape[1:]) for k in range(3))

    def join(*parts):
        return np.stack([x.reshape(heads, -1, *x.shape[1:]) for x in parts], axis=1).reshape(-1, *parts[0].shape[1:])

    kernels, biases = (
        tuple(f"{path}/{part}/{leaf}" for part in ("query", "key", "value")) for leaf in ("kernel", "bias")
    )
    yield from _norm(f"{name}.norm", f"{path}/norm")
    yield Weight(
        f"{name}.qkv.weight",
        kernels,
        lambda x: tuple(part.T for part in split(x[..., 0])),
        lambda *parts: join(*(part.T for part in parts))[..., None],
    )
    yield Weight(f"{name}.qkv.bias", biases, split, join)
    yield from _layer(f"{name}.proj_out", f"{path}/out", 1)


def _unet_buffers(config: UNetConfig) -> dict[str, np.ndarray]:
    if not config.cond_model:
        return {}
    return {"zeros": np.zeros((1, config.latent_channels, OFFICIAL_POSITIONS), np.float32)}


def _shapes(weights: dict[str, np.ndarray]) -> Callable[[str], tuple[int, ...]]:
    def shape(name: str) -> tuple[int, ...]:
        if name not in weights:
            raise ValueError(f"the weights don't fit: {name} is missing, by which sizes are read")
        return weights[name].shape

    return shape


def _count(weights: dict[str, np.ndarray], prefix: str) -> int:
    """How many numbered entries follow `prefix`."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})
