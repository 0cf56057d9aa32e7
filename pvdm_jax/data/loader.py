"""What training and evaluation read: batches of random windows, pairs of clips or stored items, and fixed clips.

Everything random is a function of the seed and a sample's number; see streams.py for the order of samples.
"""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.clips import clip_span
from pvdm_jax.data.samples import (
    ClipPairs,
    FreshPair,
    PairSpec,
    RandomWindow,
    Replacing,
    Stored,
    check_not_empty,
)
from pvdm_jax.data.sources import VideoSource
from pvdm_jax.data.streams import Batches, BatchSpec, endless_batches
from pvdm_jax.video.errors import VideoError


def train_batches(source: VideoSource, clip: AutoencoderConfig, data: DataConfig, batches: BatchSpec) -> Batches:
    """This process's share of endless batches of random windows.

    Yields {"video": uint8 (b, frames, height, width, 3), "label": int32 (b,)}. Every epoch visits all videos in a new
    order. Concatenating the shares of all processes gives the global batch. A video that can't be decoded is replaced
    by another and reported once. Raises ValueError if the source is empty, VideoError if nothing can be decoded.
    """
    sample = RandomWindow(Replacing(source), clip, data, batches.seed)
    return endless_batches(sample, len(source), data, batches)


def latent_batches(latents: Sequence[dict[str, np.ndarray]], data: DataConfig, batches: BatchSpec) -> Batches:
    """Endless batches of stored items (dicts of arrays), stacked; order and shares as in `train_batches`.

    They are read by `data.threads` threads; worker processes would not pay off.
    """
    return endless_batches(Stored(latents), len(latents), dataclasses.replace(data, workers=0), batches)


def pair_batches(
    source: VideoSource, clip: AutoencoderConfig, data: DataConfig, pairs: PairSpec, batches: BatchSpec
) -> Batches:
    """Endless batches of the items of `clip_pairs`, in the order in which `latent_batches` takes their latents.

    If `pairs.windows` is 0, every sample is a new random window, instead of one of a fixed number for each video.
    """
    items = clip_pairs(source, clip, data, pairs, batches.seed)
    if pairs.windows:
        return endless_batches(Stored(items), len(items), data, batches)
    return endless_batches(FreshPair(items), len(source), data, batches)


def clip_pairs(source: VideoSource, clip: AutoencoderConfig, data: DataConfig, spec: PairSpec, seed: int) -> ClipPairs:
    """`spec.windows` random windows of consecutive clips from every video, as a sequence decoded on access.

    Item i is a function of (seed, i), a dict:

        video: uint8 (clips * frames, height, width, 3): the previous clip, the clip and, if `spec` asks for them, the
            next clip and one at a random place among the window's frames
        has_previous, and with a next clip has_next: bool; a clip that the video doesn't have is black
        label: int; index: i
        source, start, mirrored, crop: the video's number in the source, the window's first frame in it, whether it was
            mirrored, and (scale, row, column) of its crop

    A video that is too short for a whole window gives a shorter one. A single clip has no neighbours. If a window of
    three clips has only two, chance decides whether the previous or the next clip is missing. The windows of a video
    have consecutive numbers, and with `spec.flips` items 2 i and 2 i + 1 are a window and its mirror image. Videos that
    can't be decoded are replaced as in `train_batches`.
    """
    return ClipPairs(Replacing(source), clip, data, spec, seed)


def fixed_clips(source: VideoSource, clip: AutoencoderConfig, data: DataConfig, count: int) -> dict:
    """`count` windows spread evenly over the videos and within them, the same ones in every call.

    Returns {"video": uint8 (count, frames, height, width, 3), "label": int32 (count,), "name": list of str}, with fewer
    windows if the source has fewer different ones or a video can't be decoded (which is reported). Raises ValueError
    for an empty source, VideoError if nothing can be decoded.
    """
    check_not_empty(len(source))
    span = clip_span(clip.frames, data.stride)
    starts = [source[i].frames - span + 1 for i in range(len(source))]
    # The smallest sufficient number of windows per video; short videos give as many as they have.
    each = 1
    while sum(min(each, n) for n in starts) < count and each < max(starts):
        each += 1
    windows = [(i, start) for i, n in enumerate(starts) for start in _spread(min(each, n), n)]
    clips = []
    labels = []
    names = []
    for i, start in (windows[k] for k in _spread(min(count, len(windows)), len(windows))):
        video = source[i]
        try:
            clips.append(video.read(start, clip.frames, data.stride))
        except (VideoError, OSError) as error:
            logging.warning("skipped in the fixed clips: %s", error)
            continue
        labels.append(video.label)
        names.append(video.name)
    if not clips:
        raise VideoError(f"none of the {min(count, len(windows))} fixed clips can be decoded")
    return {"video": np.stack(clips), "label": np.array(labels, np.int32), "name": names}


def _spread(count: int, size: int) -> list[int]:
    """`count` different numbers below `size`: the middles of `count` equal parts."""
    return [(2 * k + 1) * size // (2 * count) for k in range(count)]
