"""Stored datasets: what `pvdm prepare` wrote or TFDS built, opened by folder or name, with one interface."""

import functools
import os
from typing import Protocol

from pvdm_jax.config import ConfigError
from pvdm_jax.data.dataset_files import DATASET_INFO, FEATURES, METADATA, NO_DATASET, description_checked, is_prepared
from pvdm_jax.data.records import damage_named
from pvdm_jax.data.tfds_dataset import TFDSDataset, find_tfds_dataset
from pvdm_jax.storage import buckets
from pvdm_jax.storage.json_files import Maybe, read_json

# What metadata.json of a prepared dataset holds: the facts of the videos of each split.
_FACTS = {"name": str, "label": int, "frames": int, "height": int, "width": int}
VIDEOS = {str: [_FACTS | {"fps": float, "stored": str, "record": int, "times": Maybe([float])}]}


class Dataset(Protocol):
    """A stored dataset: the facts of every video of each split, in order, and the videos' records.

    The facts of a video are a dict: name, label (-1: none), frames, height, width, fps (0: not known), stored (how, see
    records.py), record (the number of its first record in the split) and, if its frame rate varies, times (of the
    frames, in seconds from the first).
    """

    class_names: tuple[str, ...]
    splits: dict[str, list[dict]]

    def load(self, split: str, facts: dict, piece: int) -> bytes:
        """Record number `piece` of a video, see records.py. Raises VideoError if it is damaged."""


class PreparedDataset:
    """A dataset that `pvdm prepare` wrote. Raises ConfigError if there is none in `path`."""

    def __init__(self, path: str):
        import tensorflow_datasets as tfds

        try:
            for name in (DATASET_INFO, FEATURES):
                read_json(os.path.join(path, name), dict)
            self.splits: dict[str, list[dict]] = read_json(os.path.join(path, METADATA), {"videos": VIDEOS})["videos"]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(f"data.path is {path!r}; {NO_DATASET.format(path=path)}") from error
        with description_checked(path):
            builder = tfds.builder_from_directory(path)
            self.class_names = tuple(builder.info.features["label"].names)
            self._records = {split: builder.as_data_source(split) for split in self.splits}

    def load(self, split: str, facts: dict, piece: int) -> bytes:
        with damage_named(facts["name"]):
            return self._records[split][facts["record"] + piece]["video"]


def open_dataset(path: str) -> Dataset:
    """The dataset in a folder, or the one of this name that TFDS built. Raises ConfigError if there is none.

    A dataset in a bucket (gs://) is copied to this machine first; files that are already here are kept.
    """
    if buckets.in_bucket(path):
        folder = buckets.local(path)
        buckets.fetch(folder)
        path = str(folder)
    info = os.path.join(path, DATASET_INFO)
    return _open(path, os.stat(info).st_mtime_ns if os.path.exists(info) else 0)


@functools.lru_cache(maxsize=4)  # the training and the held-out part share one dataset
def _open(path: str, changed: int) -> Dataset:
    folder = None if is_prepared(path) else find_tfds_dataset(path)
    return TFDSDataset(folder) if folder else PreparedDataset(path)
