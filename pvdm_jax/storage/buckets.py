"""Runs, models and data sets in Google Cloud Storage: gs://BUCKET/PATH.

A folder in a bucket has a local counterpart in which a process works, BUCKET/PATH within `root()`; functions take and
return these local paths, and `url` tells where one belongs. Checkpoints alone have no counterpart: all processes write
and read them in the bucket, through Orbax. What else a run leaves is small or written once (settings, metrics,
pictures, latents), so one process copies it to the bucket (`push`) and every machine fetches what it lacks (`fetch`).

Needs gcsfs (`pip install "pvdm_jax[gcs]"`), and Google's usual credentials.
"""

import base64
import contextlib
import fcntl
import hashlib
import os
import pathlib
from collections.abc import Iterator

from pvdm_jax.config import ConfigError
from pvdm_jax.storage.run_folder import CHECKPOINTS

SCHEME = "gs://"
MARK = "gs:/"  # what it begins with, also as a pathlib.Path
COMPARED = 2**24  # bytes of a file up to which its content is compared, not only its size: larger ones never change


def root() -> pathlib.Path:
    """Where the local counterparts lie: $PVDM_BUCKETS, or the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(os.environ.get("PVDM_BUCKETS") or pathlib.Path(cache) / "pvdm_jax" / "buckets").absolute()


def in_bucket(path: str | os.PathLike) -> bool:
    return str(path).startswith(MARK)


def local(path: str | os.PathLike) -> pathlib.Path:
    """The local counterpart of gs://BUCKET/PATH; another path as it is. Raises ConfigError where gcsfs is missing."""
    if not in_bucket(path):
        return pathlib.Path(path)
    bucket, _, name = str(path).removeprefix(MARK).strip("/").partition("/")
    parts = [part for part in name.split("/") if part]
    if not bucket or not parts or ".." in parts:
        raise ConfigError(f"{path} names no folder in a bucket; write gs://BUCKET/PATH")
    try:
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise ConfigError(f'{path} needs gcsfs: pip install "pvdm_jax[gcs]"') from error
    return root().joinpath(bucket, *parts)


def url(path: str | os.PathLike) -> str:
    """gs://BUCKET/PATH of a local counterpart; another path as it is."""
    path = pathlib.Path(path).absolute()
    return SCHEME + path.relative_to(root()).as_posix() if path.is_relative_to(root()) else str(path)


def fetch(folder: pathlib.Path, *patterns: str) -> None:
    """Copies what the bucket has of `folder` and this machine lacks, or has otherwise, to its local counterpart.

    patterns: of paths within the folder (`PurePath.match`); none: all but checkpoints. Does nothing outside a bucket.
    """
    place = url(folder)
    if not in_bucket(place):
        return
    files, prefix = _file_system(), place.removeprefix(SCHEME)
    files.invalidate_cache()
    with _lock():  # of several processes on this machine one copies, and the others find it done
        for name, facts in sorted(files.find(prefix, detail=True).items()):
            inner = pathlib.PurePosixPath(name).relative_to(prefix)
            wanted = CHECKPOINTS not in inner.parts and (not patterns or any(inner.match(p) for p in patterns))
            path = folder / inner
            if not wanted or facts["type"] != "file" or _same(path, facts):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}.{os.getpid()}")
            files.get_file(name, str(unfinished))
            unfinished.replace(path)


def push(folder: pathlib.Path) -> None:
    """Copies to the bucket what is new or changed in `folder`, but checkpoints and unfinished files.

    Does nothing outside a bucket. Call it from one process.
    """
    place = url(folder)
    if not in_bucket(place):
        return
    files, prefix = _file_system(), place.removeprefix(SCHEME)
    files.invalidate_cache()
    there = files.find(prefix, detail=True)
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inner.parts) or path.suffix == ".unfinished"
        if hidden or CHECKPOINTS in inner.parts or not path.is_file():
            continue
        name = f"{prefix}/{inner.as_posix()}"
        if name not in there or not _same(path, there[name]):
            files.put_file(str(path), name)


def _file_system():
    import fsspec

    return fsspec.filesystem("gcs")


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    root().mkdir(parents=True, exist_ok=True)
    with (root() / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _same(path: pathlib.Path, facts: dict) -> bool:
    """Whether a local file is the bucket's, of which `facts` tell."""
    if not path.is_file() or path.stat().st_size != int(facts["size"]):
        return False
    digest = facts.get("md5Hash")
    if digest is None or path.stat().st_size > COMPARED:
        return True
    return base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode() == digest
