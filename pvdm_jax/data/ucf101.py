"""The layout of UCF-101: video files in class folders, and official lists that divide them into splits.

There are three pairs of lists, trainlist01.txt and testlist01.txt to trainlist03.txt and testlist03.txt.
"""

import dataclasses
import pathlib

from pvdm_jax.config import require
from pvdm_jax.data.folders import (
    FOLDER_SPLITS,
    FolderContents,
    LayoutError,
    VideoEntry,
    data_folder,
    describe_contents,
    find_video_files,
)

LIST_FOLDER = "ucfTrainTestlist"  # the name under which the lists are published
LIST_NUMBERS = (1, 2, 3)
EXPECTED = f"CLASS/v_CLASS_g01_c01.avi and the lists trainlist01.txt, testlist01.txt, ... in {LIST_FOLDER}/"


def find_ucf101(source: pathlib.Path, list_number: int) -> list[VideoEntry]:
    """The videos of UCF-101, divided by the pair of official lists `list_number`; see `layouts.Layout.find`."""
    require(list_number in LIST_NUMBERS, "list", list_number, "UCF-101 has the lists 1, 2 and 3")
    root = _video_folder(source)
    lists = _lists_of(source)
    if lists is None:
        raise LayoutError(
            f"{source}: found {describe_contents(source)}; expected UCF-101's lists beside its videos "
            f"({EXPECTED}), which tell training and test videos apart; without them, use "
            "layout=videos"
        )
    splits = _read_lists(lists, list_number)
    entries = []
    for video in find_video_files(root):
        unlisted = f"it is in neither trainlist{list_number:02d} nor testlist{list_number:02d}"
        skipped = video.skipped or ("" if video.name in splits else unlisted)
        entries.append(dataclasses.replace(video, split=splits.get(video.name, video.split), skipped=skipped))
    if all(entry.skipped for entry in entries):
        example = next(iter(splits), "nothing")
        raise LayoutError(
            f"{source}: found {describe_contents(root)}; expected the videos that {lists} names, such as "
            f"{root / example}"
        )
    existing = {entry.name for entry in entries}
    for name, split in splits.items():
        if name not in existing:
            missing = f"it is in {split}list{list_number:02d}, but the file is missing"
            entries.append(VideoEntry(name, class_name="", split=split, kind="file", path="", skipped=missing))
    return entries


def _read_lists(folder: pathlib.Path, number: int) -> dict[str, str]:
    """{name of a video: its split} from one of the official pairs of lists. Raises LayoutError if one is missing."""
    splits = {}
    for split in FOLDER_SPLITS:
        path = folder / f"{split}list{number:02d}.txt"
        if not path.is_file():
            raise LayoutError(f"{folder}: found {describe_contents(folder)}; expected {path.name}")
        for line in path.read_text().splitlines():
            if line.strip():
                splits[line.split()[0]] = split
    return splits


def _lists_of(source: pathlib.Path) -> pathlib.Path | None:
    """The folder of UCF-101's lists: in the source or beside it, in LIST_FOLDER or not."""
    root = _video_folder(source)
    for folder in (source / LIST_FOLDER, root / LIST_FOLDER, source, root, source.parent / LIST_FOLDER):
        if any((folder / f"trainlist{number:02d}.txt").is_file() for number in LIST_NUMBERS):
            return folder
    return None


def is_ucf101(contents: FolderContents) -> bool:
    """Whether there are video files with UCF-101's lists."""
    return contents.kinds["videos"] > 0 and _lists_of(contents.source) is not None


def _video_folder(source: pathlib.Path) -> pathlib.Path:
    return data_folder(source, "ucf", other=LIST_FOLDER)
