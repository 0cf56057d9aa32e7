"""One shard of a prepared dataset: its videos are read, checked, converted and written to an array_record file.

This runs in worker processes, each of which writes one shard at a time. A shard's record file gets its name once it is
complete, and its outcome file is written after that: a shard with an outcome is complete and is never written again.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from pvdm_jax.data.clips import center_crop_resize
from pvdm_jax.data.folders import VideoEntry, pictures_of
from pvdm_jax.data.layouts import open_arrays
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.records import PIECE_FRAMES, pack_pictures
from pvdm_jax.data.tfds_dataset import TFDSDataset
from pvdm_jax.storage.files import write_json
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import decode_image, encode_jpeg
from pvdm_jax.video.read import frame_rate, video_frames

# The file of a shard's outcome, see `write_shard`.
_FACTS = {"name": str, "label": int, "fps": float, "frames": int, "height": int, "width": int}
OUTCOME = {
    "videos": [_FACTS | {"stored": str, "records": int}],
    "skipped": {str: str},
    "records": int,
    "bytes": int,
}


def features(classes: Sequence[str]) -> tfds.features.FeaturesDict:
    """What a record holds. If a video has several records (see data/records.py), each repeats its name, label, ..."""
    return tfds.features.FeaturesDict(
        {
            "video": tfds.features.Text(doc="the file's bytes, or those of PIECE_FRAMES frames"),
            "name": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(classes), doc="-1: the video is in no class"),
            "frames": tfds.features.Scalar(np.int64),
            "height": tfds.features.Scalar(np.int64),
            "width": tfds.features.Scalar(np.int64),
            "fps": tfds.features.Scalar(np.float32, doc="0: not known"),
        }
    )


def write_shard(
    path: pathlib.Path,
    videos: Sequence[VideoEntry],
    classes: Sequence[str],
    options: PrepareOptions,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Writes the usable ones of `videos` to `path`, and the outcome to the json file beside it.

    The outcome is {"videos": [facts], "skipped": {name: reason}, "records": number, "bytes": their size}; the facts of
    a video are its name, label, fps, frames, height, width, stored (how) and records (their number). `done` is called
    after each video.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    spec = features(classes)
    unfinished = path.with_suffix(".unfinished")
    facts = []
    skipped = {}
    sizes: list[int] = []  # of the records
    writer = ArrayRecordWriter(str(unfinished), "group_size:1")
    for video in videos:
        try:
            loaded = _load(video, options)
            if loaded.frames < options.min_frames:
                raise VideoError(f"it has {loaded.frames} frames, fewer than {options.min_frames}")
        except (VideoError, OSError) as error:
            skipped[video.name] = str(error).removeprefix(f"{video.path}: ")
        else:
            known = {
                "name": video.name,
                "label": classes.index(video.class_name) if video.class_name else -1,
                "fps": loaded.fps,
                "frames": loaded.frames,
                "height": loaded.height,
                "width": loaded.width,
            }
            first = len(sizes)
            for piece in loaded.records:
                record = spec.serialize_example(spec.encode_example({"video": piece, **known}))
                writer.write(record)
                sizes.append(len(record))
            facts.append(known | {"stored": loaded.stored, "records": len(sizes) - first})
        done()
    writer.close()
    os.replace(unfinished, path)
    outcome = {"videos": facts, "skipped": skipped, "records": len(sizes), "bytes": sum(sizes)}
    write_json(outcome_path(path), outcome)


def outcome_path(shard: pathlib.Path) -> pathlib.Path:
    """The json file of a shard's outcome."""
    return shard.with_suffix(".json")


def relabel(path: pathlib.Path, target: pathlib.Path, old: Sequence[str], new: Sequence[str]) -> None:
    """Copies a shard; labels, indices into the classes `old`, become indices into `new`."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from array_record.python.array_record_module import ArrayRecordWriter

    before = features(old)
    after = features(new)
    unfinished = target.with_suffix(".unfinished")
    writer = ArrayRecordWriter(str(unfinished), "group_size:1")
    records = ArrayRecordDataSource(str(path))
    for index in range(len(records)):
        record = before.deserialize_example_np(records[index])
        label = int(record["label"])
        record["label"] = new.index(old[label]) if label >= 0 else -1
        writer.write(after.serialize_example(after.encode_example(record)))
    writer.close()
    os.replace(unfinished, target)


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A video that was decoded from beginning to end, and its records."""

    stored: str  # file, pictures or array, see data/records.py
    records: Iterable[bytes]
    frames: int
    height: int
    width: int
    fps: float


def _load(video: VideoEntry, options: PrepareOptions) -> _Loaded:
    """Decodes a video, to be sure that it can be read later. Raises VideoError if it can't."""
    if video.kind == "file":
        data = pathlib.Path(video.path).read_bytes()
        fps = frame_rate(data, video.path)
        frames = _Frames(lambda: video_frames(data, video.path), options)
        if options.storage == "video":
            return _loaded("file", [data], frames, fps)
    elif video.kind == "array" or (video.kind == "tfds" and _tfds_dataset(video.path).stored == "array"):
        fps = options.fps
        frames = _Frames(lambda: iter(_array(video)), options)
    else:
        fps = options.fps
        pictures = _pictures(video)
        frames = _Frames(lambda: (decode_image(picture, name) for name, picture in pictures), options)
        if options.storage == "video":
            return _loaded("pictures", _pieces((data for _, data in pictures), pack_pictures), frames, fps)
    if options.storage == "jpeg":
        encoded = (encode_jpeg(frame, options.quality) for frame in frames)
        return _loaded("pictures", _pieces(encoded, pack_pictures), frames, fps)
    return _loaded("array", _pieces(frames, lambda piece: np.stack(piece).tobytes()), frames, fps)


def _loaded(stored: str, records: Iterable[bytes], frames: Iterable[np.ndarray], fps: float) -> _Loaded:
    """Counts the frames, which `records` may produce again: so no more than one piece of them is in memory."""
    count, height, width = _measure(frames)
    return _Loaded(stored=stored, records=records, frames=count, height=height, width=width, fps=fps)


@dataclasses.dataclass(frozen=True)
class _Frames:
    """The frames that `produce()` yields, in the size in which they are stored; can be iterated repeatedly."""

    produce: Callable[[], Iterator[np.ndarray]]
    options: PrepareOptions

    def __iter__(self) -> Iterator[np.ndarray]:
        options = self.options
        for frame in self.produce():
            if options.height and options.storage != "video":
                frame = center_crop_resize(frame[None], options.height, options.width, options.resize)[0]
            yield frame


def _pictures(video: VideoEntry) -> list[tuple[str, bytes]]:
    """(name, bytes) of each picture of a video."""
    if video.kind == "tfds":
        return [(video.name, data) for data in _tfds_dataset(video.path).pictures(video.key, video.index)]
    return [(str(path), path.read_bytes()) for path in pictures_of(video.path)]


def _array(video: VideoEntry) -> np.ndarray:
    if video.kind == "tfds":
        return _tfds_dataset(video.path).array(video.key, video.index)
    array = _arrays(video.path)[video.key]
    return array if video.index < 0 else array[video.index]


def _measure(frames: Iterable[np.ndarray]) -> tuple[int, int, int]:
    """(count, height, width) of frames. Raises VideoError if they differ in size or there are none."""
    count = 0
    shape: tuple[int, ...] = (0, 0, 3)
    for frame in frames:
        if count == 0:
            shape = frame.shape
        if frame.shape != shape:
            raise VideoError(f"its frames change their size, from {shape[:2]} to {frame.shape[:2]}")
        count += 1
    if 0 in shape:
        raise VideoError("it holds no frame")
    return count, shape[0], shape[1]


def _pieces(frames: Iterable, pack: Callable[[list], bytes]) -> Iterator[bytes]:
    """Records of PIECE_FRAMES frames each."""
    frames = iter(frames)
    while piece := list(itertools.islice(frames, PIECE_FRAMES)):
        yield pack(piece)


@functools.lru_cache(maxsize=1)  # the videos of one file come one after the other
def _arrays(path: str) -> dict[str, np.ndarray]:
    return open_arrays(path)


@functools.lru_cache(maxsize=1)
def _tfds_dataset(path: str) -> TFDSDataset:
    return TFDSDataset(path)
