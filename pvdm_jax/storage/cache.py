"""The user's cache: data that this package keeps between runs and can recompute or download again.

~/.cache/pvdm_jax/
  buckets/      local copies of folders in buckets (`storage.buckets`)
  compiled/     compiled programs
  datasets/     facts about TFDS datasets
  evaluation/   measured clips (`evaluation.clip_measurements`)
  weights/      networks for evaluations, which the user puts there
"""

import os
import pathlib


def cache_folder(name: str) -> pathlib.Path:
    """The folder `name` of this package's cache, in $XDG_CACHE_HOME or ~/.cache. It may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(root) / "pvdm_jax" / name
