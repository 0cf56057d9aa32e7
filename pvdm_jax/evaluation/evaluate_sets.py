"""The evaluation of two sets of videos, from start to card."""

import dataclasses
import pathlib
from typing import Any

from pvdm_jax.config import MeshConfig
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.evaluation.c3d import FRAMES as INCEPTION_FRAMES
from pvdm_jax.evaluation.clip_sets import VideoFolder
from pvdm_jax.evaluation.feature_spaces import (
    EvaluationPaths,
    check_sizes,
    open_classifier,
    open_cut_detector,
    open_spaces,
)
from pvdm_jax.evaluation.generated_clips import SAMPLING_FIELDS
from pvdm_jax.evaluation.long_videos import LONG_MEASURES, LongVideos
from pvdm_jax.evaluation.real_clips import find_real_clips, long_real_clips, measure_real, other_clips
from pvdm_jax.evaluation.results import EvaluationResults
from pvdm_jax.runtime import sharding

# The protocol's fields on how videos were generated, for videos of which this is not known.
UNKNOWN_SAMPLING = {name: getattr(ProtocolConfig(), name) for name in SAMPLING_FIELDS} | {"weights": ""}
# Measures that need no model.
OF_SETS = {"fvd", "kernel", "is"} | LONG_MEASURES


def evaluate_sets(
    real: pathlib.Path, fake: pathlib.Path, protocol: ProtocolConfig, paths: EvaluationPaths, batch_size: int = 16
) -> dict[str, Any]:
    """The card of the videos in `fake` compared with those in `real`, a folder or a dataset of `pvdm prepare`.

    It has the distances for each of the protocol's lengths and, if the protocol names them, the Inception score and the
    measures of long videos. If the protocol sets no size, real videos are resized to that of the first generated one.
    Raises FileNotFoundError, VideoError or ConfigError before the long work.
    """
    mesh = sharding.make_mesh(MeshConfig())
    protocol, spaces = open_spaces(protocol, mesh, paths)
    measures = set(protocol.measures)
    generated = VideoFolder(fake)
    size = (protocol.height, protocol.width) if protocol.height else generated.size
    clip_frames = protocol.clip_frames if measures & LONG_MEASURES else 0
    lengths = sorted({*protocol.frames, *([clip_frames] if clip_frames else [])})
    check_sizes(spaces, lengths, size)
    protocol = dataclasses.replace(protocol, height=size[0], width=size[1], **UNKNOWN_SAMPLING)
    protocol, find_real = find_real_clips(real, protocol, size)
    real_clips = {frames: find_real(frames, protocol.real_samples, None) for frames in lengths}
    others = other_clips(protocol, real_clips, find_real)
    generated_clips = {
        frames: generated.generated_clips(frames, protocol.samples, protocol, size) for frames in protocol.frames
    }
    batch_size = sharding.round_up(mesh, batch_size)
    results = EvaluationResults(protocol, spaces, paths.cache, batch_size)
    classifier = detector = None
    if "cuts" in measures and clip_frames:
        detector = results.try_to_open("cuts", lambda: open_cut_detector(mesh, paths.weights))
    if "is" in measures:
        classifier = results.try_to_open("inception_score", lambda: open_classifier(mesh, paths.weights))
    if classifier is not None:
        inception_clips = generated.generated_clips(INCEPTION_FRAMES, protocol.inception_samples, protocol, size)
    long = None
    if clip_frames:
        options = {"detector": detector, "clip_frames": clip_frames, "batch_size": batch_size}
        long = LongVideos(results, protocol, spaces, **options)
        long_clips = generated.generated_clips(long.frames, protocol.long_samples, protocol, size)
        real_long = long_real_clips(results, protocol, long, find_real, real_clips[clip_frames])

    real_features = measure_real(results, real_clips, others)
    for frames in protocol.frames:
        generated_features = results.space_features(generated_clips[frames], f"generated {frames}")
        results.add_distances(frames, real_features[frames], generated_features)
        results.generated[f"frames_{frames}"] = generated_clips[frames].facts
    if long:
        long.measure(long_clips, real_long, real_features[clip_frames])
    if classifier is not None:
        results.add_inception_score(classifier, results.features(inception_clips, classifier, "classes"))
        results.generated["inception"] = inception_clips.facts
    for name in sorted(measures - OF_SETS):
        results.not_measured[name] = "it needs a model (--model)"
    for name in sorted(measures & LONG_MEASURES):
        if not clip_frames:
            results.not_measured[name] = "the length of a clip is not known; set it, such as --set clip_frames=16"
    return results.card({"real": real.name, "generated": fake.name})
