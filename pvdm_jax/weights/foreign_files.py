"""Weights from files that other programs wrote: npz, safetensors, PyTorch's .pt and .pth, and TorchScript.

Nothing in a file is run. PyTorch's files are pickles, programs for a small machine that can call any function; here
their instructions are read one by one (pickletools) and only those that build plain data are followed. A call is
followed where it makes a tensor or an ordered dict; every other object stays an inert record of its class's name and
its attributes. So a TorchScript file, too, is read as weights: its modules become the dotted names of a state dict,
and its code is only text. PyTorch is not needed.
"""

import collections
import dataclasses
import json
import math
import pathlib
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import ml_dtypes
import numpy as np

from pvdm_jax.storage.files import file_hash


class WeightFileError(ValueError):
    """A file that can't be read as weights: the message names it and says what is wrong."""


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """What a file holds."""

    path: pathlib.Path
    sha256: str
    weights: dict[str, np.ndarray]  # by their names in the file, dotted for nested modules
    code: str = ""  # of a TorchScript file: its source, all modules one after the other


def read_weights(path: str | pathlib.Path, plain: bool = False) -> WeightFile:
    """Reads a file of weights; its kind is told by its first bytes.

    plain: a pickle that would call anything but what builds tensors and dicts is refused, where otherwise such calls
    are passed over. Raises FileNotFoundError where there is no file, WeightFileError for anything else than the kinds
    named above, a damaged file, or one without a single array.
    """
    path = pathlib.Path(path)
    digest = file_hash(path)
    with path.open("rb") as file:
        start = file.read(16)
    code = ""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("data.pkl") for name in archive.namelist()):
                    weights, code = _read_archive(archive, plain)
                else:
                    weights = _read_npz(path)
        elif start[8:9] == b"{":
            weights = _read_safetensors(path)
        elif start[:1] == b"\x80":
            weights = _read_legacy(path, plain)
        else:
            raise WeightFileError("it is no npz, safetensors, PyTorch or TorchScript file")
        if not weights:
            raise WeightFileError("there is no array in it")
    except (WeightFileError, zipfile.BadZipFile, *_DAMAGE) as error:
        raise WeightFileError(f"{path} can't be read as weights: {error}") from error
    return WeightFile(path, digest, weights, code)


# What reading truncated or nonsensical bytes raises.
_DAMAGE = (ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, struct.error, UnicodeDecodeError)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


_SAFETENSORS_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"},
}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    weights = {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        begin, end = facts["data_offsets"]
        array = np.frombuffer(body[begin:end], _SAFETENSORS_DTYPES[facts["dtype"]])
        weights[name] = array.reshape(facts["shape"]).copy()
    return weights


# PyTorch's storage classes, and the types that newer files name instead.
_TORCH_DTYPES = {
    **{"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": ml_dtypes.bfloat16},
    **{"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"},
}


def _read_archive(archive: zipfile.ZipFile, plain: bool) -> tuple[dict[str, np.ndarray], str]:
    """The zip that torch.save and torch.jit.save write: a pickle, and a file of raw numbers for each storage."""
    names = archive.namelist()
    pickled = min((name for name in names if name.endswith("data.pkl")), key=len)
    root = pickled.removesuffix("data.pkl")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
    if order != b"little":
        raise WeightFileError(f"its numbers are {order.decode(errors='replace')}-endian; little-endian is needed")
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: Any, count: int) -> np.ndarray:
        if key not in storages:
            storages[key] = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
        return storages[key]

    with archive.open(pickled) as file:
        tree = _interpret(file, storage, plain)
    code = "\n".join(archive.read(name).decode() for name in sorted(names) if name.endswith(".py"))
    return dict(_arrays(tree)), code


def _read_legacy(path: pathlib.Path, plain: bool) -> dict[str, np.ndarray]:
    """What torch.save wrote before PyTorch 1.6: pickles of a magic number, a version, facts of the system, the tree
    and the storages' keys, one after the other, then the storages' numbers."""
    wanted: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: Any, count: int) -> np.ndarray:
        return wanted.setdefault(key, np.zeros(count, dtype))

    with path.open("rb") as file:
        magic, _, system, tree, keys = (_interpret(file, storage, plain) for _ in range(5))
        if magic != 0x1950A86A20F9469CFC6C or not system.get("little_endian", True):
            raise WeightFileError("it is a pickle, but none of PyTorch's, or not little-endian")
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            array = wanted[key]
            if count != len(array):
                raise WeightFileError(f"storage {key} has {count} numbers; its tensors need {len(array)}")
            array[:] = np.frombuffer(file.read(array.nbytes), array.dtype)
    return dict(_arrays(tree))


@dataclasses.dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names."""

    module: str
    name: str


@dataclasses.dataclass
class _Object:
    """Something that a pickle would have made by calling `maker`."""

    maker: Any
    state: Any = None


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage. It is read when all storages are there: in old files they come last."""

    storage: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        if min((*self.shape, *self.strides, self.offset), default=0) < 0:
            raise WeightFileError("a tensor has a negative size, stride or offset")
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.storage.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if last >= len(self.storage):
            raise WeightFileError(f"a tensor reaches to number {last} of a storage of {len(self.storage)}")
        steps = [step * self.storage.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(self.storage[self.offset :], self.shape, steps).copy()


def _arrays(tree: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """All tensors of a tree of dicts and modules, by their dotted names."""
    if isinstance(tree, _Tensor):
        yield prefix.rstrip("."), tree.read()
    elif depth < 64:
        tree = tree.state if isinstance(tree, _Object) else tree
        for name, child in tree.items() if isinstance(tree, dict) else ():
            if name in ("_parameters", "_buffers", "_modules"):  # of a pickled module
                yield from _arrays(child, prefix, depth + 1)
            elif isinstance(name, str):
                yield from _arrays(child, f"{prefix}{name}.", depth + 1)


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}


def _interpret(file: IO[bytes], storage: Callable[[str, Any, int], np.ndarray], plain: bool) -> Any:
    """The value of one pickle, read up to its end. `storage(key, dtype, count)` gives the numbers that it refers to;
    with `plain`, a call of anything unknown is an error."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        start = max(i for i, item in enumerate(stack) if item is _MARK)
        items = stack[start + 1 :]
        del stack[start:]
        return items

    def top(count: int) -> list[Any]:
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        elif name == "STOP":
            return stack.pop()
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("TUPLE", "LIST"):
            stack.append(tuple(marked()) if name == "TUPLE" else marked())
        elif name == "DICT":
            items = marked()
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(top(int(name[-1]))))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("APPEND", "APPENDS"):
            items = marked() if name == "APPENDS" else top(1)
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = marked() if name == "SETITEMS" else top(2)
            if isinstance(stack[-1], dict):
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_Name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_Name(*top(2)))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), storage))
        elif name in ("REDUCE", "NEWOBJ"):
            maker, arguments = top(2)
            stack.append(_call(maker, arguments, plain))
        elif name == "BUILD":
            (state,) = top(1)
            if isinstance(stack[-1], _Object):
                stack[-1].state = state
        else:
            raise WeightFileError(f"its pickle has an instruction {name}, which plain weights don't need")
    raise WeightFileError("its pickle has no end")


def _storage(reference: Any, storage: Callable[[str, Any, int], np.ndarray]) -> np.ndarray:
    kind, storage_type, key, _, count, *_ = reference
    dtype = _TORCH_DTYPES.get(getattr(storage_type, "name", "").removesuffix("Storage"))
    if kind != "storage" or dtype is None:
        raise WeightFileError(f"it has numbers of an unknown kind, {getattr(storage_type, 'name', storage_type)}")
    return storage(str(key), dtype, count)


def _call(maker: Any, arguments: tuple, plain: bool) -> Any:
    if maker == _Name("collections", "OrderedDict"):
        return collections.OrderedDict(*arguments)
    if maker == _Name("torch._utils", "_rebuild_tensor_v2"):
        numbers, offset, shape, strides, *_ = arguments
        return _Tensor(numbers, offset, shape, strides)
    if maker == _Name("torch._utils", "_rebuild_parameter"):
        return arguments[0]
    if plain:
        name = f"{maker.module}.{maker.name}" if isinstance(maker, _Name) else repr(maker)
        raise WeightFileError(f"its pickle would call {name}, which weights don't need; nothing of it was run")
    return _Object(maker)
