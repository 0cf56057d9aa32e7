"""What lies in a folder of videos: the layouts that `pvdm prepare` knows, found or named.

    videos         DIR/[SPLIT/][CLASS/...]NAME.avi          video files; the first level of subfolders is the class
    ucf101         DIR/CLASS/v_*.avi and trainlist01.txt, testlist01.txt, ... (inside, beside or above the videos)
    sky_timelapse  DIR/SPLIT/[VIDEO/]CLIP/FRAME.jpg         clips as folders of frames; SPLIT: train, sky_train, ...
    frames         DIR/[SPLIT/][CLASS/]CLIP/FRAME.png       the same for anyone's clips
    arrays         DIR/[SPLIT/][CLASS/...]NAME.npy or .npz  uint8 (t, h, w, 3) or (n, t, h, w, 3)
    tfds           the folder of a dataset that TFDS built, or its name in TFDS's own folder (see catalogue.py)

SPLIT is a folder named train, test or the like; without one, everything is for training. Frames are taken in natural
order: 2 before 10. Names that begin with a dot are ignored.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from pvdm_jax.data.catalogue import Catalogue, catalogue_folder
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import IMAGE_SUFFIXES
from pvdm_jax.video.read import VIDEO_SUFFIXES

LAYOUTS = ("videos", "ucf101", "sky_timelapse", "frames", "arrays", "tfds")
SPLITS = ("train", "test")
ARRAY_SUFFIXES = (".npy", ".npz")
SPLIT_FOLDERS = {
    **{name: "train" for name in ("train", "training", "sky_train")},
    **{name: "test" for name in ("test", "testing", "val", "valid", "validation", "sky_test")},
}
LIST_FOLDER = "ucfTrainTestlist"  # of UCF-101's official lists
EXPECTED = {
    "videos": f"video files ({', '.join(VIDEO_SUFFIXES)}) in it, or in one subfolder for each class",
    "ucf101": f"CLASS/v_CLASS_g01_c01.avi and the lists trainlist01.txt, testlist01.txt, ... in {LIST_FOLDER}/",
    "sky_timelapse": "train/ and test/ (or sky_train/ and sky_test/) of CLIP/ or VIDEO/CLIP/ folders of frames",
    "frames": f"folders of pictures ({', '.join(IMAGE_SUFFIXES)}), one for each clip, perhaps in class folders",
    "arrays": ".npy or .npz files of uint8 (t, h, w, 3) or (n, t, h, w, 3)",
    "tfds": "features.json and array_record files, as TFDS builds them",
}


class LayoutError(VideoError):
    """A folder isn't laid out as was said: the message shows what was found and what was expected."""


@dataclasses.dataclass(frozen=True)
class Found:
    """One video of a folder, not yet looked into."""

    name: str  # its path within the folder, for arrays with the key and number in the file
    class_name: str  # "": none
    split: str
    kind: str  # file, pictures (a folder of them), array, or tfds (a record of what TFDS built)
    path: str
    key: str = ""  # of the array in an .npz file
    index: int = -1  # of the video in an array of several, or of the record


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds: the videos in a fixed order, and what is left out already, with reasons."""

    layout: str
    videos: list[Found]
    skipped: dict[str, str]


def find_videos(source, layout: str = "auto", split: str = "all", list_number: int = 1) -> Listing:
    """The videos of the folder `source`, laid out as `layout` says; "auto" looks for one that fits.

    `split` is "train", "test" or "all"; `list_number` says which of UCF-101's three official lists divides it. Raises
    FileNotFoundError where there is no such folder, LayoutError where it isn't laid out so.
    """
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"layout is {layout!r}; choose one of auto, {', '.join(LAYOUTS)}")
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}, all")
    built = catalogue_folder(str(source)) if layout in ("auto", "tfds") else None
    source = pathlib.Path(source)
    if not source.is_dir() and not built:
        raise FileNotFoundError(f"{source}: there is no such folder of videos")
    if layout == "auto":
        layout = "tfds" if built else detect_layout(source)
    if layout == "ucf101":
        listing = _find_ucf101(source, list_number)
    elif layout == "tfds":
        listing = Listing(layout, list(_find_built(built)) if built else [], {})
    else:
        listing = Listing(layout, list(_FINDERS[layout](source)), {})
    if not listing.videos:
        raise LayoutError(_mismatch(source, layout))
    chosen = [video for video in listing.videos if split in ("all", video.split)]
    if not chosen:
        there = ", ".join(sorted({video.split for video in listing.videos}))
        raise LayoutError(
            f"{source}: it has no videos for split={split} (layout {layout}); those found are for {there}"
        )
    return Listing(layout, chosen, listing.skipped)


def detect_layout(source: pathlib.Path) -> str:
    """The layout that `source` looks like, by the files in it and their folders. Raises LayoutError for none."""
    depths: dict[str, int] = {}
    for folder, _, names in _walk(source):
        depth = len(folder.relative_to(source).parts)
        for kind, suffixes in (("videos", VIDEO_SUFFIXES), ("frames", IMAGE_SUFFIXES), ("arrays", ARRAY_SUFFIXES)):
            if any(name.lower().endswith(suffixes) for name in names):
                depths.setdefault(kind, depth)
        if "videos" in depths:
            break
    if "videos" in depths:
        return "ucf101" if _list_folder(source) else "videos"
    if depths.get("frames", 0) > 0:
        root = _data_folder(source, "sky")
        names = {path.name.lower() for path in root.iterdir() if path.is_dir()}
        sky = names & {"sky_train", "sky_test"} or (root.name.lower().startswith("sky") and "train" in names)
        return "sky_timelapse" if sky else "frames"
    if "arrays" in depths:
        return "arrays"
    raise LayoutError(_mismatch(source, *LAYOUTS))


def natural_key(name: str) -> list:
    """Sorts frame2 before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def pictures_of(folder) -> list[pathlib.Path]:
    """The picture files directly in a folder, in natural order."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and e.name[0] != "."]
    return [pathlib.Path(folder, name) for name in sorted(names, key=natural_key)]


def _find_files(source: pathlib.Path) -> Iterator[Found]:
    for split, root in _split_roots(source):
        for folder, _, names in _walk(root):
            for name in sorted(names, key=natural_key):
                if name.lower().endswith(VIDEO_SUFFIXES):
                    path = folder / name
                    class_name = folder.relative_to(root).parts[0] if folder != root else ""
                    yield Found(path.relative_to(source).as_posix(), class_name, split, "file", str(path))


def _find_frames(source: pathlib.Path) -> Iterator[Found]:
    for split, root in _split_roots(source):
        yield from _find_clips(source, split, root, classes=True)


def _find_sky(source: pathlib.Path) -> Iterator[Found]:
    source = _data_folder(source, "sky")
    for split, root in _split_roots(source, others=True):
        if root != source:
            # The folders between split and clip are YouTube's videos, not classes.
            yield from _find_clips(source, split, root, classes=False)


def _find_clips(source: pathlib.Path, split: str, root: pathlib.Path, classes: bool) -> Iterator[Found]:
    """The folders of pictures below `root`."""
    for folder, _, names in _walk(root):
        inside = folder.relative_to(root).parts
        if inside and any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
            class_name = inside[0] if classes and len(inside) > 1 else ""
            yield Found(folder.relative_to(source).as_posix(), class_name, split, "pictures", str(folder))


def _find_arrays(source: pathlib.Path) -> Iterator[Found]:
    for split, root in _split_roots(source):
        for folder, _, names in _walk(root):
            for name in sorted(names, key=natural_key):
                if not name.lower().endswith(ARRAY_SUFFIXES):
                    continue
                path = folder / name
                class_name = folder.relative_to(root).parts[0] if folder != root else ""
                label = path.relative_to(source).as_posix()
                for key, array in open_arrays(path).items():
                    inner = f"{label}:{key}" if key else label
                    shown = f"{array.dtype} {array.shape}"
                    if array.dtype != np.uint8 or array.ndim not in (4, 5) or array.shape[-1] != 3:
                        raise LayoutError(f"{inner}: found {shown}; expected uint8 (t, h, w, 3) or (n, t, h, w, 3)")
                    if array.ndim == 4:
                        yield Found(inner, class_name, split, "array", str(path), key)
                        continue
                    for index in range(len(array)):
                        yield Found(f"{inner}[{index}]", class_name, split, "array", str(path), key, index)


def _find_built(folder: str) -> Iterator[Found]:
    catalogue = Catalogue(folder)
    for split, videos in catalogue.splits.items():
        for facts in videos:
            class_name = catalogue.class_names[facts["label"]] if facts["label"] >= 0 else ""
            kept = SPLIT_FOLDERS.get(split, "train")
            yield Found(facts["name"], class_name, kept, "tfds", folder, split, facts["record"])


def open_arrays(path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, or that of an .npy file as "" (mapped, not read). Raises LayoutError."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except (ValueError, EOFError, OSError) as error:
        raise LayoutError(f"{path}: it is not a numpy file of plain arrays ({error})") from error


def _find_ucf101(source: pathlib.Path, list_number: int) -> Listing:
    if list_number not in (1, 2, 3):
        raise ValueError(f"list is {list_number}; UCF-101 has the lists 1, 2 and 3")
    root, lists = _data_folder(source, "ucf"), _list_folder(source)
    if lists is None:
        raise LayoutError(
            f"{source}: found {_contents(source)}; expected UCF-101's lists beside its videos ({EXPECTED['ucf101']}), "
            "which tell training and test videos apart; without them, use layout=videos"
        )
    splits: dict[str, str] = {}
    for split in SPLITS:
        path = lists / f"{split}list{list_number:02d}.txt"
        if not path.is_file():
            raise LayoutError(f"{lists}: found {_contents(lists)}; expected {path.name}")
        for line in path.read_text().splitlines():
            if line.strip():
                splits[line.split()[0]] = split
    videos, skipped, there = [], {}, set()
    for video in _find_files(root):
        name = video.name
        there.add(name)
        if name in splits:
            videos.append(dataclasses.replace(video, split=splits[name]))
        else:
            skipped[name] = f"it is in neither trainlist{list_number:02d} nor testlist{list_number:02d}"
    if not videos:
        example = next(iter(splits), "nothing")
        raise LayoutError(
            f"{source}: found {_contents(root)}; expected the videos that {lists} names, such as {root / example}"
        )
    for name, split in splits.items():
        if name not in there:
            skipped[name] = f"it is in {split}list{list_number:02d} but not there"
    return Listing("ucf101", videos, skipped)


def _list_folder(source: pathlib.Path) -> pathlib.Path | None:
    """Where UCF-101's lists are: in the folder, in its LIST_FOLDER, or in one beside it."""
    root = _data_folder(source, "ucf")
    for folder in (source / LIST_FOLDER, root / LIST_FOLDER, source, root, source.parent / LIST_FOLDER):
        if any((folder / f"trainlist{number:02d}.txt").is_file() for number in (1, 2, 3)):
            return folder
    return None


def _data_folder(source: pathlib.Path, start: str) -> pathlib.Path:
    """The folder of the data itself: `source`, or the one in it whose name begins with `start` (UCF-101, SKY)."""
    inside = [
        path
        for path in sorted(source.iterdir())
        if path.is_dir() and path.name.lower().startswith(start) and path.name != LIST_FOLDER
    ]
    inside = [path for path in inside if path.name.lower() not in SPLIT_FOLDERS]
    return inside[0] if len(inside) == 1 else source


def _split_roots(source: pathlib.Path, others: bool = False) -> list[tuple[str, pathlib.Path]]:
    """(split, folder) of the split folders in `source`; itself, for training, where there is no train folder.

    Beside `others`, a folder named train is taken for a class (of trains), unless that is allowed.
    """
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and path.name[0] != "."]
    roots = [(SPLIT_FOLDERS[path.name.lower()], path) for path in folders if path.name.lower() in SPLIT_FOLDERS]
    if "train" not in {split for split, _ in roots} or (len(roots) < len(folders) and not others):
        return [("train", source)]
    return sorted(roots, key=lambda item: (SPLITS.index(item[0]), item[1]))


def _walk(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[str], list[str]]]:
    """os.walk in natural order, without what is hidden, through links to folders too."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted((name for name in folders if name[0] != "."), key=natural_key)
        yield pathlib.Path(folder), folders, [name for name in names if name[0] != "."]


def _mismatch(source: pathlib.Path, *layouts: str) -> str:
    expected = "".join(f"\n  {layout}: {EXPECTED[layout]}" for layout in layouts)
    return f"{source}: no usable video. Found {_contents(source)}; expected{expected}"


def _contents(folder: pathlib.Path, most: int = 6) -> str:
    """The first names in a folder, for an error message."""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "an empty folder") + more


_FINDERS = {"videos": _find_files, "frames": _find_frames, "sky_timelapse": _find_sky, "arrays": _find_arrays}
