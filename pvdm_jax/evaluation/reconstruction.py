"""How well a clip is reconstructed: peak signal-to-noise ratio, and what a still picture would reach."""

import numpy as np

MAX_PSNR = 100.0  # dB, reported for equal clips, whose ratio is infinite


def psnr(video: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """PSNR in dB of each clip, from the mean squared error over all its frames, pixels and channels.

    Both are uint8 (..., frames, height, width, 3); the result is float64 of the leading shape. Equal clips give
    MAX_PSNR. Raises ValueError for other types or for shapes that differ.
    """
    _check("video", video)
    _check("reconstruction", reconstruction)
    if video.shape != reconstruction.shape:
        raise ValueError(f"reconstruction has shape {reconstruction.shape}; the video's is {video.shape}")
    return _decibels(video, reconstruction)


def still_psnr(video: np.ndarray) -> np.ndarray:
    """PSNR in dB of each clip against its own mean over time, shown as a still: the floor for a reconstruction.

    No still picture does better, so an autoencoder that stays below it has not learnt motion. The mean is not
    rounded. video is uint8 (..., frames, height, width, 3); the result is float64 of the leading shape.
    """
    _check("video", video)
    return _decibels(video, video.mean(-4, keepdims=True, dtype=np.float64))


def _check(name: str, video: np.ndarray) -> None:
    if video.dtype != np.uint8 or video.ndim < 4:
        raise ValueError(f"{name} is {video.dtype} {video.shape}; uint8 (..., frames, height, width, 3) is needed")


def _decibels(video: np.ndarray, other: np.ndarray) -> np.ndarray:
    error = np.square(video.astype(np.float32) - other.astype(np.float32)).mean((-4, -3, -2, -1), dtype=np.float64)
    smallest = 255.0**2 / 10 ** (MAX_PSNR / 10)
    return 10 * np.log10(255.0**2 / np.maximum(error, smallest))
