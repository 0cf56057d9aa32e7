"""Videos whose frame numbers can be read off their pixels, and a dataset prepared from some."""

import numpy as np
import pytest

from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.video.write import write_video

BITS = 8


def numbered_frames(frames: int, size: int = 64, shade: int = 0) -> np.ndarray:
    """uint8 (frames, size, size, 3): eight upright stripes, bright where a bit of the frame's number is set.

    The bottom quarter of every frame has the grey level `shade`, which tells the videos apart.
    """
    bits = np.arange(frames)[:, None] >> np.arange(BITS) & 1
    stripes = np.repeat(40 + 180 * bits, size // BITS, axis=1).astype(np.uint8)
    video = np.broadcast_to(stripes[:, None, :, None], (frames, size, size, 3)).copy()
    video[:, 3 * size // 4 :] = shade
    return video


def frame_numbers(video: np.ndarray) -> list[int]:
    """The numbers that `numbered_frames` wrote, from frames (t, h, w, 3) of any size."""
    top = video[:, : video.shape[1] // 2].astype(float).mean(axis=(1, 3))
    stripes = top.reshape(len(video), BITS, -1).mean(axis=-1)
    return ((stripes > 130) @ (1 << np.arange(BITS))).tolist()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A prepared dataset of three numbered videos: walk/long (80 frames), walk/middle (50), run/short (20)."""
    folder = tmp_path_factory.mktemp("videos")
    for name, frames, shade in (("walk/long.mp4", 80, 0), ("walk/middle.gif", 50, 120), ("run/short.mp4", 20, 240)):
        write_video(folder / name, numbered_frames(frames, shade=shade), fps=10)
    path = tmp_path_factory.mktemp("dataset") / "prepared"
    prepare(folder, path)
    return str(path)


@pytest.fixture
def read_numbers():
    return frame_numbers


@pytest.fixture
def numbered():
    return numbered_frames
