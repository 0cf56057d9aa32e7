"""PyTorch's weight files, without PyTorch: what torch.save writes, today and before version 1.6, and TorchScript.

A file holds a pickle, whose tensors are views of storages, and the numbers of each storage. The pickle is read by
`pickle_reader`, which executes nothing. A TorchScript file, too, is read as weights: its modules become the dotted
names of a state dict, and its code is only text.

Functions raise ValueError, and other errors for damaged bytes; `foreign_files.read_weights` turns all of them into
one error that names the file.
"""

import dataclasses
import io
import pathlib
import struct
from collections.abc import Callable
from typing import IO, Any

import ml_dtypes
import numpy as np

from pvdm_jax.weights.named_arrays import named_arrays
from pvdm_jax.weights.pickle_reader import BoundedFile, Global, Unknown, make_dict, read_pickle
from pvdm_jax.weights.size_limits import Archive, Budget, element_count

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC_BYTES = LEGACY_MAGIC.to_bytes(10, "little")
# Dtypes by the names of PyTorch's storage classes (FloatStorage, ...), without the suffix.
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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Tensor:
    """A view of a storage, read once all storages are there: in legacy files they come last."""

    storage: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        numbers = (self.offset, *self.strides)
        if not all(type(number) is int for number in numbers) or len(self.shape) != len(self.strides):
            raise ValueError("a tensor has a shape, strides or an offset that are not integers")
        if min(numbers) < 0:
            raise ValueError("a tensor has a negative stride or offset")
        element_count(self.shape)

    def read(self, budget: Budget) -> np.ndarray:
        count = element_count(self.shape)
        budget.take(count * self.storage.itemsize, "a tensor")
        if count == 0:
            return np.zeros(self.shape, self.storage.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if last >= len(self.storage):
            raise ValueError(f"a tensor reaches to number {last} of a storage of {len(self.storage)}")
        # The stride of an axis of length 1 is never used, and may be any number.
        steps = [step * self.storage.itemsize * (n > 1) for n, step in zip(self.shape, self.strides, strict=True)]
        return np.lib.stride_tricks.as_strided(self.storage[self.offset :], self.shape, steps).copy()


def is_torch_archive(archive: Archive) -> bool:
    """Whether torch.save or torch.jit.save wrote a zip file."""
    return any(pathlib.PurePosixPath(name).name == "data.pkl" for name in archive.names)


def is_legacy(start: bytes) -> bool:
    """Whether a file that begins with these bytes (at least 32) was written by torch.save before PyTorch 1.6."""
    return start[:1] == b"\x80" and _MAGIC_BYTES in start[:32]


def read_archive(archive: Archive, budget: Budget, plain: bool) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a zip file by their dotted names, and its code.

    The file has one pickle of weights and one entry of raw numbers for each storage. plain: see `read_weights`.
    """
    pickles = [name for name in archive.names if pathlib.PurePosixPath(name).name == "data.pkl"]
    if len(pickles) > 1:
        raise ValueError(f"it holds {len(pickles)} pickles of weights; one is needed")
    root = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.names else b"little"
    if order != b"little":
        raise ValueError("its numbers are not little-endian")
    storages: dict[str, np.ndarray] = {}

    def read_storage(key: str, dtype: Any, count: int) -> np.ndarray:
        if key not in storages:
            storages[key] = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
        return storages[key]

    pickled = archive.read(pickles[0])
    tree = read_pickle(BoundedFile(io.BytesIO(pickled), len(pickled)), _resolver(read_storage), _maker(plain))
    code = "\n".join(archive.read(name).decode() for name in sorted(archive.names) if name.endswith(".py"))
    return named_arrays(tree, budget, _read_tensor), code


def read_legacy(file: IO[bytes], budget: Budget, plain: bool) -> dict[str, np.ndarray]:
    """The tensors of a file that torch.save wrote before PyTorch 1.6, by their dotted names.

    It holds five pickles in a row (a magic number, a version, facts about the system, the weights, the storages'
    keys), then the storages' numbers. plain: see `read_weights`.
    """
    storages: dict[str, np.ndarray] = {}
    bounded = BoundedFile(file, budget.size)

    def read_storage(key: str, dtype: Any, count: int) -> np.ndarray:
        if key not in storages:
            # Their numbers follow in the file.
            known = sum(storage.nbytes for storage in storages.values())
            if known + count * np.dtype(dtype).itemsize > budget.size:
                raise ValueError(f"a storage of {count:,} numbers is announced, more than the file holds")
            storages[key] = np.zeros(count, dtype)  # filled below
        return storages[key]

    magic, _, system, tree, keys = (read_pickle(bounded, _resolver(read_storage), _maker(plain)) for _ in range(5))
    if not isinstance(magic, int) or magic != LEGACY_MAGIC:
        raise ValueError("it is a pickle, but none of PyTorch's")
    if not isinstance(system, dict) or system.get("little_endian", True) is not True:
        raise ValueError("its numbers are not little-endian")
    listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not listed or sorted(keys) != sorted(storages):
        raise ValueError("its list of storages is not that of its tensors")
    for key in keys:
        (count,) = struct.unpack("<q", bounded.read(8))
        storage = storages[key]
        if count != len(storage):
            raise ValueError(f"storage {key[:80]} has {count} numbers; its tensors need {len(storage)}")
        storage[:] = np.frombuffer(bounded.read(storage.nbytes), storage.dtype)
    return named_arrays(tree, budget, _read_tensor)


def _resolver(read_storage: ReadStorage) -> Callable[[Any], np.ndarray]:
    """How to resolve a pickle's references to storages."""

    def resolve(reference: Any) -> np.ndarray:
        if not isinstance(reference, tuple) or len(reference) < 5:
            raise ValueError("it refers to a storage in a way that is not known")
        kind, storage_class, key, _, count = reference[:5]
        if not (isinstance(storage_class, Global) and isinstance(key, str) and type(count) is int and count >= 0):
            raise ValueError("it refers to a storage in a way that is not known")
        dtype = DTYPES.get(storage_class.name.removesuffix("Storage"))
        if not isinstance(kind, str) or kind != "storage" or dtype is None:
            raise ValueError(f"it has numbers of an unknown kind, {storage_class}")
        storage = read_storage(key, dtype, count)
        if storage.dtype != dtype:
            raise ValueError(f"its storage {key[:80]!r} is used as two kinds of numbers")
        return storage

    return resolve


def _maker(plain: bool) -> Callable[[Any, Any], Any]:
    """How to follow a pickle's calls: those that make tensors and ordered dicts. Others give an `Unknown`."""

    def make(function: Any, arguments: Any) -> Any:
        name = str(function) if isinstance(function, Global) else ""
        if not isinstance(arguments, tuple):
            raise ValueError("its pickle calls something without a list of arguments")
        if name == "collections.OrderedDict":
            pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
            return make_dict(tuple(pair) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2)
        if name == "torch._utils._rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
            if not (isinstance(storage, np.ndarray) and isinstance(shape, tuple) and isinstance(strides, tuple)):
                raise ValueError("it has a tensor that is not a view of a storage")
            return _Tensor(storage, offset, shape, strides)
        if name == "torch._utils._rebuild_parameter":
            return arguments[0]
        if plain:
            called = name or "something that is not a function"
            raise ValueError(f"its pickle would call {called}, which weights don't need; nothing of it was run")
        return Unknown()

    return make


def _read_tensor(node: Any, budget: Budget) -> np.ndarray | None:
    """The array of a tensor; None for anything else."""
    return node.read(budget) if isinstance(node, _Tensor) else None
