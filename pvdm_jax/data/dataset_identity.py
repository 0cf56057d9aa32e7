"""The identity of a dataset, whatever its path: a fingerprint of its videos, by which runs recognise it.

`pvdm prepare` stores a hash of each video with the video's facts, so the fingerprint of its datasets is the hash of a
small file. A dataset without such hashes, of an older version or built by TFDS, is read once; the result is kept in the
user's cache as long as the dataset's files are unchanged.
"""

import concurrent.futures
import hashlib
import json
import logging
import os
import pathlib
from typing import Any

from pvdm_jax.config import ConfigError, DataConfig
from pvdm_jax.data.dataset_files import METADATA, NO_DATASET, is_dataset, is_prepared
from pvdm_jax.data.tfds_dataset import find_tfds_dataset
from pvdm_jax.storage import buckets
from pvdm_jax.storage.cache import cache_folder
from pvdm_jax.storage.files import file_hash, write_json
from pvdm_jax.storage.json_files import JsonError, read_json, try_read_json

SYNTHETIC = "synthetic"  # its videos are a function of the settings
VIDEO_HASH = "sha256"  # of a video's records, among its facts
THREADS = min(8, os.cpu_count() or 1)


def dataset_identity(data: DataConfig) -> str:
    """The fingerprint of the dataset that `data` names. Raises ConfigError if there is none."""
    if data.source == "synthetic":
        return SYNTHETIC
    folder = _find(data.path)
    stored = _stored_hash(folder)
    if stored is None and buckets.in_bucket(data.path):
        buckets.fetch(folder)
    return stored or _hash_of_files(folder)


def find_dataset_identity(data: DataConfig) -> str | None:
    """As `dataset_identity`, or None if the dataset is missing, or if all of it would have to be copied here first."""
    try:
        if buckets.in_bucket(data.path):
            return _stored_hash(_find(data.path))
        return dataset_identity(data)
    except ConfigError:
        return None


def _stored_hash(folder: pathlib.Path) -> str | None:
    """A hash of what `pvdm prepare` stored about the videos; None if that lacks a hash of each video."""
    try:
        videos = read_json(folder / METADATA, {"videos": {str: [{VIDEO_HASH: str}]}})["videos"]
    except (OSError, JsonError):
        return None
    if not all(facts[VIDEO_HASH] for split in videos.values() for facts in split):
        return None
    labels = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.labels.txt"))}
    return _hash([videos, labels])


def _find(path: str) -> pathlib.Path:
    """The folder of a dataset by its path or name. From a bucket, only the files that describe it are copied here."""
    if buckets.in_bucket(path):
        folder = buckets.local(path)
        buckets.fetch(folder, "*.json", "*.txt")
        path = str(folder)
    found = path if is_prepared(path) else find_tfds_dataset(path)
    if found is None or not is_dataset(found):
        raise ConfigError(f"data.path is {path!r}; {NO_DATASET.format(path=path)}")
    return pathlib.Path(found)


def _hash_of_files(folder: pathlib.Path) -> str:
    """A hash of the names and contents of a folder's files. Reading shards takes long, so the result is kept."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    facts = [[name, path.stat().st_size, path.stat().st_mtime_ns] for name, path in zip(names, files, strict=True)]
    kept = cache_folder("datasets") / f"identity_{_hash([str(folder.resolve()), facts])[:32]}.json"
    known = try_read_json(kept, {"sha256": str}, logging.warning, "the dataset's files are read again")
    if known is not None:
        return known["sha256"]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        hashes = list(pool.map(file_hash, files))
    identity = _hash([[name, digest] for name, digest in zip(names, hashes, strict=True)])
    write_json(kept, {"sha256": identity, "folder": str(folder.resolve())})
    return identity


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
