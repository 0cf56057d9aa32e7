"""Reading JSON files: each is checked before anything uses it, and a refusal names the file and the fault.

Files may have been cut short, edited, replaced, or written by another program. `read_json` therefore takes the shape
that the content must have, so that no reader meets a missing key or a value of another type:

    read_json(path, {"made_by": {"autoencoder": str}, "counts": {str: int}, "names": [str], "note": Maybe(str)})
"""

import collections
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from pvdm_jax.config import ConfigError
from pvdm_jax.storage.files import open_regular

MAX_BYTES = 2**28  # size of a file
MAX_DEPTH = 64  # nesting of lists and objects
MAX_INTEGER = 2**63 - 1

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number", bool: "true or false"}


class JsonError(ConfigError):
    """A JSON file that can't be used: the message names the file and says what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Maybe:
    """A field that may be absent or null; otherwise its value has `shape`."""

    shape: Any


def read_json(path: str | pathlib.Path, shape: Any = object) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.
        shape: What the content must look like: a type (dict, list, str, int, float, bool; object for anything),
            [shape] for a list, {str: shape} for an object with any keys, {"name": shape} for an object with at least
            these fields. A float may be written as an integer. Fields of shape `Maybe` may be absent or null.

    Raises FileNotFoundError if there is no file, another OSError if it can't be read or is not a regular file, and
    JsonError if it is not JSON, holds NaN or an infinite number, is nested more than MAX_DEPTH deep, names a field
    twice or does not have the shape.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise JsonError(f"{path} is larger than {MAX_BYTES:,} bytes, which no file of this kind is")
        data = file.read()
    return parse_json(data, str(path), shape)


def parse_json(data: bytes | str, name: str, shape: Any = object) -> Any:
    """The content of JSON text, checked as in `read_json`. name: how messages call the text."""
    content = _parse(data, name)
    _check_depth_and_integers(content, name)
    check_json(content, shape, name)
    return content


def try_read_json(path: str | pathlib.Path, shape: Any, warn: Callable[[str], Any], consequence: str) -> Any:
    """The content of a JSON file that can be regenerated; None if it does not exist or can't be used.

    warn: called with a line that names the file, the fault and `consequence` if the file exists and can't be used.
    """
    try:
        return read_json(path, shape)
    except FileNotFoundError:
        return None
    except (OSError, JsonError) as error:
        warn(f"{error}; {consequence}")
        return None


def _parse(data: bytes | str, name: str) -> Any:
    if not data.strip():
        raise JsonError(f"{name} is empty")

    def constant(text: str) -> float:
        raise ValueError(f"it holds {text}, which is not a finite number")

    def number(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else constant(text[:20])

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice, _ = collections.Counter(name for name, _ in pairs).most_common(1)[0]
            raise ValueError(f"it has the field {twice[:80]!r} twice")
        return fields

    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, parse_constant=constant, parse_float=number, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise JsonError(f"{name} is not JSON: it is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise JsonError(f"{name} is not usable: its lists and objects are nested too deeply") from error
    except ValueError as error:
        raise JsonError(f"{name} is not JSON: {error}") from error


def _check_depth_and_integers(content: Any, name: str) -> None:
    level, depth = [content], 0
    while level:
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                deeper.extend(value.values())
            elif isinstance(value, list):
                deeper.extend(value)
            elif isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise JsonError(f"{name} is not usable: it holds an integer of more than 64 bits")
        level, depth = deeper, depth + 1
        if depth > MAX_DEPTH:
            raise JsonError(f"{name} is not usable: its lists and objects are nested more than {MAX_DEPTH} deep")


def check_json(value: Any, shape: Any, name: str, field: str = "") -> None:
    """Raises JsonError unless `value` has the shape. It is the `field` ("": everything) of the file `name`."""
    if isinstance(shape, Maybe):
        if value is not None:
            check_json(value, shape.shape, name, field)
    elif isinstance(shape, list):
        _check_type(value, list, name, field)
        for number, item in enumerate(value):
            check_json(item, shape[0], name, f"{field}[{number}]")
    elif isinstance(shape, Mapping):
        _check_type(value, dict, name, field)
        _check_fields(value, shape, name, f"{field}." if field else "")
    else:
        _check_type(value, shape, name, field)


def _check_fields(value: dict[str, Any], shape: Mapping[Any, Any], name: str, prefix: str) -> None:
    if str in shape:
        for key, item in value.items():
            check_json(item, shape[str], name, f"{prefix}{key[:80]}")
        return
    missing = [f"{prefix}{key}" for key, kind in shape.items() if key not in value and not isinstance(kind, Maybe)]
    if missing:
        raise JsonError(f"{name} lacks {', '.join(missing)}")
    for key, kind in shape.items():
        check_json(value.get(key), kind, name, f"{prefix}{key}")


def _check_type(value: Any, kind: type, name: str, field: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {int: number and isinstance(value, int), float: number}.get(kind, isinstance(value, kind))
    if not fits:
        shown = "null" if value is None else repr(value) if isinstance(value, int | float) else _NAMES[type(value)]
        where = f"{name}: {field} is" if field else f"{name} holds"
        raise JsonError(f"{where} {shown[:80]}; {_NAMES[kind]} is needed")
