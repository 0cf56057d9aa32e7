"""How well a clip is reconstructed: PSNR, the PSNR of a still picture, SSIM, and gradient energy."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

MAX_PSNR = 100.0  # dB, reported for equal clips, whose ratio is infinite
SSIM_SIDE, SSIM_SIGMA = 11, 1.5  # pixels: the Gaussian window of SSIM
SSIM_K1, SSIM_K2 = 0.01, 0.03
_FRAMES_AT_A_TIME = 2**22  # values (pixels x channels) that SSIM filters at once, which bounds its memory

# What an evaluation reports of reconstructions: which direction is better ("": neither, "1": the nearer to 1), and the
# title. A further number is a row here, and its line in `reconstruction_numbers`.
RECONSTRUCTION_NUMBERS = {
    "psnr": ("higher", "PSNR of reconstructions, dB"),
    "still_psnr": ("", "PSNR of each clip's mean as a still, dB"),
    "ssim": ("higher", "SSIM of reconstructions"),
    "gradient_energy_ratio": ("1", "gradient energy kept (1: as sharp)"),
    "lpips": ("lower", "LPIPS (VGG16) of reconstructions"),
}


def reconstruction_numbers(
    video: np.ndarray, reconstruction: np.ndarray, lpips: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The numbers (n,) of clips uint8 (n, frames, height, width, 3), without SSIM for those that are too small for it.

    lpips: the distance of LPIPS; None: it is not measured.
    """
    numbers = {
        "psnr": psnr(video, reconstruction),
        "still_psnr": still_psnr(video),
        "gradient_energy_ratio": gradient_energy_ratio(video, reconstruction),
    }
    if min(video.shape[2:4]) >= SSIM_SIDE:
        numbers["ssim"] = ssim(video, reconstruction)
    if lpips is not None:
        numbers["lpips"] = lpips(video, reconstruction)
    return numbers


def psnr(video: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """PSNR in dB of each clip, from the mean squared error over all its frames, pixels and channels.

    Both are uint8 (..., frames, height, width, 3); the result is float64 of the leading shape. Equal clips give
    MAX_PSNR. Raises ValueError if videos are not uint8 or shapes differ.
    """
    _check_pair(video, reconstruction)
    return _decibels(video, reconstruction)


def still_psnr(video: np.ndarray) -> np.ndarray:
    """PSNR in dB of each clip against its own mean over time, shown as a still: the floor for a reconstruction.

    No still picture does better, so an autoencoder that stays below it has not learned motion. The mean is not
    rounded. video is uint8 (..., frames, height, width, 3); the result is float64 of the leading shape.
    """
    _check("video", video)
    return _decibels(video, video.mean(-4, keepdims=True, dtype=np.float64))


def ssim(video: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Structural similarity of each clip (Wang, Bovik, Sheikh and Simoncelli 2004), 1 for equal clips.

    Within each frame and colour channel, means, variances and the covariance are taken under a Gaussian window of
    11 x 11 pixels and sigma 1.5 (weights sum to 1, only windows that lie in the frame), with K1 = 0.01, K2 = 0.03 and
    the range 255; then all windows, channels and frames are averaged. Both videos are uint8 (..., frames, height,
    width, 3); the result is float64 of the leading shape. Raises ValueError if videos are not uint8, shapes differ, or
    sides are below 11 pixels.
    """
    _check_pair(video, reconstruction)
    *leading, frames, height, width, channels = video.shape
    if min(height, width) < SSIM_SIDE:
        raise ValueError(f"frames are {height} x {width}; SSIM needs at least {SSIM_SIDE} x {SSIM_SIDE}")
    a, b = (x.reshape(-1, height, width, channels) for x in (video, reconstruction))
    size = max(1, min(len(a), _FRAMES_AT_A_TIME // (height * width * channels)))
    values = []
    for start in range(0, len(a), size):
        # The last batch is padded, so that one compiled program serves all of them.
        rows = np.minimum(np.arange(start, start + size), len(a) - 1)
        values.append(np.asarray(_ssim(a[rows], b[rows]), np.float64))
    return np.concatenate([*values, np.zeros(0)])[: len(a)].reshape(*leading, frames).mean(-1)


def gradient_energy_ratio(video: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Energy of the reconstruction's gradients over the original's, for each clip: 1 is as sharp, below 1 is blurred.

    The energy is the sum of squared differences between neighbouring pixels of a row or a column, over all frames and
    channels. Noise raises it too, so read it together with PSNR. Both videos are uint8 (..., frames, height, width,
    3); the result is float64 of the leading shape: 1 if neither has a gradient, infinite if only the original has
    none. Raises ValueError if videos are not uint8 or shapes differ.
    """
    _check_pair(video, reconstruction)
    before, after = _gradient_energy(video), _gradient_energy(reconstruction)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((before == 0) & (after == 0), 1.0, after / before)


def _check(name: str, video: np.ndarray) -> None:
    if video.dtype != np.uint8 or video.ndim < 4:
        raise ValueError(f"{name} is {video.dtype} {video.shape}; uint8 (..., frames, height, width, 3) is needed")


def _check_pair(video: np.ndarray, reconstruction: np.ndarray) -> None:
    _check("video", video)
    _check("reconstruction", reconstruction)
    if video.shape != reconstruction.shape:
        raise ValueError(f"reconstruction has shape {reconstruction.shape}; the video's is {video.shape}")


def _decibels(video: np.ndarray, other: np.ndarray) -> np.ndarray:
    error = np.square(video.astype(np.float32) - other.astype(np.float32)).mean((-4, -3, -2, -1), dtype=np.float64)
    smallest = 255.0**2 / 10 ** (MAX_PSNR / 10)
    return 10 * np.log10(255.0**2 / np.maximum(error, smallest))


def _gradient_energy(video: np.ndarray) -> np.ndarray:
    values = video.astype(np.float32)
    steps = (np.diff(values, axis=axis) for axis in (-3, -2))
    return sum(np.square(step).sum((-4, -3, -2, -1), dtype=np.float64) for step in steps)


@functools.cache
def _window() -> np.ndarray:
    places = np.arange(SSIM_SIDE) - SSIM_SIDE // 2
    weights = np.exp(-(places**2) / (2 * SSIM_SIGMA**2))
    return (weights / weights.sum()).astype(np.float32)


@jax.jit
def _ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean SSIM of uint8 frames (n, h, w, c): (n,)."""

    def smooth(x):
        for axis in (1, 2):
            length = x.shape[axis] - SSIM_SIDE + 1
            x = sum(w * jax.lax.slice_in_dim(x, k, k + length, axis=axis) for k, w in enumerate(_window()))
        return x

    # Variances are differences of squares: with values centred on 0, float32 loses least (the error is about 1e-5).
    a, b = (x.astype(jnp.float32) / 255 - 0.5 for x in (a, b))
    mean_a, mean_b = smooth(a), smooth(b)
    variances = smooth(a * a + b * b) - mean_a**2 - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    light = (2 * mean_a * mean_b + SSIM_K1**2) / (mean_a**2 + mean_b**2 + SSIM_K1**2)
    structure = (2 * covariance + SSIM_K2**2) / (variances + SSIM_K2**2)
    return jnp.mean(light * structure, axis=(1, 2, 3))
