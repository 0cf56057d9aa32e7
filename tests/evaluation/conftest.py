"""Real clips to judge, and ways to spoil them."""

import numpy as np
import pytest
from scipy import ndimage

from pvdm_jax.data.sources import FIRST_HELD_OUT_INDEX
from pvdm_jax.data.synthetic import SyntheticVideos


@pytest.fixture(scope="session")
def real_clips():
    """real_clips(count, size, split) -> uint8 (count, 16, size, size, 3) of the synthetic source, seed 0."""

    def draw(count: int, size: int = 32, split: str = "train", stride: int = 1) -> np.ndarray:
        first = 0 if split == "train" else FIRST_HELD_OUT_INDEX
        source = SyntheticVideos(count, 16 * stride, size, size, seed=0, first_index=first)
        return np.stack([source[i].read(0, 16, stride) for i in range(count)])

    return draw


@pytest.fixture(scope="session")
def soften():
    """soften(clips, blur, noise): Gaussian blur in pixels within each frame, then Gaussian noise in grey levels."""

    def spoil(clips: np.ndarray, blur: float = 0.0, noise: float = 0.0) -> np.ndarray:
        sigma = (0,) * (clips.ndim - 3) + (blur, blur, 0)
        values = ndimage.gaussian_filter(clips.astype(np.float32), sigma)
        values += np.random.default_rng(0).normal(0, noise, clips.shape)
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    return spoil
