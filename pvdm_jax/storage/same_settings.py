"""Whether a run's settings are those that its checkpoints and latents were made with."""

import fnmatch
import json
from collections.abc import Sequence
from typing import Any

from flax import traverse_util

from pvdm_jax.config import ConfigError, default_settings
from pvdm_jax.storage.run_folder import DATASET, ENCODED_BY

DATA_PATH = "data.path"  # the field that comparisons of settings replace by DATASET


def check_settings(saved: dict[str, Any], current: dict[str, Any], free: Sequence[str]) -> None:
    """Raises ConfigError, naming the fields, if settings differ from those that a checkpoint was made with.

    Both are nested dicts. Fields that match one of the patterns in `free` ("sample.*") may differ. A field that an
    older version did not store counts as its default. If both have a DATASET (a fingerprint of the videos' content),
    the dataset's path may differ too; otherwise (older versions stored none) only the path is compared.
    """
    unknown = [fact for fact in (DATASET, ENCODED_BY) if not (saved.get(fact) and current.get(fact))]
    free = (*free, *unknown, *([] if DATASET in unknown else [DATA_PATH]))
    trees = (saved, current, default_settings(current))
    old, new, defaults = (traverse_util.flatten_dict(json.loads(json.dumps(tree)), sep=".") for tree in trees)
    old = {field: defaults[field] for field in new.keys() & defaults.keys()} | old
    differing = [
        f"{_setting(field)} is {new.get(field, 'absent')!r} (it was {old.get(field, 'absent')!r})"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field) and not any(fnmatch.fnmatch(field, pattern) for pattern in free)
    ]
    if differing:
        raise ConfigError(
            f"these settings differ from the ones this run was started with: {', '.join(differing)}; "
            "resume with the old ones, or start a new run in another folder"
        )


def _setting(field: str) -> str:
    """A field as a message names it."""
    return f"the content of {DATA_PATH} (its fingerprint)" if field == DATASET else field
