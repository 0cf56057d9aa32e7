"""Batches for training and fixed clips for evaluation, made by Grain.

Whatever is random is a function of (seed, sample number) alone. So batch k is the same after a restart, with any
number of threads, and however many processes share it.
"""

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.clips import clip_span, random_crop
from pvdm_jax.data.sources import Video, VideoSource
from pvdm_jax.media import VideoError

# Samples of a stream, for Grain, which wants a number.
ENDLESS = 2**62
# Replacements tried for a video that can't be decoded. Beyond that the data set is broken, not a file of it.
MAX_REPLACEMENTS = 20


def train_batches(
    source: VideoSource,
    clip: AutoencoderConfig,
    data: DataConfig,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of random windows, from batch `start_step` on: this process's share of each.

    Yields {"video": uint8 (batch_size / process_count, frames, height, width, 3), "label": int32 (the same,)}. Every
    epoch visits all videos in a new order. Concatenating the processes' shares gives the global batch. A video that
    can't be decoded is replaced by another and reported once. Raises ValueError where the processes can't share
    `batch_size` evenly or the source is empty, VideoError where nothing can be decoded.
    """
    span = clip_span(clip.frames, data.stride)
    read = _Replacing(source)

    def sample(number: int, index: int) -> dict:
        rng = np.random.default_rng([seed, 0, number])

        def window(video: Video) -> np.ndarray:
            start = int(rng.integers(video.frames - span + 1))
            mirrored = data.flip and rng.random() < 0.5
            frames = video.read(start, clip.frames, data.stride, random_crop(rng, data.crop_scale))
            return _mirror(frames) if mirrored else frames

        video, frames = read(index, rng, window)
        return {"video": frames, "label": np.int32(video.label)}

    stream = (seed, start_step, process_index, process_count)
    return _batches(sample, len(source), batch_size, *stream, data.threads, data.prefetch)


def latent_batches(
    latents: Sequence[dict[str, np.ndarray]],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    prefetch: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of stored items (dicts of arrays), stacked; order and shares as in `train_batches`."""

    def sample(number: int, index: int) -> dict:
        return latents[index]

    stream = (seed, start_step, process_index, process_count)
    return _batches(sample, len(latents), batch_size, *stream, threads, prefetch)


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
    source: VideoSource, clip: AutoencoderConfig, data: DataConfig, windows: int, seed: int, augment: bool = True
) -> grain.MapDataset:
    """`windows` random windows of two consecutive clips from every video, as a sequence; decoded when asked for.

    Item i is {"video": uint8 (2 * frames, height, width, 3), "has_previous": bool, "label": int, "index": i}, a
    function of (seed, i); i // windows is the video. A video too short for two clips gives one clip, in the second
    half, after zeros, and has_previous is False. `augment` allows `data.flip` and `data.crop_scale`. Videos that can't
    be decoded are replaced as in `train_batches`. `.to_iter_dataset(grain.ReadOptions(threads, buffer))` reads ahead.
    """
    _check_not_empty(len(source))
    span = clip_span(clip.frames, data.stride)
    read = _Replacing(source)

    def pair(index: int) -> dict:
        rng = np.random.default_rng([seed, 1, index])

        def window(video: Video) -> np.ndarray:
            clips = 2 if video.frames >= 2 * span else 1
            start = int(rng.integers(video.frames - clips * span + 1))
            mirrored = augment and data.flip and rng.random() < 0.5
            crop = random_crop(rng, data.crop_scale if augment else 1.0)
            frames = video.read(start, clips * clip.frames, data.stride, crop)
            frames = _mirror(frames) if mirrored else frames
            return frames if clips == 2 else np.concatenate([np.zeros_like(frames), frames])

        video, frames = read(index // windows, rng, window)
        return {"video": frames, "has_previous": video.frames >= 2 * span, "label": video.label, "index": index}

    return grain.MapDataset.range(len(source) * windows).map(lambda index: pair(int(index)))


class _Replacing:
    """Reads from a video of a source, or from a random other one where that fails, and reports each failure once."""

    def __init__(self, source: VideoSource):
        self._source = source
        self._reported: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, first: int, rng: np.random.Generator, read: Callable) -> tuple[Video, np.ndarray]:
        """(video, read(video)) of source[first], or of a replacement drawn by `rng`."""
        index = first
        for _ in range(1 + MAX_REPLACEMENTS):
            video = self._source[index]
            try:
                return video, read(video)
            except (VideoError, OSError) as error:
                self._report(video.name, error)
                index = int(rng.integers(len(self._source)))
        raise VideoError(f"{video.name}, and {MAX_REPLACEMENTS} others before it, can't be decoded")

    def _report(self, name: str, error: Exception) -> None:
        with self._lock:
            if name not in self._reported:
                self._reported.add(name)
                logging.warning("replaced by another video from now on: %s", error)


def _batches(
    sample: Callable[[int, int], dict],
    size: int,
    batch_size: int,
    seed: int,
    start_step: int,
    process_index: int,
    process_count: int,
    threads: int,
    prefetch: int,
) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of the endless batches of sample(n, item) for n = 0, 1, ...

    Item n is element n of the numbers below `size`, shuffled anew in every epoch; batch k holds samples
    k * batch_size, ..., (k + 1) * batch_size - 1, and each process makes a contiguous part of it.
    """
    _check_not_empty(size)
    if batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size}; it must be a multiple of the number of processes ({process_count})"
        )
    share = batch_size // process_count

    # Grain's own shuffle takes a millisecond an element on small sets.
    @functools.lru_cache(maxsize=16)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, 2, epoch]).permutation(size)

    def make(local: int) -> dict:
        step, row = divmod(int(local), share)
        number = step * batch_size + process_index * share + row
        epoch, place = divmod(number, size)
        return sample(number, int(order(epoch)[place]))

    batches = grain.MapDataset.range(start_step * share, ENDLESS).map(make).batch(share)
    # Each thread makes whole batches, so that the consumer's thread has nothing left to do.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return iter(batches.to_iter_dataset(options))


def _spread(count: int, size: int) -> list[int]:
    """`count` different numbers below `size`: the middles of as many equal parts."""
    return [(2 * k + 1) * size // (2 * count) for k in range(count)]


def _check_not_empty(size: int) -> None:
    if size == 0:
        raise ValueError("the source is empty: there is nothing to read")


def _mirror(frames: np.ndarray) -> np.ndarray:
    """Left and right exchanged."""
    return np.ascontiguousarray(frames[:, :, ::-1])
