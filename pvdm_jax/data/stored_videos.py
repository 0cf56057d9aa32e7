"""Videos of a stored dataset, each divided in time into a training part and a held-out end."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from pvdm_jax.config import AutoencoderConfig, ConfigError, DataConfig, require
from pvdm_jax.data.clips import (
    Crop,
    center_crop_resize,
    check_frames,
    clip_span,
    lengthen,
    resample,
    resize,
    shrunk_size,
    train_range,
)
from pvdm_jax.data.datasets import open_dataset
from pvdm_jax.data.records import read_frames

# If all frames of a split, cropped and resized, fit into this, they are decoded once and kept in memory.
CACHE_BYTES = 2**30


@dataclasses.dataclass
class StoredVideo:
    """One part of a stored video. Its frame i is frame places[i] of the stored one."""

    name: str
    label: int
    places: Sequence[int]  # a range, or int32 (frames,)
    load: Callable[[int], bytes]  # gives the bytes of record number 0, 1, ... of the video
    stored: str  # how the records store the video, see records.py
    shape: tuple[int, int, int]  # frames, height and width of the stored video
    height: int
    width: int
    resize: str
    crop_scale: float  # the smallest scale of a crop that will be requested
    keep: bool  # whether to keep all decoded frames in memory from the first read on
    _kept: np.ndarray | None = dataclasses.field(default=None, init=False, repr=False)

    @property
    def frames(self) -> int:
        return len(self.places)

    def read(self, start: int, count: int, stride: int = 1, crop: Crop | None = None) -> np.ndarray:
        """Frames start, start + stride, ... as uint8 (count, height, width, 3), of the centred window or of `crop`.

        Raises ValueError beyond the end of the part, VideoError if the file can't be decoded.
        """
        check_frames(self.name, self.frames, start, count, stride)
        frames = self._frames(slice(start, start + (count - 1) * stride + 1, stride))
        return center_crop_resize(frames, self.height, self.width, self.resize, crop)

    def _frames(self, which: slice) -> np.ndarray:
        """The frames that a clip is cropped from, no larger than needed; without random crops, the clip itself."""
        if not self.keep:
            return self._decode(self.places[which])
        if self._kept is None:  # two threads may both decode the frames, with equal results
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
        """The memory that each kept frame takes, in bytes."""
        size = (self.height, self.width)
        if self.crop_scale < 1:
            size = shrunk_size(*self.shape[1:], *size, self.crop_scale)
        return size[0] * size[1] * 3

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": None}  # worker processes decode for themselves


class StoredVideos:
    """The training parts or the held-out parts of a dataset's videos; see `open_source`."""

    def __init__(self, data: DataConfig, clip: AutoencoderConfig, held_out: bool):
        self.dataset = open_dataset(data.path)
        self.class_names = self.dataset.class_names
        self.facts: list[dict] = []  # of each video, see `datasets.Dataset`
        self.left_out: list[str] = []  # names of videos that are too short
        self._data = data
        self._clip = clip
        self._held_out = held_out
        self._videos: list[StoredVideo] = []
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

    def __getitem__(self, i: int) -> StoredVideo:
        return self._videos[i]

    def _chosen(self) -> list[tuple[str, dict]]:
        """(split, facts) of the videos that are used for training, or for evaluation."""
        field = "eval_split" if self._held_out and self._data.eval_split else "split"
        name = getattr(self._data, field)
        splits = self.dataset.splits
        require(name == "all" or name in splits, f"data.{field}", name, f"the dataset has {', '.join(splits)}")
        return [(split, facts) for split in splits if name in ("all", split) for facts in splits[split]]

    def _part(self, facts: dict) -> Sequence[int]:
        """The numbers of the frames that belong to this part of a video; none if it is too short."""
        data = self._data
        span = clip_span(self._clip.frames, data.stride)
        places: Sequence[int] = range(facts["frames"])
        if data.fps > 0:
            allowed = (
                f"the dataset doesn't say how fast {facts['name']} plays; `pvdm prepare --fps=RATE` stores it for "
                "folders of frames and arrays; or use data.stride"
            )
            require(facts["fps"] > 0, "data.fps", data.fps, allowed)
            places = resample(facts["frames"], facts["fps"], data.fps, facts.get("times"))
        if data.eval_split == "":
            for_training = train_range(len(places), span, data.holdout)
            if self._held_out:
                # If frames repeat, the first held-out frame may equal the last training frame.
                seen = places[for_training - 1]
                places = places[for_training:]
                while len(places) and places[0] == seen:
                    places = places[1:]
                return places if len(places) >= span else ()
            places = places[:for_training]
        return lengthen(places, self._clip.frames, data.stride, data.short_videos)

    def _video(self, split: str, facts: dict, places: Sequence[int]) -> StoredVideo:
        return StoredVideo(
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
        data = self._data
        span = clip_span(self._clip.frames, data.stride)
        longest = max((facts for _, facts in self._chosen()), key=lambda facts: facts["frames"])
        rate = f", data.fps={data.fps:g}" if data.fps else ""
        allowed = (
            f"no video in it has the {span} frames that a clip needs (autoencoder.frames={self._clip.frames}, "
            f"data.stride={data.stride}{rate}); the longest, {longest['name']}, has {longest['frames']}; "
            "data.short_videos=loop or pad would use it"
        )
        raise ConfigError(f"data.path is {data.path!r}; {allowed}")
