"""C3D (Tran et al. 2015) fine-tuned on UCF-101: the classifier of the Inception score of videos (Saito et al. 2017).

The weights are those of TGANv2's code: `conv3d_deepnetA_ucf.npz` (Chainer's names, conv1a/W) and the mean video
`mean2.npz`. Clips are preprocessed exactly as in that code: colours in the order blue, green, red; 16 frames resized to
112 x 112 with aligned corners; 128 x + 128 for x in [-1, 1], minus rows and columns 8 to 119 of the mean video.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from pvdm_jax.evaluation.i3d import PRECISION, convolve, interpolate
from pvdm_jax.models import functional
from pvdm_jax.models.pixels import to_float
from pvdm_jax.weights.foreign_files import WeightFile, WeightFileError

FRAMES, SIDE, CLASSES = 16, 112, 101
MEAN_OFFSET = 8  # the first row and column of the mean video that are used
# Channels of the convolutions, all 3 x 3 x 3, and the pooling (t, h, w) after each, if any.
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
FLAT = 512 * 4 * 4  # values of a clip after the convolutions


class C3D(nnx.Module):
    """Clips, float32 (n, 16, 112, 112, 3) as `preprocess` makes them, to logits (n, 101).

    width: a divisor of all channels, for tests.
    """

    def __init__(self, classes: int = CLASSES, width: int = 1, *, rngs: nnx.Rngs):
        for name, (inputs, outputs, _) in CONVOLUTIONS.items():
            shape = (3, 3, 3, inputs if inputs == 3 else inputs // width, outputs // width)
            setattr(self, name, nnx.Dict(kernel=nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape))))
            getattr(self, name).bias = nnx.Param(jnp.zeros(shape[-1]))
        self.fc6 = nnx.Linear(FLAT // width, 4096 // width, precision=PRECISION, rngs=rngs)
        self.fc7 = nnx.Linear(4096 // width, 4096 // width, precision=PRECISION, rngs=rngs)
        self.fc8 = nnx.Linear(4096 // width, classes, precision=PRECISION, rngs=rngs)

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
    """Maximum over adjacent windows; the last one may extend beyond the edge."""
    padding = [(0, 0), *((0, -n % k) for n, k in zip(x.shape[1:4], window, strict=True)), (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), padding)


def preprocess(video: jax.Array, mean: jax.Array) -> jax.Array:
    """uint8 (n, 16, h, w, 3) RGB to float32 (n, 16, 112, 112, 3), for `mean` (16, 112, 112, 3) as `read_mean` gives."""
    x = to_float(video)[..., ::-1] * 128
    for axis in (2, 3):
        x = interpolate(x, axis, np.linspace(0, x.shape[axis] - 1, SIDE))  # aligned corners
    return x + (128 - mean[None])


def c3d_from_weights(file: WeightFile) -> C3D:
    """The network of a file with the names of TGANv2's code, conv1a/W and so on, or with names like conv1a.weight.

    Raises WeightFileError, naming weights that are missing or have another shape, for any other file.
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
    graphdef, expected = functional.abstract(lambda: C3D(classes, width, rngs=functional.rngs(0)))
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
    """The mean video of TGANv2's `mean2.npz`, cropped to the network's input: float32 (16, 112, 112, 3), blue first."""
    mean = file.weights.get("mean")
    fits = mean is not None and mean.ndim in (4, 5) and mean.shape[-4:-2] == (3, FRAMES)
    if not fits or min(mean.shape[-2:]) < SIDE + MEAN_OFFSET:
        shape = "no array `mean`" if mean is None else f"a mean of shape {mean.shape}"
        raise WeightFileError(f"{file.path} has {shape}; (3, 16, 128, 171) is needed")
    part = slice(MEAN_OFFSET, MEAN_OFFSET + SIDE)
    return np.moveaxis(mean.reshape(mean.shape[-4:])[:, :, part, part], 0, -1).astype(np.float32)
