"""Files that are complete or absent: written under a temporary name first, so that a kill never leaves half a file."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from typing import IO, Any

MAX_NAME = 255  # bytes of a file's name, on all common file systems
STALE_AFTER = 3600.0  # seconds without a write after which another machine's unfinished file counts as abandoned
_STARTED = time.time()  # about when this process started
_UNFINISHED = re.compile(r"\..+\.unfinished-(?P<host>[^.]*)-(?P<process>\d+)", re.DOTALL)


class CheckpointError(OSError):
    """A checkpoint could not be written."""


class NotRegularFileError(OSError):
    """A path that should be read as a file is something else, such as a device or a pipe."""


@contextlib.contextmanager
def failures_named(path: str | pathlib.Path) -> Iterator[None]:
    """A context in which an OSError that names no file names this one.

    Python's error for a disk that fills up during a write names no file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:  # Python shows the name only with an errno
            error.filename = str(path)
        raise


def write_bytes(path: str | pathlib.Path, data: bytes) -> None:
    """Writes or replaces a file atomically. Creates its folder if necessary."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with failures_named(path):
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


def open_regular(path: str | pathlib.Path) -> IO[bytes]:
    """Opens a file to read its bytes. Raises OSError at once for anything but a regular file, such as a FIFO."""
    path = pathlib.Path(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder; a file is needed here")
    raise NotRegularFileError(f"{path} is not a regular file (a device, a pipe or a socket), so it is not read")


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """A hidden name next to `path`, to write to before renaming; different for each process and machine.

    `remove_leftovers` removes what killed processes leave under such names.
    """
    suffix = f".unfinished-{_host()}-{os.getpid()}"
    name = os.fsencode(path.name)
    if len(name) > MAX_NAME - 1 - len(suffix):
        name = name[: MAX_NAME - 42 - len(suffix)] + hashlib.sha1(name).hexdigest().encode()
    return path.with_name(f".{os.fsdecode(name)}{suffix}")


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes the unfinished files and folders that killed processes left in `folder`.

    Files of processes that still run are kept; so are those of other machines, until nothing has been written to them
    for STALE_AFTER seconds.
    """
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        found = _UNFINISHED.fullmatch(entry.name)
        if not found:
            continue
        written = entry.stat(follow_symlinks=False).st_mtime
        if found["host"] != _host():
            stale = time.time() - written > STALE_AFTER
        elif int(found["process"]) == os.getpid():
            stale = written < _STARTED - 1  # written by an earlier process with the same number
        else:
            stale = not process_runs(int(found["process"]))
        if stale:
            remove(pathlib.Path(entry.path))


def check_new_folder(path: str | pathlib.Path) -> None:
    """Raises FileExistsError unless a folder is new or empty: nothing is overwritten."""
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; name a new folder")
    if path.exists() and any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty; name a new folder")


def remove(path: pathlib.Path) -> None:
    """Removes a file, or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:40]


def process_runs(process: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def file_hash(path: str | pathlib.Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def format_bytes(count: float) -> str:
    """A number of bytes for people: 512 bytes, 3.4 kB, 2.1 GB, ..."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} PB"
