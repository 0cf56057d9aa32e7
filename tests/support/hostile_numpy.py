"""Hostile and damaged files of NumPy's: pickled arrays, as Flax programs save them, and .npz."""

import io
import pickle
import random
import struct

import numpy as np
from pickle_instructions import NUMBERS, Calls, integer, named, state_dict, text, tuple_of, zipped


def files():
    """Every file, by name."""
    yield from _numpy_pickles()
    yield from _npz()


def numpy_array(shape=(4,), data=NUMBERS, dtype=None, order=b"\x89", made=None, state=None) -> bytes:
    """A pickled array; `dtype`, `order`, `made` and `state` are instructions."""
    core = "numpy.core.multiarray"
    start = tuple_of(named("numpy", "ndarray"), tuple_of(integer(0)), b"C\x01b")
    made = made or named(core, "_reconstruct") + start + b"R"
    sizes = shape if isinstance(shape, bytes) else tuple_of(*map(integer, shape))
    numbers = b"B" + struct.pack("<I", len(data)) + data
    return made + (state or tuple_of(integer(1), sizes, dtype or numpy_dtype(), order, numbers)) + b"b"


def numpy_dtype(name="f4", order="<", parts=b"NNN", state=None) -> bytes:
    arguments = tuple_of(text(name), b"\x89", b"\x88")
    minus = b"J" + struct.pack("<i", -1)
    state = state or b"(" + integer(3) + text(order) + parts + minus * 2 + integer(0) + b"t"
    return named("numpy", "dtype") + arguments + b"R" + state + b"b"


def numpy_pickle(*arrays: bytes) -> bytes:
    return state_dict(*arrays).replace(b"\x80\x02", b"\x80\x04", 1)


def _numpy_pickles():
    """Pickles of NumPy's arrays, as Flax programs save them."""
    yield "numpy_ok.ckpt", numpy_pickle(numpy_array())
    yield "numpy_written.ckpt", pickle.dumps({"a": {"b": np.arange(6.0).reshape(2, 3)}}, 4)
    yield "numpy_fortran.ckpt", numpy_pickle(numpy_array((2, 2), order=b"\x88"))
    yield "numpy_big_endian.ckpt", numpy_pickle(numpy_array(dtype=numpy_dtype(order=">")))
    shared = numpy_array() + b"q\x07"
    yield "numpy_shared.ckpt", numpy_pickle(shared, b"h\x07")
    yield "numpy_beside.ckpt", numpy_pickle(numpy_array(), text("a text"), b"N")
    yield "numpy_itself.ckpt", b"\x80\x04}q\x00(" + text("a") + b"h\x00" + text("b") + numpy_array() + b"u."
    reconstruct = named("numpy.core.multiarray", "_reconstruct")
    matrix = tuple_of(named("numpy", "matrix"), tuple_of(integer(0)), b"C\x01b")
    odd = {
        "other_class": dict(made=reconstruct + matrix + b"R"),
        "other_module": dict(made=named("numpy.core.evil", "_reconstruct") + tuple_of() + b"R"),
        "not_empty": dict(
            made=reconstruct + tuple_of(named("numpy", "ndarray"), tuple_of(integer(2**40)), b"C\x01b") + b"R"
        ),
        "no_arguments": dict(made=reconstruct + tuple_of() + b"R"),
        "scalar": dict(made=named("numpy.core.multiarray", "scalar") + tuple_of(numpy_dtype(), b"C\x01b") + b"R"),
        "shape_negative": dict(shape=(-4,)),
        "shape_huge": dict(shape=(2**62, 4)),
        "shape_4TB": dict(shape=(2**40,)),
        "shape_overflow": dict(shape=(2**32, 2**32)),
        "shape_text": dict(shape=text("4")),
        "shape_float": dict(shape=tuple_of(b"G" + struct.pack(">d", 4.0))),
        "sides_40": dict(shape=(1,) * 40, data=NUMBERS[:4]),
        "short": dict(data=NUMBERS[:12]),
        "long": dict(data=NUMBERS * 2),
        "no_state": dict(state=b"N"),
        "state_short": dict(state=tuple_of(integer(1), tuple_of(integer(4)))),
        "objects": dict(dtype=numpy_dtype("O8", "|")),
        "texts": dict(dtype=numpy_dtype("U1")),
        "records": dict(dtype=numpy_dtype("V4", "|")),
        "expression": dict(dtype=numpy_dtype("(10000000,)f4")),
        "parts": dict(dtype=numpy_dtype(parts=b"NN}")),
        "order_odd": dict(dtype=numpy_dtype(order="<f4,")),
        "dtype_state": dict(dtype=numpy_dtype(state=b"N")),
        "dtype_number": dict(dtype=integer(4)),
    }
    for name, changes in odd.items():
        yield f"numpy_{name}.ckpt", numpy_pickle(numpy_array(**changes))
    yield "numpy_called.ckpt", pickle.dumps({"a": np.arange(3.0), "b": Calls()}, 4)
    yield "numpy_objects_written.ckpt", pickle.dumps({"a": np.array([Calls()], dtype=object)}, 4)
    yield "numpy_buffers.ckpt", pickle.dumps({"a": np.arange(3.0)}, 5)
    yield "numpy_more.ckpt", numpy_pickle(numpy_array()) + b"x"
    yield "numpy_two.ckpt", numpy_pickle(numpy_array()) * 2
    yield "numpy_cut.ckpt", numpy_pickle(numpy_array())[:-12]
    yield "numpy_reference.ckpt", numpy_pickle(text("0") + b"Q")
    yield "numpy_none.ckpt", numpy_pickle(text("a"))
    deep = numpy_array() + b"q\x01"
    yield (
        "numpy_laugh.ckpt",
        b"\x80\x04" + deep + (b"}(" + text("a") + b"h\x01" + text("b") + b"h\x01uq\x01") * 40 + b".",
    )
    rng = random.Random(1)
    good = numpy_pickle(numpy_array(), numpy_array((2, 2)))
    for number in range(20):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        yield f"flipped_{number}.ckpt", bytes(data)


def _npz():
    def save(**arrays):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    def entry(header, body=NUMBERS, name="a.npy", version=b"\x01\x00"):
        text = header.encode() + b" " * (64 - (11 + len(header)) % 64) + b"\n"
        return zipped([(name, b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body)])

    def shaped(shape, descr="'<f4'"):
        return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"

    yield "ok.npz", save(a=np.arange(4.0))
    yield "npz_objects.npz", save(a=np.array([Calls()], dtype=object))
    yield "npz_texts.npz", save(a=np.array(["x"]))
    yield "npz_complex.npz", save(a=np.array([1j]))
    yield "npz_times.npz", save(a=np.array(["2026-01-01"], "datetime64[D]"))
    yield "npz_evaluated.npz", entry(shaped("(__import__('os').system('touch PWNED'),)"))
    for name, shape in (("4TB", "(1099511627776,)"), ("2_70", f"({2**70},)"), ("negative", "(-4,)")):
        yield f"npz_{name}.npz", entry(shaped(shape))
    yield "npz_overflow.npz", entry(shaped("(4294967296, 4294967296)"))
    yield "npz_floats.npz", entry(shaped("(4.0,)"))
    yield "npz_short.npz", entry(shaped("(4,)"), NUMBERS[:8])
    yield "npz_long.npz", entry(shaped("(4,)"), NUMBERS * 2)
    yield "npz_parts.npz", entry(shaped("(4,)", "('<f4', (1000000000,))"))
    yield "npz_deep.npz", entry(shaped("(" * 3000 + ")" * 3000))
    yield "npz_no_array.npz", entry("", b"", name="readme.txt")
    yield "npz_version.npz", entry(shaped("(4,)"), version=b"\x09\x00")
    yield "npz_header.npz", zipped([("a.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 1000)])
    yield "npz_no_magic.npz", zipped([("a.npy", b"hello")])
