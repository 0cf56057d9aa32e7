"""One shard of a prepared dataset: its videos are read, checked, converted and written to an array_record file.

This runs in worker processes, each of which writes one shard at a time. A shard's record file gets its name once it is
complete. Its outcome file is written after that, so a shard with an outcome is complete and is never written again.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from pvdm_jax.config.checks import one_line
from pvdm_jax.data.array_files import read_array
from pvdm_jax.data.clips import center_crop_resize
from pvdm_jax.data.folders import VideoEntry, pictures_of
from pvdm_jax.data.prepare import vizdoom
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.prepare.walker import ACTIONS
from pvdm_jax.data.records import PIECE_FRAMES, pack_pictures
from pvdm_jax.data.tfds_dataset import TFDSDataset
from pvdm_jax.storage.files import format_bytes, write_json
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.files import file_problem, shown
from pvdm_jax.video.images import decode_image, encode_jpeg
from pvdm_jax.video.read import probe_video, video_frames

RECORD_BYTES = 2**31 - 2**16  # most bytes of a record's video: protocol buffers hold at most 2 GiB

# The file of a shard's outcome, see `write_shard`.
_FACTS = {"name": str, "label": int, "fps": float, "frames": int, "height": int, "width": int}
OUTCOME = {
    "videos": [_FACTS | {"stored": str, "records": int}],
    "skipped": {str: str},
    "records": int,
    "bytes": int,
}


def features(classes: Sequence[str], actions: bool = False) -> tfds.features.FeaturesDict:
    """What a record holds. If a video has several records (see data/records.py), each repeats its name, label, ...

    actions: whether a record also holds what a game's player did after each of its frames, see `walker.ACTIONS`.
    """
    more = {}
    if actions:
        more["actions"] = tfds.features.Tensor(shape=(None, len(ACTIONS)), dtype=np.float32, doc=", ".join(ACTIONS))
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
        | more
    )


def write_shard(
    path: pathlib.Path,
    videos: Sequence[VideoEntry],
    classes: Sequence[str],
    options: PrepareOptions,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Writes the usable videos to `path`, and the outcome to the JSON file beside it.

    The outcome is {"videos": [facts], "skipped": {name: reason}, "records": number, "bytes": their size}; the facts of
    a video are its name, label, fps, frames, height, width, stored (how), records (their number), sha256 (of their
    content) and, if the frame rate varies, times (of the frames, in seconds). `done` is called after each video.
    """
    spec = features(classes, actions=options.game is not None)
    facts = []
    skipped = {}
    sizes: list[int] = []  # of the records
    writer = _RecordWriter(path)
    for video in videos:
        try:
            loaded = _load(video, options)
            if loaded.frames < options.min_frames:
                raise VideoError(f"it has {loaded.frames} frames, fewer than {options.min_frames}")
            if loaded.piece_bytes > RECORD_BYTES:
                raise VideoError(
                    f"{PIECE_FRAMES} of its frames take {format_bytes(loaded.piece_bytes)}, more than the 2.1 GB that "
                    "a record can hold; choose --height and --width, or --storage=jpeg"
                )
        except (VideoError, OSError) as error:
            skipped[shown(video.name)] = one_line(str(error).removeprefix(f"{video.path}: "))
        except Exception as error:  # one odd file must not end the run, whatever its decoder raises
            skipped[shown(video.name)] = one_line(f"it can't be read ({type(error).__name__}: {error})")
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
            digest = hashlib.sha256()
            for number, piece in enumerate(loaded.records):
                example = {"video": piece, **known}
                if loaded.actions is not None:
                    example["actions"] = loaded.actions[number * PIECE_FRAMES : (number + 1) * PIECE_FRAMES]
                record = spec.serialize_example(spec.encode_example(example))
                writer.write(record)
                sizes.append(len(record))
                digest.update(piece)
            more = {"stored": loaded.stored, "records": len(sizes) - first, "sha256": digest.hexdigest()}
            facts.append(known | more | ({"times": loaded.times} if loaded.times else {}))
        done()
    writer.close()
    outcome = {"videos": facts, "skipped": skipped, "records": len(sizes), "bytes": sum(sizes)}
    write_json(outcome_path(path), outcome)


def outcome_path(shard: pathlib.Path) -> pathlib.Path:
    """The JSON file of a shard's outcome."""
    return shard.with_suffix(".json")


def relabel(
    path: pathlib.Path, target: pathlib.Path, old: Sequence[str], new: Sequence[str], actions: bool = False
) -> None:
    """Copies a shard, and changes its labels from indices into the classes `old` to indices into `new`.

    actions: whether its records hold actions.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    before = features(old, actions)
    after = features(new, actions)
    writer = _RecordWriter(target)
    records = ArrayRecordDataSource(str(path))
    for index in range(len(records)):
        record = before.deserialize_example_np(records[index])
        label = int(record["label"])
        record["label"] = new.index(old[label]) if label >= 0 else -1
        writer.write(after.serialize_example(after.encode_example(record)))
    writer.close()


class _RecordWriter:
    """Writes an array_record file, which gets its name once it is complete. Raises OSError, such as for a full disk."""

    def __init__(self, path: pathlib.Path):
        from array_record.python.array_record_module import ArrayRecordWriter

        self._path = path
        self._unfinished = path.with_suffix(".unfinished")
        with self._failures():
            self._writer = ArrayRecordWriter(str(self._unfinished), "group_size:1")

    def write(self, record: bytes) -> None:
        with self._failures():
            self._writer.write(record)

    def close(self) -> None:
        """Completes the file."""
        with self._failures():
            self._writer.close()
        os.replace(self._unfinished, self._path)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the library has no other kind
            reason = str(error).partition(";")[0]
            raise OSError(f"{self._unfinished} can't be written ({reason})") from error


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A video that was decoded from beginning to end, and its records."""

    stored: str  # file, pictures or array, see data/records.py
    records: Iterable[bytes]
    frames: int
    height: int
    width: int
    fps: float
    times: tuple[float, ...] | None = None  # of the frames in seconds; None: they follow from fps
    actions: np.ndarray | None = None  # float32 (frames, len(ACTIONS)), of a game's video

    @property
    def piece_bytes(self) -> int:
        """The size of a record of plain frames; 0 if they are stored otherwise."""
        return self.height * self.width * 3 * min(self.frames, PIECE_FRAMES) if self.stored == "array" else 0


def _load(video: VideoEntry, options: PrepareOptions) -> _Loaded:
    """Decodes a video, to be sure that it can be read later. Raises VideoError if it can't."""
    if video.kind == "file":
        return _load_file(video.path, options)
    elif video.kind == "game":
        frames, actions = vizdoom.render(video.path, video.split, video.index, options.game)
        return _Loaded(*_converted(frames, options), *frames.shape[:3], vizdoom.FPS, actions=actions)
    elif video.kind == "array" or (video.kind == "tfds" and _tfds_dataset(video.path).stored == "array"):
        fps = options.fps
        frames = _Frames(lambda: iter(_array(video)), options)
    else:
        fps = options.fps
        pictures = _pictures(video)
        frames = _Frames(lambda: (decode_image(picture, name) for name, picture in pictures), options)
        if options.storage == "video":
            records = _pieces((data for _, data in pictures), pack_pictures)
            return _Loaded("pictures", records, *_measure(frames), fps)
    # The frames are counted first and decoded again for the records, so that only one piece of them is in memory.
    return _Loaded(*_converted(frames, options), *_measure(frames), fps)


def _load_file(path: str, options: PrepareOptions) -> _Loaded:
    """`_load` for a video file. Unless the storage is "video", it is never in memory as a whole."""
    if options.storage == "video":
        problem = file_problem(path)
        if problem:
            raise VideoError(problem)
        size = os.path.getsize(path)
        if size > RECORD_BYTES:
            raise VideoError(
                f"it has {format_bytes(size)}, more than the 2.1 GB that a record can hold; cut it into parts, or "
                "choose --storage=jpeg or frames"
            )
    source = pathlib.Path(path).read_bytes() if options.storage == "video" else path
    info = probe_video(source, path)
    if options.storage == "video":
        return _Loaded("file", [source], info.frames, info.height, info.width, info.fps, info.times)
    height, width = (options.height, options.width) if options.height else (info.height, info.width)
    frames = _Frames(lambda: video_frames(path), options)
    return _Loaded(*_converted(frames, options), info.frames, height, width, info.fps, info.times)


def _converted(frames: Iterable[np.ndarray], options: PrepareOptions) -> tuple[str, Iterable[bytes]]:
    """How frames are stored, and their records, as `options.storage` says: jpeg or frames."""
    if options.storage == "jpeg":
        encoded = (encode_jpeg(frame, options.quality) for frame in frames)
        return "pictures", _pieces(encoded, pack_pictures)
    return "array", _pieces(frames, lambda piece: np.stack(piece).tobytes())


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
        return [(video.name, data) for data in _tfds_dataset(video.path).frames(video.key, video.index)]
    return [(str(path), path.read_bytes()) for path in pictures_of(video.path)]


def _array(video: VideoEntry) -> np.ndarray:
    if video.kind == "tfds":
        return _tfds_dataset(video.path).frames(video.key, video.index)
    array = _array_of_file(video.path, video.key)
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


@functools.lru_cache(maxsize=1)  # the videos of one file are consecutive
def _array_of_file(path: str, key: str) -> np.ndarray:
    return read_array(path, key)


@functools.lru_cache(maxsize=1)
def _tfds_dataset(path: str) -> TFDSDataset:
    return TFDSDataset(path)
