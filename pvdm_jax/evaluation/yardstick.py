"""The measure "shapes": how well a model of the synthetic source's moving shapes keeps their videos together.

The other measures of an evaluation pass their clips to `clip_rows`, so that nothing is sampled twice. The continuations
of real clips, and the real sets that they are compared with, are measured here.
"""

from collections.abc import Sequence

import numpy as np

from pvdm_jax.config import DataConfig
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.data.clips import clip_span
from pvdm_jax.data.synthetic import SyntheticVideos
from pvdm_jax.evaluation.clip_measurements import Rows
from pvdm_jax.evaluation.continuation import Continuations, NumberedVideos, long_videos
from pvdm_jax.evaluation.continuity import seam_rows
from pvdm_jax.evaluation.feature_spaces import FeatureSpace
from pvdm_jax.evaluation.results import EvaluationResults, SpaceFeatures, feature_rows, rows_features
from pvdm_jax.evaluation.shapes import shows_shapes
from pvdm_jax.evaluation.yardstick_numbers import BODIES, CLIPS_OF_LONG, RATES
from pvdm_jax.inference.pipeline import PVDM

FACTS = {"shapes": 1}  # facts of the rows below: the version of the detector
NOISE_SEED = 10


def clip_rows(videos: np.ndarray, clip_frames: int) -> Rows:
    """Whether each clip of the videos shows the shapes: {"shapes": float64 (n, clips)}.

    videos: uint8 (n, frames, height, width, 3). The frames after the last whole clip are not judged.
    """
    starts = range(0, videos.shape[1] - clip_frames + 1, clip_frames)
    rates = [[shows_shapes(video[start : start + clip_frames]) for start in starts] for video in videos]
    return {"shapes": np.array(rates, np.float64)}


class Yardstick:
    """Adds the numbers of "shapes" to the results of a model's evaluation.

    protocol: complete. data: the synthetic source (see `continuation.check_truth`). spaces: of the distances.
    """

    def __init__(
        self,
        results: EvaluationResults,
        model: PVDM,
        data: DataConfig,
        protocol: ProtocolConfig,
        *,
        spaces: Sequence[FeatureSpace],
        batch_size: int,
        fingerprint: str,
    ):
        self._results, self._model, self._data, self._protocol = results, model, data, protocol
        self._spaces, self._batch_size, self._fingerprint = spaces, batch_size, fingerprint
        self._frames = model.config.autoencoder.frames

    def add_generated(self, rows: Rows) -> None:
        """Adds the rate of unconditional clips, the first ones of the generated videos."""
        self._results.add_mean("shapes_generated", rows["shapes"][:, 0], better="higher")

    def add_long(self, rows: Rows) -> None:
        """Adds the rates of long videos, clip by clip."""
        for clip in CLIPS_OF_LONG:
            if clip <= rows["shapes"].shape[1]:
                self._results.add_mean(f"shapes_long_{clip}", rows["shapes"][:, clip - 1], better="higher")

    def add_reconstruction(self, rows: Rows) -> None:
        """Adds the rates of real clips and of their reconstructions."""
        self._results.add_mean("shapes_real", rows["shapes_real"], better="")
        self._results.add_mean("shapes_reconstructed", rows["shapes_reconstructed"], better="")

    def measure_real(self) -> None:
        """Adds the seam score of real long videos."""
        protocol, count = self._protocol, self._protocol.seam_samples
        source = long_videos(self._model.config, self._data, protocol, protocol.seam_clips)

        def measure(numbers: np.ndarray) -> Rows:
            videos = [source[int(n) % len(source)].read(0, self._video_frames, protocol.stride) for n in numbers]
            return seam_rows(np.stack(videos), self._frames)

        facts = self._source_facts(source) | {"frames": self._video_frames}
        rows = self._results.measure(NumberedVideos(count, facts), measure, {"seams": True}, "real long videos")
        self._results.add_seams(rows, "seam_real")

    def measure_distances(self, features: SpaceFeatures) -> None:
        """Adds the Frechet distances of other real clips (the good bound) and of noise (the bad one) from real clips.

        features: the real clips' features; the clips have the model's number of frames.
        """
        protocol, frames = self._protocol, self._frames
        span = clip_span(frames, protocol.stride)
        # The videos that follow those of either part belong to neither.
        real = long_videos(self._model.config, self._data, protocol, 1)
        first = real.first_index + len(real)
        size = protocol.height, protocol.width
        others = SyntheticVideos(protocol.real_samples, span, *size, real.seed, first_index=first)

        def measure(numbers: np.ndarray) -> Rows:
            clips = np.stack([others[int(n)].read(0, frames, protocol.stride) for n in numbers])
            noise = [
                np.random.default_rng([NOISE_SEED, int(n)]).integers(0, 256, clips.shape[1:], np.uint8) for n in numbers
            ]
            rows = feature_rows(self._spaces, clips, self._batch_size, "others")
            return rows | feature_rows(self._spaces, np.stack(noise), self._batch_size, "noise")

        videos = NumberedVideos(protocol.real_samples, self._source_facts(others) | {"frames": frames})
        facts = {"spaces": [space.facts for space in self._spaces], "noise": NOISE_SEED}
        rows = self._results.measure(videos, measure, facts, "other real and noise")
        self._results.add_distances(frames, features, rows_features(rows, "others"), "real_")
        self._results.add_distances(frames, features, rows_features(rows, "noise"), "noise_")

    def measure_continuations(self) -> None:
        """Adds all numbers of the next clips that the model samples after real ones."""
        results = self._results
        if not self._model.config.denoiser.previous_clip:
            results.not_measured["next_psnr"] = "this model's denoiser takes no previous clip"
            return
        continuations = Continuations(self._model, self._data, self._protocol, self._batch_size)
        facts = FACTS | {"weights": self._fingerprint} | continuations.sampling
        rows = results.measure(continuations.videos, continuations.measure, facts, "continuations")
        results.real["continuations"] = continuations.videos.facts
        results.generated["continuations"] = continuations.sampling | {"weights": self._fingerprint}
        for name in ("next_psnr", "repeat_psnr", "next_ceiling"):
            results.add_mean(name, rows[name], better="higher" if name == "next_psnr" else "")
        moments = (1, self._frames // 2, self._frames)
        for who in ("next", "repeat", *BODIES):
            for column, frame in enumerate(moments):
                better = "lower" if who == "next" else ""
                name = "position_error" if who == "next" else f"{who}_position_error"
                results.add_mean(f"{name}_{frame}", rows[f"{who}_position_error"][:, column], better=better)
        for who in ("next", *BODIES):
            for what in RATES:
                results.add_mean(f"{who}_{what}_kept", rows[f"{who}_{what}"], better="higher" if who == "next" else "")
        results.add_mean("shapes_next", rows["shapes_next"], better="higher")
        results.add_mean("shapes_repeat", rows["shapes_repeat"], better="")
        for who, name in (("next", "seam_next"), ("real", "seam_real_next"), ("stranger", "seam_stranger")):
            results.add_seams({"across": rows[f"{who}_across"], "inside": rows[f"{who}_inside"]}, name)
        for name in ("loss_given_previous", "loss_unconditional", "loss_of_zero"):
            results.add_mean(name, rows[name], better="" if name == "loss_of_zero" else "lower")

    @property
    def _video_frames(self) -> int:
        return self._protocol.seam_clips * self._frames

    def _source_facts(self, source: SyntheticVideos) -> dict:
        return {
            "source": "synthetic",
            "seed": source.seed,
            "first_index": source.first_index,
            "videos": len(source),
            "size": [source.height, source.width],
            "stride": self._protocol.stride,
        }


def reconstruction_rows(videos: np.ndarray, reconstructions: np.ndarray) -> Rows:
    """The rows of `Yardstick.add_reconstruction`, of clips and their reconstructions."""
    return {
        "shapes_real": clip_rows(videos, videos.shape[1])["shapes"][:, 0],
        "shapes_reconstructed": clip_rows(reconstructions, videos.shape[1])["shapes"][:, 0],
    }
