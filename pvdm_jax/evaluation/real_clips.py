"""The real clips of an evaluation: those that generated videos are compared with, and others to compare them with.

A distance means little by itself. It is shown next to that of other real clips, from other videos if there are enough.
"""

import dataclasses
import pathlib
from collections.abc import Callable

from pvdm_jax.config import ConfigError, DataConfig
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.data.dataset_files import is_dataset
from pvdm_jax.data.dataset_identity import dataset_identity
from pvdm_jax.evaluation.clip_sets import VideoFolder, VideoWindows, source_clips
from pvdm_jax.evaluation.long_videos import LongVideos
from pvdm_jax.evaluation.results import EvaluationResults, SpaceFeatures

# (frames, count, a set whose videos are to be avoided) -> real clips
FindClips = Callable[[int, int, VideoWindows | None], VideoWindows]


def find_real_clips(
    real: pathlib.Path, protocol: ProtocolConfig, size: tuple[int, int]
) -> tuple[ProtocolConfig, FindClips]:
    """The protocol with the split of the real clips, and a function that finds them."""
    if is_dataset(real):
        # Nothing was held out from these videos, so the split must be one of the dataset's own, or all of them.
        data = DataConfig(source="tfds", path=str(real), holdout=0.0)
        split = dataclasses.replace(protocol, split="all" if protocol.split == "holdout" else protocol.split)
        identity = dataset_identity(data)

        def find(frames: int, count: int, avoid: VideoWindows | None) -> VideoWindows:
            options = {"frames": frames, "count": count, "size": size, "avoid": avoid}
            return source_clips(data, split, seed=0, identity=identity, **options)

        return split, find
    # A folder has no splits, so all of it is compared.
    split = dataclasses.replace(protocol, split="all")
    folder = VideoFolder(real)
    return split, lambda frames, count, avoid: folder.real_clips(frames, count, split, size, avoid)


def other_clips(
    protocol: ProtocolConfig, real: dict[int, VideoWindows], find: FindClips
) -> dict[int, VideoWindows | str]:
    """For each of the protocol's lengths a second set of real clips, or the reason why there is none.

    Its distance from the first set is what generated videos can reach.
    """
    if "kernel" not in protocol.measures:
        return {}
    found: dict[int, VideoWindows | str] = {}
    for frames in protocol.frames:
        try:
            found[frames] = find(frames, protocol.real_samples, real[frames])
        except ConfigError as error:
            found[frames] = str(error)
    return found


def long_real_clips(
    results: EvaluationResults, protocol: ProtocolConfig, long: LongVideos, find: FindClips, clips: VideoWindows | None
) -> VideoWindows | None:
    """Real videos as long as the generated ones, other videos than those of `clips`; None if there are none (the
    reason goes to the results)."""
    try:
        return find(long.frames, protocol.long_samples, clips)
    except ConfigError as error:
        results.not_measured["long real videos"] = str(error)
        return None


def measure_real(
    results: EvaluationResults, real: dict[int, VideoWindows], others: dict[int, VideoWindows | str]
) -> dict[int, SpaceFeatures]:
    """The features of the real clips of each length; adds the distances of the other real clips from them."""
    found = {}
    for frames, clips in real.items():
        found[frames] = results.space_features(clips, f"real {frames}")
        results.real[f"frames_{frames}"] = clips.facts
        other = others.get(frames)
        if isinstance(other, VideoWindows):
            results.add_distances(frames, found[frames], results.space_features(other, f"other real {frames}"), "real_")
            results.real[f"others_{frames}"] = other.facts
        elif other is not None:
            results.not_measured[f"other real clips of {frames} frames"] = other
    return found
