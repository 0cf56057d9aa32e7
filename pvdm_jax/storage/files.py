"""Files that are there whole or not at all: written under another name first, so that a kill leaves no half of one."""

import json
import os
import pathlib
from typing import Any


class CheckpointError(OSError):
    """A checkpoint could not be written."""


def write_bytes(path: str | pathlib.Path, data: bytes) -> None:
    """Writes or replaces a file in one go, and makes its folder."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | pathlib.Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: str | pathlib.Path, content: Any) -> None:
    """Indented, in one go."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | pathlib.Path) -> Any:
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
