"""What lies in a folder: its videos as entries, the kinds of its files, its training and test subfolders.

Names that begin with a dot are hidden. Natural order puts frame2 before frame10.
"""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterator

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import IMAGE_SUFFIXES
from pvdm_jax.video.files import VIDEO_SUFFIXES, FolderScan, natural_key

ARRAY_SUFFIXES = (".npy", ".npz")
# The splits that a folder of videos can have, and the names of the subfolders that hold them.
FOLDER_SPLITS = ("train", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "sky_train": "train",
    "test": "test",
    "testing": "test",
    "val": "test",
    "valid": "test",
    "validation": "test",
    "sky_test": "test",
}


class LayoutError(VideoError):
    """A folder doesn't have the expected layout; the message shows what was found and what was expected."""


@dataclasses.dataclass(frozen=True)
class VideoEntry:
    """One video of a folder, before its file is read."""

    name: str  # its path within the folder; for arrays followed by the key and the number in the file
    class_name: str  # "": none
    split: str
    kind: str  # file, pictures (a folder of them), array, or tfds (a record of a dataset that TFDS built)
    path: str
    key: str = ""  # of the array in an .npz file, or the split of a TFDS dataset
    index: int = -1  # of the video in an array of several, or of the record
    skipped: str = ""  # why the video can't be used; "": it can


class FolderContents:
    """What `Layout.detect` decides by: a folder, or the name of a dataset, and the kinds of files in it."""

    def __init__(self, source: pathlib.Path):
        self.source = source

    @functools.cached_property
    def depths(self) -> dict[str, int]:
        """The depth of the first folder with "videos", "frames" and "arrays"; 0: the source itself.

        Kinds of files that don't occur have no entry. The search ends at the first video file.
        """
        suffixes = {"videos": VIDEO_SUFFIXES, "frames": IMAGE_SUFFIXES, "arrays": ARRAY_SUFFIXES}
        found: dict[str, int] = {}
        for folder, names in walk(self.source):
            for kind, endings in suffixes.items():
                if any(name.lower().endswith(endings) for name in names):
                    found.setdefault(kind, len(folder.relative_to(self.source).parts))
            if "videos" in found:
                break
        return found


def natural_key(name: str) -> list:
    """A sort key that puts frame2 before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def walk(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """(folder, file names) of `root` and every folder below it, folders in natural order; links are followed."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted((name for name in folders if name[0] != "."), key=natural_key)
        yield pathlib.Path(folder), [name for name in names if name[0] != "."]


def files_below(root: pathlib.Path, suffixes: tuple[str, ...]) -> Iterator[pathlib.Path]:
    """The files with one of `suffixes` in `root` and every folder below it, in natural order."""
    for folder, names in walk(root):
        for name in sorted(names, key=natural_key):
            if name.lower().endswith(suffixes):
                yield folder / name


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders directly in `folder`, sorted by name."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]


def pictures_of(folder: str | pathlib.Path) -> list[pathlib.Path]:
    """The picture files directly in a folder, in natural order."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and e.name[0] != "."]
    return [pathlib.Path(folder, name) for name in sorted(names, key=natural_key)]


def split_roots(source: pathlib.Path, allow_others: bool = False) -> list[tuple[str, pathlib.Path]]:
    """(split, folder) for each of the SPLIT_FOLDERS in `source`; without a training folder, [("train", source)].

    If there are other folders too, one named "train" is taken for a class (of trains), unless `allow_others`.
    """
    folders = subfolders(source)
    roots = [(SPLIT_FOLDERS[path.name.lower()], path) for path in folders if path.name.lower() in SPLIT_FOLDERS]
    has_training = any(split == "train" for split, _ in roots)
    if not has_training or (len(roots) < len(folders) and not allow_others):
        return [("train", source)]
    return sorted(roots, key=lambda item: (FOLDER_SPLITS.index(item[0]), item[1]))


def data_folder(source: pathlib.Path, prefix: str, other: str = "") -> pathlib.Path:
    """The folder that holds the data: the only one in `source` whose name begins with `prefix`, else `source`.

    Folders of splits and the one named `other` don't count.
    """
    inside = [
        path
        for path in subfolders(source)
        if path.name.lower().startswith(prefix) and path.name != other and path.name.lower() not in SPLIT_FOLDERS
    ]
    return inside[0] if len(inside) == 1 else source


def class_of(path: pathlib.Path, root: pathlib.Path) -> str:
    """The class of a file: the first folder between `root` and it, "" without one."""
    inside = path.parent.relative_to(root).parts
    return inside[0] if inside else ""


def describe_contents(folder: pathlib.Path, most: int = 6) -> str:
    """The first names in a folder, for an error message."""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "an empty folder") + more


def find_video_files(source: pathlib.Path) -> Iterator[VideoEntry]:
    """The video files of a folder with split and class folders, in natural order."""
    for split, root in split_roots(source):
        for path in files_below(root, VIDEO_SUFFIXES):
            name = path.relative_to(source).as_posix()
            yield VideoEntry(name=name, class_name=class_of(path, root), split=split, kind="file", path=str(path))
