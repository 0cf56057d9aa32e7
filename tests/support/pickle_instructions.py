"""Pickles written instruction by instruction, and zip files around them: what hostile files of weights are made of."""

import io
import os
import struct
import zipfile

import numpy as np

NUMBERS = np.arange(4, dtype="<f4").tobytes()
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class Calls:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 8) // 8 or 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def state_dict(*tensors: bytes) -> bytes:
    items = b"".join(text(f"w{number}") + item for number, item in enumerate(tensors))
    return b"\x80\x02}(" + items + b"u."


def zipped(entries, method=STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data)
    return buffer.getvalue()
