"""One checkpoint as Orbax stores it: the state as nested dicts, and a record with their fingerprints."""

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from pvdm_jax.storage.array_fingerprint import fingerprint_arrays
from pvdm_jax.storage.json_files import check_json

# Errors that do not mean damage. Reading a damaged checkpoint may raise any other: Orbax trusts the types in its files.
NOT_DAMAGE = (MemoryError, jax.errors.JaxRuntimeError)
# Fields that are added to a record: the steps that it needs, a fingerprint of each of the state's parts,
# the types of arrays other than float32, and a fingerprint of the rest of the record.
NEEDED, FINGERPRINTS, TYPES, RECORD_FINGERPRINT = "needed", "fingerprints", "types", "record_fingerprint"
ADDED = {NEEDED: [int], FINGERPRINTS: {str: str}, TYPES: {str: str}, RECORD_FINGERPRINT: str}
USUAL_TYPE = "float32"


def make_record(info: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """The record of a checkpoint with these parts of the state: `info`, and the fingerprints that readers check."""
    record = info | {FINGERPRINTS: {name: fingerprint_arrays(part) for name, part in parts.items()}}
    record[TYPES] = {path: str(leaf.dtype) for path, leaf in _paths(parts) if leaf.dtype != USUAL_TYPE}
    return record | {RECORD_FINGERPRINT: _record_fingerprint(record)}


def attempt(manager: ocp.CheckpointManager, step: int, read: Callable[..., Any], *args: Any) -> Any:
    """`read(manager, step, *args)`, or None and a warning if the checkpoint is damaged."""
    try:
        return read(manager, step, *args)
    except NOT_DAMAGE:
        raise
    except Exception as error:
        path, reason = manager.directory / str(step), " ".join(str(error).split())[:300]
        logging.warning("checkpoint %s can't be read (%s: %s)", path, type(error).__name__, reason)
        return None


def restore_info(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """The record as it was given to `save`, with NEEDED."""
    info = _restore_record(manager, step)
    return {name: value for name, value in info.items() if name not in (FINGERPRINTS, TYPES, RECORD_FINGERPRINT)}


def _restore_record(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    record = manager.restore(step, args=ocp.args.Composite(info=ocp.args.JsonRestore()))["info"]
    check_json(record, ADDED, "its record")
    if record[RECORD_FINGERPRINT] != _record_fingerprint(record):
        raise ValueError("its record is not what was saved")
    return record


def _record_fingerprint(record: dict[str, Any]) -> str:
    """A hash of a record, without the hash itself."""
    rest = {name: value for name, value in record.items() if name != RECORD_FINGERPRINT}
    plain = json.loads(json.dumps(rest))  # as it will be when it is read
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]


def restore_state(manager: ocp.CheckpointManager, step: int, abstract: Any) -> Any:
    def read(parts: dict[str, Any]) -> dict[str, Any]:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(parts))
        return manager.restore(step, args=args)["state"]

    return _restore_checked(manager, step, abstract, read)


def restore_part(manager: ocp.CheckpointManager, step: int, abstract: Any, kind: type = jax.Array) -> Any:
    """Parts of the state, {name: tree}, as arrays of a `kind`: jax.Array or np.ndarray."""

    def read(parts: dict[str, Any]) -> dict[str, Any]:
        # A PyTreeRestore takes shardings from its restore_args alone.
        if kind is np.ndarray:
            restore_args = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray), parts)
        else:
            restore_args = ocp.checkpoint_utils.construct_restore_args(parts)
        args = ocp.args.PyTreeRestore(parts, restore_args=restore_args, partial_restore=True)
        found = manager.restore(step, args=ocp.args.Composite(state=args))["state"]
        for path, leaf in _paths(found):
            # Where the checkpoint holds nothing, Orbax returns the request itself.
            if not isinstance(leaf, kind):
                raise KeyError(f"it holds no {path}")
        return found

    return _restore_checked(manager, step, abstract, read)


def _restore_checked(
    manager: ocp.CheckpointManager, step: int, abstract: Any, read: Callable[[dict[str, Any]], dict[str, Any]]
) -> Any:
    """What `read` returns for the parts of `abstract`, compared with their fingerprints.

    Raises ValueError if a part of the state is not what was saved.
    """
    record, wanted = _restore_record(manager, step), to_dicts(abstract)
    types = [record[TYPES].get(path, USUAL_TYPE) for path, _ in _paths(wanted)]
    leaves, structure = jax.tree.flatten(wanted)
    saved = [leaf.update(dtype=np.dtype(kind)) for leaf, kind in zip(leaves, types, strict=True)]
    parts = read(jax.tree.unflatten(structure, saved))
    for name, part in parts.items():
        if fingerprint_arrays(part) != record[FINGERPRINTS].get(name):
            raise ValueError(f"{name} is not what was saved: its fingerprint differs")
    parts = jax.tree.map(lambda x, like: x if x.dtype == like.dtype else x.astype(like.dtype), parts, wanted)
    return _from_dicts(parts, abstract)


def _paths(tree: Any) -> list[tuple[str, Any]]:
    """Each leaf with its path, such as "ema.blocks.0.kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _names(tree: Any) -> tuple[list[tuple[str, ...]], Any]:
    """Each leaf's path as a tuple of field names, keys and indices, and the tree's structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [tuple(jax.tree_util.keystr((key,), simple=True) for key in path) for path, _ in leaves], structure


def to_dicts(tree: Any) -> dict[str, Any]:
    return traverse_util.unflatten_dict(dict(zip(_names(tree)[0], jax.tree.leaves(tree), strict=True)))


def _from_dicts(tree: dict[str, Any], abstract: Any) -> Any:
    names, structure = _names(abstract)
    leaves = traverse_util.flatten_dict(tree)
    return jax.tree.unflatten(structure, [leaves[name] for name in names])
