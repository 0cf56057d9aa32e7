"""The samples that batches consist of: random windows of videos, windows of consecutive clips, stored items.

Each depends only on the seed and the sample's number, and can be sent to another process.
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

# Replacements tried for a video that can't be decoded. If these fail too, not just a file but the dataset is broken.
MAX_REPLACEMENTS = 20
# The second part of random seeds: what the random numbers are for.
WINDOWS = 0
PAIRS = 1
ORDER = 2
FRESH_PAIRS = 3


class Replacing:
    """Reads from a video of a source, or from another random video if that fails; reports each failure once."""

    def __init__(self, source: VideoSource):
        self.source = source
        self.broken: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, first: int, rng: np.random.Generator, read: Callable[[Video], Any]) -> tuple[int, Any]:
        """(index, read(source[index])) for index = first, or for a replacement drawn from `rng`."""
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
        data = self.data
        rng = np.random.default_rng([self.seed, WINDOWS, number])
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
class PairSpec:
    """Which windows of consecutive clips are taken from a source."""

    windows: int  # of each video; 0: every sample is a new window (in `pair_batches` only)
    next_clip: bool = False  # windows of three clips: previous, clip, next; else of two
    unconditional: bool = False  # one more clip, at a random place among the window's frames
    flips: bool = False  # take every window mirrored as well
    augment: bool = True  # allow `flips`, and random mirroring and crops as the data's configuration says

    @property
    def clips(self) -> int:
        """The number of consecutive clips of a window."""
        return 3 if self.next_clip else 2

    @property
    def both_ways(self) -> bool:
        """Whether every window is taken twice, the second time mirrored."""
        return self.flips and self.augment


@dataclasses.dataclass(frozen=True)
class ClipPairs:
    """The items of `loader.clip_pairs`."""

    read: Replacing
    clip: AutoencoderConfig
    data: DataConfig
    spec: PairSpec
    seed: int

    def __post_init__(self):
        check_not_empty(len(self.read.source))

    def __len__(self) -> int:
        return len(self.read.source) * self.spec.windows * (2 if self.spec.both_ways else 1)

    def __getitem__(self, index: int) -> dict:
        window, mirrored = divmod(index, 2) if self.spec.both_ways else (index, None)
        rng = np.random.default_rng([self.seed, PAIRS, window])
        return self.make(window // self.spec.windows, rng, mirrored) | {"index": index}

    def make(self, first: int, rng: np.random.Generator, mirrored: int | None) -> dict:
        """A random window of the video `first`, or of a replacement. mirrored: None decides at random, if allowed."""
        index, item = self.read(first, rng, lambda video: self._window(video, rng, mirrored))
        return item | {"source": np.int32(index)}

    def _window(self, video: Video, rng: np.random.Generator, mirrored: int | None) -> dict:
        data = self.data
        spec = self.spec
        length = self.clip.frames
        span = clip_span(length, data.stride)

        # Where the window lies. The order of random numbers decides the items, so it must not change.
        clips = min(spec.clips, video.frames // span)
        start = int(rng.integers(video.frames - clips * span + 1))
        by_chance = mirrored is None and spec.augment and data.flip
        mirror = rng.random() < 0.5 if by_chance else bool(mirrored)
        crop = random_crop(rng, data.crop_scale if spec.augment else 1.0)
        frames = video.read(start, clips * length, data.stride, crop)
        frames = _mirror(frames) if mirror else frames

        # Which of the window's clips the video has: if it has two of three, the first two or the last two.
        has_previous = clips > 1 and (clips == spec.clips or rng.random() < 0.5)
        has_next = clips == 3 or (clips == 2 and not has_previous)
        first = 0 if has_previous else length
        whole = np.zeros((spec.clips * length, *frames.shape[1:]), np.uint8)
        whole[first : first + len(frames)] = frames
        if spec.unconditional:
            offset = int(rng.integers(len(frames) - length + 1))
            whole = np.concatenate([whole, frames[offset : offset + length]])

        item = {
            "video": whole,
            "has_previous": has_previous,
            "label": np.int32(video.label),
            "start": np.int32(start),
            "mirrored": mirror,
            "crop": np.array(dataclasses.astuple(crop or Crop(1.0, 0.5, 0.5)), np.float32),
        }
        return item | {"has_next": has_next} if spec.next_clip else item

    def video(self, index: int) -> str:
        """The name of the video that item `index` is a window of."""
        window = index // 2 if self.spec.both_ways else index
        return self.read.source[window // self.spec.windows].name


@dataclasses.dataclass(frozen=True)
class FreshPair:
    """Sample n: a new random window of the video `index`."""

    pairs: ClipPairs

    @property
    def read(self) -> Replacing:
        return self.pairs.read

    def __call__(self, number: int, index: int) -> dict:
        rng = np.random.default_rng([self.pairs.seed, FRESH_PAIRS, number])
        mirrored = int(rng.random() < 0.5) if self.pairs.spec.both_ways else None
        return self.pairs.make(index, rng, mirrored) | {"index": number}

    def video(self, index: int) -> str:
        """The name of the video."""
        return self.read.source[index].name


@dataclasses.dataclass(frozen=True)
class Stored:
    """Sample n: item `index` of a sequence, which may have `read` and `video(index)` as `ClipPairs` does."""

    items: Sequence[dict]

    @property
    def read(self) -> Replacing | None:
        return getattr(self.items, "read", None)

    def __call__(self, number: int, index: int) -> dict:
        return self.items[index]

    def video(self, index: int) -> str:
        """The name of the item's video; without one, the item's number."""
        return self.items.video(index) if hasattr(self.items, "video") else f"item {index}"


def check_not_empty(size: int) -> None:
    """Raises ValueError for a source of no videos."""
    if size == 0:
        raise ValueError("the source is empty: there is nothing to read")


def _mirror(frames: np.ndarray) -> np.ndarray:
    """Frames (t, h, w, 3) with left and right exchanged."""
    return np.ascontiguousarray(frames[:, :, ::-1])
