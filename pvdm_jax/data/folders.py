"""The contents of a folder: its videos as entries, the kinds of its files, its training and test subfolders.

Names that begin with a dot are hidden. Natural order puts frame2 before frame10.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.files import VIDEO_SUFFIXES, FolderScan, file_problem, natural_key, shown, skipped_videos
from pvdm_jax.video.images import IMAGE_SUFFIXES

ARRAY_SUFFIXES = (".npy", ".npz")
# Beside video files, a folder with at least this many pictures is a clip; one with fewer holds previews.
MANY_PICTURES = 8
NAMED = 6  # names of a folder's contents that an error message shows
# The splits that a folder of videos can have, and the names of the subfolders that hold them.
FOLDER_SPLITS = ("train", "test")
DATASET_SPLITS = (*FOLDER_SPLITS, "holdout")  # that a prepared dataset can have; rendered ones have all three
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

    name: str  # its path within the folder; for arrays, with the key and the number in the file appended
    class_name: str  # "": none
    split: str
    kind: str  # file, pictures (a folder of them), array, tfds (a record of a dataset that TFDS built), or game
    path: str
    key: str = ""  # of the array in an .npz file, or the split of a TFDS dataset
    index: int = -1  # of the video in an array of several, of the record, or of the game's video
    skipped: str = ""  # why the video can't be used; "": it can


class FolderContents:
    """What `Layout.detect` decides by: a folder, or the name of a dataset, and the kinds of files in it."""

    def __init__(self, source: pathlib.Path):
        self.source = source

    @functools.cached_property
    def scan(self) -> FolderScan:
        """All folders and files in the source."""
        return FolderScan(self.source)

    @functools.cached_property
    def kinds(self) -> dict[str, int]:
        """The numbers of "videos" and "arrays" (files) and of "frames" (folders of pictures below the source)."""
        videos = sum(1 for _ in self.scan.files(VIDEO_SUFFIXES))
        frames = [len(list(self.scan.files(IMAGE_SUFFIXES, folder))) for folder in self.scan.folders[1:]]
        # Beside videos, a few pictures are previews, not a clip.
        least = MANY_PICTURES if videos else 1
        return {
            "videos": videos,
            "frames": sum(count >= least for count in frames),
            "arrays": sum(1 for _ in self.scan.files(ARRAY_SUFFIXES)),
        }

    @property
    def mostly_frames(self) -> bool:
        """Whether there are more clips as folders of pictures than video files."""
        return self.kinds["frames"] > self.kinds["videos"]


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders directly in `folder`, sorted by name."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]


def pictures_of(folder: str | pathlib.Path) -> list[pathlib.Path]:
    """The picture files directly in a folder, in natural order. Raises VideoError if one of them can't be read."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and e.name[0] != "."]
    paths = [pathlib.Path(folder, name) for name in sorted(names, key=natural_key)]
    for path in paths:
        problem = file_problem(path)
        if problem:
            raise VideoError(f"{shown(path)}: {problem}")
    return paths


class SplitFolders:
    """The division of a folder into splits by its subfolders of the SPLIT_FOLDERS names.

    Subfolders without a file that has one of `suffixes` don't count. Without a training folder, everything is for
    training. Without a folder "test" or similar, a folder "train" beside other folders is taken for a class (of
    trains), unless `allow_others`. Several folders of one split, such as val/ and test/, belong together.
    """

    def __init__(self, scan: FolderScan, suffixes: tuple[str, ...], allow_others: bool = False):
        self.source = scan.root
        used = {folder for folder in scan.folders if next(scan.files(suffixes, folder), None)}
        used |= {parent for folder in used for parent in folder.parents}
        folders = [folder for folder in scan.folders if folder.parent == scan.root and folder in used]
        named = {folder: SPLIT_FOLDERS.get(folder.name.lower()) for folder in folders}
        splits = {split for split in named.values() if split}
        is_divided = "train" in splits and ("test" in splits or None not in named.values() or allow_others)
        self.roots = {folder: split for folder, split in named.items() if split} if is_divided else {}

    def place(self, path: pathlib.Path) -> tuple[str, pathlib.Path]:
        """The split of a path within the source ("" outside of splits), and the folder below which classes begin."""
        if not self.roots:
            return "train", self.source
        inside = path.relative_to(self.source).parts
        root = self.source / inside[0]
        return self.roots.get(root, ""), root

    def entry(self, path: pathlib.Path, kind: str, *, classes: bool = True) -> VideoEntry:
        """The entry of a file or a folder of pictures; skipped by name if it belongs to no split."""
        split, root = self.place(path)
        skipped = ""
        if not split:
            names = ", ".join(f"{folder.name}/" for folder in self.roots)
            skipped = f"it lies beside {names}, which divide the folder; move it into one of them"
        return VideoEntry(
            name=path.relative_to(self.source).as_posix(),
            class_name=class_of(path, root) if classes and split else "",
            split=split or "train",
            kind=kind,
            path=str(path),
            skipped=skipped,
        )

    def order(self, entry: VideoEntry) -> int:
        """A sort key that puts the entries for training first."""
        return FOLDER_SPLITS.index(entry.split)


def skipped_entries(reasons: Mapping[str, str]) -> Iterator[VideoEntry]:
    """Entries for {name: reason} of what can't be used."""
    for name, reason in reasons.items():
        yield VideoEntry(name=name, class_name="", split="train", kind="file", path="", skipped=reason)


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


def describe_contents(folder: pathlib.Path) -> str:
    """The first names in a folder, for an error message."""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (", ".join(names[:NAMED]) or "an empty folder") + more


def find_video_files(source: pathlib.Path) -> Iterator[VideoEntry]:
    """The video files of a folder with split and class folders, in natural order; then those that can't be read."""
    scan = FolderScan(source)
    splits = SplitFolders(scan, VIDEO_SUFFIXES)
    entries = [splits.entry(path, "file") for path in scan.files(VIDEO_SUFFIXES)]
    yield from sorted(entries, key=splits.order)
    yield from skipped_entries(skipped_videos(scan))
    why = "it is a folder of frames among video files; --layout=frames takes such folders instead"
    clips = [folder for folder in scan.folders[1:] if len(list(scan.files(IMAGE_SUFFIXES, folder))) >= MANY_PICTURES]
    yield from skipped_entries({folder.relative_to(source).as_posix(): why for folder in clips})


def class_problem(name: str) -> str:
    """Why a folder's name can't name a class; "" if it can. A dataset lists its classes one per line."""
    if name and (name.strip() != name or len(name.splitlines()) != 1):
        return f"its class folder is named {name!r}, with a line break or with spaces at its ends; rename that folder"
    return ""
