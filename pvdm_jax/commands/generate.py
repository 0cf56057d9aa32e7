"""What `pvdm sample`, `extend`, `interpolate` and `reconstruct` do with a trained model: videos in, video files out.

Each function takes a loaded `PVDM` and raises before any long work: ConfigError for an option that can't be,
FileExistsError for a folder with something in it, VideoError where no source can be used. Single sources that can't be
used are named on stderr and skipped. Videos are made clip by clip and written while the next clip is made, so that
their length costs no memory. Several processes of a multi-host run share the videos of `sample`.
"""

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from pvdm_jax.commands import output_folder
from pvdm_jax.commands.input_videos import DEFAULT_FPS, find_videos, in_batches, read_clips, read_usable
from pvdm_jax.config import Config, ConfigError, config_to_dict, require
from pvdm_jax.evaluation.reconstruction import psnr, still_psnr
from pvdm_jax.inference.sampler import settings_of
from pvdm_jax.storage.files import write_json

if typing.TYPE_CHECKING:
    from pvdm_jax.inference.pipeline import PVDM

PREVIEWED = 4  # videos of a preview of the denoising


def sample(
    model: "PVDM",
    output: Path,
    *,
    num_videos: int = 8,
    num_frames: int | None = None,
    first_video: int = 0,
    videos: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 4,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    formats: Sequence[str] = output_folder.DEFAULT_FORMATS,
    fps: float = DEFAULT_FPS,
    preview_every: int = 0,
) -> None:
    """Generates videos: video_00000.mp4 and so on, and the first of them side by side as grid.mp4, .gif and .png.

    num_frames: of each (None: one clip). Video i has the noise of (seed, i) and, of `classes` (names or numbers), the
    one in turn, whatever else is generated: `videos` (their numbers) or first_video and num_videos say which. options:
    fields of `SampleConfig` that replace the model's own. A folder of the same request is gone on with.
    preview_every: also writes preview.mp4, the first clips after every so many calls of the denoiser.
    """
    settings = _checked_options(model.config, options, formats)
    labels = None if classes is None else _labels(model, classes)
    numbers = list(range(first_video, first_video + num_videos)) if videos is None else list(videos)
    require(len(numbers) > 0 and min(numbers) >= 0, "videos", numbers, "numbers of at least one video, from 0 on")
    frames = num_frames or model.config.autoencoder.frames
    if frames > model.config.autoencoder.frames:
        _require_previous_clip(model, "num_frames", frames)
    request = {
        "model": model.fingerprint(),
        "num_frames": frames,
        "seed": seed,
        "classes": None if labels is None else [_class_name(model, label) for label in labels],
        "sample": config_to_dict(settings),
        "formats": list(formats),
        "fps": fps,
        "videos": numbers,
    }
    if jax.process_index() == 0:
        output_folder.resumable_folder(output, request, free=("videos", "formats"))
    _wait_for_all("the folder is there")

    key, chosen = jax.random.key(seed), dict(options or {})
    paths = {number: output / f"video_{number:05d}" for number in numbers}
    # Every process takes every so manyth video; what is there already stays.
    share = numbers[jax.process_index() :: jax.process_count()]
    missing = [number for number in share if not output_folder.finished(paths[number], formats)]
    if len(missing) < len(share):
        print(f"{len(share) - len(missing)} of {len(share)} videos are in {output} already")
    with tqdm(total=len(missing) * frames, desc="sampling", unit="frame", smoothing=0.1) as progress:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            # All batches have one size, so that the sampler is compiled once; what is too much is dropped.
            rows = np.array(batch + batch[-1:] * (batch_size - len(batch)))
            clips = model.stream(
                key,
                len(rows),
                num_frames,
                labels=_in_turn(labels, rows),
                indices=rows,
                **chosen,
            )
            before, targets = 0, [paths[number] for number in batch]
            for done in output_folder.write_clips(clips, targets, frames, formats, [fps] * len(batch)):
                progress.update((done - before) * len(batch))
                before = done
    _wait_for_all("all videos are there")
    if jax.process_index() != 0:
        return
    output_folder.write_grid(output, list(paths.values()), formats, fps)
    if preview_every:
        rows = numbers[:PREVIEWED]
        of_rows = _in_turn(labels, rows)
        previews, steps = model.preview(key, len(rows), every=preview_every, labels=of_rows, indices=rows, **chosen)
        strips = output_folder.film_strips(previews, hold=round(fps))
        output_folder.write_pictures(output / "preview", strips, formats, fps)
        print(f"preview of the denoising after steps {', '.join(map(str, steps))}: {output / 'preview'}")


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
    classes: Sequence[str] | None = None,
    formats: Sequence[str] = output_folder.DEFAULT_FORMATS,
    fps: float | None = None,
) -> None:
    """Continues each source by `num_frames` new frames; writes the end of the original with its continuation.

    `sources` are video files and folders of them. Of an original its last `original_frames` are kept, in whole clips
    and at least one. videos.json tells which file came from which source and where its continuation starts. The files
    have the frame rate of their source unless `fps` is given. The continuation of source i has the noise of (seed, i).
    """
    _checked_options(model.config, options, formats)
    _require_previous_clip(model, "num_frames", num_frames)
    labels = None if classes is None else _labels(model, classes)
    paths = find_videos(sources)
    output_folder.new_folder(output)
    num_clips = max(1, original_frames // model.config.autoencoder.frames)
    records, skipped = [], []
    usable = read_usable(paths, model.config, num_clips, from_end=True, skipped=skipped)
    for number, batch in enumerate(in_batches(usable, batch_size)):
        # As in `sample`, all batches have one size; the model sees the last clip of each original.
        rows = number * batch_size + np.arange(batch_size)
        last = [original.clips[-1] for original in batch]
        clips = model.stream(
            jax.random.key(seed),
            batch_size,
            num_frames,
            video=np.stack(last + last[-1:] * (batch_size - len(last))),
            labels=_in_turn(labels, rows),
            indices=rows,
            **(options or {}),
        )
        heads = [np.concatenate(original.clips) for original in batch]
        rates = [fps or original.fps for original in batch]
        targets = [output / original.name for original in batch]
        for _ in output_folder.write_clips(clips, targets, num_frames, formats, rates, heads):
            pass
        for original, head in zip(batch, heads, strict=True):
            records.append({"source": str(original.path), "file": original.name, "continuation_starts_at": len(head)})
            print(f"extended {original.path}")
    write_json(output / "videos.json", {"videos": records, "skipped": skipped})


def interpolate(
    model: "PVDM",
    first: Path,
    second: Path,
    output: Path,
    *,
    num_videos: int = 1,
    seed: int = 0,
    batch_size: int = 4,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    formats: Sequence[str] = output_folder.DEFAULT_FORMATS,
    fps: float | None = None,
) -> None:
    """Makes a clip that leads from the end of one video to the start of another, `num_videos` times with other noise.

    Writes between_00000.mp4 and so on: the last clip of `first`, the new one, the first clip of `second`. videos.json
    tells where the new frames are.
    """
    _checked_options(model.config, options, formats)
    labels = None if classes is None else _labels(model, classes)
    allowed = "interpolation needs a model that was trained with the clips on both sides (denoiser.next_clip=True)"
    require(model.config.denoiser.next_clip, "denoiser.next_clip", model.config.denoiser.next_clip, allowed)
    before, rate = read_clips(first, model.config, 1, from_end=True)
    after, _ = read_clips(second, model.config, 1, from_end=False)
    output_folder.new_folder(output)
    frames = model.config.autoencoder.frames
    for start in range(0, num_videos, batch_size):
        rows = start + np.arange(batch_size)
        between = model.interpolate(
            np.repeat(before, batch_size, axis=0),
            np.repeat(after, batch_size, axis=0),
            jax.random.key(seed),
            labels=_in_turn(labels, rows),
            indices=rows,
            **(options or {}),
        )
        for row, clip in zip(rows[: num_videos - start], between, strict=False):
            video = np.concatenate([before[0], clip, after[0]])
            _write(output / f"between_{row:05d}", video, formats, fps or rate)
    write_json(
        output / "videos.json",
        {"first": str(first), "second": str(second), "new_frames": [frames, 2 * frames], "videos": num_videos},
    )


def reconstruct(
    model: "PVDM",
    sources: Sequence[Path],
    output: Path,
    *,
    max_frames: int = 128,
    formats: Sequence[str] = output_folder.DEFAULT_FORMATS,
    fps: float | None = None,
) -> None:
    """Encodes and decodes each source, clip by clip; writes original (left) and reconstruction (right) as one video.

    Of each source its first `max_frames` are taken, in whole clips and at least one. Prints a table of the mean PSNR
    of its clips beside that of each clip's own mean over time shown as a still; reconstruction.json has the same.
    """
    output_folder.check_formats(formats)
    paths = find_videos(sources)
    output_folder.new_folder(output)
    num_clips = max(1, max_frames // model.config.autoencoder.frames)
    records, skipped = [], []
    for original in read_usable(paths, model.config, num_clips, from_end=False, skipped=skipped):
        # One clip at a time: whatever its length, a video compiles nothing new.
        decoded = np.concatenate([np.asarray(model.reconstruct(clip[None])) for clip in original.clips])
        side_by_side = np.concatenate([original.clips, decoded], axis=-2)
        _write(output / original.name, np.concatenate(side_by_side), formats, fps or original.fps)
        records.append(
            {
                "source": str(original.path),
                "file": original.name,
                "clips": len(decoded),
                "psnr": float(psnr(original.clips, decoded).mean()),
                "still_psnr": float(still_psnr(original.clips).mean()),
            }
        )
    mean = {name: float(np.mean([record[name] for record in records])) for name in ("psnr", "still_psnr")}
    write_json(output / "reconstruction.json", {"videos": records, "mean": mean, "skipped": skipped})
    print(_table(records, mean))


def _checked_options(config: Config, options: Mapping[str, Any] | None, formats: Sequence[str]) -> Any:
    """The settings of sampling with `options`, after the checks that `Config` makes of such fields."""
    output_folder.check_formats(formats)
    settings = settings_of(config, options)
    allowed = "the model was trained without classes (denoiser.num_classes=0)"
    require(
        settings.class_guidance == 0 or config.denoiser.num_classes, "class_guidance", settings.class_guidance, allowed
    )
    allowed = "this model's denoiser takes no previous clip (denoiser.previous_clip=False)"
    require(settings.guidance == 0 or config.denoiser.previous_clip, "guidance", settings.guidance, allowed)
    same = config.autoencoder.height == config.autoencoder.width
    allowed = "the motion planes of frames that aren't square differ in size: there is one order only"
    require(settings.plane_order != "confirm" or same, "plane_order", settings.plane_order, allowed)
    return settings


def _require_previous_clip(model: "PVDM", field: str, value: Any) -> None:
    allowed = "going on from a clip takes a denoiser that is given the previous one (denoiser.previous_clip=True)"
    require(model.config.denoiser.previous_clip, field, value, allowed)


def _labels(model: "PVDM", classes: Sequence[str]) -> list[int]:
    """Class indices of names or numbers."""
    count = model.config.denoiser.num_classes
    require(count > 0, "classes", list(classes), "the model was trained without classes")
    known = ", ".join(model.class_names) if model.class_names else f"numbers from 0 to {count - 1}"
    labels = []
    for name in classes:
        if name in model.class_names:
            labels.append(model.class_names.index(name))
        elif name.isdecimal() and int(name) < count:
            labels.append(int(name))
        else:
            raise ConfigError(f"classes is {name!r}; the model knows {known}, also by number from 0 to {count - 1}")
    return labels


def _in_turn(labels: Sequence[int] | None, rows: Sequence[int]) -> list[int] | None:
    """The label of each numbered video: they take turns."""
    return None if labels is None else [labels[row % len(labels)] for row in rows]


def _class_name(model: "PVDM", label: int) -> str:
    return model.class_names[label] if model.class_names else str(label)


def _write(path: Path, video: np.ndarray, formats: Sequence[str], fps: float) -> None:
    """A whole video (t, height, width, 3)."""
    for _ in output_folder.write_clips(iter([video[None]]), [path], len(video), formats, [fps]):
        pass


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _table(records: Sequence[Mapping[str, Any]], mean: Mapping[str, float]) -> str:
    width = max(len("mean of the videos"), *(len(record["file"]) for record in records))
    lines = [f"{'video':{width}}  clips  PSNR (dB)  still (dB)"]
    for record in records:
        line = f"{record['file']:{width}}  {record['clips']:5}  {record['psnr']:9.2f}  {record['still_psnr']:10.2f}"
        lines.append(line)
    lines.append(f"{'mean of the videos':{width}}  {'':5}  {mean['psnr']:9.2f}  {mean['still_psnr']:10.2f}")
    return "\n".join(lines)
