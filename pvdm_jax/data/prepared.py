"""Videos of a stored dataset, each split in time into a training part and a held-out end.

A dataset is one that `pvdm prepare` wrote, or one that TFDS built (see catalogue.py).
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from pvdm_jax.config import AutoencoderConfig, ConfigError, DataConfig, require
from pvdm_jax.data.clips import (
    Crop,
    center_crop_resize,
    clip_span,
    lengthen,
    resample,
    resize,
    shrunk_size,
    train_range,
)
from pvdm_jax.data.storage import read_frames
from pvdm_jax.storage import buckets

# A split whose frames, cropped and resized, fit in here is decoded once and kept in memory.
CACHE_BYTES = 2**30


class Dataset(Protocol):
    """What is stored: for every video of a split its facts (a dict), in order, and its records."""

    class_names: tuple[str, ...]
    splits: dict[str, list[dict]]  # facts: name, label, frames, height, width, fps, stored

    def load(self, split: str, facts: dict, piece: int) -> bytes:
        """A video's record number `piece`; see storage.py."""


class PreparedDataset:
    """What `pvdm prepare` wrote. Raises ConfigError where that isn't in `path`."""

    def __init__(self, path: str):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.dataset_info import DatasetInfoFileError

        try:
            builder = tfds.builder_from_directory(path)
            index = builder.info.metadata["videos"]
        except (OSError, DatasetInfoFileError, KeyError) as error:
            allowed = f"there is no prepared dataset; `pvdm prepare --source=VIDEOS --output={path}` makes one"
            raise ConfigError(f"data.path is {path!r}; {allowed}") from error
        if isinstance(index, list):  # version 1.0.0: one split, files only
            index = {"train": [facts | {"stored": "file", "record": i} for i, facts in enumerate(index)]}
        self.splits = index
        self.class_names = tuple(builder.info.features["label"].names)
        self._records = {split: builder.as_data_source(split) for split in index}

    def load(self, split: str, facts: dict, piece: int) -> bytes:
        return self._records[split][facts["record"] + piece]["video"]


@dataclasses.dataclass
class PreparedVideo:
    """One part of a stored video. Its frame i is the frame places[i] of what is stored."""

    name: str
    label: int
    places: Sequence[int]  # a range, or int32 (frames,)
    load: Callable[[int], bytes]  # the video's records
    stored: str  # how, see storage.py
    shape: tuple[int, int, int]  # frames, height and width of what is stored
    height: int
    width: int
    resize: str
    crop_scale: float  # of the smallest crop that is asked for
    keep: bool  # the decoded frames, all of them, from the first read on
    _kept: np.ndarray | None = dataclasses.field(default=None, init=False, repr=False)

    @property
    def frames(self) -> int:
        return len(self.places)

    def read(self, start: int, count: int, stride: int = 1, crop: Crop | None = None) -> np.ndarray:
        """Frames start, start + stride, ... as uint8 (count, height, width, 3), of the centred window or of `crop`.

        Raises ValueError beyond the part's end, VideoError where the file can't be decoded.
        """
        if count < 1 or stride < 1 or start < 0 or start + (count - 1) * stride >= self.frames:
            raise ValueError(
                f"{self.name} has {self.frames} frames here; {count} from {start} on, every {stride}, aren't there"
            )
        frames = self._frames(slice(start, start + (count - 1) * stride + 1, stride))
        return center_crop_resize(frames, self.height, self.width, self.resize, crop)

    def _frames(self, which: slice) -> np.ndarray:
        """What the clip is cropped from: whole frames, no larger than needed; where there are no crops, the clip."""
        if not self.keep:
            return self._decode(self.places[which])
        if self._kept is None:  # two threads may both decode it; they agree
            kept = self._decode(self._unique())
            kept.setflags(write=False)
            self._kept = kept
        if isinstance(self.places, range):
            return self._kept[which]
        return self._kept[np.searchsorted(self._unique(), self.places[which])]

    def _unique(self) -> Sequence[int]:
        return self.places if isinstance(self.places, range) else np.unique(self.places)

    def _decode(self, numbers: Sequence[int]) -> np.ndarray:
        def fit(frame: np.ndarray) -> np.ndarray:
            if self.crop_scale < 1:
                size = shrunk_size(*frame.shape[:2], self.height, self.width, self.crop_scale)
                return resize(frame[None], *size, self.resize)[0]
            return center_crop_resize(frame[None], self.height, self.width, self.resize)[0]

        return read_frames(self.load, self.stored, self.shape, [int(n) for n in numbers], self.name, fit)

    @property
    def frame_bytes(self) -> int:
        """Memory that each frame takes which is kept."""
        size = (self.height, self.width)
        if self.crop_scale < 1:
            size = shrunk_size(*self.shape[1:], *size, self.crop_scale)
        return size[0] * size[1] * 3

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": None}  # worker processes decode for themselves


class PreparedVideos:
    """The training parts of a dataset's videos, or what is held out; see `open_source`."""

    def __init__(self, data: DataConfig, clip: AutoencoderConfig, held_out: bool):
        self.dataset = open_dataset(data.path)
        self.class_names = self.dataset.class_names
        self.facts: list[dict] = []  # what is known of each video
        self.left_out: list[str] = []  # names of videos that are too short
        self._data, self._clip, self._held_out = data, clip, held_out
        self._videos: list[PreparedVideo] = []
        for split, facts in self._chosen():
            places = self._part(facts)
            if len(places):
                self._videos.append(self._video(split, facts, places))
                self.facts.append(facts)
            elif not held_out:
                self.left_out.append(facts["name"])
        self._require_some()
        size = sum(len(video._unique()) * video.frame_bytes for video in self._videos)
        for video in self._videos:
            video.keep = size <= CACHE_BYTES

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, i: int) -> PreparedVideo:
        return self._videos[i]

    def _chosen(self) -> list[tuple[str, dict]]:
        """(split, facts) of the videos that are trained from, or evaluated on."""
        there, name, field = self.dataset.splits, self._data.split, "split"
        if self._held_out and self._data.eval_split:
            name, field = self._data.eval_split, "eval_split"
        require(name == "all" or name in there, f"data.{field}", name, f"the dataset has {', '.join(there)}")
        return [(split, facts) for split in there if name in ("all", split) for facts in there[split]]

    def _part(self, facts: dict) -> Sequence[int]:
        """The places of the frames that belong to this part of a video; none if it is too short."""
        data, span = self._data, clip_span(self._clip.frames, self._data.stride)
        places: Sequence[int] = range(facts["frames"])
        if data.fps > 0:
            allowed = (
                f"the dataset doesn't say how fast {facts['name']} plays; `pvdm prepare --fps=RATE` stores it for "
                "folders of frames and arrays; or use data.stride"
            )
            require(facts["fps"] > 0, "data.fps", data.fps, allowed)
            places = resample(facts["frames"], facts["fps"], data.fps)
        if data.eval_split == "":
            for_training = train_range(len(places), span, data.holdout)
            if self._held_out:
                # Where frames are shown twice, the first one here may be the last one there.
                seen = places[for_training - 1]
                places = places[for_training:]
                while len(places) and places[0] == seen:
                    places = places[1:]
                return places if len(places) >= span else ()
            places = places[:for_training]
        return lengthen(places, self._clip.frames, data.stride, data.short_videos)

    def _video(self, split: str, facts: dict, places: Sequence[int]) -> PreparedVideo:
        return PreparedVideo(
            name=facts["name"],
            label=facts["label"],
            places=places,
            load=functools.partial(self.dataset.load, split, facts),
            stored=facts["stored"],
            shape=(facts["frames"], facts["height"], facts["width"]),
            height=self._clip.height,
            width=self._clip.width,
            resize=self._data.resize,
            crop_scale=1.0 if self._held_out else self._data.crop_scale,
            keep=False,
        )

    def _require_some(self) -> None:
        if self._videos or (self._held_out and not self._data.eval_split):
            return
        data, span = self._data, clip_span(self._clip.frames, self._data.stride)
        longest = max((facts for _, facts in self._chosen()), key=lambda facts: facts["frames"])
        rate = f", data.fps={data.fps:g}" if data.fps else ""
        allowed = (
            f"no video in it has the {span} frames that a clip needs (autoencoder.frames={self._clip.frames}, "
            f"data.stride={data.stride}{rate}); the longest, {longest['name']}, has {longest['frames']}; "
            "data.short_videos=loop or pad would use it"
        )
        raise ConfigError(f"data.path is {data.path!r}; {allowed}")


@functools.lru_cache(maxsize=4)  # training and held-out parts are of one dataset
def _opened(path: str, changed: int) -> Dataset:
    from pvdm_jax.data.catalogue import Catalogue, catalogue_folder

    if os.path.exists(os.path.join(path, "metadata.json")):
        return PreparedDataset(path)
    folder = catalogue_folder(path)
    return Catalogue(folder) if folder else PreparedDataset(path)


def open_dataset(path: str) -> Dataset:
    """The dataset in a folder, or the one that TFDS built under this name. Raises ConfigError where there is none.

    One in a bucket (gs://) is first copied to this machine, as far as it isn't there yet.
    """
    if buckets.in_bucket(path):
        folder = buckets.local(path)
        buckets.fetch(folder)
        path = str(folder)
    info = os.path.join(path, "dataset_info.json")
    return _opened(path, os.stat(info).st_mtime_ns if os.path.exists(info) else 0)
