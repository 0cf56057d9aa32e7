"""One shard of a prepared dataset: some videos are read, checked, converted and written to an array_record file.

It runs in worker processes, each of which makes one shard at a time. A shard's record file appears under its name only
once it is complete, and its json file after that: a shard that has one is never made again.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from pvdm_jax.data.catalogue import Catalogue
from pvdm_jax.data.clips import center_crop_resize
from pvdm_jax.data.layouts import Found, open_arrays, pictures_of
from pvdm_jax.data.storage import PIECE_FRAMES, pack_pictures
from pvdm_jax.storage.files import write_text
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import decode_image, encode_jpeg
from pvdm_jax.video.read import frame_rate, video_frames

STORAGES = ("video", "jpeg", "frames")


@dataclasses.dataclass(frozen=True)
class Options:
    """What decides the contents of a dataset, beside its videos."""

    min_frames: int = 16  # shorter videos are skipped
    storage: str = "video"  # video: as they are; jpeg: as pictures; frames: as plain uint8 frames
    height: int = 0  # of the stored frames of jpeg and frames; 0: the video's own
    width: int = 0
    resize: str = "antialias"
    quality: int = 95  # of jpeg
    fps: float = 0.0  # of folders of frames and of arrays, which don't say it


def features(classes: Sequence[str]) -> tfds.features.FeaturesDict:
    """What a record holds. A video's further records (see data/storage.py) repeat what is known of it."""
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
    videos: Sequence[Found],
    classes: Sequence[str],
    options: Options,
    done: Callable[[], None] = lambda: None,
) -> None:
    """Writes the usable ones of `videos` to `path`, and what became of each to the json file beside it.

    The json file holds {"videos": [facts], "skipped": {name: reason}, "records": number, "bytes": their size}; the
    facts of a video are its name, class, label, frames, height, width, fps, stored (how) and records. `done` is called
    after each video.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    spec = features(classes)
    unfinished = path.with_suffix(".unfinished")
    facts, skipped, records, size = [], {}, 0, 0
    writer = ArrayRecordWriter(str(unfinished), "group_size:1")
    for video in videos:
        try:
            stored, pieces, shape, fps = _load(video, options)
            if shape[0] < options.min_frames:
                raise VideoError(f"it has {shape[0]} frames, fewer than {options.min_frames}")
        except (VideoError, OSError) as error:
            skipped[video.name] = str(error).removeprefix(f"{video.path}: ")
        else:
            label = classes.index(video.class_name) if video.class_name else -1
            known = {"name": video.name, "label": label, "fps": fps}
            known |= dict(zip(("frames", "height", "width"), shape, strict=True))
            first = records
            for piece in pieces:
                record = spec.serialize_example(spec.encode_example({"video": piece, **known}))
                writer.write(record)
                size, records = size + len(record), records + 1
            facts.append(known | {"stored": stored, "records": records - first})
        done()
    writer.close()
    os.replace(unfinished, path)
    outcome = {"videos": facts, "skipped": skipped, "records": records, "bytes": size}
    write_text(path.with_suffix(".json"), json.dumps(outcome))


def relabel(path: pathlib.Path, target: pathlib.Path, old: Sequence[str], new: Sequence[str]) -> None:
    """Copies a shard with the labels that its videos' classes have among the `new` ones."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from array_record.python.array_record_module import ArrayRecordWriter

    before, after = features(old), features(new)
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


def _load(video: Found, options: Options) -> tuple[str, Iterable[bytes], tuple[int, int, int], float]:
    """How a video is stored, its records, its (frames, height, width) and its frame rate.

    All of it is decoded, so that what is counted here can be read later. Raises VideoError where that fails.
    """
    if video.kind == "file":
        data = pathlib.Path(video.path).read_bytes()
        fps = frame_rate(data, video.path)
        if options.storage == "video":
            return "file", [data], _measure(video_frames(data, video.path)), fps
        frames = _Fitted(lambda: video_frames(data, video.path), options)
    elif video.kind == "array" or (video.kind == "tfds" and _catalogue(video.path).stored == "array"):
        fps, frames = options.fps, _Fitted(lambda: iter(_array(video)), options)
    else:
        fps, pictures = options.fps, _pictures(video)
        frames = _Fitted(lambda: (decode_image(picture, name) for name, picture in pictures), options)
        if options.storage == "video":
            return "pictures", _pieces((data for _, data in pictures), pack_pictures), _measure(iter(frames)), fps
    # Frames are made twice, to count and to write them, so that no more than a piece of them is in memory.
    shape = _measure(iter(frames))
    if options.storage == "jpeg":
        return "pictures", _pieces((encode_jpeg(frame, options.quality) for frame in frames), pack_pictures), shape, fps
    return "array", _pieces(frames, lambda piece: np.stack(piece).tobytes()), shape, fps


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """The frames that `frames()` gives, in the size that they are stored in; they can be gone through again."""

    frames: Callable[[], Iterator[np.ndarray]]
    options: Options

    def __iter__(self) -> Iterator[np.ndarray]:
        height, width = self.options.height, self.options.width
        for frame in self.frames():
            if height and self.options.storage != "video":
                frame = center_crop_resize(frame[None], height, width, self.options.resize)[0]
            yield frame


def _pictures(video: Found) -> list[tuple[str, bytes]]:
    """Names and bytes of a clip's pictures."""
    if video.kind == "tfds":
        return [(video.name, data) for data in _catalogue(video.path).pictures(video.key, video.index)]
    return [(str(path), path.read_bytes()) for path in pictures_of(video.path)]


def _array(video: Found) -> np.ndarray:
    if video.kind == "tfds":
        return _catalogue(video.path).array(video.key, video.index)
    array = _arrays(video.path)[video.key]
    return array if video.index < 0 else array[video.index]


def _measure(frames: Iterator[np.ndarray]) -> tuple[int, int, int]:
    """(frames, height, width). Raises VideoError where they differ in size or there is none."""
    count, shape = 0, (0, 0, 3)
    for frame in frames:
        count, first = count + 1, shape if count else frame.shape
        if frame.shape != first:
            raise VideoError(f"its frames change their size, from {first[:2]} to {frame.shape[:2]}")
        shape = first
    if 0 in shape:
        raise VideoError("it holds no frame")
    return count, shape[0], shape[1]


def _pieces(frames: Iterable, pack: Callable[[list], bytes]) -> Iterator[bytes]:
    """Records of PIECE_FRAMES frames each."""
    frames = iter(frames)
    while piece := list(itertools.islice(frames, PIECE_FRAMES)):
        yield pack(piece)


@functools.lru_cache(maxsize=1)  # the videos of an array come one after the other
def _arrays(path: str) -> dict[str, np.ndarray]:
    return open_arrays(path)


@functools.lru_cache(maxsize=1)
def _catalogue(path: str) -> Catalogue:
    return Catalogue(path)
