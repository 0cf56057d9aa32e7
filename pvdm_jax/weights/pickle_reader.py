"""Reads pickles without executing anything in them.

A pickle is a program for a small stack machine that can call any function. Here its instructions are read one by one
(pickletools), and only those that build plain data are followed. What a call returns is up to the caller's function.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import IO, Any


@dataclasses.dataclass(frozen=True)
class Global:
    """A class or function that a pickle names. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass
class Unknown:
    """The result of a call that is not followed; the attributes that the pickle would have set on it."""

    state: Any = None


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_LITERALS = _NUMBERS | _STRINGS | _BYTES


def read_pickle(file: IO[bytes], resolve_reference: Callable[[Any], Any], make: Callable[[Any, tuple], Any]) -> Any:
    """The value of one pickle, read up to its end.

    resolve_reference: the object that a persistent id of the pickle stands for. make: (function, arguments) -> what
    the call returns, or an `Unknown`; function is usually a `Global`. Raises ValueError for an instruction that plain
    data does not need.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        start = max(i for i, item in enumerate(stack) if item is _MARK)
        items = stack[start + 1 :]
        del stack[start:]
        return items

    def pop(count: int) -> list[Any]:
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        elif name == "STOP":
            return stack.pop()
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
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name == "LIST":
            stack.append(pop_to_mark())
        elif name == "DICT":
            items = pop_to_mark()
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(pop(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = pop_to_mark() if name == "APPENDS" else pop(1)
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = pop_to_mark() if name == "SETITEMS" else pop(2)
            if isinstance(stack[-1], dict):
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
        # Objects that occur several times.
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        # References, names and calls.
        elif name == "BINPERSID":
            stack.append(resolve_reference(stack.pop()))
        elif name == "GLOBAL":
            stack.append(Global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(Global(*pop(2)))
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
