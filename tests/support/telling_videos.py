"""Videos whose pixels say what they are, for tests of which frames a loader takes."""

import numpy as np

from pvdm_jax.video.errors import VideoError


class TellingVideo:
    """Pixels say which video and frame they are from: red is the video, green the frame, blue the column."""

    crop = None  # the latest that was asked for

    def __init__(self, index, frames, broken=False):
        self.name, self.label, self.frames = f"video{index}", index % 2, frames
        self.index, self.broken = index, broken

    def read(self, start, count, stride=1, crop=None):
        numbers = start + stride * np.arange(count)
        if start < 0 or numbers[-1] >= self.frames:
            raise ValueError(f"{self.name} has no frame {numbers[-1]}")
        self.crop = crop
        if self.broken:
            raise VideoError(f"{self.name}: it can't be decoded")
        video = np.zeros((count, 8, 8, 3), np.uint8)
        video[..., 0], video[..., 1], video[..., 2] = self.index, numbers[:, None, None], np.arange(8)
        return video


class Source(list):
    class_names = ("even", "odd")


def source(lengths, broken=()):
    return Source(TellingVideo(i, n, i in broken) for i, n in enumerate(lengths))


def take(batches, count):
    return [next(batches) for _ in range(count)]


def videos_of(batches):
    return [int(index) for batch in batches for index in batch["video"][:, 0, 0, 0, 0]]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
