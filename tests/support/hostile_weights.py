"""Weight files that are damaged, or made to hurt whoever reads them.

`files()` gives the bytes of each by its name. Names of GOOD can be read; all others must be refused. None of them is
larger than a few megabytes, whatever sizes they state.
"""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator

import numpy as np

NUMBERS = np.arange(4, dtype="<f4").tobytes()
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
MAGIC = 0x1950A86A20F9469CFC6C
GOOD = (
    *("ok.pth", "legacy_ok.pth", "ok.safetensors", "ok.npz", "deflated.pth", "with_code.pt", "prefix.pth"),
    *("root_traversal.pth", "root_absolute.pth", "shared_tensor.pth", "stride_of_one.pth"),
    *("numpy_ok.ckpt", "numpy_written.ckpt", "numpy_fortran.ckpt", "numpy_big_endian.ckpt"),
    *("numpy_shared.ckpt", "numpy_beside.ckpt", "numpy_itself.ckpt"),
)


class _Calls:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


# Instructions of a pickle.
def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 8) // 8 or 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def storage(key=None, dtype=None, count=4, kind=None) -> bytes:
    """A reference to a storage; `key`, `dtype` and `kind` are instructions."""
    dtype = dtype or _named("torch", "FloatStorage")
    return _tuple(kind or _text("storage"), dtype, key or _text("0"), _text("cpu"), _integer(count)) + b"Q"


def tensor(view=None, offset=0, shape=(4,), strides=(1,)) -> bytes:
    """A tensor; shape and strides are numbers, or instructions."""
    sizes = [x if isinstance(x, bytes) else _tuple(*map(_integer, x)) for x in (shape, strides)]
    hooks = _named("collections", "OrderedDict") + b")R"
    arguments = _tuple(view or storage(), _integer(offset), *sizes, b"\x89", hooks)
    return _named("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def state_dict(*tensors: bytes) -> bytes:
    items = b"".join(_text(f"w{number}") + item for number, item in enumerate(tensors))
    return b"\x80\x02}(" + items + b"u."


def archive(pickled: bytes, storages=None, *, root="archive/", method=STORED, others=None) -> bytes:
    """A file as torch.save writes it."""
    entries = {f"{root}data.pkl": pickled} | {f"{root}data/{key}": x for key, x in (storages or {}).items()}
    return zipped((entries | (others or {})).items(), method)


def zipped(entries, method=STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data)
    return buffer.getvalue()


def legacy(pickled: bytes, keys=("0",), system=None, count=4, numbers=NUMBERS) -> bytes:
    """A file as torch.save wrote it before PyTorch 1.6."""
    head = [pickle.dumps(x, 2) for x in (MAGIC, 1001, {"little_endian": True} if system is None else system)]
    return b"".join([*head, pickled, pickle.dumps(list(keys), 2), struct.pack("<q", count), numbers])


def files() -> Iterator[tuple[str, bytes]]:
    """Every file, by name."""
    for group in (_calls, _tensors, _bombs, _pickles, _archives, _legacy, _numpy_pickles, _safetensors, _npz, _bytes):
        yield from group()


def _calls():
    for protocol in range(6):
        pickled = pickle.dumps({"a": _Calls()}, protocol)
        yield f"calls_{protocol}.pth", archive(pickled)
        yield f"calls_bare_{protocol}.pth", pickled
    yield "inst.pth", archive(b"(S'touch PWNED'\nios\nsystem\n.")
    yield "obj.pth", archive(b"(cos\nsystem\nS'touch PWNED'\no.")
    yield "newobj_ex.pth", archive(b"\x80\x04" + _named("os", "system") + _tuple(_text("touch PWNED")) + b"}\x92.")
    yield "extension.pth", archive(b"\x80\x02\x82\x01.")
    yield "persistent_text.pth", archive(b"Pabc\n.")
    yield "getattr.pth", archive(b"\x80\x02" + _named("builtins", "getattr") + _tuple(_text("x")) + b"R.")
    yield "sets.pth", archive(pickle.dumps({"a": {1, 2}, "b": frozenset([1])}, 4))
    yield "bytearray.pth", archive(pickle.dumps({"a": bytearray(b"x")}, 5))


def _tensors():
    held = {"0": NUMBERS}
    yield "ok.pth", archive(state_dict(tensor()), held)
    yield "shared_tensor.pth", archive(state_dict(tensor(), tensor(offset=1, shape=(3,))), held)
    yield "stride_of_one.pth", archive(state_dict(tensor(shape=(1, 4), strides=(2**70, 1))), held)
    views = {
        "shape_negative": dict(shape=(-4,)),
        "stride_negative": dict(offset=3, strides=(-1,)),
        "offset_negative": dict(offset=-1),
        "offset_huge": dict(offset=2**70),
        "beyond_storage": dict(strides=(2**40,)),
        "stride_overflow": dict(shape=(2**32 + 1,), strides=(2**62,)),
        "expanded_4TB": dict(shape=(2**40,), strides=(0,)),
        "expanded_2_70": dict(shape=(2**70,), strides=(0,)),
        "sides_65": dict(shape=(1,) * 65, strides=(1,) * 65),
        "sides_65_empty": dict(shape=(0,) * 65, strides=(1,) * 65),
        "empty_and_huge": dict(shape=(0, 2**70), strides=(1, 1)),
        "shape_float": dict(shape=_tuple(b"G" + struct.pack(">d", 1.5))),
        "shape_text": dict(shape=_text("ab"), strides=_text("cd")),
        "shape_longer": dict(shape=(2, 2)),
        "storage_missing": dict(view=storage(_text("9"))),
        "storage_traversal": dict(view=storage(_text("../../../../etc/passwd"))),
        "storage_of_storage": dict(view=tensor()),
        "storage_key_deep": dict(view=storage(b"N" + b"\x85" * 100_000)),
        "dtype_complex": dict(view=storage(dtype=_named("torch", "ComplexFloatStorage"))),
        "dtype_number": dict(view=storage(dtype=_integer(5))),
        "count_negative": dict(view=storage(count=-4)),
    }
    for name, view in views.items():
        yield f"{name}.pth", archive(state_dict(tensor(**view)), held)
    yield "expanded_8GB_x4.pth", archive(state_dict(*[tensor(shape=(2**31,), strides=(0,))] * 4), held)
    yield "storage_odd.pth", archive(state_dict(tensor()), {"0": b"123"})
    double = storage(dtype=_named("torch", "DoubleStorage"), count=2)
    yield "storage_twice.pth", archive(state_dict(tensor(), tensor(double, shape=(2,))), held)


def _bombs():
    deep = b"N" + b"\x85" * 200_000
    yield "deep.pth", archive(b"\x80\x02" + deep + b".", method=DEFLATED)
    yield "deep_key.pth", archive(b"\x80\x02}" + deep + b"Ns.", method=DEFLATED)
    yield "deep_called.pth", archive(b"\x80\x02" + deep + b")R.", method=DEFLATED)
    laugh = _text("lol") + b"q\x00h\x00\x86" * 60
    yield "laugh_key.pth", archive(b"\x80\x02}" + laugh + b"Ns.")
    yield "laugh_called.pth", archive(b"\x80\x02" + laugh + b")R.")
    yield "laugh_name.pth", archive(b"\x80\x02" + laugh + _text("x") + b"\x93.")
    shared = b"q\x01}(" + _text("a") + b"h\x01" + _text("b") + b"h\x01u"
    for depth in (22, 60):
        pickled = b"\x80\x02}" + _text("t") + tensor() + b"s" + shared * depth + b"."
        yield f"laugh_dicts_{depth}.pth", archive(pickled, {"0": NUMBERS})
    name = _text("n" * 100_000)
    named = b"q\x01}(" + name + b"h\x01" + _text("b") + b"h\x01u"
    yield "laugh_names.pth", archive(b"\x80\x02" + tensor() + named * 40 + b".", {"0": NUMBERS})
    yield "self_dict.pth", archive(b"\x80\x02}q\x00" + _text("a") + b"h\x00s.")
    yield "marks.pth", archive(b"\x80\x02" + b"N" * 100_000 + b"(t" * 100_000 + b".", method=DEFLATED)


def _pickles():
    bodies = {
        "long4_huge": b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"\x01.",
        "long4_negative": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"\x01.",
        "text_huge": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
        "bytes_huge": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        "frame_huge": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
        "nothing_on_stack": b"\x80\x02.",
        "no_mark": b"\x80\x02t.",
        "no_stop": b"\x80\x02N",
        "no_bytes": b"",
        "no_memo": b"\x80\x02h\x07.",
        "across_mark": b"\x80\x02N(\x86.",
        "digits_5000": b"I" + b"9" * 5000 + b"\n.",
        "unquoted": b"Sabc\n.",
        "odd_items": b"\x80\x02}(" + _text("a") + b"u.",
        "no_arrays": b"\x80\x02}.",
        "list": b"\x80\x02](" + b"N" * 16 + b"e.",
    }
    for name, body in bodies.items():
        yield f"{name}.pth", archive(body)


def _archives():
    held, good = {"0": NUMBERS}, state_dict(tensor())
    ok = archive(good, held)
    bomb = archive(state_dict(tensor(storage(count=2**28))), {"0": bytes(2**26)}, method=DEFLATED)
    at = bomb.rindex(b"PK\x01\x02")  # the last entry's record in the directory is that of the storage
    yield "bomb.pth", bomb[: at + 24] + struct.pack("<I", 2**32 - 2) + bomb[at + 28 :]
    yield "bomb_of_64MB_x40.npz", zipped([(f"{n}.npy", bytes(2**25)) for n in range(40)], DEFLATED)
    yield "root_traversal.pth", archive(good, held, root="../../../../traversal/")
    yield "root_absolute.pth", archive(good, held, root="/absolute/")
    entries = [("archive/data.pkl", good), ("archive/data/0", NUMBERS)]
    yield "two_roots.pth", zipped([*entries, ("b/data.pkl", state_dict(tensor())), ("b/data/0", NUMBERS)])
    yield "lzma.pth", archive(good, held, method=zipfile.ZIP_LZMA)
    yield "bzip2.pth", archive(good, held, method=zipfile.ZIP_BZIP2)
    yield "cut.pth", ok[: len(ok) // 2]
    yield "prefix.pth", b"GARBAGE" * 100 + ok
    yield "checksum.pth", ok.replace(NUMBERS, b"\xff" * 16, 1)
    deflated = archive(good, {"0": NUMBERS * 500}, method=DEFLATED)
    yield "deflated.pth", deflated
    at = deflated.index(b"archive/data/0") + len(b"archive/data/0")
    yield "deflate_damaged.pth", deflated[:at] + b"\xff" * 4 + deflated[at + 4 :]
    yield "encrypted.pth", _patched(ok, flag=1)
    for method in (1, 9, 93, 99, 65535):
        yield f"method_{method}.pth", _patched(ok, method=method)
    yield "big_endian.pth", archive(good, held, others={"archive/byteorder": b"big"})
    yield "with_code.pt", archive(good, held, others={"archive/code/a.py": "import os; os.system('touch PWNED')"})
    yield "code_damaged.pt", archive(good, held, others={"archive/code/a.py": b"\xff\xfe\xfa"})
    yield "empty.zip", zipped([])


def _patched(data: bytes, flag=None, method=None) -> bytes:
    """A zip file with these bytes in all headers of entries."""
    changed = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(mark)
        while at >= 0:
            for value, place in ((flag, offset), (method, offset + 2)):
                if value is not None:
                    struct.pack_into("<H", changed, at + place, value)
            at = changed.find(mark, at + 4)
    return bytes(changed)


def _legacy():
    good = state_dict(tensor())
    yield "legacy_ok.pth", legacy(good)
    yield "legacy_count_huge.pth", legacy(state_dict(tensor(storage(count=2**60))))
    yield "legacy_count_8GB.pth", legacy(state_dict(tensor(storage(count=2**31))))
    yield "legacy_count_negative.pth", legacy(state_dict(tensor(storage(count=-4))))
    yield "legacy_count_differs.pth", legacy(good, count=5)
    yield "legacy_system_list.pth", legacy(good, system=[1])
    yield "legacy_big_endian.pth", legacy(good, system={"little_endian": False})
    yield "legacy_cut.pth", legacy(good, numbers=NUMBERS[:7])
    yield "legacy_other_key.pth", legacy(good, keys=["7"])
    yield "legacy_no_keys.pth", legacy(good, keys=[])
    yield "legacy_keys_number.pth", legacy(good, keys=[0])


def numpy_array(shape=(4,), data=NUMBERS, dtype=None, order=b"\x89", made=None, state=None) -> bytes:
    """A pickled array; `dtype`, `order`, `made` and `state` are instructions."""
    core = "numpy.core.multiarray"
    start = _tuple(_named("numpy", "ndarray"), _tuple(_integer(0)), b"C\x01b")
    made = made or _named(core, "_reconstruct") + start + b"R"
    sizes = shape if isinstance(shape, bytes) else _tuple(*map(_integer, shape))
    numbers = b"B" + struct.pack("<I", len(data)) + data
    return made + (state or _tuple(_integer(1), sizes, dtype or numpy_dtype(), order, numbers)) + b"b"


def numpy_dtype(name="f4", order="<", parts=b"NNN", state=None) -> bytes:
    arguments = _tuple(_text(name), b"\x89", b"\x88")
    minus = b"J" + struct.pack("<i", -1)
    state = state or b"(" + _integer(3) + _text(order) + parts + minus * 2 + _integer(0) + b"t"
    return _named("numpy", "dtype") + arguments + b"R" + state + b"b"


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
    yield "numpy_beside.ckpt", numpy_pickle(numpy_array(), _text("a text"), b"N")
    yield "numpy_itself.ckpt", b"\x80\x04}q\x00(" + _text("a") + b"h\x00" + _text("b") + numpy_array() + b"u."
    reconstruct = _named("numpy.core.multiarray", "_reconstruct")
    named = _tuple(_named("numpy", "matrix"), _tuple(_integer(0)), b"C\x01b")
    odd = {
        "other_class": dict(made=reconstruct + named + b"R"),
        "other_module": dict(made=_named("numpy.core.evil", "_reconstruct") + _tuple() + b"R"),
        "not_empty": dict(
            made=reconstruct + _tuple(_named("numpy", "ndarray"), _tuple(_integer(2**40)), b"C\x01b") + b"R"
        ),
        "no_arguments": dict(made=reconstruct + _tuple() + b"R"),
        "scalar": dict(made=_named("numpy.core.multiarray", "scalar") + _tuple(numpy_dtype(), b"C\x01b") + b"R"),
        "shape_negative": dict(shape=(-4,)),
        "shape_huge": dict(shape=(2**62, 4)),
        "shape_4TB": dict(shape=(2**40,)),
        "shape_overflow": dict(shape=(2**32, 2**32)),
        "shape_text": dict(shape=_text("4")),
        "shape_float": dict(shape=_tuple(b"G" + struct.pack(">d", 4.0))),
        "sides_40": dict(shape=(1,) * 40, data=NUMBERS[:4]),
        "short": dict(data=NUMBERS[:12]),
        "long": dict(data=NUMBERS * 2),
        "no_state": dict(state=b"N"),
        "state_short": dict(state=_tuple(_integer(1), _tuple(_integer(4)))),
        "objects": dict(dtype=numpy_dtype("O8", "|")),
        "texts": dict(dtype=numpy_dtype("U1")),
        "records": dict(dtype=numpy_dtype("V4", "|")),
        "expression": dict(dtype=numpy_dtype("(10000000,)f4")),
        "parts": dict(dtype=numpy_dtype(parts=b"NN}")),
        "order_odd": dict(dtype=numpy_dtype(order="<f4,")),
        "dtype_state": dict(dtype=numpy_dtype(state=b"N")),
        "dtype_number": dict(dtype=_integer(4)),
    }
    for name, changes in odd.items():
        yield f"numpy_{name}.ckpt", numpy_pickle(numpy_array(**changes))
    yield "numpy_called.ckpt", pickle.dumps({"a": np.arange(3.0), "b": _Calls()}, 4)
    yield "numpy_objects_written.ckpt", pickle.dumps({"a": np.array([_Calls()], dtype=object)}, 4)
    yield "numpy_buffers.ckpt", pickle.dumps({"a": np.arange(3.0)}, 5)
    yield "numpy_more.ckpt", numpy_pickle(numpy_array()) + b"x"
    yield "numpy_two.ckpt", numpy_pickle(numpy_array()) * 2
    yield "numpy_cut.ckpt", numpy_pickle(numpy_array())[:-12]
    yield "numpy_reference.ckpt", numpy_pickle(_text("0") + b"Q")
    yield "numpy_none.ckpt", numpy_pickle(_text("a"))
    deep = numpy_array() + b"q\x01"
    yield (
        "numpy_laugh.ckpt",
        b"\x80\x04" + deep + (b"}(" + _text("a") + b"h\x01" + _text("b") + b"h\x01uq\x01") * 40 + b".",
    )
    rng = random.Random(1)
    good = numpy_pickle(numpy_array(), numpy_array((2, 2)))
    for number in range(20):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        yield f"flipped_{number}.ckpt", bytes(data)


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
    yield "npz_objects.npz", save(a=np.array([_Calls()], dtype=object))
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


def _bytes():
    yield "nothing.pth", b""
    yield "one.pth", b"\x80"
    yield "text.pth", b"hello"
    yield "json.safetensors", b'{"a": 1}'
    rng = random.Random(0)
    yield "random.pth", bytes(rng.randrange(256) for _ in range(5000))
    originals = [archive(state_dict(tensor()), {"0": NUMBERS}), legacy(state_dict(tensor()))]
    for number in range(40):  # a few bytes of a good file changed: whatever comes of it, in one of the two ways
        data = bytearray(originals[number % 2])
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        yield f"flipped_{number}.pth", bytes(data)
