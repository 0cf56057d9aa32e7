"""Files that are complete or absent: written under a temporary name first, so that a kill never leaves half a file."""

import hashlib
import json
import os
import pathlib
from typing import Any


class CheckpointError(OSError):
    """A checkpoint could not be written."""


def write_bytes(path: str | pathlib.Path, data: bytes) -> None:
    """Writes or replaces a file atomically. Creates its folder if necessary."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | pathlib.Path, content: Any) -> None:
    """Writes a JSON file atomically, indented."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | pathlib.Path) -> Any:
    """The content of a JSON file. Raises FileNotFoundError, and ValueError if it is not JSON."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """A hidden name next to `path`, to write to before renaming; different for each process."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def file_hash(path: str | pathlib.Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
