"""Hostile and damaged files of PyTorch's: of torch.save, today and before version 1.6, and of TorchScript."""

import pickle
import random
import struct
import zipfile

from pickle_instructions import DEFLATED, NUMBERS, STORED, Calls, integer, named, state_dict, text, tuple_of, zipped

MAGIC = 0x1950A86A20F9469CFC6C


def storage(key=None, dtype=None, count=4, kind=None) -> bytes:
    """A reference to a storage; `key`, `dtype` and `kind` are instructions."""
    dtype = dtype or named("torch", "FloatStorage")
    return tuple_of(kind or text("storage"), dtype, key or text("0"), text("cpu"), integer(count)) + b"Q"


def tensor(view=None, offset=0, shape=(4,), strides=(1,)) -> bytes:
    """A tensor; shape and strides are numbers, or instructions."""
    sizes = [x if isinstance(x, bytes) else tuple_of(*map(integer, x)) for x in (shape, strides)]
    hooks = named("collections", "OrderedDict") + b")R"
    arguments = tuple_of(view or storage(), integer(offset), *sizes, b"\x89", hooks)
    return named("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def archive(pickled: bytes, storages=None, *, root="archive/", method=STORED, others=None) -> bytes:
    """A file as torch.save writes it."""
    entries = {f"{root}data.pkl": pickled} | {f"{root}data/{key}": x for key, x in (storages or {}).items()}
    return zipped((entries | (others or {})).items(), method)


def legacy(pickled: bytes, keys=("0",), system=None, count=4, numbers=NUMBERS) -> bytes:
    """A file as torch.save wrote it before PyTorch 1.6."""
    head = [pickle.dumps(x, 2) for x in (MAGIC, 1001, {"little_endian": True} if system is None else system)]
    return b"".join([*head, pickled, pickle.dumps(list(keys), 2), struct.pack("<q", count), numbers])


def files():
    """Every file, by name."""
    for group in (_calls, _tensors, _bombs, _pickles, _archives, _legacy, _flipped):
        yield from group()


def _calls():
    for protocol in range(6):
        pickled = pickle.dumps({"a": Calls()}, protocol)
        yield f"calls_{protocol}.pth", archive(pickled)
        yield f"calls_bare_{protocol}.pth", pickled
    yield "inst.pth", archive(b"(S'touch PWNED'\nios\nsystem\n.")
    yield "obj.pth", archive(b"(cos\nsystem\nS'touch PWNED'\no.")
    yield "newobj_ex.pth", archive(b"\x80\x04" + named("os", "system") + tuple_of(text("touch PWNED")) + b"}\x92.")
    yield "extension.pth", archive(b"\x80\x02\x82\x01.")
    yield "persistent_text.pth", archive(b"Pabc\n.")
    yield "getattr.pth", archive(b"\x80\x02" + named("builtins", "getattr") + tuple_of(text("x")) + b"R.")
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
        "shape_float": dict(shape=tuple_of(b"G" + struct.pack(">d", 1.5))),
        "shape_text": dict(shape=text("ab"), strides=text("cd")),
        "shape_longer": dict(shape=(2, 2)),
        "storage_missing": dict(view=storage(text("9"))),
        "storage_traversal": dict(view=storage(text("../../../../etc/passwd"))),
        "storage_of_storage": dict(view=tensor()),
        "storage_key_deep": dict(view=storage(b"N" + b"\x85" * 100_000)),
        "dtype_complex": dict(view=storage(dtype=named("torch", "ComplexFloatStorage"))),
        "dtype_number": dict(view=storage(dtype=integer(5))),
        "count_negative": dict(view=storage(count=-4)),
    }
    for name, view in views.items():
        yield f"{name}.pth", archive(state_dict(tensor(**view)), held)
    yield "expanded_8GB_x4.pth", archive(state_dict(*[tensor(shape=(2**31,), strides=(0,))] * 4), held)
    yield "storage_odd.pth", archive(state_dict(tensor()), {"0": b"123"})
    double = storage(dtype=named("torch", "DoubleStorage"), count=2)
    yield "storage_twice.pth", archive(state_dict(tensor(), tensor(double, shape=(2,))), held)


def _bombs():
    deep = b"N" + b"\x85" * 200_000
    yield "deep.pth", archive(b"\x80\x02" + deep + b".", method=DEFLATED)
    yield "deep_key.pth", archive(b"\x80\x02}" + deep + b"Ns.", method=DEFLATED)
    yield "deep_called.pth", archive(b"\x80\x02" + deep + b")R.", method=DEFLATED)
    laugh = text("lol") + b"q\x00h\x00\x86" * 60
    yield "laugh_key.pth", archive(b"\x80\x02}" + laugh + b"Ns.")
    yield "laugh_called.pth", archive(b"\x80\x02" + laugh + b")R.")
    yield "laugh_name.pth", archive(b"\x80\x02" + laugh + text("x") + b"\x93.")
    shared = b"q\x01}(" + text("a") + b"h\x01" + text("b") + b"h\x01u"
    for depth in (22, 60):
        pickled = b"\x80\x02}" + text("t") + tensor() + b"s" + shared * depth + b"."
        yield f"laugh_dicts_{depth}.pth", archive(pickled, {"0": NUMBERS})
    name = text("n" * 100_000)
    twice = b"q\x01}(" + name + b"h\x01" + text("b") + b"h\x01u"
    yield "laugh_names.pth", archive(b"\x80\x02" + tensor() + twice * 40 + b".", {"0": NUMBERS})
    yield "self_dict.pth", archive(b"\x80\x02}q\x00" + text("a") + b"h\x00s.")
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
        "odd_items": b"\x80\x02}(" + text("a") + b"u.",
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


def _flipped():
    """A few bytes of a good file changed: whatever comes of it, in one of the two ways."""
    rng = random.Random(0)
    originals = [archive(state_dict(tensor()), {"0": NUMBERS}), legacy(state_dict(tensor()))]
    for number in range(40):
        data = bytearray(originals[number % 2])
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        yield f"flipped_{number}.pth", bytes(data)
