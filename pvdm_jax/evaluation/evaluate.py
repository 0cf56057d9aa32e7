"""The evaluation of a trained model against its data, from start to card; that of two sets is in `evaluate_sets`.

Both check everything that they can before the long work starts, store what they have measured (see
`clip_measurements`), and return a card: a JSON object with the numbers and everything they depend on (see `card`).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import Config, ConfigError, DataConfig, require
from pvdm_jax.config.evaluation import MEASURES, ProtocolConfig
from pvdm_jax.data.dataset_identity import dataset_identity
from pvdm_jax.evaluation.c3d import FRAMES as INCEPTION_FRAMES
from pvdm_jax.evaluation.clip_measurements import Rows
from pvdm_jax.evaluation.clip_sets import VideoWindows, source_clips
from pvdm_jax.evaluation.continuation import check_truth
from pvdm_jax.evaluation.continuity import seam_rows
from pvdm_jax.evaluation.feature_spaces import (
    FeatureSpace,
    PerceptualDistance,
    choose_features,
    open_classifier,
    open_cut_detector,
    open_features,
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
# Measures of the videos that have the protocol's lengths. Each adds its rows in `measure_videos`, and what these depend
# on to the facts beside it: rows are found in the cache by their facts.
OF_VIDEOS = {"fvd", "kernel"}


@dataclasses.dataclass(frozen=True)
class EvaluationPaths:
    """Where an evaluation finds and stores files.

    cache: folder of stored results. weights: folder of the networks' weights; None: the default one (see
    `weight_sources`). features_file: the feature network's file, if it doesn't have its usual name.
    """

    cache: pathlib.Path
    weights: pathlib.Path | None = None
    features_file: pathlib.Path | None = None


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
    config, clip = model.config, model.config.autoencoder
    data = data or config.data
    protocol = _complete_protocol(protocol, config)
    size = (protocol.height, protocol.width)
    measures = set(protocol.measures)
    if "shapes" in measures:
        check_truth(data, protocol)
    protocol, spaces = open_spaces(protocol, model.mesh, paths)
    has_long = bool(measures & LONG_MEASURES) and config.denoiser.previous_clip
    compares = bool(measures & OF_VIDEOS)
    lengths = set(protocol.frames) if compares else set()
    if measures & {"drift", "borders"} and has_long:
        lengths.add(protocol.clip_frames)
    check_sizes(spaces, sorted(lengths | set(protocol.frames)), size)
    if measures & OF_SAMPLES:
        _check_samples(model, max(protocol.frames), "protocol.frames")
    batch_size = sharding.round_up(model.mesh, batch_size)
    results = EvaluationResults(protocol, spaces, paths.cache, batch_size)
    fingerprint = model.fingerprint()
    identity = functools.cache(lambda: dataset_identity(data))
    space_facts = {"spaces": [space.facts for space in spaces]}
    yardstick, shape_facts = None, {}
    if "shapes" in measures:
        yardstick = Yardstick(
            results, model, data, protocol, spaces=spaces, batch_size=batch_size, fingerprint=fingerprint
        )
        shape_facts = SHAPE_FACTS

    def real_clips(
        frames: int, count: int, avoid: VideoWindows | None = None, size: tuple[int, int] = size
    ) -> VideoWindows:
        options = {"frames": frames, "count": count, "size": size, "avoid": avoid}
        return source_clips(data, protocol, seed=config.seed, identity=identity(), **options)

    # Everything that may be missing is opened before the long work.
    classifier = lpips = detector = None
    if "cuts" in measures and has_long:
        detector = results.try_to_open("cuts", lambda: open_cut_detector(model.mesh, paths.weights))
    if "is" in measures:
        classifier = results.try_to_open("inception_score", lambda: open_classifier(model.mesh, paths.weights))
        if classifier is not None:
            _check_samples(model, INCEPTION_FRAMES, "frames of the Inception score")
    if "reconstruction" in measures:
        lpips = results.try_to_open("lpips", lambda: PerceptualDistance(model.mesh, paths.weights))
    real = {frames: real_clips(frames, protocol.real_samples) for frames in sorted(lengths)}
    others = other_clips(protocol, real, real_clips)
    if yardstick:
        others.pop(clip.frames, None)  # it has its own
    long = None
    if has_long:
        options = {"detector": detector, "clip_frames": protocol.clip_frames, "batch_size": batch_size}
        long = LongVideos(results, protocol, spaces, **options)
        real_long = long_real_clips(results, protocol, long, real_clips, real.get(protocol.clip_frames))
    labels = None
    if measures & OF_SAMPLES and config.denoiser.num_classes > 0:
        labels = _sampled_labels(
            protocol,
            config.denoiser.num_classes,
            lambda: real_clips(clip.frames, protocol.real_samples, size=(clip.height, clip.width)).labels(),
        )

    def generate(frames: int, count: int, sampled: np.ndarray | None = None) -> GeneratedClips:
        return GeneratedClips(
            model,
            protocol,
            fingerprint=fingerprint,
            frames=frames,
            count=count,
            labels=labels,
            size=size,
            sampled=sampled,
        )

    # The videos for FVD are also used for the seams if they have at least two clips.
    longest = max(protocol.frames)
    share_seams = compares and "seams" in measures and longest >= 2 * clip.frames
    real_features = measure_real(results, real, others)
    if compares:
        videos = generate(longest, protocol.samples, sampled)

        def measure_videos(batch: np.ndarray) -> Rows:
            rows = {}
            for frames in protocol.frames:
                rows |= feature_rows(spaces, batch[:, :frames], batch_size, f"frames_{frames}")
            rows |= clip_rows(batch, clip.frames) if yardstick else {}
            return rows | (seam_rows(batch, clip.frames) if share_seams else {})

        facts = {"frames": list(protocol.frames), "seams": share_seams} | space_facts | shape_facts
        rows = results.measure(videos, measure_videos, facts, "generated")
        results.generated["videos"] = videos.facts
        for frames in protocol.frames:
            results.add_distances(frames, real_features[frames], rows_features(rows, f"frames_{frames}"))
            if yardstick and frames == clip.frames:
                yardstick.measure_distances(real_features[frames])
        if yardstick:
            yardstick.add_generated(rows)
        if share_seams:
            results.add_seams(rows)
            if yardstick:
                yardstick.add_long(rows)
    if "seams" in measures and not share_seams:
        if config.denoiser.previous_clip:
            videos = generate(protocol.seam_clips * clip.frames, protocol.seam_samples, sampled_long)

            def measure_long(batch: np.ndarray) -> Rows:
                return seam_rows(batch, clip.frames) | (clip_rows(batch, clip.frames) if yardstick else {})

            rows = results.measure(videos, measure_long, {"seams": True} | shape_facts, "long videos")
            results.generated["seams"] = videos.facts
            results.add_seams(rows)
            if yardstick:
                yardstick.add_long(rows)
        else:
            results.not_measured["seams"] = "this model's denoiser takes no previous clip"
    if long:
        videos = generate(long.frames, protocol.long_samples)
        long.measure(videos, real_long, real_features.get(protocol.clip_frames, {}))
    elif measures & LONG_MEASURES:
        reason = "this model's denoiser takes no previous clip"
        results.not_measured |= {name: reason for name in sorted(measures & LONG_MEASURES)}
    if classifier is not None:
        videos = generate(INCEPTION_FRAMES, protocol.inception_samples)
        results.add_inception_score(classifier, results.features(videos, classifier, "classes"))
        results.generated["inception"] = videos.facts
    if "reconstruction" in measures:
        clips = real_clips(clip.frames, protocol.reconstruction_samples, size=(clip.height, clip.width))
        results.real["reconstruction"] = clips.facts
        facts = {"weights": fingerprint, "lpips": lpips and lpips.facts} | space_facts | shape_facts
        facts |= {"model": settings_beside_weights(config), "numbers": list(RECONSTRUCTION_NUMBERS)}

        def measure_reconstruction(batch: np.ndarray) -> Rows:
            found = model.reconstruct(batch)
            rows = reconstruction_numbers(batch, found, lpips)
            rows |= feature_rows(spaces, batch, batch_size, "real") | feature_rows(spaces, found, batch_size, "found")
            return rows | (reconstruction_rows(batch, found) if yardstick else {})

        rows = results.measure(clips, measure_reconstruction, facts, "reconstruction")
        if lpips is not None:
            results.networks["lpips"] = lpips.facts
        results.add_reconstruction(clip.frames, rows)
        if yardstick:
            yardstick.add_reconstruction(rows)
    if yardstick:
        yardstick.measure_real()
        yardstick.measure_continuations()
    return results.card({"model": name, "weights": fingerprint})


def open_spaces(
    protocol: ProtocolConfig, mesh: Mesh, paths: EvaluationPaths
) -> tuple[ProtocolConfig, list[FeatureSpace]]:
    """The feature spaces, and the protocol that names them."""
    files = {"folder": paths.weights, "path": paths.features_file}
    features = choose_features(protocol.features, min(protocol.frames), **files)
    spaces = [open_features(name, mesh, network_resize=protocol.network_resize, **files) for name in features]
    return dataclasses.replace(protocol, features=features), spaces


def check_sizes(spaces: Sequence[FeatureSpace], lengths: Sequence[int], size: tuple[int, int]) -> None:
    for space in spaces:
        for frames in lengths:
            space.check(frames, size)


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
