"""Limits on the memory that reading a foreign file may take, and readers of archives and arrays that respect them.

A few bytes can state any size: a shape, a count, the length of a compressed entry. Here such a size is compared with
the size of the file before memory is allocated for it.
"""

import collections
import io
import math
import zipfile
from typing import IO

import numpy as np

SLACK = 2**28  # bytes that any file may take
MAX_RATIO = 16  # of unpacked bytes to bytes of the file; weights hardly compress
MAX_ENTRIES = 100_000  # entries of an archive
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
KINDS = "biuf"  # of NumPy's dtypes: booleans, integers, floats
MAX_NPY_HEADER = 10_000  # bytes


class Budget:
    """The bytes that may be allocated for a file of `size` bytes."""

    def __init__(self, size: int):
        self.size = size
        self._left = SLACK + MAX_RATIO * size

    def take(self, count: int, what: str) -> None:
        """Counts an allocation. Raises ValueError if it would exceed what a file of this size can need."""
        if count > self._left:
            raise ValueError(f"{what} would take {count:,} bytes, too much for a file of {self.size:,} bytes")
        self._left -= count


class Archive:
    """A zip file whose entries are checked before they are read. A context manager.

    Raises ValueError for entries that are encrypted, compressed by other methods than METHODS, named twice, or larger
    than the file allows.
    """

    def __init__(self, file: IO[bytes], budget: Budget):
        self._archive = zipfile.ZipFile(file)
        self._budget = budget
        entries = self._archive.infolist()
        self.names = [entry.filename for entry in entries]
        if len(entries) > MAX_ENTRIES:
            raise ValueError(f"it has {len(entries):,} entries; at most {MAX_ENTRIES:,} are read")
        name, times = collections.Counter(self.names).most_common(1)[0] if entries else ("", 0)
        if times > 1:
            raise ValueError(f"it has {times} entries of the name {name[:80]!r}")
        for entry in entries:
            if entry.flag_bits & 1:
                raise ValueError(f"its entry {entry.filename[:80]!r} is encrypted")
            if entry.compress_type not in METHODS:
                raise ValueError(f"its entry {entry.filename[:80]!r} is compressed in a way that is not read")

    def read(self, name: str) -> bytes:
        """The bytes of an entry, whose checksum is compared. Raises KeyError if there is no such entry."""
        entry = self._archive.getinfo(name)
        self._budget.take(entry.file_size, f"its entry {name[:80]!r}")
        with self._archive.open(entry) as file:
            data = file.read(entry.file_size)
            if len(data) != entry.file_size or file.read(1):
                raise ValueError(f"its entry {name[:80]!r} does not have the size that is stated")
        return data

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_) -> None:
        self._archive.close()


def array_of_npy(data: bytes, name: str) -> np.ndarray:
    """The array of a .npy file's bytes. Raises ValueError if it isn't one of numbers of exactly the stated size."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"its array {name[:80]!r} has a version of the format that is not read")
    shape, fortran_order, dtype = read_header(file, max_header_size=MAX_NPY_HEADER)
    if dtype.kind not in KINDS or dtype.subdtype is not None:
        raise ValueError(f"its array {name[:80]!r} does not hold plain numbers")
    size, left = element_count(shape) * dtype.itemsize, len(data) - file.tell()
    if size != left:
        raise ValueError(f"its array {name[:80]!r} has {left:,} bytes; its shape needs {size:,}")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C")


def element_count(shape: tuple[int, ...]) -> int:
    """The number of elements of an array. Raises ValueError if `shape` is not a possible NumPy shape."""
    if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 32:
        raise ValueError("a shape needs at most 32 sizes, none of them negative")
    if max(shape, default=0) >= 2**62:
        raise ValueError("an array has a side of more than 2^62")
    return math.prod(shape)
