"""One writer for a run's folder: a lock that names the process, and that soon expires when the process is gone.

`RUN/run.lock`, in the folder or in its bucket, holds the writer's host, process and start. A thread of the writer
renews the time in it every HEARTBEAT seconds. A second writer is refused. So that a preempted job can restart by
itself, a lock is taken over if its process is gone, which can be seen on the same host, or if it has not been renewed
for STALE seconds.

Clocks of hosts may differ, so a lock of another host that looks old is watched for two heartbeats before it is taken
over.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from pvdm_jax.config import ConfigError
from pvdm_jax.storage import buckets
from pvdm_jax.storage.files import open_regular, process_runs, write_json
from pvdm_jax.storage.json_files import JsonError, Maybe, parse_json
from pvdm_jax.storage.run_folder import LOCK, check_folder_name

HEARTBEAT = 15.0  # seconds between two renewals
STALE = 120.0  # seconds without one, after which a lock of another host is taken over
FORGOTTEN = 48 * 3600.0  # seconds: older locks are stale even if the clocks differ by time zones
POLL = 2.0  # seconds between two reads of another host's lock

# The fields of a lock; another version's lock may lack some.
_TEXTS = ("host", "boot", "namespace", "process_start", "started", "id")
CONTENT = {name: Maybe(str) for name in _TEXTS} | {"process": Maybe(int), "renewed": Maybe(float)}
HELD, WAITING, REFUSED = 0, 1, 2
Function = TypeVar("Function", bound=Callable[..., Any])


def single_writer(function: Function) -> Function:
    """Decorates function(config, workdir, ...), which writes to the run in `workdir`: it holds the folder's lock."""

    @functools.wraps(function)
    def locked(config: Any, workdir: str | pathlib.Path, *args: Any, **options: Any) -> Any:
        with run_lock(workdir):
            return function(config, workdir, *args, **options)

    return locked  # type: ignore[return-value]


@contextlib.contextmanager
def run_lock(workdir: str | pathlib.Path) -> Iterator[None]:
    """A context in which this thread (with the run's other processes) is the only writer of the run in `workdir`.

    May be nested. Raises ConfigError, naming the other writer, if there is one. Waits, for about STALE seconds at most,
    while it is not clear whether a writer on another host is still running.
    """
    check_folder_name(workdir)
    place = _Place(buckets.url(workdir))
    held = _held.get(place.address)
    if held is not None and held.thread == threading.get_ident():
        yield
        return
    writer = _Writer(place)
    if jax.process_index() == 0:
        place.make_folder()
    _wait_for(writer)
    _held[place.address] = writer
    try:
        yield
    finally:
        del _held[place.address]
        writer.release()


def check_still_writer(directory: str | pathlib.Path) -> None:
    """Raises ConfigError if a lock that this process holds above `directory` was taken over by another process.

    This happens to a process that was suspended for minutes. Call this before writing anything.
    """
    address = buckets.url(directory)
    for place, writer in list(_held.items()):
        if pathlib.PurePath(address).is_relative_to(place):
            writer.check()


@dataclasses.dataclass(frozen=True)
class _Place:
    """The lock's file, local or in a bucket. address: the run's folder."""

    address: str

    @property
    def path(self) -> str:
        return f"{self.address}/{LOCK}"

    @property
    def remote(self) -> Any:
        """The bucket's file system; None for a local folder."""
        return buckets.file_system() if buckets.in_bucket(self.address) else None

    def make_folder(self) -> None:
        if not buckets.in_bucket(self.address):
            pathlib.Path(self.address).mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, Any] | None:
        """The lock's content; None if there is no lock, {} if its content can't be parsed."""
        try:
            if remote := self.remote:
                data = remote.cat_file(self.path)
            else:
                with open_regular(self.path) as file:
                    data = file.read()
        except FileNotFoundError:
            return None
        try:
            return parse_json(data, self.path, CONTENT)
        except JsonError:
            return {}

    def create(self, content: dict[str, Any]) -> bool:
        """Creates the lock; False if another process was faster."""
        try:
            if remote := self.remote:
                remote.pipe_file(self.path, json.dumps(content).encode(), mode="create")
            else:
                with open(self.path, "x", encoding="utf-8") as file:
                    json.dump(content, file)
        except FileExistsError:
            return False
        return True

    def replace(self, content: dict[str, Any]) -> None:
        if remote := self.remote:
            remote.pipe_file(self.path, json.dumps(content).encode())
        else:
            write_json(self.path, content)

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if remote := self.remote:
                remote.rm_file(self.path)
            else:
                pathlib.Path(self.path).unlink()


class _Writer:
    """A process that holds a lock or wants it; only process 0 of a run accesses the file."""

    def __init__(self, place: _Place):
        self.place, self.thread = place, threading.get_ident()
        self._facts = _this_process() | {"id": secrets.token_hex(8)}
        self._stop = threading.Event()
        self._beats: threading.Thread | None = None
        self._seen: tuple[Any, float, float] | None = None  # another lock's id and time as first seen, and when

    def ask(self) -> tuple[int, str]:
        """Looks at the lock once and takes it if possible: (HELD, WAITING or REFUSED, the writer in words)."""
        found = self.place.read()
        if found is None:
            if not self.place.create(self._content()):
                return WAITING, ""
            return self._begin()
        if found == {}:
            time.sleep(0.5)  # it may just be being written
            found = self.place.read() or {}
        state = self._judge(found)
        if state == HELD:
            self.place.replace(self._content())
            time.sleep(0.2)  # another process may take it over at the same moment: the last one to write holds it
            return self._begin() if self._is_mine() else (WAITING, "")
        return state, _describe(found)

    def check(self) -> None:
        """Raises ConfigError if the lock is no longer this process's."""
        if self._beats is not None and not self._is_mine():
            other = _describe(self.place.read() or {})
            raise ConfigError(f"{self.place.address} was taken over by {other}; this process stops without saving")

    def release(self) -> None:
        """Removes the lock if it is still this process's."""
        if self._beats is None:
            return
        self._stop.set()
        self._beats.join()
        with contextlib.suppress(OSError):
            if self._is_mine():
                self.place.remove()

    def _judge(self, found: dict[str, Any]) -> int:
        """HELD if another writer's lock may be taken over."""
        same_host = all(found.get(name) == self._facts[name] for name in ("host", "boot", "namespace"))
        if same_host:
            return REFUSED if _is_running(found.get("process"), found.get("process_start")) else HELD
        beat = found.get("renewed")
        if beat is None:
            return HELD
        age = time.time() - beat
        if self._seen is None or self._seen[0] != found.get("id"):
            self._seen = (found.get("id"), beat, time.monotonic())
        if beat != self._seen[1]:
            return REFUSED
        watched = time.monotonic() - self._seen[2]
        if age > FORGOTTEN or watched > STALE or (age > STALE and watched > 2 * HEARTBEAT):
            return HELD
        return WAITING

    def _content(self) -> dict[str, Any]:
        return self._facts | {"renewed": time.time()}

    def _is_mine(self) -> bool:
        return (self.place.read() or {}).get("id") == self._facts["id"]

    def _begin(self) -> tuple[int, str]:
        self._beats = threading.Thread(target=self._renew, daemon=True, name="run lock")
        self._beats.start()
        return HELD, ""

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                if not self._is_mine():
                    return
                self.place.replace(self._content())
            except Exception as error:  # a full disk or a lost bucket, which the next save will report
                print(f"the lock {self.place.path} can't be renewed ({type(error).__name__})", file=sys.stderr)


_held: dict[str, _Writer] = {}  # by the run's folder


def _wait_for(writer: _Writer) -> None:
    """Returns once the lock is held; process 0 decides for all. Raises ConfigError if there is another writer."""
    told = False
    while True:
        with buckets.reaching(writer.place.address):
            state, other = writer.ask() if jax.process_index() == 0 else (WAITING, "")
        if jax.process_count() > 1:
            state = int(multihost_utils.broadcast_one_to_all(np.asarray(state)))
        if state == HELD:
            return
        if state == REFUSED:
            raise ConfigError(
                f"{writer.place.address} is being written to by {other or 'another process'}; wait for it or stop it, "
                f"or use another --workdir (its lock is {writer.place.path})"
            )
        if other and not told:
            print(f"waiting: {writer.place.path} is held by {other}, and taken over unless it is renewed", flush=True)
            told = True
        time.sleep(POLL if other else 0.1)


def _this_process() -> dict[str, Any]:
    """The facts that distinguish this process from all others."""
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id").strip(),
        "namespace": _link("/proc/self/ns/pid"),  # containers may share a host's name but number processes separately
        "process": os.getpid(),
        "process_start": _start_of(os.getpid()),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _describe(found: dict[str, Any]) -> str:
    names = ("process", "host", "started")
    process, host, started = (found.get(name, "unknown") for name in names)
    return f"process {process} on {host}, started {started}"


def _is_running(process: int | None, start: str | None) -> bool:
    """Whether a process of this host is running, and is not a later one with the same number (by its start time)."""
    if process is None or process <= 0:
        return False
    if os.path.isdir("/proc/self"):
        now = _start_of(process)
        return bool(now) and now == start
    return process_runs(process)


def _start_of(process: int) -> str:
    """When a process started, in the kernel's ticks; "" if there is no such process, or it is a zombie."""
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    return "" if len(fields) < 20 or fields[0] in "ZX" else fields[19]


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
