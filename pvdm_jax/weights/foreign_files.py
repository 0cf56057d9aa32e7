"""Weights from files that other programs wrote: npz, safetensors, PyTorch's .pt and .pth, and TorchScript.

Nothing in a file is executed, and PyTorch is not needed: see `torch_files` and `pickle_reader`.
"""

import dataclasses
import pathlib
import struct
import zipfile

import numpy as np

from pvdm_jax.storage.files import file_hash
from pvdm_jax.weights import torch_files

# What reading truncated or nonsensical bytes raises.
_DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
)


class WeightFileError(ValueError):
    """A file that can't be read as weights: the message names it and says what is wrong."""


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """What a file holds."""

    path: pathlib.Path
    sha256: str
    weights: dict[str, np.ndarray]  # by their names in the file, dotted for nested modules
    code: str = ""  # of a TorchScript file: the source of all its modules


def read_weights(path: str | pathlib.Path, plain: bool = False) -> WeightFile:
    """Reads a file of weights, whose format is recognised by its first bytes.

    plain: refuse a pickle that would call anything but the functions that build tensors and dicts; otherwise such
    calls are ignored. Raises FileNotFoundError if there is no file, and WeightFileError if it has another format, is
    damaged, or holds no array.
    """
    path = pathlib.Path(path)
    digest = file_hash(path)
    try:
        weights, code = _read(path, plain)
        if not weights:
            raise ValueError("there is no array in it")
    except _DAMAGE as error:
        raise WeightFileError(f"{path} can't be read as weights: {error}") from error
    return WeightFile(path, digest, weights, code)


def _read(path: pathlib.Path, plain: bool) -> tuple[dict[str, np.ndarray], str]:
    """The weights of a file, and its code."""
    with path.open("rb") as file:
        start = file.read(16)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if torch_files.is_torch_archive(archive):
                return torch_files.read_archive(archive, plain)
        return _read_npz(path), ""
    if start[8:9] == b"{":
        return _read_safetensors(path), ""
    if start[:1] == b"\x80":
        return torch_files.read_legacy(path, plain), ""
    raise ValueError("it is no npz, safetensors, PyTorch or TorchScript file")


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
