"""What may be in a JSON file in place of what was written: damage, and values of other types."""

import copy
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from pvdm_jax.config import ConfigError

CONTENTS = {
    "empty": b"",
    "blank": b" \n",
    "number": b"5",
    "null": b"null",
    "list": b"[]",
    "text": b'"x"',
    "cut": b'{"a": [1, 2',
    "object": b"{}",
    "binary": bytes(range(256)),
    "utf16": '{"a": 1}'.encode("utf-16"),
    "marked": b"\xef\xbb\xbf{}",
    "nan": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "integer": b'{"a": ' + b"9" * 30 + b"}",
    "twice": b'{"a": 1, "a": 2}',
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested": b'{"a":' * 500 + b"1" + b"}" * 500,
}
KINDS = 2  # of OTHERS, for each field
OTHERS = (None, 5, -1.5, True, "x", [], {}, [[]], {"a": None})


def damaged(good: Any) -> Iterator[tuple[str, bytes]]:
    """CONTENTS, and `good` with each of its fields, to a depth of three, missing or of another type."""
    yield from CONTENTS.items()
    for number, path in enumerate(_paths(good, 3)):
        name = ".".join(map(str, path))
        yield f"{name} missing", _changed(good, path, lambda parent, key: parent.pop(key))
        for other in (OTHERS * 2)[number % len(OTHERS) :][:KINDS]:  # others for the next field
            yield f"{name} is {other!r}", _changed(good, path, lambda parent, key, x=other: parent.__setitem__(key, x))


def refused_by_name(path: pathlib.Path, read: Callable[[], Any]) -> int:
    """How many of the damaged contents of a JSON file `read` refuses, each in one line with the file's name."""
    good, refusals = json.loads(path.read_bytes()), 0
    for what, content in damaged(good):
        path.write_bytes(content)
        try:
            read()
        except ConfigError as error:
            assert str(path) in str(error) or str(path.parent) in str(error), what
            refusals += 1
        except Exception as error:
            raise AssertionError(f"{path.name}, {what}: {type(error).__name__}: {error}") from error
    path.write_text(json.dumps(good))
    read()
    return refusals


def _paths(value: Any, depth: int) -> Iterator[tuple]:
    if not isinstance(value, dict) or depth == 0:
        return
    for key, child in value.items():
        yield (key,)
        for path in _paths(child, depth - 1):
            yield (key, *path)


def _changed(good: Any, path: tuple, change) -> bytes:
    content = copy.deepcopy(good)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return json.dumps(content).encode()
