"""Batches for training and fixed clips for evaluation, made by Grain.

Whatever is random is a function of (seed, sample number) alone. So batch k is the same after a restart, with any
number of threads or worker processes, and however many processes of a multi-host run share it.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.clips import Crop, clip_span, random_crop
from pvdm_jax.data.sources import Video, VideoSource
from pvdm_jax.media import VideoError

# Samples of a stream, for Grain, which wants a number.
ENDLESS = 2**62
# Replacements tried for a video that can't be decoded. Beyond that the data set is broken, not a file of it.
MAX_REPLACEMENTS = 20
# What the random numbers of a sample are for; the second part of their seeds.
WINDOWS, PAIRS, ORDER, FRESH_PAIRS = range(4)


class Batches(Iterator[dict[str, np.ndarray]]):
    """An endless iterator of batches. `close` ends its threads and worker processes."""

    def __init__(self, iterator: Any, broken: dict[str, str]):
        self._iterator = iterator
        self.broken = broken  # name: reason, of the videos that were replaced (by this process, not by its workers)

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def close(self) -> None:
        if hasattr(self._iterator, "close"):
            self._iterator.close()


def train_batches(
    source: VideoSource,
    clip: AutoencoderConfig,
    data: DataConfig,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless batches of random windows, from batch `start_step` on: this process's share of each.

    Yields {"video": uint8 (batch_size / process_count, frames, height, width, 3), "label": int32 (the same,)}. Every
    epoch visits all videos in a new order. Concatenating the processes' shares gives the global batch. A video that
    can't be decoded is replaced by another and reported once. Raises ValueError where the processes can't share
    `batch_size` evenly or the source is empty, VideoError where nothing can be decoded.
    """
    sample = _RandomWindow(_Replacing(source), clip, data, seed)
    share = _Share(batch_size, start_step, process_index, process_count)
    return _batches(sample, len(source), seed, share, data.workers, data.threads, data.prefetch)


def latent_batches(
    latents: Sequence[dict[str, np.ndarray]],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    prefetch: int = 4,
) -> Batches:
    """Endless batches of stored items (dicts of arrays), stacked; order and shares as in `train_batches`."""
    share = _Share(batch_size, start_step, process_index, process_count)
    return _batches(_Stored(latents), len(latents), seed, share, 0, threads, prefetch)


def pair_batches(
    source: VideoSource,
    clip: AutoencoderConfig,
    data: DataConfig,
    windows: int,
    flips: bool,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    clips: int = 2,
) -> Batches:
    """Endless batches of the items of `clip_pairs`, in the order in which `latent_batches` takes what was made of them.

    With `windows` 0 every sample is a new random window, instead of one of a fixed number for each video.
    """
    pairs = ClipPairs(_Replacing(source), clip, data, windows, flips, seed, True, clips)
    share = _Share(batch_size, start_step, process_index, process_count)
    size = len(pairs) if windows else len(source)
    sample = _Stored(pairs) if windows else _FreshPair(pairs)
    return _batches(sample, size, seed, share, data.workers, data.threads, data.prefetch)


def fixed_clips(source: VideoSource, clip: AutoencoderConfig, data: DataConfig, count: int) -> dict:
    """`count` windows spread evenly over the videos and within them, always the same ones.

    Returns {"video": uint8 (count, frames, height, width, 3), "label": int32 (count,), "name": list of str}. They are
    fewer where there aren't that many different windows, or where a video can't be decoded (which is reported).
    Raises ValueError for an empty source, VideoError where nothing can be decoded.
    """
    _check_not_empty(len(source))
    span = clip_span(clip.frames, data.stride)
    starts = [source[i].frames - span + 1 for i in range(len(source))]
    # The smallest number of windows a video that is enough; short videos give as many as they have.
    each = 1
    while sum(min(each, n) for n in starts) < count and each < max(starts):
        each += 1
    windows = [(i, start) for i, n in enumerate(starts) for start in _spread(min(each, n), n)]
    clips, labels, names = [], [], []
    for i, start in (windows[k] for k in _spread(min(count, len(windows)), len(windows))):
        video = source[i]
        try:
            clips.append(video.read(start, clip.frames, data.stride))
        except (VideoError, OSError) as error:
            logging.warning("left out of the fixed clips: %s", error)
            continue
        labels.append(video.label)
        names.append(video.name)
    if not clips:
        raise VideoError(f"none of the {min(count, len(windows))} fixed clips can be decoded")
    return {"video": np.stack(clips), "label": np.array(labels, np.int32), "name": names}


def clip_pairs(
    source: VideoSource,
    clip: AutoencoderConfig,
    data: DataConfig,
    windows: int,
    seed: int,
    augment: bool = True,
    flips: bool = False,
    clips: int = 2,
) -> "ClipPairs":
    """`windows` random windows of two consecutive clips from every video, as a sequence; decoded when asked for.

    Item i is a function of (seed, i):

        video: uint8 (2 * frames, height, width, 3); label: int; index: i
        has_previous: bool. A video too short for two clips gives one clip, in the second half, after zeros
        source, start, mirrored, crop: where it is from: the video's number in the source, its first frame there,
            whether it was mirrored, and (scale, row, column) of its window

    i // windows is the video. With `flips` there are twice as many: items 2 i and 2 i + 1 are a window and its mirror
    image. Otherwise `data.flip` decides by chance. `augment` allows that, and `data.crop_scale`.

    With `clips` 3 a window is of three clips, of which the second is the one that the others stand beside, and an item
    has has_next too; a video of only two clips gives either the first two or the last two. Videos that can't be decoded
    are replaced as in `train_batches`.
    """
    return ClipPairs(_Replacing(source), clip, data, windows, flips and augment, seed, augment, clips)


def read_ahead(items: Sequence[dict], rows: Sequence[Sequence[int]], data: DataConfig) -> Batches:
    """For each list of `rows`, those of `items` (dicts of arrays), stacked; made ahead by threads or processes."""
    numbers = grain.MapDataset.range(len(rows)).map(_Rows(items, rows))
    return Batches(_stream(numbers, data.workers, data.threads, data.prefetch), items.read.broken)


@dataclasses.dataclass(frozen=True)
class _Rows:
    items: Sequence[dict]
    rows: Sequence[Sequence[int]]

    def __call__(self, number: int) -> dict:
        found = [self.items[int(row)] for row in self.rows[int(number)]]
        return {name: np.stack([item[name] for item in found]) for name in found[0]}


def _stream(dataset: grain.MapDataset, workers: int, threads: int, prefetch: int) -> Any:
    """An iterator over `dataset`, read ahead by `threads` threads in each of `workers` processes (0: in this one)."""
    # Each thread makes whole elements, so that the consumer's thread has nothing left to do.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    elements = dataset.to_iter_dataset(options)
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain's workers look at absl's flags, which only absl's programs parse
            flags.FLAGS.mark_as_parsed()
        buffer = max(1, prefetch // workers)
        elements = elements.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=buffer))
    return iter(elements)


class _Replacing:
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
class _RandomWindow:
    """Sample n of `train_batches`: a random window of the video `index`."""

    read: _Replacing
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


@dataclasses.dataclass(frozen=True)
class ClipPairs:
    """The items of `clip_pairs`."""

    read: _Replacing
    clip: AutoencoderConfig
    data: DataConfig
    windows: int
    flips: bool
    seed: int
    augment: bool
    clips: int  # of a window: 2 (previous, clip) or 3 (and next)

    def __post_init__(self):
        _check_not_empty(len(self.read.source))

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


@dataclasses.dataclass(frozen=True)
class _FreshPair:
    """Sample n: a pair of the video `index` that no other sample has."""

    pairs: ClipPairs

    @property
    def read(self) -> _Replacing:
        return self.pairs.read

    def __call__(self, number: int, index: int) -> dict:
        rng = np.random.default_rng([self.pairs.seed, FRESH_PAIRS, number])
        mirrored = int(rng.random() < 0.5) if self.pairs.flips else None
        return self.pairs.make(index, rng, mirrored) | {"index": number}


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Sample n: the item `index` of a sequence."""

    items: Sequence[dict]

    @property
    def read(self) -> Any:
        return getattr(self.items, "read", None)

    def __call__(self, number: int, index: int) -> dict:
        return self.items[index]


@dataclasses.dataclass(frozen=True)
class _Share:
    """Which batches of a stream one process makes, from the first one on, and which part of each."""

    batch_size: int
    start_step: int
    process_index: int
    process_count: int

    def __post_init__(self):
        if self.batch_size % self.process_count:
            raise ValueError(
                f"batch_size is {self.batch_size}; it must be a multiple of the number of processes "
                f"({self.process_count})"
            )

    @property
    def size(self) -> int:
        return self.batch_size // self.process_count

    def number(self, local: int) -> int:
        """Of the stream's samples, the one that is this process's number `local`."""
        step, row = divmod(local, self.size)
        return step * self.batch_size + self.process_index * self.size + row


class _Order:
    """Element n of the numbers below `size`, shuffled anew in every epoch.

    Grain's own shuffle takes a millisecond an element on small sets.
    """

    KEPT = 4  # epochs, as threads may be at work on neighbouring ones

    def __init__(self, size: int, seed: int):
        self._size, self._seed = size, seed
        self._epochs: dict[int, np.ndarray] = {}

    def __call__(self, number: int) -> int:
        epoch, place = divmod(number, self._size)
        order = self._epochs.get(epoch)
        if order is None:
            order = np.random.default_rng([self._seed, ORDER, epoch]).permutation(self._size).astype(np.int32)
            # A new dict, so that no other thread sees one that changes under it.
            recent = sorted(self._epochs.items())[-self.KEPT + 1 :]
            self._epochs = dict([*recent, (epoch, order)])
        return int(order[place])


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """What Grain maps over the numbers of a process's samples."""

    sample: Callable[[int, int], dict]
    share: _Share
    order: _Order

    def __call__(self, local: int) -> dict:
        number = self.share.number(int(local))
        return self.sample(number, self.order(number))


def _batches(
    sample: Callable[[int, int], dict], size: int, seed: int, share: _Share, workers: int, threads: int, prefetch: int
) -> Batches:
    """This process's share of the endless batches of sample(n, item) for n = 0, 1, ...

    Item n is element n of the numbers below `size`, shuffled anew in every epoch; batch k holds samples
    k * batch_size, ..., (k + 1) * batch_size - 1, and each process makes a contiguous part of it.
    """
    _check_not_empty(size)
    numbers = grain.MapDataset.range(share.start_step * share.size, ENDLESS)
    batches = numbers.map(_Numbered(sample, share, _Order(size, seed))).batch(share.size)
    read = getattr(sample, "read", None)
    return Batches(_stream(batches, workers, threads, prefetch), read.broken if read else {})


def _spread(count: int, size: int) -> list[int]:
    """`count` different numbers below `size`: the middles of as many equal parts."""
    return [(2 * k + 1) * size // (2 * count) for k in range(count)]


def _check_not_empty(size: int) -> None:
    if size == 0:
        raise ValueError("the source is empty: there is nothing to read")


def _mirror(frames: np.ndarray) -> np.ndarray:
    """Left and right exchanged."""
    return np.ascontiguousarray(frames[:, :, ::-1])
