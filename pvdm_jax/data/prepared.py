"""Videos of a dataset that `pvdm prepare` wrote, each split in time into a training part and a held-out end."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetInfoFileError

from pvdm_jax.config import AutoencoderConfig, ConfigError, DataConfig, require
from pvdm_jax.data.clips import Crop, center_crop_resize, clip_span, resize, shrunk_size, train_range
from pvdm_jax.media import decode_video

# A split whose frames, cropped and resized, fit in here is decoded once and kept in memory.
CACHE_BYTES = 2**30


@dataclasses.dataclass
class PreparedVideo:
    """One part of a stored video: `frames` frames from number `first` of the file on."""

    name: str
    label: int
    frames: int
    first: int
    record: int
    records: Sequence[dict]
    height: int
    width: int
    resize: str
    crop_scale: float  # of the smallest crop that is asked for
    keep: bool  # the decoded frames, all of them, from the first read on
    _kept: np.ndarray | None = dataclasses.field(default=None, init=False, repr=False)

    def read(self, start: int, count: int, stride: int = 1, crop: Crop | None = None) -> np.ndarray:
        """Frames start, start + stride, ... as uint8 (count, height, width, 3), of the centred window or of `crop`.

        Raises ValueError beyond the part's end, VideoError where the file can't be decoded.
        """
        if count < 1 or stride < 1 or start < 0 or start + (count - 1) * stride >= self.frames:
            raise ValueError(
                f"{self.name} has {self.frames} frames here; {count} from {start} on, every {stride}, aren't there"
            )
        frames = self._frames(start, count, stride)
        return center_crop_resize(frames, self.height, self.width, self.resize, crop)

    def _frames(self, start: int, count: int, stride: int) -> np.ndarray:
        """What the clip is cropped from: whole frames, no larger than needed; where there are no crops, the clip."""
        if not self.keep:
            return self._decode(start, count, stride)
        if self._kept is None:  # two threads may both decode it; they agree
            kept = self._decode(0, self.frames, 1)
            kept.setflags(write=False)
            self._kept = kept
        return self._kept[start : start + count * stride : stride]

    def _decode(self, start: int, count: int, stride: int) -> np.ndarray:
        def fit(frame: np.ndarray) -> np.ndarray:
            if self.crop_scale < 1:
                size = shrunk_size(*frame.shape[:2], self.height, self.width, self.crop_scale)
                return resize(frame[None], *size, self.resize)[0]
            return center_crop_resize(frame[None], self.height, self.width, self.resize)[0]

        return decode_video(self.records[self.record]["video"], self.first + start, count, stride, self.name, fit)


class PreparedVideos:
    """The training parts of a dataset's videos, or their held-out ends; see `open_source`."""

    def __init__(self, data: DataConfig, clip: AutoencoderConfig, held_out: bool):
        try:
            builder = tfds.builder_from_directory(data.path)
            index = builder.info.metadata["videos"]
        except (OSError, DatasetInfoFileError, KeyError) as error:
            allowed = f"there is no prepared dataset; `pvdm prepare --source=VIDEOS --output={data.path}` makes one"
            raise ConfigError(f"data.path is {data.path!r}; {allowed}") from error
        span = clip_span(clip.frames, data.stride)
        longest = max(index, key=lambda facts: facts["frames"])
        allowed = (
            f"no video in it has the {span} frames that a clip needs (autoencoder.frames={clip.frames}, "
            f"data.stride={data.stride}); the longest, {longest['name']}, has {longest['frames']}"
        )
        require(longest["frames"] >= span, "data.path", data.path, allowed)
        crop_scale = 1.0 if held_out else data.crop_scale
        parts, kept_bytes = [], 0
        for record, facts in enumerate(index):
            for_training = train_range(facts["frames"], span, data.holdout)
            first, end = (for_training, facts["frames"]) if held_out else (0, for_training)
            if end - first >= span:
                parts.append((facts["name"], facts["label"], end - first, first, record))
                kept = clip.height, clip.width
                if crop_scale < 1:
                    kept = shrunk_size(facts["height"], facts["width"], *kept, crop_scale)
                kept_bytes += (end - first) * kept[0] * kept[1] * 3
        keep = kept_bytes <= CACHE_BYTES
        shared = (builder.as_data_source("train"), clip.height, clip.width, data.resize, crop_scale, keep)
        self._videos = [PreparedVideo(*part, *shared) for part in parts]
        self.class_names = tuple(builder.info.features["label"].names)

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, i: int) -> PreparedVideo:
        return self._videos[i]
