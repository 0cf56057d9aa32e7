"""Where videos come from: one interface for the synthetic source and for datasets by `pvdm prepare` or TFDS.

A source is a sequence of videos; a video knows its length and returns frames already cropped and resized to the model's
clips. Every source has two parts that share no frame: "train" and "holdout".
"""

import logging
from typing import Protocol

import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig, require
from pvdm_jax.data.clips import Crop, clip_span
from pvdm_jax.data.synthetic import SyntheticVideos

SPLITS = ("train", "holdout")
# Held-out synthetic videos are numbered from here on, far beyond any training set of the same seed.
FIRST_HELD_OUT_INDEX = 2**30


class Video(Protocol):
    """One video, or the part of it that belongs to the source's split."""

    name: str
    label: int  # index into the source's class_names, -1: none
    frames: int

    def read(self, start: int, count: int, stride: int = 1, crop: Crop | None = None) -> np.ndarray:
        """Frames start, start + stride, ... as uint8 (count, height, width, 3), of the centred window or of `crop`."""


class VideoSource(Protocol):
    """A sequence of videos."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Video: ...


def open_source(data: DataConfig, clip: AutoencoderConfig, split: str, seed: int) -> VideoSource:
    """Opens the `split` ("train" or "holdout") of the source that `data` names, for clips of `clip`'s size.

    Videos shorter than a clip are skipped, unless `data.short_videos` says how to lengthen them. The held-out part of a
    dataset is the split `data.eval_split`. Without `data.eval_split`, it is the end of each video of at least two
    clips, and empty (length 0) if all videos are shorter or `data.holdout` is 0. The synthetic source holds out as many
    other videos as it has for training. Only the synthetic source depends on `seed`. Raises ConfigError if the dataset
    is missing or has no video long enough for a clip.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    if data.source == "synthetic":
        span = clip_span(clip.frames, data.stride)
        allowed = f"a clip of {clip.frames} frames, every {data.stride}, needs at least {span}"
        require(data.synthetic_frames >= span, "data.synthetic_frames", data.synthetic_frames, allowed)
        first = 0 if split == "train" else FIRST_HELD_OUT_INDEX
        return SyntheticVideos(data.synthetic_videos, data.synthetic_frames, clip.height, clip.width, seed, first)
    # TFDS takes seconds to import, so it is imported only to read a stored dataset.
    from pvdm_jax.data.stored_videos import StoredVideos

    return StoredVideos(data, clip, held_out=split == "holdout")


def open_held_out(data: DataConfig, clip: AutoencoderConfig, seed: int) -> VideoSource:
    """The held-out part of the source; its training part, with a warning, if nothing is held out."""
    source = open_source(data, clip, "holdout", seed)
    if len(source):
        return source
    logging.warning(
        "nothing is held out from training (data.holdout is %s, or no video has two clips): "
        "evaluation uses training clips, and its numbers say nothing about new videos",
        data.holdout,
    )
    return open_source(data, clip, "train", seed)
