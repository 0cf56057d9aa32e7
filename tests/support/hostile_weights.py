"""Weight files that are damaged, or made to hurt whoever reads them.

`files()` gives the bytes of each by its name. Names of GOOD can be read; all others must be refused. None of them is
larger than a few megabytes, whatever sizes they state.
"""

import json
import random
import struct
from collections.abc import Iterator

import hostile_numpy
import hostile_torch
from pickle_instructions import NUMBERS

GOOD = (
    *("ok.pth", "legacy_ok.pth", "ok.safetensors", "ok.npz", "deflated.pth", "with_code.pt", "prefix.pth"),
    *("root_traversal.pth", "root_absolute.pth", "shared_tensor.pth", "stride_of_one.pth"),
    *("numpy_ok.ckpt", "numpy_written.ckpt", "numpy_fortran.ckpt", "numpy_big_endian.ckpt"),
    *("numpy_shared.ckpt", "numpy_beside.ckpt", "numpy_itself.ckpt"),
)


def files() -> Iterator[tuple[str, bytes]]:
    """Every file, by name."""
    for group in (hostile_torch.files, hostile_numpy.files, _safetensors, _bytes):
        yield from group()


def _safetensors():
    def header(**changes):
        return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}

    def file(content, body=NUMBERS, length=None):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + body

    yield "ok.safetensors", file(header())
    other = {"b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    twice = json.dumps(header())[:-1] + ', "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    odd = {
        "overlap": file(header() | other),
        "beyond": file(header(data_offsets=[0, 1600], shape=[400])),
        "negative": file(header(data_offsets=[-16, -8], shape=[2])),
        "backwards": file(header(data_offsets=[16, 0], shape=[0])),
        "shape_negative": file(header(shape=[-1])),
        "shape_huge": file(header(shape=[2**62, 4])),
        "shape_float": file(header(shape=[4.0])),
        "shape_null": file(header(shape=None)),
        "dtype_unknown": file(header(dtype="F8_E9")),
        "dtype_list": file(header(dtype=["F32"])),
        "length_2_63": file(header(), length=2**63),
        "length_2_64": file(header(), length=2**64 - 1),
        "length_short": file(header(), length=5),
        "twice": file(twice.encode()),
        "list": file(b'{"a":[1,2]}'),
        "number": file(b'{"a":5}'),
        "digits": file(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,16]}}'),
        "bytes": file(b'{"\xff":1}'),
        "deep": file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "trailing": file(header(), NUMBERS + b"x" * 100),
    }
    for name, data in odd.items():
        yield f"{name}.safetensors", data


def _bytes():
    yield "nothing.pth", b""
    yield "one.pth", b"\x80"
    yield "text.pth", b"hello"
    yield "json.safetensors", b'{"a": 1}'
    rng = random.Random(0)
    yield "random.pth", bytes(rng.randrange(256) for _ in range(5000))
