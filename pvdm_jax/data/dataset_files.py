"""The files beside a stored dataset's records: their names, and the errors for damaged ones."""

import contextlib
import pathlib
from collections.abc import Iterator

from pvdm_jax.config import ConfigError

# TFDS writes these.
DATASET_INFO = "dataset_info.json"  # name, version and splits
FEATURES = "features.json"  # what a record holds
METADATA = "metadata.json"  # other data of the dataset's builder: `pvdm prepare` stores the facts of every video here
# `pvdm prepare` writes this one.
SUMMARY = "summary.json"
# The message for a `path` without a dataset.
NO_DATASET = "there is no prepared dataset; `pvdm prepare --source=VIDEOS --output={path}` makes one"


def is_dataset(path: str | pathlib.Path) -> bool:
    """Whether a folder is a dataset that `pvdm prepare` wrote or TFDS built."""
    return any(pathlib.Path(path, name).is_file() for name in (DATASET_INFO, FEATURES))


def is_prepared(path: str | pathlib.Path) -> bool:
    """Whether a folder is a dataset whose builder stored metadata, as `pvdm prepare` does."""
    return pathlib.Path(path, METADATA).exists()


@contextlib.contextmanager
def description_checked(path: str) -> Iterator[None]:
    """Turns errors of opening the dataset in `path` into ConfigError: for damaged files TFDS may raise anything.

    Errors of the disk, of memory and of this program pass through.
    """
    try:
        yield
    except (ConfigError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        files = f"its {FEATURES}, {DATASET_INFO} and {METADATA} don't describe a dataset that can be read ({reason})"
        raise ConfigError(f"data.path is {path!r}; {files}") from error
