"""Weights from files that other programs wrote: npz, safetensors, PyTorch's .pt and .pth, TorchScript, and pickles.

Nothing in a file is executed, and PyTorch is not needed: see `torch_files`, `numpy_pickles` and `pickle_reader`. A file
may be damaged or malicious. So only regular files are opened, every size that a file states is compared with the size
of the file before memory is allocated for it (`size_limits`), and any problem ends in one kind of error.
"""

import dataclasses
import os
import pathlib
import zipfile
from typing import IO

import numpy as np

from pvdm_jax.storage.files import file_hash, open_regular
from pvdm_jax.storage.json_files import parse_json
from pvdm_jax.weights import torch_files
from pvdm_jax.weights.numpy_pickles import read_numpy_pickle
from pvdm_jax.weights.size_limits import Archive, Budget, array_of_npy

MAX_HEADER = 100_000_000  # bytes of a safetensors file's header, as in its library
MAX_REASON = 300  # characters of an error's reason


class WeightFileError(ValueError):
    """A file that can't be read as weights: the message names it and says what is wrong."""


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """What a file holds."""

    path: pathlib.Path
    sha256: str
    weights: dict[str, np.ndarray]  # by their names in the file, dotted for nested modules
    code: str = ""  # for a TorchScript file: the source of all its modules


def read_weights(path: str | pathlib.Path, plain: bool = False) -> WeightFile:
    """Reads a file of weights, whose format is recognised by its first bytes.

    plain: refuse a pickle that would call anything but the functions that build tensors and dicts; otherwise such
    calls are ignored. Raises FileNotFoundError if there is no file, another OSError if it can't be read or is not a
    regular file, and WeightFileError if it has another format, is damaged, states sizes beyond its own, or holds no
    array.
    """
    path = pathlib.Path(path)
    with open_regular(path) as file:
        try:
            weights, code = _read(file, path, plain)
            if not weights:
                raise ValueError("there is no array in it")
        except OSError:
            raise
        except Exception as error:  # for damaged files, the libraries raise many types
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            reason = " ".join(str(text).split())[:MAX_REASON] or type(error).__name__
            raise WeightFileError(f"{path} can't be read as weights: {reason}") from error
    return WeightFile(path, file_hash(path), weights, code)


def _read(file: IO[bytes], path: pathlib.Path, plain: bool) -> tuple[dict[str, np.ndarray], str]:
    """The weights of a file, and its code."""
    budget = Budget(os.fstat(file.fileno()).st_size)
    start = file.read(32)
    if zipfile.is_zipfile(file):
        with Archive(file, budget) as archive:
            if torch_files.is_torch_archive(archive):
                return torch_files.read_archive(archive, budget, plain)
            return _read_npz(archive), ""
    if start[8:9] == b"{":
        return _read_safetensors(file, path, budget), ""
    file.seek(0)
    if torch_files.is_legacy(start):
        return torch_files.read_legacy(file, budget, plain), ""
    if start[:1] == b"\x80":
        return read_numpy_pickle(file, budget), ""
    raise ValueError("it is not an npz, safetensors, PyTorch or TorchScript file, nor a pickle of NumPy arrays")


def _read_npz(archive: Archive) -> dict[str, np.ndarray]:
    names = [name for name in archive.names if name.endswith(".npy")]
    return {name.removesuffix(".npy"): array_of_npy(archive.read(name), name) for name in names}


def _read_safetensors(file: IO[bytes], path: pathlib.Path, budget: Budget) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    # The library checks offsets and shapes. If a name occurred twice, it would take the last one.
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER, budget.size - 8):
        raise ValueError(f"its header would have {length} bytes")
    parse_json(file.read(length), "its header", dict)
    return load_file(path)
