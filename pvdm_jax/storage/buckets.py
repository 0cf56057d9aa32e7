"""Runs, models and datasets in Google Cloud Storage: gs://BUCKET/PATH.

Every folder in a bucket has a local copy, BUCKET/PATH below `copies_folder()`, in which processes work. Functions take
and return paths of local copies; `url` returns the address in the bucket. Only checkpoints have no local copy: all
processes write and read them in the bucket, through Orbax. The other files of a run are small or written once
(settings, metrics, pictures, latents): one process uploads them (`push`), and every machine downloads the files that
it lacks (`fetch`).

Needs gcsfs (`pip install "pvdm_jax[gcs]"`) and Google's usual credentials.
"""

import base64
import contextlib
import fcntl
import hashlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pvdm_jax.config import ConfigError
from pvdm_jax.storage.cache import cache_folder
from pvdm_jax.storage.files import temporary_path
from pvdm_jax.storage.run_folder import CHECKPOINTS

SCHEME = "gs://"
PREFIX = "gs:/"  # of an address as text, and also as a pathlib.Path, which drops a slash
_MEANT_AS_ADDRESS = re.compile(r"gs:.*/|[a-z][a-z0-9+.-]*://", re.IGNORECASE | re.DOTALL)
_ADDRESS = re.compile(r"gs://([a-z0-9][a-z0-9._-]+[a-z0-9](/|$)|/*$)")
HASHED_SIZE = 2**24  # bytes; larger files never change, so only their size is compared, not their content


def copies_folder() -> pathlib.Path:
    """The folder of all local copies: $PVDM_BUCKETS, or one in the user's cache."""
    return pathlib.Path(os.environ.get("PVDM_BUCKETS") or cache_folder("buckets")).absolute()


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is an address in a bucket, gs://BUCKET/PATH."""
    return str(path).startswith(PREFIX)


def check_spelling(text: str) -> None:
    """Raises ConfigError for a text that is meant as an address, such as gs:/x or s3://x/y, but isn't gs://BUCKET/PATH.

    Bucket names follow https://cloud.google.com/storage/docs/buckets#naming.
    """
    if _MEANT_AS_ADDRESS.match(text) and not _ADDRESS.match(text):
        name = "a bucket's name has 3 characters or more, of a-z, 0-9, -, _ and ."
        raise ConfigError(f"{text!r} is neither a path on this machine nor of the form gs://BUCKET/FOLDER ({name})")


def shown(path: str | os.PathLike) -> str:
    """A path as a user writes it: pathlib drops a slash of an address."""
    return SCHEME + str(path).removeprefix(PREFIX).lstrip("/") if in_bucket(path) else str(path)


def local(path: str | os.PathLike) -> pathlib.Path:
    """The local copy of gs://BUCKET/PATH; any other path unchanged.

    Raises ConfigError if the address has no bucket or no folder, or if gcsfs is not installed.
    """
    if not in_bucket(path):
        return pathlib.Path(path)
    check_spelling(path if isinstance(path, str) else shown(path))
    bucket, _, name = str(path).removeprefix(PREFIX).strip("/").partition("/")
    parts = [part for part in name.split("/") if part]
    if not bucket or not parts or ".." in parts:
        raise ConfigError(f"{shown(path)} names no folder in a bucket; write gs://BUCKET/PATH")
    try:
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise ConfigError(f'{shown(path)} needs gcsfs: pip install "pvdm_jax[gcs]"') from error
    return copies_folder().joinpath(bucket, *parts)


def url(path: str | os.PathLike) -> str:
    """gs://BUCKET/PATH of a local copy; any other path unchanged."""
    path, copies = pathlib.Path(path).absolute(), copies_folder()
    return SCHEME + path.relative_to(copies).as_posix() if path.is_relative_to(copies) else str(path)


def fetch(folder: pathlib.Path, *patterns: str) -> None:
    """Downloads the files of `folder`, a local copy, that this machine lacks or that differ from the bucket's.

    patterns: which paths within the folder (`PurePath.match`); without any, all but checkpoints. Does nothing for a
    folder that is not in a bucket.
    """
    address = url(folder)
    if not in_bucket(address):
        return
    remote, prefix = file_system(), address.removeprefix(SCHEME)
    remote.invalidate_cache()
    with reaching(address), _lock():  # one process of this machine downloads; the others then find the files
        for name, info in sorted(remote.find(prefix, detail=True).items()):
            relative = pathlib.PurePosixPath(name).relative_to(prefix)
            wanted = not patterns or any(relative.match(pattern) for pattern in patterns)
            path = folder / relative
            if not wanted or CHECKPOINTS in relative.parts or info["type"] != "file" or _is_current(path, info):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_path(path)
            remote.get_file(name, str(temporary))
            temporary.replace(path)


def push(folder: pathlib.Path) -> None:
    """Uploads the new and changed files of `folder`, a local copy, except checkpoints and unfinished files.

    Call it from one process. Does nothing for a folder that is not in a bucket.
    """
    address = url(folder)
    if not in_bucket(address):
        return
    remote, prefix = file_system(), address.removeprefix(SCHEME)
    remote.invalidate_cache()
    with reaching(address):
        uploaded = remote.find(prefix, detail=True)
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            unfinished = any(part.startswith(".") for part in relative.parts) or path.suffix == ".unfinished"
            if unfinished or CHECKPOINTS in relative.parts or not path.is_file():
                continue
            name = f"{prefix}/{relative.as_posix()}"
            if name not in uploaded or not _is_current(path, uploaded[name]):
                remote.put_file(str(path), name)


def file_system() -> Any:
    import fsspec

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the traceback of what it raises
    return fsspec.filesystem("gcs")


@contextlib.contextmanager
def reaching(address: str) -> Iterator[None]:
    """A context in which errors of the network name the address."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("aiohttp"):
            raise ConnectionError(f"{address} can't be reached: {error}") from error
        raise


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Held by one process of this machine at a time."""
    copies_folder().mkdir(parents=True, exist_ok=True)
    with (copies_folder() / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_current(path: pathlib.Path, info: Mapping[str, Any]) -> bool:
    """Whether a local file equals the one in the bucket, which `info` describes (gcsfs: size, md5Hash)."""
    if not path.is_file() or path.stat().st_size != int(info["size"]):
        return False
    digest = info.get("md5Hash")
    if digest is None or path.stat().st_size > HASHED_SIZE:
        return True
    return base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode() == digest
