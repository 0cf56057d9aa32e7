"""`pvdm prepare`: a folder of video files becomes a TFDS dataset (array_record, no TensorFlow).

Records hold the files' own bytes, so nothing is encoded twice and a dataset is as large as its files; frames are
decoded when they are read. One level of subfolders names the classes. Read it with
`tfds.builder_from_directory(path).as_data_source("train")`, or as `data.source=tfds`, `data.path=PATH`.
"""

import collections
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from pvdm_jax.media import SUFFIXES, VideoError, VideoInfo, probe_video


@dataclasses.dataclass(frozen=True)
class FoundVideo:
    """A usable file: its name is the path within the source folder, its class the subfolder ("" without one)."""

    name: str
    path: pathlib.Path
    class_name: str
    info: VideoInfo


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `prepare` did."""

    count: int  # videos written
    frames: int
    seconds: float  # of video, where the files say how fast they play
    classes: dict[str, int]  # videos of each class
    skipped: dict[str, str]  # name: reason

    def __str__(self) -> str:
        lines = [f"{self.count} videos, {self.frames} frames, {self.seconds:.0f} seconds"]
        if self.classes:
            lines.append("classes: " + ", ".join(f"{name} ({count})" for name, count in self.classes.items()))
        return "\n".join(lines + [f"skipped: {name}: {reason}" for name, reason in self.skipped.items()])


class VideoFolder(tfds.core.GeneratorBasedBuilder):
    """Writes the videos that `prepare` found."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. Looking for checksums would need importlib_resources, which TFDS doesn't ask for.
    url_infos = None

    def __init__(self, *, videos: list[FoundVideo], **kwargs):
        self._videos = videos
        self._classes = sorted({video.class_name for video in videos} - {""})
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "video": tfds.features.Text(doc="the file's bytes"),
                "name": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=self._classes, doc="-1: the file is in no subfolder"),
                "frames": tfds.features.Scalar(np.int64),
                "height": tfds.features.Scalar(np.int64),
                "width": tfds.features.Scalar(np.int64),
                "fps": tfds.features.Scalar(np.float32),
            }
        )
        # Opening a dataset needs every video's length, and must not take reading all of the files.
        index = [self._facts(video) for video in self._videos]
        return tfds.core.DatasetInfo(
            builder=self,
            description="Videos of a folder, as files.",
            features=features,
            metadata=tfds.core.MetadataDict(videos=index),
            disable_shuffling=True,  # so that the index's order is the records'
        )

    def _facts(self, video: FoundVideo) -> dict:
        label = self._classes.index(video.class_name) if video.class_name else -1
        return {"name": video.name, "label": label, **dataclasses.asdict(video.info)}

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, video in enumerate(tqdm.tqdm(self._videos, desc="writing", unit="video")):
            yield number, {"video": video.path.read_bytes(), **self._facts(video)}


def prepare(source_dir, output_dir, min_frames: int = 16) -> Summary:
    """Writes the videos of a folder as a dataset, and `summary.json` beside it.

    Takes avi, gif, mkv, mov, mp4 and webm files directly in `source_dir` (label -1) and in its subfolders (one class
    each); hidden files are ignored. What can't be decoded or has fewer than `min_frames` frames is skipped, and the
    summary says why. The dataset appears under `output_dir` only once it is complete. Raises OSError where there is no
    such folder or `output_dir` isn't empty, VideoError where no video is usable.
    """
    source, output = pathlib.Path(source_dir), pathlib.Path(output_dir)
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: there is no such folder of videos")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output}: it exists and isn't empty; choose another output, or remove it first")
    videos, skipped = _find_videos(source, min_frames)
    if not videos:
        suffixes = ", ".join(SUFFIXES)
        reasons = "".join(f"\nskipped: {name}: {reason}" for name, reason in skipped.items()) or "; there is none"
        raise VideoError(f"{source}: no usable video. Tried all {suffixes} files in it and in its subfolders{reasons}")
    summary = Summary(
        count=len(videos),
        frames=sum(video.info.frames for video in videos),
        seconds=sum(video.info.frames / video.info.fps for video in videos if video.info.fps > 0),
        classes=dict(sorted(collections.Counter(video.class_name for video in videos if video.class_name).items())),
        skipped=skipped,
    )
    _write(videos, summary, output)
    return summary


def _find_videos(source: pathlib.Path, min_frames: int) -> tuple[list[FoundVideo], dict[str, str]]:
    """The usable videos, those without a class first, and why the others aren't."""
    folders = [source, *sorted(path for path in source.iterdir() if path.is_dir() and path.name[0] != ".")]
    files = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name[0] != "." and path.suffix.lower() in SUFFIXES
    ]
    videos, skipped = [], {}
    for path in tqdm.tqdm(files, desc="checking", unit="video"):
        name = path.relative_to(source).as_posix()
        try:
            info = probe_video(path)
        except (VideoError, OSError) as error:
            skipped[name] = str(error).removeprefix(f"{path}: ")
            continue
        if info.frames < min_frames:
            skipped[name] = f"it has {info.frames} frames, fewer than {min_frames}"
        else:
            class_name = "" if path.parent == source else path.parent.name
            videos.append(FoundVideo(name, path, class_name, info))
    return videos, skipped


def _write(videos: list[FoundVideo], summary: Summary, output: pathlib.Path) -> None:
    """Builds the dataset in a hidden folder beside `output`, which it then becomes in one step."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        builder = VideoFolder(videos=videos, data_dir=unfinished, file_format="array_record")
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces the hidden folder
            builder.download_and_prepare()
        finished = pathlib.Path(builder.data_dir)
        (finished / "summary.json").write_text(json.dumps(dataclasses.asdict(summary), indent=2) + "\n")
        os.replace(finished, output)
    finally:
        shutil.rmtree(unfinished)
