"""Continuations with a known ground truth: the clip that a model samples after a real one, and the true next clip.

The synthetic source can be drawn to any length, and its bodies are known in every frame. Each number of the sampled
next clip is shown next to those of the last frame repeated and of another video's clip (both bad), and of the
autoencoder's reconstruction of the true next clip (good: no continuation can be expected to do better).
"""

import dataclasses
from typing import Any

import numpy as np

from pvdm_jax.config import Config, ConfigError, DataConfig, require
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.data.clips import clip_span
from pvdm_jax.data.sources import SPLITS, open_source
from pvdm_jax.data.synthetic import SyntheticVideos
from pvdm_jax.evaluation.bodies import find_bodies, kept, position_errors, true_bodies
from pvdm_jax.evaluation.clip_measurements import Rows
from pvdm_jax.evaluation.continuity import seam_rows
from pvdm_jax.evaluation.generated_clips import SAMPLING_FIELDS
from pvdm_jax.evaluation.held_out_loss import HeldOutLoss
from pvdm_jax.evaluation.reconstruction import psnr
from pvdm_jax.evaluation.shapes import shows_shapes
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.runtime.keys import make_key


class NumberedVideos:
    """A `ClipSet` of the videos' numbers, for a measure that draws the videos itself because it needs their truth.

    facts: what identifies the videos (JSON).
    """

    def __init__(self, count: int, facts: dict[str, Any]):
        self._count = count
        self.facts = facts | {"clips": count}

    def __len__(self) -> int:
        return self._count

    def batch(self, start: int, stop: int) -> np.ndarray:
        """The numbers start, ..., stop - 1."""
        return np.arange(start, stop)


def check_truth(data: DataConfig, protocol: ProtocolConfig) -> None:
    """Raises ConfigError unless `data` is the synthetic source, whose truth is known, and the split one of its two."""
    if data.source != "synthetic":
        raise ConfigError(
            f"data.source is {data.source!r}; the measure shapes needs the synthetic source, whose truth is known"
        )
    allowed = f"the measure shapes is of one part of the synthetic source: {' or '.join(SPLITS)}"
    require(protocol.split in SPLITS, "protocol.split", protocol.split, allowed)


def long_videos(config: Config, data: DataConfig, protocol: ProtocolConfig, clips: int) -> SyntheticVideos:
    """The videos of the protocol's split, drawn as long as `clips` clips of the model."""
    frames = clips * clip_span(config.autoencoder.frames, protocol.stride)
    data = dataclasses.replace(data, synthetic_frames=frames, stride=protocol.stride)
    return open_source(data, config.autoencoder, protocol.split, config.seed)


class Continuations:
    """Measures the next clips that a model samples after real ones.

    model: its denoiser must take a previous clip. data: the synthetic source. protocol: a complete one, which says how
    the model samples. batch_size: videos that are sampled at once.
    """

    def __init__(self, model: PVDM, data: DataConfig, protocol: ProtocolConfig, batch_size: int):
        self._model, self._stride = model, protocol.stride
        self._frames = model.config.autoencoder.frames
        self._source = long_videos(model.config, data, protocol, 2)
        self._batch_size = min(batch_size, protocol.continuations)
        self._options = {name: getattr(protocol, name) for name in SAMPLING_FIELDS}
        self._key = make_key(protocol.seed)
        self._loss = HeldOutLoss(model, protocol.seed)
        sampling = dataclasses.replace(model.config.sample, **self._options)
        facts = {
            "source": "synthetic",
            "seed": model.config.seed,
            "split": protocol.split,
            "videos": len(self._source),
            "clip_frames": self._frames,
            "stride": self._stride,
        }
        self.videos = NumberedVideos(protocol.continuations, facts)
        self.sampling = {"clips": protocol.continuations, "seed": protocol.seed}
        self.sampling["sampling"] = dataclasses.asdict(sampling)

    def measure(self, numbers: np.ndarray) -> Rows:
        """The rows of the videos of these numbers.

        For each of next (sampled), repeat (the last frame), stranger (the next video's clip), reconstructed and real:
        `NAME_position_error` (n, 3), in the first, the middle and the last frame, and the rates of `bodies.kept`. Also
        `next_psnr`, `repeat_psnr` and `next_ceiling`; `shapes_next` and `shapes_repeat`; `NAME_across` and
        `NAME_inside`, the changes at the seam between the previous and the next clip; and the rows of `HeldOutLoss`.
        """
        # All batches have one size, so that the sampler is compiled once.
        padded = numbers[0] + np.arange(max(self._batch_size, len(numbers)))
        video = np.stack([self._read(number) for number in padded])
        previous, truth = video[:, : self._frames], video[:, self._frames :]
        labels = None
        if self._model.config.denoiser.num_classes:
            labels = np.array([self._video(number).label for number in padded], np.int32)
        sampled = self._model.extend(previous, self._frames, self._key, labels=labels, indices=padded, **self._options)
        reconstructed = self._model.reconstruct(truth)
        repeated = np.repeat(previous[:, -1:], self._frames, axis=1)
        strangers = np.stack([self._read(number + 1)[self._frames :] for number in padded])
        rows = {
            "next_psnr": psnr(truth, sampled),
            "repeat_psnr": psnr(truth, repeated),
            "next_ceiling": psnr(truth, reconstructed),
        }
        rows |= self._loss.measure(previous, truth, labels, padded)
        for name, clips in (("next", sampled), ("real", truth), ("stranger", strangers)):
            seams = seam_rows(np.concatenate([previous, clips], axis=1), self._frames)
            rows |= {f"{name}_{place}": changes for place, changes in seams.items()}
        count = len(numbers)
        rows = {name: values[:count] for name, values in rows.items()}
        for name, shown in (("shapes_next", sampled), ("shapes_repeat", repeated)):
            rows[name] = np.array([float(shows_shapes(clip)) for clip in shown[:count]])
        clips = {"next": sampled, "stranger": strangers, "reconstructed": reconstructed, "real": truth}
        bodies = [self._judge(i, number, clips, previous[i, -1:]) for i, number in enumerate(numbers)]
        return rows | {name: np.stack([body[name] for body in bodies]) for name in bodies[0]}

    def _judge(self, row: int, number: int, clips: dict[str, np.ndarray], last: np.ndarray) -> dict[str, np.ndarray]:
        """Where the bodies of one video's clips are, and what they kept. last: the previous clip's last frame."""
        shapes = self._video(number).shapes(self._stride * np.arange(self._frames, 2 * self._frames))
        truth, size = true_bodies(shapes), clips["real"].shape[2:4]
        moments = [0, self._frames // 2 - 1, self._frames - 1]
        values = {}
        found = {name: find_bodies(clip[row]) for name, clip in clips.items()}
        still = find_bodies(last)
        found["repeat"] = {
            colour: dataclasses.replace(body, centre=np.repeat(body.centre, self._frames, axis=0))
            for colour, body in still.items()
        }
        for name, bodies in found.items():
            values[f"{name}_position_error"] = position_errors(bodies, truth, size)[moments]
            if name != "repeat":
                values |= {f"{name}_{what}": np.float64(rate) for what, rate in kept(bodies, truth).items()}
        return values

    def _video(self, number: int):
        return self._source[int(number) % len(self._source)]

    def _read(self, number: int) -> np.ndarray:
        return self._video(number).read(0, 2 * self._frames, self._stride)
