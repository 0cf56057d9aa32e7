"""Sets of clips that are compared: windows of real videos, chosen as a protocol says, and folders of video files."""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig, require
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.data.clips import center_crop_resize, clip_span
from pvdm_jax.data.sources import Video, open_source
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.read import VIDEO_SUFFIXES, decode_video, probe_video, video_files
from pvdm_jax.weights.foreign_files import file_hash

THREADS = min(8, os.cpu_count() or 1)  # that read and decode files


class ClipSet(Protocol):
    """A sequence of clips of one size, and what says which clips they are."""

    facts: dict[str, Any]  # JSON; equal facts, equal clips

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> np.ndarray:
        """Clips start, ..., stop - 1 as uint8 (n, frames, height, width, 3)."""


@dataclasses.dataclass(frozen=True)
class FileVideo:
    """A video file, its frames cropped and resized as they are read."""

    path: pathlib.Path
    name: str
    frames: int
    height: int
    width: int
    resize: str
    label: int = -1

    def read(self, start: int, count: int, stride: int = 1) -> np.ndarray:
        """Frames start, start + stride, ... as uint8 (count, height, width, 3)."""

        def fit(frame: np.ndarray) -> np.ndarray:
            return center_crop_resize(frame[None], self.height, self.width, self.resize)[0]

        return decode_video(self.path.read_bytes(), start, count, stride, str(self.path), fit)


class Windows:
    """Clips of `frames` frames of videos, one window each."""

    def __init__(
        self, videos: Sequence[Video], windows: Sequence[tuple[int, int]], frames: int, stride: int, facts: dict
    ):
        self._videos, self.windows, self._frames, self._stride = videos, windows, frames, stride
        self.facts = facts | {
            "clips": len(windows),
            "frames": frames,
            "stride": stride,
            "windows": _digest([[videos[i].name, start] for i, start in windows]),
        }

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, start: int, stop: int) -> np.ndarray:
        def read(window: tuple[int, int]) -> np.ndarray:
            return self._videos[window[0]].read(window[1], self._frames, self._stride)

        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            return np.stack(list(pool.map(read, self.windows[start:stop])))

    def labels(self) -> np.ndarray:
        """Each clip's class, int32 (n,), -1 for none."""
        return np.array([self._videos[i].label for i, _ in self.windows], np.int32)


def choose_windows(lengths: Sequence[int], span: int, count: int, videos: str, clips: str, seed: int) -> list:
    """At most `count` windows (video, start) of `span` frames in videos of the given lengths.

    One window of each video comes first; where there are more videos than that, `videos` says which: the first ones,
    as many spread evenly, or a random choice. Where there are fewer, further windows of the same videos follow, in
    rounds, as long as there are others. clips: "random" starts anywhere; "start" at the beginning, further windows
    where the one before ends.
    """
    able = [i for i, length in enumerate(lengths) if length >= span]
    rng = np.random.default_rng([seed, 3])
    if videos == "spread" and len(able) > count:
        able = [able[(2 * k + 1) * len(able) // (2 * count)] for k in range(count)]
    elif videos == "random":
        able = [able[k] for k in rng.permutation(len(able))]
    step = 1 if clips == "random" else span
    # The starts that each video has, in the order in which they are taken.
    starts = {}
    for i in able[:count]:
        places = np.arange(0, lengths[i] - span + 1, step)
        if clips == "random":
            places = np.random.default_rng([seed, 4, i]).choice(places, min(len(places), count), replace=False)
        starts[i] = places
    windows: list[tuple[int, int]] = []
    for round_ in range(max((len(places) for places in starts.values()), default=0)):
        for i, places in starts.items():
            if round_ < len(places) and len(windows) < count:
                windows.append((i, int(places[round_])))
    return windows


def find_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The video files in a folder and its subfolders, in the order of their names; hidden ones are left out."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    paths = video_files(folder)
    if not paths:
        raise VideoError(f"{folder}: no video file ({', '.join(VIDEO_SUFFIXES)}) in it")
    return paths


class Folder:
    """The videos of a folder; of unreadable files each is named once and left out."""

    def __init__(self, folder: str | pathlib.Path):
        self.path = pathlib.Path(folder)
        paths = find_files(self.path)
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            probes = list(pool.map(_probe, paths))
            self.skipped = [str(error) for error in probes if isinstance(error, Exception)]
            for reason in self.skipped:
                logging.warning("left out: %s", reason)
            self._files = [
                (p, probe) for p, probe in zip(paths, probes, strict=True) if not isinstance(probe, Exception)
            ]
            if not self._files:
                raise VideoError(f"{folder}: none of its {len(paths)} files can be read; the first: {self.skipped[0]}")
            hashes = list(pool.map(file_hash, (path for path, _ in self._files)))
        names = [path.relative_to(self.path).as_posix() for path, _ in self._files]
        self.sha256 = _digest(list(zip(names, hashes, strict=True)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first video."""
        return self._files[0][1].height, self._files[0][1].width

    @property
    def longest(self) -> int:
        return max(info.frames for _, info in self._files)

    def clips(self, frames: int, count: int, protocol: ProtocolConfig, size: tuple[int, int], real: bool) -> Windows:
        """Windows as the protocol says for real videos; of generated ones, the first frames of each.

        Raises ConfigError where fewer than two videos are long enough.
        """
        stride = protocol.stride if real else 1
        span = clip_span(frames, stride)
        videos = [
            FileVideo(path, path.relative_to(self.path).as_posix(), info.frames, *size, protocol.resize)
            for path, info in self._files
        ]
        how = (protocol.videos, protocol.clips) if real else ("first", "start")
        windows = choose_windows([video.frames for video in videos], span, count, *how, protocol.seed)
        _check_enough(windows, frames, span, str(self.path), self.longest)
        facts = {"folder": self.path.name, "files": len(self._files), "sha256": self.sha256, "size": list(size)}
        return Windows(videos, windows, frames, stride, facts | {"resize": protocol.resize, "skipped": self.skipped})


def source_clips(
    data: DataConfig, seed: int, frames: int, count: int, protocol: ProtocolConfig, size: tuple[int, int]
) -> Windows:
    """Windows of a configuration's data, of the protocol's split.

    Raises ConfigError where the data or the split is missing, or nothing in it is long enough.
    """
    clip = AutoencoderConfig(frames=frames, height=size[0], width=size[1], patch_size=1)
    data = dataclasses.replace(data, stride=protocol.stride, resize=protocol.resize, flip=False, crop_scale=1.0)
    if data.source == "synthetic":
        allowed = "the synthetic source has train and holdout; all is both"
        require(protocol.split != "test", "protocol.split", protocol.split, allowed)
        parts = ("train", "holdout") if protocol.split == "all" else (protocol.split,)
        videos: Sequence[Video] = [video for part in parts for video in _list(open_source(data, clip, part, seed))]
    elif protocol.split in ("train", "holdout"):
        videos = open_source(data, clip, protocol.split, seed)
    else:
        videos = open_source(
            dataclasses.replace(data, split=protocol.split, eval_split="", holdout=0.0), clip, "train", seed
        )
    allowed = f"no video in it has {clip_span(frames, protocol.stride)} frames; choose another split, or shorter clips"
    require(len(videos) > 0, "protocol.split", protocol.split, allowed)
    lengths = [videos[i].frames for i in range(len(videos))]
    span = clip_span(frames, protocol.stride)
    windows = choose_windows(lengths, span, count, protocol.videos, protocol.clips, protocol.seed)
    _check_enough(windows, frames, span, f"the {protocol.split} split", max(lengths))
    facts = {"source": data.source, "split": protocol.split, "videos": len(videos), "size": list(size)}
    facts |= {"resize": protocol.resize, "fps": data.fps, "short_videos": data.short_videos}
    if protocol.split in ("train", "holdout"):
        facts |= {"trained_on": data.split, "eval_split": data.eval_split, "holdout": data.holdout}
    if data.source == "synthetic":
        facts |= {"seed": seed, "synthetic_videos": data.synthetic_videos, "synthetic_frames": data.synthetic_frames}
        first = videos[windows[0][0]].read(windows[0][1], frames, protocol.stride)
        facts["sha256"] = hashlib.sha256(np.ascontiguousarray(first).tobytes()).hexdigest()  # of the first clip
    else:
        from pvdm_jax.data.catalogue import catalogue_folder

        path = pathlib.Path(data.path if os.path.isdir(data.path) else catalogue_folder(data.path))
        facts |= {"folder": path.name, "sha256": _folder_hash(path)}
    return Windows(videos, windows, frames, protocol.stride, facts)


def is_dataset(path: pathlib.Path) -> bool:
    """Whether a folder is a dataset that `pvdm prepare` wrote or TFDS built."""
    return path.is_dir() and any((path / name).is_file() for name in ("dataset_info.json", "features.json"))


def _check_enough(windows: Sequence, frames: int, span: int, where: str, longest: int) -> None:
    spans = "" if span == frames else f", which span {span}"
    allowed = f"fewer than two clips of {frames} frames{spans} are in {where}; its longest video has {longest}"
    require(len(windows) >= 2, "protocol.frames", frames, allowed)


def _list(source: Any) -> list:
    return [source[i] for i in range(len(source))]


def _probe(path: pathlib.Path) -> Any:
    try:
        return probe_video(path)
    except (VideoError, OSError) as error:
        return error


def _folder_hash(folder: pathlib.Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        hashes = list(pool.map(file_hash, files))
    return _digest([[path.relative_to(folder).as_posix(), digest] for path, digest in zip(files, hashes, strict=True)])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
