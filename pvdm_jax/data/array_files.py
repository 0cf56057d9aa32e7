"""Files of arrays (.npy and .npz): their contents, listed without reading them, and their arrays. No pickle is read."""

import math
import pathlib
import zipfile
from typing import Any, BinaryIO

import numpy as np

from pvdm_jax.data.folders import LayoutError
from pvdm_jax.video.files import file_problem

# The largest array of an .npz file that is read: unlike an .npy file's, it must be in memory as a whole.
UNPACKED_BYTES = 2**33


def array_shapes(path: pathlib.Path) -> dict[str, tuple[np.dtype | str, tuple[int, ...]]]:
    """{name: (type, shape)} of the arrays of a file, from their headers; an .npy file's array has the name "".

    Raises LayoutError, with the reason, for a file that doesn't hold plain arrays, or whose arrays don't have the sizes
    that their headers state.
    """
    problem = file_problem(path)
    if problem:
        raise LayoutError(f"{path}: {problem}")
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return {"": _checked_header(file, path.stat().st_size)}
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): _member(archive, info) for info in archive.infolist()}
    except LayoutError as error:
        raise LayoutError(f"{path}: {error}") from error
    except Exception as error:  # damaged files make zipfile and numpy raise nearly anything
        raise LayoutError(f"{path}: it is not a numpy file of plain arrays ({error})") from error


def read_array(path: str, key: str) -> np.ndarray:
    """The array `key` of an .npz file; an .npy file is memory-mapped, not read. Raises LayoutError on damage."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return loaded[key]
    except Exception as error:
        raise LayoutError(f"{path}: its array {key!r} can't be read ({error})") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[np.dtype | str, tuple[int, ...]]:
    if info.flag_bits & 1:
        raise LayoutError("it is encrypted; store its arrays without a password")
    if not info.filename.endswith(".npy"):
        return "a file", ()
    if info.file_size > UNPACKED_BYTES:
        size = f"{info.file_size / 2**30:.1f} GiB"
        raise LayoutError(f"its array {info.filename} unpacks to {size}; save it as .npy, which is read in parts")
    with archive.open(info) as file:
        return _checked_header(file, info.file_size)


def _checked_header(file: Any | BinaryIO, size: int) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of an array in a file of `size` bytes."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise LayoutError("it is not a numpy file of plain arrays (it holds pickled objects)")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize + file.tell() > size:
        raise LayoutError(f"it is damaged or cut off: its {dtype} {shape} takes more than its {size} bytes")
    return dtype, shape
