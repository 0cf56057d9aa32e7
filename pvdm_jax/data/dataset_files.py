"""The names of the files beside a stored dataset's records."""

import pathlib

# TFDS writes these.
DATASET_INFO = "dataset_info.json"  # name, version and splits
FEATURES = "features.json"  # what a record holds
METADATA = "metadata.json"  # what else the dataset's builder stores: `pvdm prepare` stores the facts of every video
# `pvdm prepare` writes this one.
SUMMARY = "summary.json"
# What a refusal of a `path` without one says.
NO_DATASET = "there is no prepared dataset; `pvdm prepare --source=VIDEOS --output={path}` makes one"


def is_dataset(path: str | pathlib.Path) -> bool:
    """Whether a folder is a dataset that `pvdm prepare` wrote or TFDS built."""
    return any(pathlib.Path(path, name).is_file() for name in (DATASET_INFO, FEATURES))


def is_prepared(path: str | pathlib.Path) -> bool:
    """Whether a folder is a dataset whose builder stored metadata, as `pvdm prepare` does."""
    return pathlib.Path(path, METADATA).exists()
