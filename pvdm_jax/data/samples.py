"""The samples that batches are made of: random windows of videos, pairs of clips, stored items.

Each is a function of (seed, sample number) alone, and can be sent to another process.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.clips import Crop, clip_span, random_crop
from pvdm_jax.data.sources import Video, VideoSource
from pvdm_jax.video.errors import VideoError

# Replacements tried for a video that can't be decoded. Beyond that the data set is broken, not a file of it.
MAX_REPLACEMENTS = 20
# What random numbers are for; the second part of their seeds.
WINDOWS, PAIRS, ORDER, FRESH_PAIRS = range(4)


class Replacing:
    """Reads from a video of a source, or from a random other one where that fails, and reports each failure once."""

    def __init__(self, source: VideoSource):
        self.source = source
        self.broken: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, first: int, rng: np.random.Generator, read: Callable[[Video], Any]) -> tuple[int, Any]:
        """(index, read(source[index])) for index = first, or a replacement drawn by `rng`."""
        index = first
        for _ in range(1 + MAX_REPLACEMENTS):
            video = self.source[index]
            try:
                return index, read(video)
            except (VideoError, OSError) as error:
                self._report(video.name, error)
                index = int(rng.integers(len(self.source)))
        raise VideoError(f"{video.name}, and {MAX_REPLACEMENTS} others before it, can't be decoded")

    def _report(self, name: str, error: Exception) -> None:
        with self._lock:
            if name in self.broken:
                return
            self.broken[name] = str(error)
            logging.warning("replaced by another video from now on (number %d): %s", len(self.broken), error)

    def __getstate__(self) -> dict:
        return {"source": self.source, "broken": {}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


@dataclasses.dataclass(frozen=True)
class RandomWindow:
    """Sample n of `train_batches`: a random window of the video `index`."""

    read: Replacing
    clip: AutoencoderConfig
    data: DataConfig
    seed: int

    def __call__(self, number: int, index: int) -> dict:
        data, rng = self.data, np.random.default_rng([self.seed, WINDOWS, number])
        span = clip_span(self.clip.frames, data.stride)

        def window(video: Video) -> np.ndarray:
            start = int(rng.integers(video.frames - span + 1))
            mirrored = data.flip and rng.random() < 0.5
            frames = video.read(start, self.clip.frames, data.stride, random_crop(rng, data.crop_scale))
            return _mirror(frames) if mirrored else frames

        index, frames = self.read(index, rng, window)
        return {"video": frames, "label": np.int32(self.read.source[index].label)}

    def video(self, index: int) -> str:
        """The name of the video."""
        return self.read.source[index].name


@dataclasses.dataclass(frozen=True)
class ClipPairs:
    """The items of `clip_pairs`."""

    read: Replacing
    clip: AutoencoderConfig
    data: DataConfig
    windows: int
    flips: bool
    seed: int
    augment: bool
    clips: int  # of a window: 2 (previous, clip) or 3 (and next)
    lone: bool = False  # one more after those of the window: at a random place in it

    def __post_init__(self):
        check_not_empty(len(self.read.source))

    def __len__(self) -> int:
        return len(self.read.source) * self.windows * (2 if self.flips else 1)

    def __getitem__(self, index: int) -> dict:
        window, mirrored = divmod(index, 2) if self.flips else (index, None)
        rng = np.random.default_rng([self.seed, PAIRS, window])
        return self.make(window // self.windows, rng, mirrored) | {"index": index}

    def make(self, first: int, rng: np.random.Generator, mirrored: int | None) -> dict:
        """A random window of the video `first`, or of a replacement. `mirrored` None: by chance, if that is allowed."""
        data, span = self.data, clip_span(self.clip.frames, self.data.stride)

        def window(video: Video) -> dict:
            clips = min(self.clips, video.frames // span)
            start = int(rng.integers(video.frames - clips * span + 1))
            by_chance = mirrored is None and self.augment and data.flip
            mirror = rng.random() < 0.5 if by_chance else bool(mirrored)
            crop = random_crop(rng, data.crop_scale if self.augment else 1.0)
            frames = video.read(start, clips * self.clip.frames, data.stride, crop)
            frames = _mirror(frames) if mirror else frames
            # Of three clips, two can be the first two or the last two.
            has_previous = clips > 1 and (clips == self.clips or rng.random() < 0.5)
            first = 0 if has_previous else self.clip.frames
            whole = np.zeros((self.clips * self.clip.frames, *frames.shape[1:]), np.uint8)
            whole[first : first + len(frames)] = frames
            if self.lone:
                offset = int(rng.integers(len(frames) - self.clip.frames + 1))
                whole = np.concatenate([whole, frames[offset : offset + self.clip.frames]])
            has_next = {} if self.clips == 2 else {"has_next": clips == 3 or (clips == 2 and not has_previous)}
            return {
                "video": whole,
                "has_previous": has_previous,
                **has_next,
                "label": np.int32(video.label),
                "start": np.int32(start),
                "mirrored": mirror,
                "crop": np.array(dataclasses.astuple(crop or Crop(1.0, 0.5, 0.5)), np.float32),
            }

        index, made = self.read(first, rng, window)
        return made | {"source": np.int32(index)}

    def video(self, index: int) -> str:
        """The name of the video that item `index` is a window of."""
        window = index // 2 if self.flips else index
        return self.read.source[window // self.windows].name


@dataclasses.dataclass(frozen=True)
class FreshPair:
    """Sample n: a pair of the video `index` that no other sample has."""

    pairs: ClipPairs

    @property
    def read(self) -> Replacing:
        return self.pairs.read

    def __call__(self, number: int, index: int) -> dict:
        rng = np.random.default_rng([self.pairs.seed, FRESH_PAIRS, number])
        mirrored = int(rng.random() < 0.5) if self.pairs.flips else None
        return self.pairs.make(index, rng, mirrored) | {"index": number}

    def video(self, index: int) -> str:
        """The name of the video."""
        return self.read.source[index].name


@dataclasses.dataclass(frozen=True)
class Stored:
    """Sample n: the item `index` of a sequence, whose video(index) may tell the name of the video it is from."""

    items: Sequence[dict]

    @property
    def read(self) -> Any:
        return getattr(self.items, "read", None)

    def __call__(self, number: int, index: int) -> dict:
        return self.items[index]

    def video(self, index: int) -> str:
        """The name of the item's video, or of the item."""
        return self.items.video(index) if hasattr(self.items, "video") else f"item {index}"


def check_not_empty(size: int) -> None:
    if size == 0:
        raise ValueError("the source is empty: there is nothing to read")


def _mirror(frames: np.ndarray) -> np.ndarray:
    """Left and right exchanged."""
    return np.ascontiguousarray(frames[:, :, ::-1])
