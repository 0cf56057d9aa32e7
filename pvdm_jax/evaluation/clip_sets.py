"""Sets of clips to compare: windows of real videos, chosen by a protocol, and folders of video files."""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig, require
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.data.clips import center_crop_resize, clip_span
from pvdm_jax.data.sources import Video, open_source
from pvdm_jax.storage.files import file_hash
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.files import VIDEO_SUFFIXES, video_files
from pvdm_jax.video.read import decode_frames, probe_video

THREADS = min(8, os.cpu_count() or 1)  # for reading and decoding files
MAX_REPLACEMENTS = 20  # tried for a clip that can't be read


class ClipSet(Protocol):
    """A sequence of clips of one size, with facts that identify them."""

    facts: dict[str, Any]  # JSON; equal facts mean equal clips

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> np.ndarray:
        """Clips start, ..., stop - 1 as uint8 (n, frames, height, width, 3)."""


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A video file whose frames are cropped and resized as they are read."""

    path: pathlib.Path
    name: str
    frames: int  # as `probe_video` counted them
    height: int
    width: int
    resize: str
    label: int = -1

    def read(self, start: int, count: int, stride: int = 1) -> np.ndarray:
        """Frames start, start + stride, ... as uint8 (count, height, width, 3)."""

        def fit(frame: np.ndarray) -> np.ndarray:
            return center_crop_resize(frame[None], self.height, self.width, self.resize)[0]

        numbers = range(start, start + count * stride, stride)
        return decode_frames(self.path, numbers, transform=fit, total=self.frames)


def clip_pixels(clips: ClipSet) -> int:
    """The pixels of all frames of a clip; 1 if the facts don't tell its size."""
    return math.prod(clips.facts.get("size", ())) * clips.facts.get("frames", 1)


class VideoWindows:
    """Clips of `frames` frames, each a window of a video.

    windows: (index of the video, first frame) for each clip. facts: what identifies the videos (JSON).
    """

    def __init__(
        self, videos: Sequence[Video], windows: Sequence[tuple[int, int]], frames: int, stride: int, facts: dict
    ):
        self.windows = windows
        self._videos = videos
        self._frames = frames
        self._stride = stride
        self.facts = facts | {
            "clips": len(windows),
            "frames": frames,
            "stride": stride,
            "windows": _json_hash([[videos[i].name, start] for i, start in windows]),
        }

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, start: int, stop: int) -> np.ndarray:
        """See `ClipSet.batch`; files are read by several threads.

        A clip that can't be read is replaced, with a warning, by the next readable one. Raises VideoError if
        MAX_REPLACEMENTS clips can't be read either.
        """
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            return np.stack(list(pool.map(self._read, range(start, min(stop, len(self))))))

    def _read(self, number: int) -> np.ndarray:
        for other in range(number, number + min(1 + MAX_REPLACEMENTS, len(self.windows))):
            index, start = self.windows[other % len(self.windows)]
            try:
                return self._videos[index].read(start, self._frames, self._stride)
            except (VideoError, OSError) as error:
                logging.warning("clip %d is replaced by the next one: %s", number, error)
                last = error
        raise VideoError(f"neither clip {number} nor those after it can be read; the last: {last}")

    def named_windows(self) -> list[tuple[str, int]]:
        """The name of the video and the first frame of each clip."""
        return [(self._videos[i].name, start) for i, start in self.windows]

    def labels(self) -> np.ndarray:
        """Each clip's class, int32 (n,), -1 for none."""
        return np.array([self._videos[i].label for i, _ in self.windows], np.int32)


def choose_windows(
    lengths: Sequence[int],
    span: int,
    count: int,
    *,
    videos: str,
    clips: str,
    seed: int,
    avoid: Collection[tuple[int, int]] = (),
) -> list[tuple[int, int]]:
    """At most `count` windows (index of the video, first frame) of `span` frames in videos of the given lengths.

    Every video gives one window before any gives a second. If there are more videos than `count`, `videos` says which
    are taken: the "first", evenly "spread" ones, or "random" ones. If there are fewer, further windows of the same
    videos follow in rounds, as long as there are unused ones. clips: "random" windows start anywhere; with "start",
    the first one starts at the beginning and each further one where the previous one ends.

    avoid: windows of a first set. Its videos are not used; but if at most one other video is long enough, other windows
    of the same videos are.
    """
    long_enough = [i for i, length in enumerate(lengths) if length >= span]
    used = {i for i, _ in avoid}
    unused = [i for i in long_enough if i not in used]
    long_enough = unused if len(unused) >= 2 else long_enough
    rng = np.random.default_rng([seed, 3])
    if videos == "spread" and len(long_enough) > count:
        long_enough = [long_enough[(2 * k + 1) * len(long_enough) // (2 * count)] for k in range(count)]
    elif videos == "random":
        long_enough = [long_enough[k] for k in rng.permutation(len(long_enough))]
    step = 1 if clips == "random" else span
    # The possible starts in each video, in the order in which they are taken.
    starts = {}
    for i in long_enough[:count]:
        possible = np.arange(0, lengths[i] - span + 1, step)
        if i in used:
            possible = np.array([start for start in possible if (i, start) not in avoid], np.int64)
        if clips == "random":
            possible = np.random.default_rng([seed, 4, i]).choice(possible, min(len(possible), count), replace=False)
        starts[i] = possible
    windows: list[tuple[int, int]] = []
    for round_ in range(max((len(possible) for possible in starts.values()), default=0)):
        for i, possible in starts.items():
            if round_ < len(possible) and len(windows) < count:
                windows.append((i, int(possible[round_])))
    return windows


class VideoFolder:
    """The video files of a folder and its subfolders, in natural order, without hidden ones (see `video.files`).

    Unreadable files are skipped, each with a warning (`skipped`). Raises FileNotFoundError if there is no such folder,
    VideoError if it has no readable video file.
    """

    def __init__(self, folder: str | pathlib.Path):
        self.path = pathlib.Path(folder)
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        paths, problems = video_files(self.path)
        unread = [f"{name}: {reason}" for name, reason in problems.items()]
        if not paths:
            more = f"; skipped: {'; '.join(unread)}" if unread else ""
            raise VideoError(f"{folder}: no video file ({', '.join(VIDEO_SUFFIXES)}) in it{more}")
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            probes = list(zip(paths, pool.map(_probe, paths), strict=True))
            self.skipped = unread + [str(result) for _, result in probes if isinstance(result, Exception)]
            for reason in self.skipped:
                logging.warning("skipped: %s", reason)
            self._files = [(path, result) for path, result in probes if not isinstance(result, Exception)]
            if not self._files:
                raise VideoError(f"{folder}: none of its {len(paths)} files can be read; the first: {self.skipped[0]}")
            hashes = list(pool.map(file_hash, (path for path, _ in self._files)))
        names = [path.relative_to(self.path).as_posix() for path, _ in self._files]
        self.sha256 = _json_hash(list(zip(names, hashes, strict=True)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first video."""
        return self._files[0][1].height, self._files[0][1].width

    @property
    def longest(self) -> int:
        """Frames of the longest video."""
        return max(info.frames for _, info in self._files)

    def generated_clips(self, frames: int, count: int, protocol: ProtocolConfig, size: tuple[int, int]) -> VideoWindows:
        """The first frames of generated videos. Raises ConfigError if fewer than two videos are long enough."""
        first = dataclasses.replace(protocol, stride=1, videos="first", clips="start")
        return self.real_clips(frames, count, first, size)

    def real_clips(
        self,
        frames: int,
        count: int,
        protocol: ProtocolConfig,
        size: tuple[int, int],
        avoid: VideoWindows | None = None,
    ) -> VideoWindows:
        """`count` windows, chosen as the protocol says. Raises ConfigError if there are fewer than two.

        avoid: see `choose_windows`.
        """
        files = [
            VideoFile(path, path.relative_to(self.path).as_posix(), info.frames, *size, protocol.resize)
            for path, info in self._files
        ]
        span = clip_span(frames, protocol.stride)
        lengths = [file.frames for file in files]
        taken = _places(files, avoid)
        windows = choose_windows(lengths, span, count, **_choice(protocol), avoid=taken)
        _check_enough(windows, frames=frames, span=span, where=str(self.path), longest=self.longest)
        facts = {
            "folder": self.path.name,
            "files": len(files),
            "sha256": self.sha256,
            "size": list(size),
            "resize": protocol.resize,
            "skipped": self.skipped,
        }
        facts |= _shared(windows, taken)
        return VideoWindows(files, windows, frames, protocol.stride, facts)


def source_clips(
    data: DataConfig,
    protocol: ProtocolConfig,
    *,
    seed: int,
    frames: int,
    count: int,
    size: tuple[int, int],
    identity: str,
    avoid: VideoWindows | None = None,
) -> VideoWindows:
    """Windows of the data that a configuration names, from the protocol's split.

    seed: of the synthetic source. identity: the dataset's fingerprint. avoid: see `choose_windows`. Raises ConfigError
    if the data or the split does not exist, or if fewer than two windows fit into its videos.
    """
    clip = AutoencoderConfig(frames=frames, height=size[0], width=size[1], patch_size=1)
    data = dataclasses.replace(data, stride=protocol.stride, resize=protocol.resize, flip=False, crop_scale=1.0)
    videos = _split_videos(data, clip, protocol.split, seed)
    span = clip_span(frames, protocol.stride)
    allowed = f"no video in it has {span} frames; choose another split, or shorter clips"
    require(len(videos) > 0, "protocol.split", protocol.split, allowed)
    lengths = [videos[i].frames for i in range(len(videos))]
    taken = _places(videos, avoid)
    windows = choose_windows(lengths, span, count, **_choice(protocol), avoid=taken)
    where = f"the {protocol.split} split"
    _check_enough(windows, frames=frames, span=span, where=where, longest=max(lengths))
    facts = {
        "source": data.source,
        "split": protocol.split,
        "videos": len(videos),
        "size": list(size),
        "resize": protocol.resize,
        "fps": data.fps,
        "short_videos": data.short_videos,
    }
    if protocol.split in ("train", "holdout"):
        facts |= {"trained_on": data.split, "eval_split": data.eval_split, "holdout": data.holdout}
    if data.source == "synthetic":
        facts |= {"seed": seed, "synthetic_videos": data.synthetic_videos, "synthetic_frames": data.synthetic_frames}
        first = videos[windows[0][0]].read(windows[0][1], frames, protocol.stride)
        facts["sha256"] = hashlib.sha256(np.ascontiguousarray(first).tobytes()).hexdigest()  # of the first clip
    else:
        from pvdm_jax.data.tfds_dataset import find_tfds_dataset

        path = pathlib.Path(data.path if os.path.isdir(data.path) else find_tfds_dataset(data.path))
        facts |= {"folder": path.name, "sha256": identity}
    return VideoWindows(videos, windows, frames, protocol.stride, facts | _shared(windows, taken))


def _choice(protocol: ProtocolConfig) -> dict[str, Any]:
    """The arguments of `choose_windows` that a protocol sets."""
    return {"videos": protocol.videos, "clips": protocol.clips, "seed": protocol.seed}


def _places(videos: Sequence[Video], avoid: VideoWindows | None) -> set[tuple[int, int]]:
    """The windows of another set as (index of the video, first frame) among these videos."""
    if avoid is None:
        return set()
    numbers = {videos[i].name: i for i in range(len(videos))}
    return {(numbers[name], start) for name, start in avoid.named_windows() if name in numbers}


def _shared(windows: Sequence[tuple[int, int]], taken: Collection[tuple[int, int]]) -> dict[str, int]:
    """How many of a second set's windows are from videos that the first set also uses."""
    used = {i for i, _ in taken}
    return {"windows_of_shared_videos": sum(i in used for i, _ in windows)} if taken else {}


def _split_videos(data: DataConfig, clip: AutoencoderConfig, split: str, seed: int) -> Sequence[Video]:
    if data.source == "synthetic":
        allowed = "the synthetic source has train and holdout; all is both"
        require(split != "test", "protocol.split", split, allowed)
        sources = [
            open_source(data, clip, part, seed) for part in (("train", "holdout") if split == "all" else [split])
        ]
        return [source[i] for source in sources for i in range(len(source))]
    if split in ("train", "holdout"):
        return open_source(data, clip, split, seed)
    return open_source(dataclasses.replace(data, split=split, eval_split="", holdout=0.0), clip, "train", seed)


def _check_enough(windows: Sequence, *, frames: int, span: int, where: str, longest: int) -> None:
    spans = "" if span == frames else f", which span {span}"
    allowed = f"fewer than two clips of {frames} frames{spans} are in {where}; its longest video has {longest}"
    require(len(windows) >= 2, "protocol.frames", frames, allowed)


def _probe(path: pathlib.Path) -> Any:
    """Facts about a video file, or the error that reading it raises."""
    try:
        return probe_video(path)
    except (VideoError, OSError) as error:
        return error


def _json_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
