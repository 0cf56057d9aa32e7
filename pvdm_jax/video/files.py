"""Finds the files in a folder, for `prepare`, `evaluate`, `reconstruct` and the other commands.

Links are followed, but every real folder and every real file is taken once, under its own name if it lies in the
folder. Names that begin with a dot are ignored. Files come in natural order: frame2 before frame10, and the files of a
folder before those of its subfolders.
"""

import collections
import errno
import os
import pathlib
import re
import stat
from collections.abc import Iterator

from pvdm_jax.config.checks import one_line

# Suffixes of files that count as videos: those of the containers in `container.CONTAINERS`.
VIDEO_SUFFIXES = (".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4")
VIDEO_SUFFIXES += (".mpeg", ".mpg", ".mts", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv")
# Suffixes of videos in other containers. Such files are reported and skipped.
OTHER_VIDEO_SUFFIXES = (".apng", ".divx", ".dv", ".h264", ".h265", ".hevc", ".ivf", ".m2v", ".mjpg", ".mjpeg", ".mxf")
OTHER_VIDEO_SUFFIXES += (".nut", ".rm", ".rmvb", ".swf", ".y4m")
SPARSE_BYTES = 2**20  # smaller files are not checked for parts that were never written
NOT_UTF8 = "its name is not UTF-8; rename it"

_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def natural_key(name: str) -> list:
    """A sort key that puts frame2 before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def shown(path: str | os.PathLike) -> str:
    """A path as it can be printed and stored: bytes that are not UTF-8 and line breaks become escapes."""
    return one_line(os.fsencode(path).decode("utf-8", "backslashreplace"))


def is_utf8(name: str) -> bool:
    """Whether the bytes of a file's name are UTF-8."""
    return name.isprintable() or not any("\udc80" <= c <= "\udcff" for c in name)


def file_problem(path: str | os.PathLike) -> str:
    """Why a path can't be read as a file, and what to do about it; "" if it can.

    Nothing is opened that could block, such as a pipe. Raises FileNotFoundError if there is no such path.
    """
    if not is_utf8(os.fspath(path)):
        return NOT_UTF8
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            target = shown(os.readlink(path))
            return f"it is a link to {target}, which does not exist; restore that file, or remove the link"
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "it is a link that leads back to itself; remove it"
        return f"it can't be read ({error.strerror})"
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder, not a file"
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        return f"it is {kind}, not a file; remove it, or store what it delivers in a file"
    if status.st_size == 0:
        return "the file is empty"
    if _is_sparse(path, status):
        return "most of it was never written (a sparse file); copy or download it again"
    return ""


def _is_sparse(path: str | os.PathLike, status: os.stat_result) -> bool:
    """Whether most of a file is a hole, as in an interrupted download."""
    if status.st_size < SPARSE_BYTES or status.st_blocks * 512 > status.st_size // 2:
        return False
    # Few blocks may also mean compression, or a file system that doesn't count them; such files have no holes.
    with open(path, "rb") as file:
        try:
            return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < status.st_size
        except OSError:
            return False


class FolderScan:
    """The folders and files below a folder, found by reading each real folder once; no file is opened.

    folders: all folders, the root first. skipped: {path: reason} of everything that can't be read.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = pathlib.Path(root)
        self.skipped: dict[pathlib.Path, str] = {}
        self._files: dict[pathlib.Path, list[str]] = {}  # of each folder
        self._real_folders: dict[str, pathlib.Path] = {}
        self._real_files: dict[str, pathlib.Path] = {}
        # Real files and folders are found before the links that lead to them.
        links = self._read(self.root)
        while links:
            links = [other for link in sorted(links) for other in self._follow(link)]
        self.folders = sorted(self._files, key=self._order)

    def files(self, suffixes: tuple[str, ...], folder: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
        """The files with one of `suffixes`, in natural order; only those directly in `folder`, if it is given."""
        for path in self.folders if folder is None else [folder]:
            for name in sorted(self._files.get(path, ()), key=natural_key):
                if name.lower().endswith(suffixes):
                    yield path / name

    def skipped_files(self, suffixes: tuple[str, ...]) -> dict[str, str]:
        """{name: reason} of folders that can't be read, and of files with one of `suffixes` or none."""
        return {
            shown(path.relative_to(self.root)): reason
            for path, reason in sorted(self.skipped.items())
            if path.name.lower().endswith(suffixes) or not path.suffix or path in self._files
        }

    def _read(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Reads a folder and its subfolders. Returns the links in them."""
        links = []
        waiting = collections.deque([folder])
        while waiting:
            folder = waiting.popleft()
            real = os.path.realpath(folder)
            if real in self._real_folders:
                continue
            self._real_folders[real] = folder
            files: list[str] = []
            try:
                with os.scandir(folder) as found:
                    entries = [entry for entry in found if not entry.name.startswith(".")]
            except OSError as error:
                self.skipped[folder] = f"its files can't be listed ({error.strerror})"
                entries = []
            for entry in entries:
                path = folder / entry.name
                if not is_utf8(entry.name):
                    self.skipped[path] = NOT_UTF8
                elif entry.is_symlink():
                    links.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif entry.is_file(follow_symlinks=False):
                    files.append(entry.name)
                else:
                    self.skipped[path] = file_problem(path)
            self._files[folder] = files
        return links

    def _follow(self, link: pathlib.Path) -> list[pathlib.Path]:
        """Adds what a link leads to, unless it is already known. Returns the links below it."""
        real = os.path.realpath(link)
        if not os.path.isdir(link):
            problem = file_problem(link)
            known = self._known(real)
            if problem or known:
                self.skipped[link] = problem or f"it is a link to {shown(known)}, which is taken already"
            else:
                self._real_files[real] = link
                self._files[link.parent].append(link.name)
            return []
        around = os.path.realpath(self.root).startswith(os.path.join(real, ""))
        if real in self._real_folders or around:
            why = "which this folder lies in" if around else "which is read already"
            self.skipped[link] = f"it is a link to {shown(real)}, {why}"
            return []
        return self._read(link)

    def _known(self, real: str) -> pathlib.Path | None:
        """The path under which a real file is already taken."""
        folder, name = os.path.split(real)
        place = self._real_folders.get(folder)
        if place is not None and name in self._files[place]:
            return place / name
        return self._real_files.get(real)

    def _order(self, folder: pathlib.Path) -> list:
        return [natural_key(part) for part in folder.relative_to(self.root).parts]


def video_files(folder: pathlib.Path) -> tuple[list[pathlib.Path], dict[str, str]]:
    """The video files anywhere below a folder, and {name: reason} of those that can't be read."""
    scan = FolderScan(folder)
    return list(scan.files(VIDEO_SUFFIXES)), skipped_videos(scan)


def skipped_videos(scan: FolderScan) -> dict[str, str]:
    """{name within the root: reason} of the videos of a folder that are not taken."""
    unread = {
        shown(path.relative_to(scan.root)): f"{path.suffix} files are not read; convert it, for example to .mp4"
        for path in scan.files(OTHER_VIDEO_SUFFIXES)
    }
    return scan.skipped_files(VIDEO_SUFFIXES + OTHER_VIDEO_SUFFIXES) | unread
