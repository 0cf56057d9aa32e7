"""What a single FVD hides in long videos: how they change with time, at the borders of clips, and whether a cut shows.

- drift: the Frechet distance between real clips and clips 1, 2, 4, 8, ... of long videos, and its slope.
- borders: the distance of windows astride a clip border, next to that of the clip that ends there.
- cuts: the probability of a cut, by a trained shot boundary detector, at clip borders and in the middle of clips.

Real long videos are measured at the same places. They have no borders, so their numbers are what a model can reach.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.evaluation import statistics
from pvdm_jax.evaluation.clip_measurements import Rows
from pvdm_jax.evaluation.clip_sets import ClipSet
from pvdm_jax.evaluation.feature_spaces import FeatureSpace
from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.results import EvaluationResults, SpaceFeatures

LONG_MEASURES = frozenset({"drift", "borders", "cuts"})


class LongVideos:
    """Adds the numbers of drift, borders and cuts to the results of an evaluation.

    spaces: the feature spaces of the distances. detector: clips to the probability of a cut after each frame; None if
    cuts aren't measured. clip_frames: frames of a clip; each video has `protocol.long_clips` clips.
    """

    def __init__(
        self,
        results: EvaluationResults,
        protocol: ProtocolConfig,
        spaces: Sequence[FeatureSpace],
        *,
        detector: FeatureSpace | None,
        clip_frames: int,
        batch_size: int,
    ):
        self._results, self._protocol = results, protocol
        self._spaces = spaces if {"drift", "borders"} & set(protocol.measures) else ()
        self._detector = detector
        if detector is not None:
            results.networks["cuts"] = detector.facts
        self._clip, self._batch_size = clip_frames, batch_size
        self.frames = protocol.long_clips * clip_frames
        self._clips = [2**i for i in range(protocol.long_clips.bit_length())]  # 1, 2, 4, ... as far as there are clips
        # The border measured is at the end of the last of these clips that is not the end of the video.
        self._border = max(clip for clip in self._clips if clip < protocol.long_clips)

    def measure(self, generated: ClipSet, real: ClipSet | None, clips: SpaceFeatures) -> None:
        """Measures long videos. real: long real ones, None if there are none. clips: the features of real clips."""
        for videos, name, prefix in ((generated, "long generated videos", ""), (real, "long real videos", "real_")):
            if videos is None or not (self._spaces or self._detector):
                continue
            rows = self._results.measure(videos, self._rows, self._facts(), name)
            (self._results.real if prefix else self._results.generated)["long"] = videos.facts
            for space in self._spaces:
                self._add_distances(space, clips[space.network], rows, prefix)
            if self._detector is not None:
                for place in ("border", "inside"):
                    better = "" if prefix or place == "inside" else "lower"
                    self._results.add_mean(f"{prefix}cut_{place}", rows[f"cut_{place}"], better=better)

    def _rows(self, videos: np.ndarray) -> Rows:
        """The features of each window and the cut probabilities, for videos uint8 (n, frames, height, width, 3)."""
        rows = {}
        starts = {f"clip_{clip}": (clip - 1) * self._clip for clip in self._clips}
        starts["astride"] = self._border * self._clip - self._clip // 2
        for space in self._spaces:
            for name, start in starts.items():
                rows[f"{name} {space.network}"] = space(videos[:, start : start + self._clip], self._batch_size)
        if self._detector is not None:
            probability = self._detector(videos, self._batch_size)
            borders = np.arange(self._clip, self.frames, self._clip)
            rows["cut_border"] = _at(probability, borders)
            rows["cut_inside"] = _at(probability, borders - self._clip // 2)
        return rows

    def _facts(self) -> dict[str, Any]:
        return {
            "spaces": [space.facts for space in self._spaces],
            "detector": self._detector and self._detector.facts,
            "clip_frames": self._clip,
            "clips": self._clips,
            "border": self._border,
        }

    def _add_distances(self, space: FeatureSpace, real: np.ndarray, rows: Rows, prefix: str) -> None:
        """The distances between all windows and real clips. Their intervals use the same resampled videos."""
        names = [f"clip_{clip}" for clip in self._clips] + ["astride"]
        windows = np.stack([rows[f"{name} {space.network}"] for name in names], axis=1)
        p = self._protocol

        def numbers(real: np.ndarray, windows: np.ndarray) -> list[float]:
            found = [frechet_distance(real, windows[:, i], p.ddof) for i in range(windows.shape[1])]
            *by_clip, astride = found
            slope = np.polyfit(self._clips, by_clip, 1)[0]
            inside = by_clip[self._clips.index(self._border)]
            return [*found, slope, astride - inside]

        values = numbers(real, windows)
        bounds = statistics.intervals(numbers, (real, windows), values, resamplings=p.bootstrap, seed=p.seed)
        drift, borders = (measure in p.measures for measure in ("drift", "borders"))
        wanted = [drift or (borders and clip == self._border) for clip in self._clips] + [borders, drift, borders]
        start = f"{prefix}{space.frechet_name}_{self._clip}"
        for name, value, (low, high), is_wanted in zip(
            [*names, "slope", "border_excess"], values, bounds, wanted, strict=True
        ):
            if is_wanted:
                if name in names and low is not None:  # a distance, not a difference
                    low = max(low, 0.0)
                estimate = statistics.Estimate(value, low, high)
                samples = [len(real), len(windows)]
                self._results.add(f"{start}_{name}", estimate, better="" if prefix else "lower", samples=samples)


def _at(probability: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Each video's mean probability of a cut before the frames at `places`.

    A cut shows at the last frame before it, sometimes at the next one; the larger of the two counts.
    """
    return np.maximum(probability[:, places - 1], probability[:, places]).mean(axis=1).astype(np.float64)
