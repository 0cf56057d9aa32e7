"""The evaluation of a trained model against its data, from start to card; that of two sets is in `evaluate_sets`.

Both check everything that they can before the long work starts, store what they have measured (see
`clip_measurements`), and return a card: a JSON object with the numbers and everything they depend on (see `card`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, DataConfig, require
from pvdm_jax.config.evaluation import MEASURES, ProtocolConfig
from pvdm_jax.data.dataset_identity import dataset_identity
from pvdm_jax.evaluation.c3d import FRAMES as INCEPTION_FRAMES
from pvdm_jax.evaluation.clip_measurements import Rows
from pvdm_jax.evaluation.clip_sets import VideoWindows, source_clips
from pvdm_jax.evaluation.continuation import check_truth
from pvdm_jax.evaluation.continuity import seam_rows
from pvdm_jax.evaluation.feature_spaces import (
    EvaluationPaths,
    PerceptualDistance,
    check_sizes,
    open_classifier,
    open_cut_detector,
    open_spaces,
)
from pvdm_jax.evaluation.generated_clips import SAMPLING_FIELDS, GeneratedClips, settings_beside_weights
from pvdm_jax.evaluation.long_videos import LONG_MEASURES, LongVideos
from pvdm_jax.evaluation.real_clips import long_real_clips, measure_real, other_clips
from pvdm_jax.evaluation.reconstruction import RECONSTRUCTION_NUMBERS, reconstruction_numbers
from pvdm_jax.evaluation.results import EvaluationResults, feature_rows, rows_features
from pvdm_jax.evaluation.yardstick import FACTS as SHAPE_FACTS
from pvdm_jax.evaluation.yardstick import Yardstick, clip_rows, reconstruction_rows
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.inference.sampler import settings_of
from pvdm_jax.runtime import sharding

# Measures that need generated videos.
OF_SAMPLES = set(MEASURES) - {"reconstruction"}
# Measures of the videos that have the protocol's lengths. Each adds its rows in `measure_compared`, and what these
# depend on to the facts beside it: rows are found in the cache by their facts.
OF_VIDEOS = {"fvd", "kernel"}
NO_PREVIOUS_CLIP = "this model's denoiser takes no previous clip"


def evaluate_model(
    model: PVDM,
    protocol: ProtocolConfig,
    paths: EvaluationPaths,
    *,
    data: DataConfig | None = None,
    batch_size: int = 16,
    name: str = "model",
    sampled: np.ndarray | None = None,
    sampled_long: np.ndarray | None = None,
) -> dict[str, Any]:
    """The card of a loaded model compared with its data, or with `data`.

    The protocol says how many videos the model samples and how, which real clips and which network are used. name: the
    model's name, for the card. sampled: the videos that the protocol compares, if the caller has already sampled them
    in the same way, uint8 (samples, frames, height, width, 3). sampled_long: likewise the videos for the seam score,
    uint8 (seam_samples, seam_clips * frames of a clip, height, width, 3). Raises FileNotFoundError, VideoError or
    ConfigError before the long work.
    """
    evaluation = ModelEvaluation(model, protocol, paths, data=data or model.config.data, batch_size=batch_size)
    evaluation.measure_real()
    evaluation.measure_compared(sampled)
    evaluation.measure_seams(sampled_long)
    evaluation.measure_long()
    evaluation.measure_classes()
    evaluation.measure_reconstruction()
    evaluation.measure_shapes()
    return evaluation.results.card({"model": name, "weights": evaluation.fingerprint})


class ModelEvaluation:
    """The evaluation of one model. Making it checks everything and opens everything that may be missing; each method
    then adds to `results` what the protocol's `measures` ask for. `measure_real` comes first."""

    def __init__(
        self, model: PVDM, protocol: ProtocolConfig, paths: EvaluationPaths, *, data: DataConfig, batch_size: int
    ):
        self.model, self.data, self.measures = model, data, set(protocol.measures)
        protocol = _complete_protocol(protocol, model.config)
        if "shapes" in self.measures:
            check_truth(data, protocol)
        self.protocol, self.spaces = open_spaces(protocol, model.mesh, paths)
        self.batch_size = sharding.round_up(model.mesh, batch_size)
        self.continues = model.config.denoiser.previous_clip
        self.has_long = bool(self.measures & LONG_MEASURES) and self.continues
        self.compares = bool(self.measures & OF_VIDEOS)
        self._check_lengths()
        self.results = EvaluationResults(self.protocol, self.spaces, paths.cache, self.batch_size)
        self.fingerprint = model.fingerprint()
        self.identity = functools.cache(lambda: dataset_identity(data))
        self.space_facts = {"spaces": [space.facts for space in self.spaces]}
        self.yardstick = self._yardstick() if "shapes" in self.measures else None
        self.shape_facts = SHAPE_FACTS if self.yardstick else {}
        self._open_networks(paths)
        self._open_videos()

    @property
    def clip(self) -> AutoencoderConfig:
        return self.model.config.autoencoder

    @property
    def own_size(self) -> tuple[int, int]:
        return self.clip.height, self.clip.width

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the videos that are compared."""
        return self.protocol.height, self.protocol.width

    @property
    def lengths(self) -> list[int]:
        """The lengths of the real videos that generated ones are compared with."""
        lengths = set(self.protocol.frames) if self.compares else set()
        if self.measures & {"drift", "borders"} and self.has_long:
            lengths.add(self.protocol.clip_frames)
        return sorted(lengths)

    @property
    def seams_of_compared(self) -> bool:
        """Whether the seams are those of the compared videos, because these have at least two clips."""
        return self.compares and "seams" in self.measures and max(self.protocol.frames) >= 2 * self.clip.frames

    def _check_lengths(self) -> None:
        check_sizes(self.spaces, sorted({*self.lengths, *self.protocol.frames}), self.size)
        if self.measures & OF_SAMPLES:
            _check_samples(self.model, max(self.protocol.frames), "protocol.frames")

    def _yardstick(self) -> Yardstick:
        return Yardstick(
            self.results,
            self.model,
            self.data,
            self.protocol,
            spaces=self.spaces,
            batch_size=self.batch_size,
            fingerprint=self.fingerprint,
        )

    def _open_networks(self, paths: EvaluationPaths) -> None:
        """The networks that only some numbers need; without its weights, a number is not measured."""
        mesh, results = self.model.mesh, self.results
        self.classifier = self.lpips = self.detector = None
        if "cuts" in self.measures and self.has_long:
            self.detector = results.try_to_open("cuts", lambda: open_cut_detector(mesh, paths.weights))
        if "is" in self.measures:
            self.classifier = results.try_to_open("inception_score", lambda: open_classifier(mesh, paths.weights))
            if self.classifier is not None:
                _check_samples(self.model, INCEPTION_FRAMES, "frames of the Inception score")
        if "reconstruction" in self.measures:
            self.lpips = results.try_to_open("lpips", lambda: PerceptualDistance(mesh, paths.weights))

    def _open_videos(self) -> None:
        """The real videos, and the classes of those to sample."""
        protocol, classes = self.protocol, self.model.config.denoiser.num_classes
        self.real = {frames: self._real_clips(frames, protocol.real_samples) for frames in self.lengths}
        self.others = other_clips(protocol, self.real, self._real_clips)
        if self.yardstick:
            self.others.pop(self.clip.frames, None)  # it has its own
        self.long = self.labels = None
        if self.has_long:
            options = {
                "detector": self.detector,
                "clip_frames": protocol.clip_frames,
                "batch_size": self.batch_size,
            }
            self.long = LongVideos(self.results, protocol, self.spaces, **options)
            clips = self.real.get(protocol.clip_frames)
            self.real_long = long_real_clips(self.results, protocol, self.long, self._real_clips, clips)
        if self.measures & OF_SAMPLES and classes > 0:
            self.labels = _sampled_labels(
                protocol,
                classes,
                lambda: self._real_clips(self.clip.frames, protocol.real_samples, size=self.own_size).labels(),
            )

    def _real_clips(
        self,
        frames: int,
        count: int,
        avoid: VideoWindows | None = None,
        size: tuple[int, int] | None = None,
    ) -> VideoWindows:
        options = {"frames": frames, "count": count, "size": size or self.size, "avoid": avoid}
        return source_clips(self.data, self.protocol, seed=self.model.config.seed, identity=self.identity(), **options)

    def _generate(self, frames: int, count: int, sampled: np.ndarray | None = None) -> GeneratedClips:
        return GeneratedClips(
            self.model,
            self.protocol,
            fingerprint=self.fingerprint,
            frames=frames,
            count=count,
            labels=self.labels,
            size=self.size,
            sampled=sampled,
        )

    def measure_real(self) -> None:
        """Real videos: their features, and real against real."""
        self.real_features = measure_real(self.results, self.real, self.others)

    def measure_compared(self, sampled: np.ndarray | None) -> None:
        """Videos of the protocol's lengths against real ones, and, if they have several clips, their seams."""
        if not self.compares:
            return
        protocol, results, yardstick = self.protocol, self.results, self.yardstick
        videos = self._generate(max(protocol.frames), protocol.samples, sampled)

        def measure(batch: np.ndarray) -> Rows:
            rows = {}
            for frames in protocol.frames:
                rows |= feature_rows(self.spaces, batch[:, :frames], self.batch_size, f"frames_{frames}")
            rows |= clip_rows(batch, self.clip.frames) if yardstick else {}
            return rows | (seam_rows(batch, self.clip.frames) if self.seams_of_compared else {})

        facts = {"frames": list(protocol.frames), "seams": self.seams_of_compared}
        rows = results.measure(videos, measure, facts | self.space_facts | self.shape_facts, "generated")
        results.generated["videos"] = videos.facts
        for frames in protocol.frames:
            results.add_distances(frames, self.real_features[frames], rows_features(rows, f"frames_{frames}"))
            if yardstick and frames == self.clip.frames:
                yardstick.measure_distances(self.real_features[frames])
        if yardstick:
            yardstick.add_generated(rows)
        if self.seams_of_compared:
            self._add_seams(rows)

    def measure_seams(self, sampled: np.ndarray | None) -> None:
        """The seams of videos of `seam_clips` clips, unless they are those of the compared videos."""
        if "seams" not in self.measures or self.seams_of_compared:
            return
        protocol, frames = self.protocol, self.clip.frames
        if not self.continues:
            self.results.not_measured["seams"] = NO_PREVIOUS_CLIP
            return
        videos = self._generate(protocol.seam_clips * frames, protocol.seam_samples, sampled)

        def measure(batch: np.ndarray) -> Rows:
            return seam_rows(batch, frames) | (clip_rows(batch, frames) if self.yardstick else {})

        rows = self.results.measure(videos, measure, {"seams": True} | self.shape_facts, "long videos")
        self.results.generated["seams"] = videos.facts
        self._add_seams(rows)

    def _add_seams(self, rows: Rows) -> None:
        self.results.add_seams(rows)
        if self.yardstick:
            self.yardstick.add_long(rows)

    def measure_long(self) -> None:
        """What is measured over the length of long videos."""
        if self.long:
            videos = self._generate(self.long.frames, self.protocol.long_samples)
            self.long.measure(videos, self.real_long, self.real_features.get(self.protocol.clip_frames, {}))
        else:
            missing = sorted(self.measures & LONG_MEASURES)
            self.results.not_measured |= dict.fromkeys(missing, NO_PREVIOUS_CLIP)

    def measure_classes(self) -> None:
        """The Inception score."""
        if self.classifier is not None:
            videos = self._generate(INCEPTION_FRAMES, self.protocol.inception_samples)
            rows = self.results.features(videos, self.classifier, "classes")
            self.results.add_inception_score(self.classifier, rows)
            self.results.generated["inception"] = videos.facts

    def measure_reconstruction(self) -> None:
        """The autoencoder alone: real clips and what it makes of them."""
        if "reconstruction" not in self.measures:
            return
        model, results, lpips = self.model, self.results, self.lpips
        clips = self._real_clips(self.clip.frames, self.protocol.reconstruction_samples, size=self.own_size)
        results.real["reconstruction"] = clips.facts
        facts = {"weights": self.fingerprint, "lpips": lpips and lpips.facts} | self.space_facts | self.shape_facts
        facts |= {"model": settings_beside_weights(model.config), "numbers": list(RECONSTRUCTION_NUMBERS)}

        def measure(batch: np.ndarray) -> Rows:
            found = model.reconstruct(batch)
            rows = reconstruction_numbers(batch, found, lpips)
            for name, videos in (("real", batch), ("found", found)):
                rows |= feature_rows(self.spaces, videos, self.batch_size, name)
            return rows | (reconstruction_rows(batch, found) if self.yardstick else {})

        rows = results.measure(clips, measure, facts, "reconstruction")
        if lpips is not None:
            results.networks["lpips"] = lpips.facts
        results.add_reconstruction(self.clip.frames, rows)
        if self.yardstick:
            self.yardstick.add_reconstruction(rows)

    def measure_shapes(self) -> None:
        """What only videos whose truth is known can tell."""
        if self.yardstick:
            self.yardstick.measure_real()
            self.yardstick.measure_continuations()


def _complete_protocol(protocol: ProtocolConfig, config: Config) -> ProtocolConfig:
    """The protocol with the model's own settings where it doesn't set the size or the sampling.

    Raises ConfigError if the model cannot sample that way.
    """
    size = (protocol.height, protocol.width)
    if not protocol.height:
        size = (config.autoencoder.height, config.autoencoder.width)
    given = {name: getattr(protocol, name) for name in SAMPLING_FIELDS if getattr(protocol, name) not in ("", -1)}
    sample = settings_of(config, given)
    sampling = {name: getattr(sample, name) for name in SAMPLING_FIELDS}
    clip_frames = config.autoencoder.frames
    require(
        protocol.clip_frames in (0, clip_frames),
        "protocol.clip_frames",
        protocol.clip_frames,
        f"a clip of this model has {clip_frames}",
    )
    return dataclasses.replace(protocol, height=size[0], width=size[1], clip_frames=clip_frames, **sampling)


def _check_samples(model: PVDM, frames: int, field: str) -> None:
    """Raises ConfigError, naming `field`, if the model cannot sample videos of `frames` frames."""
    if "denoiser" not in model.weights:
        raise ConfigError(
            "this model has no denoiser: stage 2 has not been trained; measures=reconstruction needs none"
        )
    longest = model.config.autoencoder.frames
    allowed = f"this model's denoiser takes no previous clip: at most a clip's {longest}"
    require(frames <= longest or model.config.denoiser.previous_clip, field, frames, allowed)


def _sampled_labels(protocol: ProtocolConfig, classes: int, real_labels: Callable[[], np.ndarray]) -> np.ndarray:
    """Classes of the videos to sample: each in turn, or those of the protocol's real clips in random order."""
    if protocol.classes == "turn":
        return np.arange(classes, dtype=np.int32)
    return np.random.default_rng([protocol.seed, 8]).permutation(real_labels())
