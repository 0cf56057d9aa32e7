"""What `pvdm sample`, `extend` and `reconstruct` do with a trained model: videos in, video files out.

Each function takes a loaded `PVDM`, writes into a folder that must be new or empty, and raises before any long work:
ConfigError for an option that can't be, FileExistsError for a folder with something in it, VideoError where no
source can be used. Single sources that can't be used are named on stderr and skipped.
"""

import dataclasses
import json
import math
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from pvdm_jax import media
from pvdm_jax.config import Config, require
from pvdm_jax.data.clips import center_crop_resize, clip_span
from pvdm_jax.evaluation.reconstruction import psnr, still_psnr

if typing.TYPE_CHECKING:
    from pvdm_jax.pipeline import PVDM

FORMATS = ("mp4", "gif")
DEFAULT_FPS = 8.0  # frames per second where no source says otherwise
GRID_VIDEOS = 25  # at most this many are shown side by side
GRID_SIDE = 128  # pixels: smaller videos are enlarged in the grid


def sample(
    model: "PVDM",
    output: Path,
    *,
    num_videos: int = 8,
    num_frames: int | None = None,
    seed: int = 0,
    batch_size: int = 4,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    formats: Sequence[str] = FORMATS,
    fps: float = DEFAULT_FPS,
) -> None:
    """Generates videos: video_0000.mp4 and so on, and the first of them side by side as grid.mp4, .gif and .png.

    `num_frames` of each (None: one clip). `options` are fields of `SampleConfig` that replace the model's own.
    `classes` are given to the videos in turn. The same model, seed, batch size and options give the same videos.
    """
    options = _checked_options(model.config, options, formats)
    labels = None if classes is None else _labels(model, classes)
    _make_folder(output)
    batch_size = min(batch_size, num_videos)
    shown: list[np.ndarray] = []
    for first in tqdm(range(0, num_videos, batch_size), desc="sampling", unit="batch"):
        # The last batch is as large as the others, so that the sampler is compiled once; what is too much is dropped.
        indices = np.arange(first, first + batch_size)
        batch_labels = None if labels is None else labels[indices % len(labels)]
        key = jax.random.fold_in(jax.random.key(seed), first // batch_size)
        videos = model.sample(key, batch_size, num_frames=num_frames, labels=batch_labels, **options)
        for index, video in zip(indices[: num_videos - first], np.asarray(videos), strict=False):
            _write(output / f"video_{index:04d}", video, formats, fps)
            if len(shown) < GRID_VIDEOS:
                shown.append(video)
    _write_grid(output / "grid", np.stack(shown), formats, fps)


def extend(
    model: "PVDM",
    sources: Sequence[Path],
    output: Path,
    *,
    num_frames: int,
    original_frames: int = 32,
    seed: int = 0,
    batch_size: int = 4,
    options: Mapping[str, Any] | None = None,
    formats: Sequence[str] = FORMATS,
    fps: float | None = None,
) -> None:
    """Continues each source by `num_frames` new frames; writes the end of the original with its continuation.

    `sources` are video files and folders of them. Of an original its last `original_frames` are kept, in whole clips
    and at least one. videos.json tells which file came from which source and where its continuation starts. The files
    have the frame rate of their source unless `fps` is given.
    """
    options = _checked_options(model.config, options, formats)
    paths = find_videos(sources)
    _make_folder(output)
    clip = model.config.autoencoder
    num_clips = max(1, original_frames // clip.frames)
    records, skipped = [], []
    usable = _read_usable(paths, model.config, num_clips, from_end=True, skipped=skipped)
    for number, batch in enumerate(_batches(usable, batch_size)):
        # As in `sample`, all batches have one size; the model sees the last clip of each original.
        last = [source.clips[-1] for source in batch]
        given = np.stack(last + last[-1:] * (batch_size - len(last)))
        key = jax.random.fold_in(jax.random.key(seed), number)
        continuations = np.asarray(model.extend(given, num_frames, key, **options))
        for source, continuation in zip(batch, continuations, strict=False):
            original = np.concatenate(source.clips)
            _write(output / source.name, np.concatenate([original, continuation]), formats, fps or source.fps)
            records.append({"source": str(source.path), "file": source.name, "continuation_starts_at": len(original)})
            print(f"extended {source.path}")
    _write_json(output / "videos.json", {"videos": records, "skipped": skipped})


def reconstruct(
    model: "PVDM",
    sources: Sequence[Path],
    output: Path,
    *,
    max_frames: int = 128,
    formats: Sequence[str] = FORMATS,
    fps: float | None = None,
) -> None:
    """Encodes and decodes each source, clip by clip; writes original (left) and reconstruction (right) as one video.

    Of each source its first `max_frames` are taken, in whole clips and at least one. Prints a table of the mean PSNR
    of its clips beside that of each clip's own mean over time shown as a still; reconstruction.json has the same.
    """
    _checked_options(model.config, None, formats)
    paths = find_videos(sources)
    _make_folder(output)
    num_clips = max(1, max_frames // model.config.autoencoder.frames)
    records, skipped = [], []
    for source in _read_usable(paths, model.config, num_clips, from_end=False, skipped=skipped):
        # One clip at a time: whatever its length, a video compiles nothing new.
        decoded = np.concatenate([np.asarray(model.reconstruct(clip[None])) for clip in source.clips])
        side_by_side = np.concatenate([source.clips, decoded], axis=-2)
        _write(output / source.name, np.concatenate(side_by_side), formats, fps or source.fps)
        records.append(
            {
                "source": str(source.path),
                "file": source.name,
                "clips": len(decoded),
                "psnr": float(psnr(source.clips, decoded).mean()),
                "still_psnr": float(still_psnr(source.clips).mean()),
            }
        )
    mean = {name: float(np.mean([record[name] for record in records])) for name in ("psnr", "still_psnr")}
    _write_json(output / "reconstruction.json", {"videos": records, "mean": mean, "skipped": skipped})
    print(_table(records, mean))


def find_videos(sources: Sequence[Path]) -> list[Path]:
    """The files among `sources`, and the video files anywhere below the folders among them, in order.

    Below folders, hidden files and those of other suffixes than `pvdm prepare` takes are left out. Raises
    FileNotFoundError where a source doesn't exist, VideoError where there is no video file at all.
    """
    paths: list[Path] = []
    for source in sources:
        if source.is_dir():
            videos = (path for path in source.rglob("*") if path.suffix.lower() in media.SUFFIXES and path.is_file())
            paths += sorted(path for path in videos if not _is_hidden(path.relative_to(source)))
        elif source.exists():
            paths.append(source)
        else:
            raise FileNotFoundError(f"there is no file or folder {source}")
    if not paths:
        raise media.VideoError(f"{', '.join(map(str, sources))}: no video file ({', '.join(media.SUFFIXES)}) in it")
    return paths


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@dataclasses.dataclass(frozen=True)
class Source:
    """Clips of one video file, cropped and resized for the model."""

    path: Path
    name: str  # of the files made from it, without suffix
    clips: np.ndarray  # uint8 (clips, frames, height, width, 3), one following the other
    fps: float  # of the clips


def _read_usable(
    paths: Sequence[Path], config: Config, num_clips: int, from_end: bool, skipped: list[dict]
) -> Iterator[Source]:
    """Reads the sources one by one; the unusable ones are added to `skipped`. VideoError if all of them are."""
    names: set[str] = set()
    for path in paths:
        try:
            clips, fps = _read_clips(path, config, num_clips, from_end)
        except (media.VideoError, OSError) as error:
            print(f"skipped: {error}", file=sys.stderr)
            skipped.append({"source": str(path), "reason": str(error)})
            continue
        name = path.stem
        while name in names:  # a.avi beside a.mp4
            name += "_"
        names.add(name)
        yield Source(path, name, clips, fps)
    if not names:
        raise media.VideoError(f"none of the {len(paths)} files can be used; the first: {skipped[0]['reason']}")


def _read_clips(path: Path, config: Config, num_clips: int, from_end: bool) -> tuple[np.ndarray, float]:
    """At most `num_clips` clips in a row from one end of a file, and their frame rate."""
    clip, stride = config.autoencoder, config.data.stride
    info = media.probe_video(path)
    span = clip_span(clip.frames, stride)
    num_clips = min(num_clips, info.frames // span)
    if num_clips == 0:
        raise media.VideoError(f"{path}: it has {info.frames} frames; a clip of the model needs {span}")
    first = info.frames - num_clips * span if from_end else 0
    clips = []
    for start in range(first, first + num_clips * span, span):
        # Clip by clip, so that no more than one clip is in memory at the file's own size.
        frames = media.read_video(path, start, clip.frames, stride)
        clips.append(center_crop_resize(frames, clip.height, clip.width, config.data.resize))
    return np.stack(clips), info.fps / stride if info.fps > 0 else DEFAULT_FPS


def _batches(sources: Iterator[Source], size: int) -> Iterator[list[Source]]:
    batch: list[Source] = []
    for source in sources:
        batch.append(source)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _checked_options(config: Config, options: Mapping[str, Any] | None, formats: Sequence[str]) -> dict[str, Any]:
    """`options` after the checks that `Config` makes of such fields."""
    for name in formats:
        require(name in FORMATS, "formats", name, f"choose from {', '.join(FORMATS)}")
    options = dict(options or {})
    dataclasses.replace(config, sample=dataclasses.replace(config.sample, **options))
    return options


def _labels(model: "PVDM", classes: Sequence[str]) -> np.ndarray:
    allowed = "the model was trained without classes"
    require(model.config.unet.num_classes > 0, "classes", list(classes), allowed)
    for name in classes:
        require(name in model.class_names, "classes", name, f"the model knows {', '.join(model.class_names)}")
    return np.array([model.class_names.index(name) for name in classes], np.int32)


def _make_folder(output: Path) -> None:
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; name a new folder")
    output.mkdir(parents=True, exist_ok=True)


def _write(path: Path, video: np.ndarray, formats: Sequence[str], fps: float) -> None:
    for suffix in formats:
        media.write_video(path.with_name(f"{path.name}.{suffix}"), video, fps=fps)


def _write_grid(path: Path, videos: np.ndarray, formats: Sequence[str], fps: float) -> None:
    """Videos (n, t, h, w, 3) side by side, and their middle frames as a picture."""
    factor = math.ceil(GRID_SIDE / min(videos.shape[2:4]))
    grid = media.video_grid(media.upscale(videos, factor), columns=math.ceil(math.sqrt(len(videos))))
    _write(path, grid, formats, fps)
    media.write_image(path.with_suffix(".png"), grid[len(grid) // 2])


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _table(records: Sequence[Mapping[str, Any]], mean: Mapping[str, float]) -> str:
    width = max(len("mean of the videos"), *(len(record["file"]) for record in records))
    lines = [f"{'video':{width}}  clips  PSNR (dB)  still (dB)"]
    for record in records:
        line = f"{record['file']:{width}}  {record['clips']:5}  {record['psnr']:9.2f}  {record['still_psnr']:10.2f}"
        lines.append(line)
    lines.append(f"{'mean of the videos':{width}}  {'':5}  {mean['psnr']:9.2f}  {mean['still_psnr']:10.2f}")
    return "\n".join(lines)
