"""PyTorch's weight files, without PyTorch: what torch.save writes, today and before version 1.6, and TorchScript.

A file holds a pickle, whose tensors are views of storages, and the numbers of each storage. The pickle is read by
`pickle_reader`, which executes nothing. A TorchScript file, too, is read as weights: its modules become the dotted
names of a state dict, and its code is only text.

Functions raise ValueError, and other errors for truncated bytes; `foreign_files.read_weights` turns all of them into
one error that names the file.
"""

import collections
import dataclasses
import math
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from pvdm_jax.weights.pickle_reader import Global, Unknown, read_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_DEPTH = 64  # of nested dicts and modules
# By the names of PyTorch's storage classes, FloatStorage and so on, without the suffix.
DTYPES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": ml_dtypes.bfloat16,
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}

# (key, dtype, count) -> the numbers of a storage, 1-D
ReadStorage = Callable[[str, Any, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, read once all storages are there: in legacy files they come last."""

    storage: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        if min((*self.shape, *self.strides, self.offset), default=0) < 0:
            raise ValueError("a tensor has a negative size, stride or offset")
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.storage.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if last >= len(self.storage):
            raise ValueError(f"a tensor reaches to number {last} of a storage of {len(self.storage)}")
        steps = [step * self.storage.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(self.storage[self.offset :], self.shape, steps).copy()


def is_torch_archive(archive: zipfile.ZipFile) -> bool:
    """Whether torch.save or torch.jit.save wrote a zip file."""
    return any(name.endswith("data.pkl") for name in archive.namelist())


def read_archive(archive: zipfile.ZipFile, plain: bool) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a zip file by their dotted names, and its code.

    The file has one pickle of weights and one entry of raw numbers for each storage. plain: see `read_weights`.
    """
    names = archive.namelist()
    pickled = min((name for name in names if name.endswith("data.pkl")), key=len)
    root = pickled.removesuffix("data.pkl")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
    if order != b"little":
        raise ValueError(f"its numbers are {order.decode(errors='replace')}-endian; little-endian is needed")
    storages: dict[str, np.ndarray] = {}

    def read_storage(key: str, dtype: Any, count: int) -> np.ndarray:
        if key not in storages:
            storages[key] = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
        return storages[key]

    with archive.open(pickled) as file:
        tree = read_pickle(file, _resolver(read_storage), _maker(plain))
    code = "\n".join(archive.read(name).decode() for name in sorted(names) if name.endswith(".py"))
    return dict(_arrays(tree)), code


def read_legacy(path: pathlib.Path, plain: bool) -> dict[str, np.ndarray]:
    """The tensors of a file that torch.save wrote before PyTorch 1.6, by their dotted names.

    It holds five pickles in a row (a magic number, a version, facts about the system, the weights, the storages'
    keys), then the storages' numbers. plain: see `read_weights`.
    """
    storages: dict[str, np.ndarray] = {}

    def read_storage(key: str, dtype: Any, count: int) -> np.ndarray:
        return storages.setdefault(key, np.zeros(count, dtype))  # filled below

    with path.open("rb") as file:
        magic, _, system, tree, keys = (read_pickle(file, _resolver(read_storage), _maker(plain)) for _ in range(5))
        if magic != LEGACY_MAGIC or not system.get("little_endian", True):
            raise ValueError("it is a pickle, but none of PyTorch's, or not little-endian")
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            storage = storages[key]
            if count != len(storage):
                raise ValueError(f"storage {key} has {count} numbers; its tensors need {len(storage)}")
            storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
    return dict(_arrays(tree))


def _resolver(read_storage: ReadStorage) -> Callable[[Any], np.ndarray]:
    """How to resolve a pickle's references to storages."""

    def resolve(reference: Any) -> np.ndarray:
        kind, storage_class, key, _, count, *_ = reference
        name = getattr(storage_class, "name", str(storage_class))
        dtype = DTYPES.get(name.removesuffix("Storage"))
        if kind != "storage" or dtype is None:
            raise ValueError(f"it has numbers of an unknown kind, {name}")
        return read_storage(str(key), dtype, count)

    return resolve


def _maker(plain: bool) -> Callable[[Any, tuple], Any]:
    """How to follow a pickle's calls: those that make tensors and ordered dicts. Others give an `Unknown`."""

    def make(function: Any, arguments: tuple) -> Any:
        if function == Global("collections", "OrderedDict"):
            return collections.OrderedDict(*arguments)
        if function == Global("torch._utils", "_rebuild_tensor_v2"):
            storage, offset, shape, strides, *_ = arguments
            return _Tensor(storage, offset, shape, strides)
        if function == Global("torch._utils", "_rebuild_parameter"):
            return arguments[0]
        if plain:
            raise ValueError(f"its pickle would call {function}, which weights don't need; nothing of it was run")
        return Unknown()

    return make


def _arrays(tree: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """All tensors of a tree of dicts and modules, by their dotted names."""
    if isinstance(tree, _Tensor):
        yield prefix.rstrip("."), tree.read()
    elif depth < MAX_DEPTH:
        tree = tree.state if isinstance(tree, Unknown) else tree
        for name, child in tree.items() if isinstance(tree, dict) else ():
            if name in ("_parameters", "_buffers", "_modules"):  # of a pickled module
                yield from _arrays(child, prefix, depth + 1)
            elif isinstance(name, str):
                yield from _arrays(child, f"{prefix}{name}.", depth + 1)
