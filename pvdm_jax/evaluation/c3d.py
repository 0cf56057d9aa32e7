"""C3D (Tran et al. 2015) fine-tuned on UCF-101: the classifier of the Inception score of videos (Saito et al. 2017).

Weights are those of TGANv2's code: `conv3d_deepnetA_ucf.npz` (Chainer's names, conv1a/W) and the mean video
`mean2.npz`. Its preparation of clips is followed to the letter, oddities included: colours in the order blue, green,
red; 16 frames resized to 112 x 112 with the corners aligned; values of 128 x + 128 less the mean video, of which rows
and columns 8 to 119 are taken.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from pvdm_jax.evaluation.i3d import convolve
from pvdm_jax.models import functional
from pvdm_jax.models.pixels import to_float
from pvdm_jax.weights.foreign_files import WeightFile, WeightFileError

FRAMES, SIDE, CLASSES = 16, 112, 101
MEAN_OFFSET = 8  # rows and columns of the mean video that are cut off before the ones taken
# Channels of the convolutions, all 3 x 3 x 3, and the pooling (t, h, w) after each where there is one.
CONVOLUTIONS = {
    "conv1a": (3, 64, (1, 2, 2)),
    "conv2a": (64, 128, (2, 2, 2)),
    "conv3a": (128, 256, None),
    "conv3b": (256, 256, (2, 2, 2)),
    "conv4a": (256, 512, None),
    "conv4b": (512, 512, (2, 2, 2)),
    "conv5a": (512, 512, None),
    "conv5b": (512, 512, (2, 2, 2)),
}
FLAT = 512 * 4 * 4  # what the convolutions leave of a clip


class C3D(nnx.Module):
    """Clips, float32 (n, 16, 112, 112, 3) as `preprocess` makes them, to logits (n, 101).

    width: a divisor of all channels, for tests.
    """

    def __init__(self, classes: int = CLASSES, width: int = 1, *, rngs: nnx.Rngs):
        for name, (inputs, outputs, _) in CONVOLUTIONS.items():
            shape = (3, 3, 3, inputs if inputs == 3 else inputs // width, outputs // width)
            setattr(self, name, nnx.Dict(kernel=nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape))))
            getattr(self, name).bias = nnx.Param(jnp.zeros(shape[-1]))
        self.fc6 = nnx.Linear(FLAT // width, 4096 // width, rngs=rngs)
        self.fc7 = nnx.Linear(4096 // width, 4096 // width, rngs=rngs)
        self.fc8 = nnx.Linear(4096 // width, classes, rngs=rngs)

    def __call__(self, video: jax.Array) -> jax.Array:
        x = video
        for name, (_, _, window) in CONVOLUTIONS.items():
            layer = getattr(self, name)
            bias = layer.bias[...]
            x = nnx.relu(convolve(x, layer.kernel[...]) + bias.reshape(1, 1, 1, 1, -1))
            x = x if window is None else _pool(x, window)
        # The fully connected layers take (channel, time, row, column), flattened in this order.
        x = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
        return self.fc8(nnx.relu(self.fc7(nnx.relu(self.fc6(x)))))


def _pool(x: jax.Array, window: tuple[int, int, int]) -> jax.Array:
    """Maximum over windows side by side; the last one may reach over the edge."""
    padding = [(0, 0), *((0, -n % k) for n, k in zip(x.shape[1:4], window, strict=True)), (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), padding)


def preprocess(video: jax.Array, mean: jax.Array) -> jax.Array:
    """uint8 (n, 16, h, w, 3) RGB to float32 (n, 16, 112, 112, 3), for `mean` (16, 112, 112, 3) as `read_mean` gives."""
    x = to_float(video)[..., ::-1] * 128
    for axis in (2, 3):
        x = _resize(x, axis)
    return x + (128 - mean[None])


def _resize(x: jax.Array, axis: int) -> jax.Array:
    """Linear interpolation to SIDE places, of which the first and the last lie on the first and last pixel."""
    length = x.shape[axis]
    place = np.linspace(0, length - 1, SIDE)
    low = np.minimum(place.astype(np.int64), max(length - 2, 0))
    shape = [1] * x.ndim
    shape[axis] = SIDE
    weight = jnp.asarray((place - low).astype(np.float32).reshape(shape))
    high = np.minimum(low + 1, length - 1)
    return jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight


def c3d_from_weights(file: WeightFile) -> C3D:
    """The network of a file with the names of TGANv2's code: conv1a/W and so on, or conv1a.weight.

    Raises WeightFileError, naming what is missing or has another shape, for anything else.
    """
    weights, problems = file.weights, []

    def get(name: str, kind: str) -> np.ndarray | None:
        for option in (f"{name}/{kind}", f"{name}.{'weight' if kind == 'W' else 'bias'}"):
            if option in weights:
                return weights[option]
        problems.append(f"{name}/{kind} is missing")
        return None

    first = get("conv1a", "W")
    width = 64 // len(first) if first is not None and 0 < len(first) <= 64 else 1
    last = get("fc8", "b")
    classes = CLASSES if last is None else len(last)
    graphdef, expected = functional.abstract(lambda: C3D(classes, width, rngs=nnx.Rngs(0)))
    params: functional.Params = {}
    for name, leaves in expected.items():
        kernel, bias = get(name, "W"), get(name, "b")
        if kernel is None or bias is None:
            continue
        kernel = kernel.transpose(2, 3, 4, 1, 0) if kernel.ndim == 5 else kernel.T
        for leaf, array in (("kernel", kernel), ("bias", bias)):
            if array.shape != leaves[leaf].shape:
                problems.append(f"{name}'s {leaf} has shape {array.shape}; {leaves[leaf].shape} is needed")
        params[name] = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightFileError(f"{file.path} holds no C3D: {'; '.join(problems[:3])}{more}")
    return functional.merge(graphdef, params)


def read_mean(file: WeightFile) -> np.ndarray:
    """The mean video of TGANv2's `mean2.npz`, cut to the network's input: float32 (16, 112, 112, 3), blue first."""
    mean = file.weights.get("mean")
    fits = mean is not None and mean.ndim in (4, 5) and mean.shape[-4:-2] == (3, FRAMES)
    if not fits or min(mean.shape[-2:]) < SIDE + MEAN_OFFSET:
        shape = "no array `mean`" if mean is None else f"a mean of shape {mean.shape}"
        raise WeightFileError(f"{file.path} has {shape}; (3, 16, 128, 171) is needed")
    part = slice(MEAN_OFFSET, MEAN_OFFSET + SIDE)
    return np.moveaxis(mean.reshape(mean.shape[-4:])[:, :, part, part], 0, -1).astype(np.float32)
