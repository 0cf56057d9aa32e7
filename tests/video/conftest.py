import numpy as np
import pytest


def make_moving(frames: int = 60, height: int = 48, width: int = 64) -> np.ndarray:
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(0.1 * x + 0.2 * t), np.sin(0.15 * y - 0.13 * t), np.sin(0.07 * (x + y) + 0.31 * t)]
    return np.rint(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture
def moving():
    """The function moving(frames, height, width): a smooth pattern, uint8 (t, h, w, 3), with no two frames equal."""
    return make_moving
