"""The scattering features: a fixed feature space for small videos, which compares sets of clips without weights.

A clip goes through a random space-time scattering network (scattering: Bruna and Mallat 2013; random filters as
features: Saxe et al. 2011). At each of three levels,

- six random 3 x 3 filters over all channels, orthonormal and with zero mean, respond to the content of each place;
- their responses over three frames are split by the orthonormal filters (1, 1, 1), (1, 0, -1) and (1, -2, 1) into
  what is constant, its speed and its acceleration;
- each of the 18 responses r is summarised over the clip as log2(mean |r| + one grey level).

The next level sees the clip and |r|, averaged over 2 x 2 pixels and, if there are at least ten frames, 2 frames.
Level 1 thus measures how much fine detail of each kind and speed there is; levels 2 and 3 how it is arranged into
edges, corners and shapes, and how these move over longer times. With the mean colours of the four quarters of the
picture, these are 66 numbers.

Why distances in this space are meaningful: at level 1, the response of orthonormal filters to white noise is as strong
as the noise, so responses are in units of the picture's range and need no constants fitted to data. The logarithm
converts them to octaves, so that no number dominates: the synthetic source's clips spread over 0.1 to 0.6 octaves in
each number, and a doubled speed, or a blur of one pixel, changes the most affected numbers by about one octave. Noise
raises the fine levels and blur lowers them; frozen, shuffled or jerky frames change the proportions of the three time
filters; wrong colours change the responses and the means; a set with little variety has too small a covariance. The
space does not detect reversed time, small shifts, or exchanged colour channels in a set that uses all colours equally.
It does not measure meaning, and its distances can't be compared with those of other feature spaces or clip sizes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pvdm_jax.models.pixels import to_float

LEVELS = 3
FILTERS = 6
TIME_FILTERS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
GREY_LEVEL = 2 / 255  # on the range [-1, 1]; the smallest response that counts
FEATURES = LEVELS * FILTERS * len(TIME_FILTERS) + 12
MAX_PIXELS = 2**22  # most pixels, over all frames, of several clips in a call, which takes about a gigabyte
BAND_PIXELS = 2**20  # most pixels filtered at once, over all frames of a call; more are taken in bands of rows
MIN_FRAMES, MIN_SIDE = 7, 18  # three frames and one filter fit at every level from these sizes on


def video_features(videos: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Features of videos, uint8 (n, frames, height, width, 3), as float32 (n, FEATURES).

    batch_size (clips at a time) bounds memory and changes nothing else. Raises ValueError if videos have another type,
    fewer than MIN_FRAMES frames, or fewer than MIN_SIDE rows or columns.
    """
    if videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[-1] != 3:
        raise ValueError(f"videos are {videos.dtype} {videos.shape}; uint8 (n, frames, height, width, 3) is needed")
    frames, height, width = videos.shape[1:4]
    if frames < MIN_FRAMES or min(height, width) < MIN_SIDE:
        allowed = f"at least {MIN_FRAMES} frames of {MIN_SIDE} x {MIN_SIDE} are needed"
        raise ValueError(f"clips have {frames} frames of {height} x {width}; {allowed}")
    features = np.empty((len(videos), FEATURES), np.float32)
    for start in range(0, len(videos), batch_size):
        batch = videos[start : start + batch_size]
        # The last batch is padded, so that one compiled program serves all of them.
        padded = np.pad(batch, [(0, batch_size - len(batch))] + [(0, 0)] * 4)
        features[start : start + batch_size] = np.asarray(scattering(padded))[: len(batch)]
    return features


@functools.cache
def _space_filters() -> list[np.ndarray]:
    """For each level, FILTERS orthonormal filters (3, 3, channels, FILTERS) whose sum is zero in each channel."""
    rng = np.random.default_rng(0)
    levels, channels = [], 3
    for _ in range(LEVELS):
        filters = rng.standard_normal((3, 3, channels, FILTERS))
        filters -= filters.mean((0, 1))
        orthonormal, _ = np.linalg.qr(filters.reshape(-1, FILTERS))
        levels.append(orthonormal.reshape(filters.shape).astype(np.float32))
        channels = 3 + FILTERS * len(TIME_FILTERS)
    return levels


@jax.jit
def scattering(videos: jax.Array) -> jax.Array:
    """The features of one batch, uint8 (n, frames, height, width, 3) to float32 (n, FEATURES), on its devices."""
    rows, columns = videos.shape[2] // 2, videos.shape[3] // 2
    quarters = [
        to_float(videos[:, :, y, x])
        for y in (slice(rows), slice(rows, None))
        for x in (slice(columns), slice(columns, None))
    ]
    features = []
    clip = videos
    for level, filters in enumerate(_space_filters()):
        strength, clip = _level(clip, filters, is_last=level == LEVELS - 1)
        features.append(jnp.log2(strength + GREY_LEVEL))
    return jnp.concatenate(features + [quarter.mean((1, 2, 3)) for quarter in quarters], axis=-1)


def _level(clip: jax.Array, filters: np.ndarray, is_last: bool) -> tuple[jax.Array, jax.Array | None]:
    """The mean strength of each response, (n, responses), and what the next level sees (None after the last).

    Large clips are filtered band by band, so that the responses, 18 times the picture, are never in memory at once.
    """
    n, t, h, w, _ = clip.shape
    height = h - 2  # of the responses
    band = max(2, BAND_PIXELS // (n * t * w) // 2 * 2)

    def respond(rows: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        rows = to_float(rows) if rows.dtype == jnp.uint8 else rows
        responses = jnp.abs(_respond(rows, filters))
        # Filtering removes one place on every side; the clip's colours are cropped to match.
        seen = None if is_last else jnp.concatenate([rows[:, 1:-1, 1:-1, 1:-1, :3], responses], axis=-1)
        return responses, seen

    if height <= band:
        responses, seen = respond(clip)
        return responses.mean((1, 2, 3)), None if is_last else _average(seen)

    def measure(rows: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        responses, seen = respond(rows)
        return responses.sum((1, 2, 3)), None if is_last else _average(seen)

    count = height // band
    starts = jnp.arange(count) * band
    sums, seen = lax.map(lambda start: measure(lax.dynamic_slice_in_dim(clip, start, band + 2, axis=2)), starts)
    total = sums.sum(0)
    if seen is not None:
        seen = jnp.moveaxis(seen, 0, 2)  # (n, t', bands, rows, w', c)
        seen = seen.reshape(*seen.shape[:2], -1, *seen.shape[4:])
    if count * band < height:
        sums, rest = measure(clip[:, :, count * band :])
        total = total + sums
        seen = None if seen is None else jnp.concatenate([seen, rest], axis=2)
    return total / ((t - 2) * height * (w - 2)), seen


def _respond(clip: jax.Array, filters: np.ndarray) -> jax.Array:
    """Space filters, then time filters: (n, t, h, w, c) to (n, t - 2, h - 2, w - 2, space x time filters)."""
    n, t, h, w, c = clip.shape
    # Highest precision: accelerators would otherwise round the inputs to a few digits.
    space = lax.conv_general_dilated(
        clip.reshape(n * t, h, w, c),
        filters,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    ).reshape(n, t, h - 2, w - 2, FILTERS)
    weights = TIME_FILTERS.astype(np.float32).reshape(1, 1, 1, 1, 1, 3, 3)
    parts = [space[:, k : t - 2 + k, ..., None] * weights[..., k] for k in range(3)]
    return sum(parts).reshape(n, t - 2, h - 2, w - 2, -1)


def _average(clip: jax.Array) -> jax.Array:
    """Mean over 2 x 2 pixels and, if there are at least ten frames, 2 frames; incomplete windows are dropped."""
    n, t, h, w, c = clip.shape
    step = 2 if t >= 10 else 1
    clip = clip[:, : t // step * step, : h // 2 * 2, : w // 2 * 2]
    return clip.reshape(n, t // step, step, h // 2, 2, w // 2, 2, c).mean((2, 4, 6))
