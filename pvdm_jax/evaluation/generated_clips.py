"""Clips that a model samples, as a set to compare with real ones."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from pvdm_jax.config import Config, SampleConfig, config_to_dict
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.data.clips import center_crop_resize
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.runtime.keys import make_key

# The fields of a protocol that are settings of sampling.
SAMPLING_FIELDS = [
    field.name for field in dataclasses.fields(SampleConfig) if field.name in ProtocolConfig.__dataclass_fields__
]
UNUSED = {"autoencoder": ("remat",), "denoiser": ("remat",)}  # settings that no number depends on


def settings_beside_weights(config: Config) -> dict[str, Any]:
    """The settings that decide what a model's weights generate: those of its networks and of the diffusion process."""
    settings = {name: config_to_dict(getattr(config, name)) for name in ("autoencoder", "denoiser", "process")}
    for section, names in UNUSED.items():
        settings[section] = {name: value for name, value in settings[section].items() if name not in names}
    return settings


class GeneratedClips:
    """A `ClipSet` of a model's videos: video i depends only on the protocol's seed and on i.

    fingerprint: of the model's weights. labels: classes of the videos, repeated as needed; None for a model without
    classes. size: height and width that clips are resized to. sampled: the videos, if the caller has already sampled
    them in the same way, uint8 (count, frames, height, width, 3). Raises ValueError if they have another shape.
    """

    def __init__(
        self,
        model: PVDM,
        protocol: ProtocolConfig,
        *,
        fingerprint: str,
        frames: int,
        count: int,
        labels: np.ndarray | None,
        size: tuple[int, int],
        sampled: np.ndarray | None = None,
    ):
        if sampled is not None and (sampled.dtype != np.uint8 or sampled.shape[:2] != (count, frames)):
            raise ValueError(f"sampled is {sampled.dtype} {sampled.shape}; uint8 ({count}, {frames}, ...) is needed")
        self._model = model
        self._frames = frames
        self._count = count
        self._labels = labels
        self._size = size
        self._sampled = sampled
        self._resize = protocol.resize
        self._key = make_key(protocol.seed)
        self._options = {name: getattr(protocol, name) for name in SAMPLING_FIELDS}
        self._largest_batch = 0
        self.facts = {
            "weights": fingerprint,
            "clips": count,
            "frames": frames,
            "size": list(size),
            "resize": protocol.resize,
            "model": settings_beside_weights(model.config),
            "sampling": dataclasses.asdict(dataclasses.replace(model.config.sample, **self._options)),
            "seed": protocol.seed,
            "classes": "none" if labels is None else protocol.classes,
            "labels": [] if labels is None else np.bincount(labels[labels >= 0]).tolist(),  # videos of each class
            "label_order": "" if labels is None else hashlib.sha256(labels.tobytes()).hexdigest(),
        }

    def __len__(self) -> int:
        return self._count

    def batch(self, start: int, stop: int) -> np.ndarray:
        """See `ClipSet.batch`."""
        videos = self._sample(start, stop) if self._sampled is None else self._sampled[start:stop]
        if videos.shape[2:4] == self._size:
            return videos
        return np.stack([center_crop_resize(video, *self._size, self._resize) for video in videos])

    def _sample(self, start: int, stop: int) -> np.ndarray:
        # The last batch is as large as the others, so that the sampler is compiled only once.
        self._largest_batch = max(self._largest_batch, stop - start)
        indices = np.arange(start, start + self._largest_batch)
        labels = None if self._labels is None else self._labels[indices % len(self._labels)]
        # The programs of one clip serve all lengths, and the continuations of real clips too.
        clips = self._model.stream(
            self._key, len(indices), self._frames, labels=labels, indices=indices, **self._options
        )
        return np.concatenate([np.asarray(clip) for clip in clips], axis=1)[: stop - start]
