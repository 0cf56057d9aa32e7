"""Batches for training and fixed clips for evaluation, made by Grain.

Whatever is random is a function of (seed, sample number) alone. So batch k is the same after a restart, with any
number of threads or worker processes, and however many processes of a multi-host run share it.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.clips import clip_span
from pvdm_jax.data.samples import ORDER, ClipPairs, FreshPair, RandomWindow, Replacing, Stored, check_not_empty
from pvdm_jax.data.sources import VideoSource
from pvdm_jax.video.errors import VideoError

# Samples of a stream, for Grain, which wants a number.
ENDLESS = 2**62


class Batches(Iterator[dict[str, np.ndarray]]):
    """An endless iterator of batches. `close` ends its threads and worker processes.

    broken: name: reason, of the videos that were replaced (by this process, not by its workers).
    """

    def __init__(self, iterator: Any, broken: dict[str, str], videos: Callable[[int], list[str]] | None = None):
        self._iterator, self._videos, self.broken = iterator, videos, broken

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def videos(self, step: int) -> list[str]:
        """The names of the videos that batch `step` takes its samples from, all processes' shares in order.

        Found out without decoding anything, so those that would have to be replaced have their own names.
        """
        return self._videos(step) if self._videos else []

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
    sample = RandomWindow(Replacing(source), clip, data, seed)
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
    return _batches(Stored(latents), len(latents), seed, share, 0, threads, prefetch)


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
    lone: bool = False,
) -> Batches:
    """Endless batches of the items of `clip_pairs`, in the order in which `latent_batches` takes what was made of them.

    With `windows` 0 every sample is a new random window, instead of one of a fixed number for each video.
    """
    pairs = ClipPairs(Replacing(source), clip, data, windows, flips, seed, True, clips, lone)
    share = _Share(batch_size, start_step, process_index, process_count)
    size = len(pairs) if windows else len(source)
    sample = Stored(pairs) if windows else FreshPair(pairs)
    return _batches(sample, size, seed, share, data.workers, data.threads, data.prefetch)


def fixed_clips(source: VideoSource, clip: AutoencoderConfig, data: DataConfig, count: int) -> dict:
    """`count` windows spread evenly over the videos and within them, always the same ones.

    Returns {"video": uint8 (count, frames, height, width, 3), "label": int32 (count,), "name": list of str}. They are
    fewer where there aren't that many different windows, or where a video can't be decoded (which is reported).
    Raises ValueError for an empty source, VideoError where nothing can be decoded.
    """
    check_not_empty(len(source))
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
    lone: bool = False,
) -> ClipPairs:
    """`windows` random windows of two consecutive clips from every video, as a sequence; decoded when asked for.

    Item i is a function of (seed, i):

        video: uint8 (2 * frames, height, width, 3); label: int; index: i
        has_previous: bool. A video too short for two clips gives one clip, in the second half, after zeros
        source, start, mirrored, crop: where it is from: the video's number in the source, its first frame there,
            whether it was mirrored, and (scale, row, column) of its window

    i // windows is the video. With `flips` there are twice as many: items 2 i and 2 i + 1 are a window and its mirror
    image. Otherwise `data.flip` decides by chance. `augment` allows that, and `data.crop_scale`.

    With `clips` 3 a window is of three clips, of which the second is the one that the others stand beside, and an item
    has has_next too; a video of only two clips gives either the first two or the last two. With `lone` one more clip
    follows in "video": at a place of its own, any with equal probability, among the frames of the window that are
    there. Videos that can't be decoded are replaced as in `train_batches`.
    """
    return ClipPairs(Replacing(source), clip, data, windows, flips and augment, seed, augment, clips, lone)


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
    sample: RandomWindow | FreshPair | Stored,
    size: int,
    seed: int,
    share: _Share,
    workers: int,
    threads: int,
    prefetch: int,
) -> Batches:
    """This process's share of the endless batches of sample(n, item) for n = 0, 1, ...

    Item n is element n of the numbers below `size`, shuffled anew in every epoch; batch k holds samples
    k * batch_size, ..., (k + 1) * batch_size - 1, and each process makes a contiguous part of it.
    """
    check_not_empty(size)
    order = _Order(size, seed)
    numbers = grain.MapDataset.range(share.start_step * share.size, ENDLESS)
    batches = numbers.map(_Numbered(sample, share, order)).batch(share.size)
    read = getattr(sample, "read", None)

    def videos(step: int) -> list[str]:
        rows = range(step * share.batch_size, (step + 1) * share.batch_size)
        return [sample.video(order(number)) for number in rows]

    return Batches(_stream(batches, workers, threads, prefetch), read.broken if read else {}, videos)


def _spread(count: int, size: int) -> list[int]:
    """`count` different numbers below `size`: the middles of as many equal parts."""
    return [(2 * k + 1) * size // (2 * count) for k in range(count)]
