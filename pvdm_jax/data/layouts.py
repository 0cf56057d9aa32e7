"""The layouts of folders that `pvdm prepare` reads: one table, LAYOUTS, with a row for each.

    tfds           the folder of a dataset that TFDS built, or its name in TFDS's own folder (see tfds_dataset.py)
    ucf101         DIR/CLASS/v_*.avi and trainlist01.txt, testlist01.txt, ... (inside, beside or above the videos)
    videos         DIR/[SPLIT/][CLASS/...]NAME.avi          video files; the first level of subfolders is the class
    sky_timelapse  DIR/SPLIT/[VIDEO/]CLIP/FRAME.jpg         clips as folders of frames; SPLIT: train, sky_train, ...
    frames         DIR/[SPLIT/][CLASS/]CLIP/FRAME.png       any other folders of frames
    arrays         DIR/[SPLIT/][CLASS/...]NAME.npy or .npz  uint8 (t, h, w, 3) or (n, t, h, w, 3)

SPLIT is a folder named train, test or similar (folders.SPLIT_FOLDERS); without one, all videos are for training. To add
a layout, write a function that finds its videos and one that recognises it, and add a row to LAYOUTS.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from pvdm_jax.config import require
from pvdm_jax.config.checks import listed
from pvdm_jax.data.array_files import array_shapes
from pvdm_jax.data.folders import (
    ARRAY_SUFFIXES,
    FOLDER_SPLITS,
    SPLIT_FOLDERS,
    FolderContents,
    LayoutError,
    SplitFolders,
    VideoEntry,
    class_problem,
    data_folder,
    describe_contents,
    find_video_files,
    skipped_entries,
)
from pvdm_jax.data.tfds_dataset import TFDSDataset, find_tfds_dataset
from pvdm_jax.data.ucf101 import EXPECTED as UCF101_EXPECTED
from pvdm_jax.data.ucf101 import find_ucf101, is_ucf101
from pvdm_jax.video.files import VIDEO_SUFFIXES, FolderScan, shown
from pvdm_jax.video.images import IMAGE_SUFFIXES


@dataclasses.dataclass(frozen=True)
class Listing:
    """The videos of a folder in a fixed order, and those that are skipped, {name: reason}."""

    layout: str
    videos: list[VideoEntry]
    skipped: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to lay out videos in a folder.

    find(source, list_number) gives the entries in a fixed order, and may raise LayoutError. `list_number` says which
    official list divides UCF-101; other layouts ignore it. detect(contents) says whether a folder has the layout.
    """

    name: str
    expected: str  # what a folder of this layout holds, for error messages
    find: Callable[[pathlib.Path, int], Iterable[VideoEntry]]
    detect: Callable[[FolderContents], bool]


def list_videos(source: str | pathlib.Path, layout: str = "auto", split: str = "all", list_number: int = 1) -> Listing:
    """The videos of the folder (or TFDS dataset) `source`.

    layout: a name of LAYOUTS, or "auto" for the first one that recognises the folder. split: "train", "test" or "all".
    list_number: which of UCF-101's three official lists divides it. Raises ConfigError if one of these isn't
    available, FileNotFoundError if there is no such folder, LayoutError if the folder has another layout.
    """
    require(layout in ("auto", *LAYOUTS), "layout", layout, f"choose one of auto, {', '.join(LAYOUTS)}")
    require(split in (*FOLDER_SPLITS, "all"), "split", split, f"choose one of {', '.join(FOLDER_SPLITS)}, all")
    source = pathlib.Path(source)
    row = _detect(source) if layout == "auto" else LAYOUTS[layout]
    if not source.is_dir() and not row.detect(FolderContents(source)):
        raise FileNotFoundError(f"{source}: there is no such folder of videos")
    entries = [_checked(entry) for entry in row.find(source, list_number)]
    videos = [entry for entry in entries if not entry.skipped]
    if not videos:
        reasons = [f"skipped {shown(entry.name)}: {entry.skipped}" for entry in entries]
        raise LayoutError(_mismatch(source, row) + (f"; {listed(reasons)}" if reasons else ""))
    chosen = [video for video in videos if split in ("all", video.split)]
    if not chosen:
        available = ", ".join(sorted({video.split for video in videos}))
        raise LayoutError(
            f"{source}: it has no videos for split={split} (layout {row.name}); those found are for {available}"
        )
    return Listing(row.name, chosen, {shown(entry.name): entry.skipped for entry in entries if entry.skipped})


def _checked(entry: VideoEntry) -> VideoEntry:
    """The entry, marked as skipped if no dataset can hold its class."""
    return dataclasses.replace(entry, skipped=entry.skipped or class_problem(entry.class_name))


def _detect(source: pathlib.Path) -> Layout:
    """The first layout that recognises the source. Raises FileNotFoundError or LayoutError if there is none."""
    contents = FolderContents(source)
    for row in LAYOUTS.values():
        if row.detect(contents):
            return row
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: there is no such folder of videos")
    raise LayoutError(_mismatch(source, *LAYOUTS.values()))


def _mismatch(source: pathlib.Path, *layouts: Layout) -> str:
    expected = "; ".join(f"{layout.name}: {layout.expected}" for layout in layouts)
    return f"{source}: no usable video. Found {describe_contents(source)}; expected {expected}"


# Video files.


def _find_videos(source: pathlib.Path, list_number: int) -> Iterator[VideoEntry]:
    return find_video_files(source)


def _has_videos(contents: FolderContents) -> bool:
    return contents.kinds["videos"] > 0 and not contents.mostly_frames


# Folders of frames.


def _find_frames(source: pathlib.Path, list_number: int) -> Iterator[VideoEntry]:
    scan = FolderScan(source)
    yield from _picture_entries(scan, SplitFolders(scan, IMAGE_SUFFIXES))


def _find_sky(source: pathlib.Path, list_number: int) -> Iterator[VideoEntry]:
    scan = FolderScan(data_folder(source, "sky"))
    splits = SplitFolders(scan, IMAGE_SUFFIXES, allow_others=True)
    if splits.roots:
        # The folders between split and clip are YouTube's videos, not classes.
        yield from _picture_entries(scan, splits, classes=False)


def _picture_entries(scan: FolderScan, splits: SplitFolders, classes: bool = True) -> Iterator[VideoEntry]:
    """The folders of pictures; then, as skipped entries, those that can't be read and video files beside them."""
    clips = [
        folder for folder in scan.folders if folder != scan.root and next(scan.files(IMAGE_SUFFIXES, folder), None)
    ]
    entries = [splits.entry(folder, "pictures", classes=classes) for folder in clips if folder not in splits.roots]
    yield from sorted(entries, key=splits.order)
    yield from skipped_entries(scan.skipped_files(()))
    why = "it is a video file among folders of frames; --layout=videos takes the files instead"
    paths = scan.files(VIDEO_SUFFIXES)
    yield from skipped_entries({path.relative_to(scan.root).as_posix(): why for path in paths})


def _has_frames(contents: FolderContents) -> bool:
    return contents.kinds["frames"] > 0


def _is_sky(contents: FolderContents) -> bool:
    if not _has_frames(contents):
        return False
    root = data_folder(contents.source, "sky")
    names = {path.name.lower() for path in root.iterdir() if path.is_dir()}
    return bool(names & {"sky_train", "sky_test"}) or (root.name.lower().startswith("sky") and "train" in names)


# Arrays.


def _find_arrays(source: pathlib.Path, list_number: int) -> Iterator[VideoEntry]:
    scan = FolderScan(source)
    splits = SplitFolders(scan, ARRAY_SUFFIXES)
    entries = [entry for path in scan.files(ARRAY_SUFFIXES) for entry in _array_entries(splits, path)]
    yield from sorted(entries, key=splits.order)
    yield from skipped_entries(scan.skipped_files(ARRAY_SUFFIXES))


def _array_entries(splits: SplitFolders, path: pathlib.Path) -> Iterator[VideoEntry]:
    """An entry for each video in an array file."""
    file_entry = splits.entry(path, "array")
    try:
        arrays = array_shapes(path)
    except LayoutError as error:
        yield dataclasses.replace(file_entry, skipped=str(error).removeprefix(f"{path}: "))
        return
    for key, (dtype, shape) in arrays.items():
        name = f"{file_entry.name}:{key}" if key else file_entry.name
        entry = dataclasses.replace(file_entry, name=name, key=key)
        if dtype != np.uint8 or len(shape) not in (4, 5) or shape[-1] != 3:
            reason = f"found {dtype} {shape}; expected uint8 (t, h, w, 3) or (n, t, h, w, 3)"
            yield dataclasses.replace(entry, skipped=reason)
        elif len(shape) == 4:
            yield entry
        else:
            for index in range(shape[0]):
                yield dataclasses.replace(entry, name=f"{name}[{index}]", index=index)


def _has_arrays(contents: FolderContents) -> bool:
    return contents.kinds["arrays"] > 0


# Datasets that TFDS built.


def _find_tfds(source: pathlib.Path, list_number: int) -> Iterator[VideoEntry]:
    folder = find_tfds_dataset(str(source))
    if folder is None:
        return
    dataset = TFDSDataset(folder)
    for split, videos in dataset.splits.items():
        for facts in videos:
            yield VideoEntry(
                name=facts["name"],
                class_name=dataset.class_names[facts["label"]] if facts["label"] >= 0 else "",
                split=SPLIT_FOLDERS.get(split, "train"),
                kind="tfds",
                path=folder,
                key=split,
                index=facts["record"],
            )


def _is_tfds(contents: FolderContents) -> bool:
    return find_tfds_dataset(str(contents.source)) is not None


# "auto" takes the first row that recognises the folder, so special cases come before general ones.
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="tfds",
            expected="features.json and array_record files, as TFDS builds them",
            find=_find_tfds,
            detect=_is_tfds,
        ),
        Layout(
            name="ucf101",
            expected=UCF101_EXPECTED,
            find=find_ucf101,
            detect=is_ucf101,
        ),
        Layout(
            name="videos",
            expected=f"video files ({', '.join(VIDEO_SUFFIXES)}) in it, or in one subfolder for each class",
            find=_find_videos,
            detect=_has_videos,
        ),
        Layout(
            name="sky_timelapse",
            expected="train/ and test/ (or sky_train/ and sky_test/) of CLIP/ or VIDEO/CLIP/ folders of frames",
            find=_find_sky,
            detect=_is_sky,
        ),
        Layout(
            name="frames",
            expected=f"folders of pictures ({', '.join(IMAGE_SUFFIXES)}), one for each clip, perhaps in class folders",
            find=_find_frames,
            detect=_has_frames,
        ),
        Layout(
            name="arrays",
            expected=".npy or .npz files of uint8 (t, h, w, 3) or (n, t, h, w, 3)",
            find=_find_arrays,
            detect=_has_arrays,
        ),
    )
}
