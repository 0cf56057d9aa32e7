"""The files beside a stored dataset's records: their names, and what is said of damaged ones."""

import contextlib
import pathlib
from collections.abc import Iterator

from pvdm_jax.config import ConfigError

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


@contextlib.contextmanager
def description_checked(path: str) -> Iterator[None]:
    """What opening the dataset in `path` raises becomes a ConfigError: TFDS raises anything for files that are damaged.

    What the disk, the memory or this program refuse stays as it is.
    """
    try:
        yield
    except (ConfigError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        files = f"its {FEATURES}, {DATASET_INFO} and {METADATA} don't describe a dataset that can be read ({reason})"
        raise ConfigError(f"data.path is {path!r}; {files}") from error
