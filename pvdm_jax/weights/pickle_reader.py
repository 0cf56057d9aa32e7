"""Reads pickles without executing anything in them.

A pickle is a program for a small stack machine that can call any function. Here its instructions are read one by one
(pickletools), and only those that build plain data are followed. A function of the caller decides what calls return.

A pickle can also build structures that are cheap to write and expensive to use: tuples nested a million deep, or dicts
that share their values, with an astronomical number of paths. So the result is never compared, hashed or printed: keys
of dicts are plain values only, and error messages name instructions, not contents.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterable
from typing import IO, Any

MAX_INSTRUCTIONS = 3_000_000


@dataclasses.dataclass(frozen=True)
class Global:
    """A class or function that a pickle names. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:80]


@dataclasses.dataclass(eq=False, repr=False)
class Unknown:
    """The result of a call that is not followed, with the attributes that the pickle would have set on it."""

    state: Any = None


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_LITERALS = _NUMBERS | _STRINGS | _BYTES
_KEYS = (str, int, float, bytes, type(None))


class BoundedFile:
    """A file of `size` bytes to read from, which refuses lengths beyond its end before memory is allocated."""

    def __init__(self, file: IO[bytes], size: int):
        self._file = file
        self._size = size

    def read(self, count: int) -> bytes:
        """The next `count` bytes. Raises ValueError if there are fewer."""
        left = self._size - self._file.tell()
        if not 0 <= count <= left:
            raise ValueError(f"it is cut short: {count} more bytes are announced, and {left} are there")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline()

    def tell(self) -> int:
        return self._file.tell()


def make_dict(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict of the pairs whose keys are texts, numbers, bytes or None; hashing other keys could take forever."""
    return {key: value for key, value in pairs if isinstance(key, _KEYS)}


def read_pickle(file: BoundedFile, resolve_reference: Callable[[Any], Any], make: Callable[[Any, Any], Any]) -> Any:
    """The value of one pickle, read up to its end.

    resolve_reference: the object that a persistent id of the pickle stands for. make: (function, arguments) -> what
    the call returns, or an `Unknown`; function is usually a `Global`, and arguments a tuple. Raises ValueError for an
    instruction that plain data does not need, IndexError or KeyError for one that uses what isn't there.
    """
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def pop(count: int) -> list[Any]:
        if len(stack) - count < (marks[-1] if marks else 0):
            raise IndexError("an instruction of its pickle needs values that are not there")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if number > MAX_INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
        if name in ("PROTO", "FRAME"):
            continue
        elif name == "STOP":
            return pop(1)[0]
        # Plain values.
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        # Containers of what lies on the stack.
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name == "LIST":
            stack.append(pop_to_mark())
        elif name == "DICT":
            items = pop_to_mark()
            stack.append(make_dict(zip(items[::2], items[1::2], strict=True)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(pop(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = pop_to_mark() if name == "APPENDS" else pop(1)
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = pop_to_mark() if name == "SETITEMS" else pop(2)
            if isinstance(stack[-1], dict):
                stack[-1].update(make_dict(zip(items[::2], items[1::2], strict=True)))
        # Objects that occur several times.
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in memo:
                raise KeyError("its pickle refers to an object that is not there")
            stack.append(memo[argument])
        # References, names and calls.
        elif name == "BINPERSID":
            stack.append(resolve_reference(pop(1)[0]))
        elif name == "GLOBAL":
            stack.append(Global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            module, attribute = pop(2)
            if not (isinstance(module, str) and isinstance(attribute, str)):
                raise ValueError("its pickle names a function by something that is not a text")
            stack.append(Global(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = pop(2)
            stack.append(make(function, arguments))
        elif name == "BUILD":
            (state,) = pop(1)
            if isinstance(stack[-1], Unknown):
                stack[-1].state = state
        else:
            raise ValueError(f"its pickle has an instruction {name}, which plain weights don't need")
    raise ValueError("its pickle has no end")
