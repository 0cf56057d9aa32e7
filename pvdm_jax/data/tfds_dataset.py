"""Video datasets that TFDS built (`ucf101` and others), read without TensorFlow.

Each video is one record: a sequence of encoded pictures, or a uint8 tensor (t, h, w, 3). Reading a window therefore
means reading the whole video; `pvdm prepare` converts such a dataset to a faster one. Building one needs TensorFlow:

    tfds.builder("ucf101/ucf101_1").download_and_prepare(file_format="array_record")

TFDS's own reader needs TensorFlow for its `Video` feature. This file uses only parts of TFDS that don't need it: the
format of features.json, the list of shards, and the protocol buffers that records consist of.
"""

import hashlib
import logging
import os
import pathlib
import threading
from typing import Any

import numpy as np

from pvdm_jax.config import ConfigError
from pvdm_jax.data.dataset_files import DATASET_INFO, FEATURES, SUMMARY, description_checked
from pvdm_jax.data.records import PIECE_FRAMES, damage_named, pack_pictures
from pvdm_jax.storage.cache import cache_folder
from pvdm_jax.storage.files import write_json
from pvdm_jax.storage.json_files import read_json, try_read_json
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import decode_image

# The latest record of each thread is kept, because the pieces of a video are read one after the other.
_local = threading.local()


def find_tfds_dataset(path: str) -> str | None:
    """The folder of a dataset that TFDS built: `path`, or the dataset of that name in TFDS's folder; None if neither.

    A name is NAME, NAME/CONFIG or NAME/CONFIG/VERSION, or ends in :VERSION; by default the highest version is taken.
    TFDS's folder is TFDS_DATA_DIR, or tensorflow_datasets in the home folder. A folder of videos is not a TFDS dataset
    because `pvdm prepare` wrote a dataset into it. Raises ConfigError if NAME has several configs.
    """
    roots = [pathlib.Path(path)]
    if not roots[0].is_absolute():
        home = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
        roots.append(pathlib.Path(home).expanduser() / path.replace(":", "/"))
    for root in roots:
        found = {}
        for pattern in ("", "*", "*/*"):
            for info in sorted(root.glob(f"{pattern}/{FEATURES}" if pattern else FEATURES)):
                if pattern and (info.parent / SUMMARY).exists():
                    continue
                found.setdefault(info.parent if pattern == "" else info.parent.parent, []).append(info.parent)
            if found:
                break
        if len(found) > 1:
            names = ", ".join(str(folder.relative_to(root)) for folder in found)
            raise ConfigError(f"data.path is {path!r}; that dataset has several configs, name one: {names}")
        for versions in found.values():
            return str(max(versions, key=_version))
    return None


def _version(folder: pathlib.Path) -> tuple:
    return tuple(int(part) if part.isdecimal() else -1 for part in folder.name.split("."))


class TFDSDataset:
    """A dataset that TFDS built. Raises ConfigError if it holds no videos or isn't stored as array_record.

    stored: how videos are stored, "pictures" or "array" (see records.py). splits: the facts of each split's videos, as
    in `datasets.Dataset`. Only the records tell how long videos are, so all records are read when a dataset is opened
    for the first time; the result is kept in the user's cache folder.
    """

    def __init__(self, folder: str):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._folder = pathlib.Path(folder)
        with description_checked(str(self._folder)):
            features = _features(self._folder)
            self._feature, self.stored, self._shape = self._find_video(features)
            self._label, self.class_names = _find_label(self._folder, features)
            self._sources = {split: ArrayRecordDataSource(paths) for split, paths in _shards(self._folder).items()}
        self.splits: dict[str, list[dict]] = self._index()

    def load(self, split: str, facts: dict, piece: int) -> bytes:
        """PIECE_FRAMES frames of a video, from frame piece * PIECE_FRAMES on; see records.py."""
        first = piece * PIECE_FRAMES
        frames = self.frames(split, facts["record"])[first : first + PIECE_FRAMES]
        return pack_pictures(frames) if self.stored == "pictures" else np.ascontiguousarray(frames).tobytes()

    def frames(self, split: str, record: int) -> Any:
        """A whole video as stored: a list of picture files' bytes, or uint8 (t, h, w, 3)."""
        key = (str(self._folder), self._feature, split, record)
        if getattr(_local, "key", None) != key:
            _local.key = None  # in case the record can't be decoded
            with damage_named(_name(split, record)):
                _local.frames = self._decode(_example(self._sources[split][record]))
            _local.key = key
        return _local.frames

    def _decode(self, example: Any) -> Any:
        value = example.features.feature[self._feature]
        if self.stored == "pictures":
            return list(value.bytes_list.value)
        if value.bytes_list.value:
            flat = np.frombuffer(value.bytes_list.value[0], np.uint8)
        else:
            flat = np.array(value.int64_list.value, np.uint8)
        return flat.reshape(-1, *self._shape[1:])

    def _find_video(self, features: dict[str, dict]) -> tuple[str, str, tuple[int, ...]]:
        """The name of the feature that holds the video, its kind and its shape (-1: any)."""
        found = {}
        for name, spec in features.items():
            kind, inner = _class(spec), spec.get("sequence", {}).get("feature", {})
            if kind == "Video" or (kind == "Sequence" and _class(inner) == "Image"):
                found[name] = ("pictures", ())
            elif kind == "Tensor":
                shape = tuple(int(n) for n in spec.get("tensor", {}).get("shape", {}).get("dimensions", ()))
                encoding = spec["tensor"].get("encoding", "none")
                if len(shape) == 4 and shape[-1] == 3 and spec["tensor"].get("dtype") == "uint8" and encoding != "zlib":
                    if min(shape[1:]) > 0:
                        found[name] = ("array", shape)
        if not found:
            there = ", ".join(f"{name} ({_class(spec)})" for name, spec in features.items())
            raise ConfigError(
                f"data.path is {str(self._folder)!r}; found the features {there}; expected a Video, a Sequence of "
                "Images, or a uint8 Tensor (t, h, w, 3)"
            )
        name = "video" if "video" in found else next(iter(found))
        return (name, *found[name])

    def _index(self) -> dict[str, list[dict]]:
        from tqdm import tqdm  # `pvdm benchmark` runs without it

        info = self._folder / DATASET_INFO
        key = f"{self._folder.resolve()} {info.stat().st_mtime_ns} {self._feature}"
        path = cache_folder("datasets") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        known = try_read_json(path, {str: [dict]}, logging.warning, "it is made again")
        if known is not None:
            return known
        index = {}
        for split, records in self._sources.items():
            bar = tqdm(range(len(records)), desc=f"indexing {self._folder.name} {split}", unit="video")
            index[split] = list(filter(None, (self._facts(split, record) for record in bar)))
        write_json(path, index)
        return index

    def _facts(self, split: str, record: int) -> dict | None:
        """The facts of a video; None, with a warning, if its record is damaged."""
        name = _name(split, record)
        height = width = 0
        try:
            with damage_named(name):
                example = _example(self._sources[split][record])
                frames = self._decode(example)
            if len(frames):
                height, width = (decode_image(frames[0], name) if self.stored == "pictures" else frames[0]).shape[:2]
        except VideoError as error:
            logging.warning("skipped: %s", error)
            return None
        return {
            "name": name,
            "label": example.features.feature[self._label].int64_list.value[0] if self._label else -1,
            "frames": len(frames),
            "height": height,
            "width": width,
            "fps": 0.0,
            "stored": self.stored,
            "record": record,
        }


def _name(split: str, record: int) -> str:
    return f"{split}/{record:06d}"


def _example(record: bytes) -> Any:
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record)


def _features(folder: pathlib.Path) -> dict[str, dict]:
    found = read_json(folder / FEATURES, {"featuresDict": {"features": {str: dict}}})
    return found["featuresDict"]["features"]


def _class(spec: dict) -> str:
    return spec.get("pythonClassName", "").rpartition(".")[2]


def _find_label(folder: pathlib.Path, features: dict[str, dict]) -> tuple[str, tuple[str, ...]]:
    """The name of the feature that holds the class ("": none), and the names of the classes."""
    labels = [name for name, spec in features.items() if _class(spec) == "ClassLabel"]
    if not labels:
        return "", ()
    name = "label" if "label" in labels else labels[0]
    path = folder / f"{name}.labels.txt"
    if path.exists():
        return name, tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    count = int(features[name].get("classLabel", {}).get("numClasses", 0))
    return name, tuple(str(number) for number in range(count))


def _shards(folder: pathlib.Path) -> dict[str, list[str]]:
    """The array_record files of each split."""
    import tensorflow_datasets as tfds

    proto = tfds.core.dataset_info.read_proto_from_builder_dir(folder)
    if proto.file_format != "array_record":
        raise ConfigError(
            f"data.path is {str(folder)!r}; found files of the format {proto.file_format or 'tfrecord'}; expected "
            'array_record, which allows random access: download_and_prepare(file_format="array_record")'
        )
    template = tfds.core.ShardedFileTemplate(folder, dataset_name=proto.name, filetype_suffix="array_record")
    splits = tfds.core.splits.SplitDict.from_proto(proto.splits, template)
    return {name: [str(path) for path in split.filepaths] for name, split in splits.items() if split.num_examples}
