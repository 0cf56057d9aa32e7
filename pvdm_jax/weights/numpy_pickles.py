"""Pickled NumPy arrays in nested dicts, as Flax programs save their variables, read without unpickling.

NumPy pickles an array as a call of `_reconstruct` for an empty array, followed by its state: a version, the shape, the
dtype, whether it is in Fortran order, and the bytes. The dtype is a call of `dtype` with a state of its own. These two
calls are followed here, by `pickle_reader`; any other ends in an error. Nothing is executed.

Functions raise ValueError, and other errors for damaged bytes; `foreign_files.read_weights` turns all of them into one
error that names the file.
"""

from typing import IO, Any

import numpy as np

from pvdm_jax.weights.named_arrays import named_arrays
from pvdm_jax.weights.pickle_reader import BoundedFile, Global, Unknown, read_pickle
from pvdm_jax.weights.size_limits import Budget, element_count

MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2
DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class _Array(Unknown):
    """An array whose state follows in the pickle."""


class _DType(Unknown):
    """A dtype whose state, the order of its bytes, follows in the pickle."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name


def read_numpy_pickle(file: IO[bytes], budget: Budget) -> dict[str, np.ndarray]:
    """The arrays in the nested dicts of a pickle, by their dotted names.

    Other plain values are skipped. Raises ValueError for a pickle that would call anything else, for numbers that are
    not plain, and for an array whose bytes don't fit its shape.
    """

    def no_references(_: Any) -> Any:
        raise ValueError("its pickle refers to something outside it")

    bounded = BoundedFile(file, budget.size)
    tree = read_pickle(bounded, no_references, _make)
    if bounded.tell() != budget.size:
        raise ValueError("bytes follow the end of its pickle")
    return named_arrays(tree, budget, _read)


def _make(function: Any, arguments: Any) -> Any:
    """Follows the calls that build arrays and dtypes."""
    name = function.name if isinstance(function, Global) and function.module in MODULES else ""
    if name == "_reconstruct" and isinstance(arguments, tuple) and len(arguments) == 3:
        kind, shape, code = arguments
        # What is built here is never filled: only its class matters, and that must not be a subclass.
        plain = isinstance(kind, Global) and kind.name == "ndarray" and kind.module in MODULES
        if plain and _same(shape, (0,)) and isinstance(code, str | bytes) and code in ("b", b"b"):
            return _Array()
    if name == "dtype" and isinstance(arguments, tuple) and arguments and isinstance(arguments[0], str):
        if arguments[0] in DTYPES:
            return _DType(arguments[0])
        raise ValueError(f"it has numbers of an unknown kind, {arguments[0][:80]!r}")
    called = str(function) if isinstance(function, Global) else "something that is not a function"
    raise ValueError(f"its pickle would call {called}, which NumPy's arrays don't need; nothing of it was run")


def _read(node: Any, budget: Budget) -> np.ndarray | None:
    """The array of an `_Array`; None for dicts and anything else that a file may hold besides arrays."""
    if not isinstance(node, _Array):
        return None
    state = node.state
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("it has an array without a shape, a dtype and numbers")
    _, shape, dtype, fortran_order, data = state
    if not (isinstance(shape, tuple) and isinstance(dtype, _DType) and isinstance(data, bytes)):
        raise ValueError("it has an array without a shape, a dtype and numbers")
    kind = np.dtype(_byte_order(dtype) + dtype.name)
    size = element_count(shape) * kind.itemsize
    if size != len(data):
        raise ValueError(f"it has an array of {len(data):,} bytes, whose shape needs {size:,}")
    budget.take(size, "an array")
    order = "F" if fortran_order is True else "C"
    array = np.frombuffer(data, kind).reshape(shape, order=order)
    return array.astype(kind.newbyteorder("="), order="C")


def _byte_order(dtype: _DType) -> str:
    """The order of a dtype's bytes; its state is (version, order, None, None, None, -1, -1, 0)."""
    state = dtype.state
    order = state[1] if isinstance(state, tuple) and len(state) >= 5 else None
    if not (isinstance(order, str) and order in ("<", ">", "|")) or any(part is not None for part in state[2:5]):
        raise ValueError("it has an array whose dtype is not one of plain numbers")
    return order


def _same(value: Any, expected: tuple) -> bool:
    """Whether a tuple consists of these integers; objects that a pickle built are never compared as a whole."""
    fits = isinstance(value, tuple) and len(value) == len(expected)
    return fits and all(type(a) is int and a == b for a, b in zip(value, expected, strict=True))
