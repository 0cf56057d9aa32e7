"""Damage to clips that a measure of videos should react to. Strengths go from 0 (unchanged) to 1."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

NOISE = 40.0  # grey levels, standard deviation at strength 1
BLUR = 0.06  # of the shorter side, standard deviation of the Gaussian at strength 1


def noise(videos: np.ndarray, strength: float) -> np.ndarray:
    """Adds Gaussian noise, the same pattern at every strength. uint8 (n, frames, height, width, 3), as all here."""
    pattern = np.random.default_rng(0).standard_normal(videos.shape, np.float32)
    return _to_uint8(videos + NOISE * strength * pattern)


def blur(videos: np.ndarray, strength: float) -> np.ndarray:
    """Blurs each frame with a Gaussian."""
    sigma = BLUR * strength * min(videos.shape[2:4])
    return _to_uint8(ndimage.gaussian_filter(videos.astype(np.float32), (0, 0, sigma, sigma, 0)))


def shuffle(videos: np.ndarray, strength: float) -> np.ndarray:
    """Exchanges a random fraction `strength` of each video's frames; the others keep their places."""
    n, frames = videos.shape[:2]
    count, rng = round(frames * strength), np.random.default_rng(1)
    damaged = videos.copy()
    for i in range(n):
        places = rng.permutation(frames)[:count]
        damaged[i, places] = videos[i, np.roll(places, 1)]
    return damaged


def freeze(videos: np.ndarray, strength: float) -> np.ndarray:
    """Repeats one frame over the last fraction `strength` of each video; at strength 1, the first frame throughout."""
    frames = videos.shape[1]
    last = max(frames - 1 - round((frames - 1) * strength), 0)
    return videos[:, np.minimum(np.arange(frames), last)]


DAMAGES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "noise": noise,
    "blur": blur,
    "shuffled frames": shuffle,
    "frozen frames": freeze,
}


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
