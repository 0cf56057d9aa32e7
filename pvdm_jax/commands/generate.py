"""What `pvdm sample`, `extend` and `interpolate` do with a trained model: video files in and out.

Each function takes a loaded `PVDM` and raises before any long work: ConfigError for an option that is not possible,
FileExistsError if the output folder is not empty, VideoError if no source can be used. Single sources that can't be
used are reported on stderr and skipped. Each clip is written while the next one is generated, so long videos need no
more memory than short ones. The processes of a multi-host run share the videos of `sample`.
"""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from pvdm_jax.commands import familiarity, output_folder
from pvdm_jax.commands.input_videos import in_batches, list_video_files, read_clips, read_usable
from pvdm_jax.commands.request_cost import check_disk, say_time
from pvdm_jax.config import Config, ConfigError, SampleConfig, check_seed, config_to_dict, require
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.inference.sampler import check_continues, check_interpolates, settings_of
from pvdm_jax.runtime import sharding
from pvdm_jax.runtime.keys import make_key
from pvdm_jax.storage.files import write_json
from pvdm_jax.video.defaults import DEFAULT_FORMATS, DEFAULT_FPS, MAX_VIDEOS
from pvdm_jax.video.files import shown

VIDEOS_FILE = "videos.json"  # which source each video of `extend` and `interpolate` comes from
MAX_BATCH = 2**16
PREVIEW_VIDEOS = 4  # in a preview of the denoising


def sample(
    model: PVDM,
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
    formats: Sequence[str] = DEFAULT_FORMATS,
    fps: float = DEFAULT_FPS,
    preview_every: int = 0,
) -> None:
    """Generates videos: video_00000.mp4 and so on, and the first of them side by side as grid.mp4, .gif and .png.

    Video i depends on (seed, i) and its class, not on the other videos. If the folder belongs to the same request, only
    the missing videos are generated.

    Args:
        model: The trained model.
        output: A new or empty folder, or one of the same request.
        num_videos: How many videos to generate.
        num_frames: Frames of each video (None: one clip).
        first_video: The number of the first video.
        videos: The numbers of the videos, in place of `num_videos` and `first_video`.
        seed: The seed of the noise.
        batch_size: Videos generated at once, rounded up to a multiple of the number of devices.
        options: Fields of `SampleConfig` that replace the model's own.
        classes: Names or numbers of classes, which the videos get in turn, by their numbers.
        formats: The formats to write each video in.
        fps: Frames per second of the files.
        preview_every: If positive, also writes preview.mp4: the first clips after every `preview_every` calls of the
            denoiser.
    """
    settings = _check_options(model.config, options, formats=formats, fps=fps, seed=seed, batch_size=batch_size)
    options = dict(options or {})
    labels = None if classes is None else _labels(model, classes)
    numbers = _video_numbers(num_videos, first_video, videos)
    check_continues(model.config, num_frames)
    frames = num_frames or model.config.autoencoder.frames
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
    paths = {number: output / f"video_{number:05d}" for number in numbers}
    if jax.process_index() == 0:
        check_disk(output, paths.values(), frames=frames, clip=model.config.autoencoder, formats=formats)
        output_folder.make_or_resume_folder(output, request, may_change=("videos", "formats"))
    _wait_for_all("the folder is there")

    batch_size = sharding.round_up(model.mesh, batch_size)
    key = make_key(seed)
    share = numbers[jax.process_index() :: jax.process_count()]  # of this process
    missing = [number for number in share if not output_folder.is_finished(paths[number], formats)]
    if len(missing) < len(share):
        print(f"{len(share) - len(missing)} of {len(share)} videos are in {output} already")
    say_time(model, key, videos=len(missing), frames=frames, batch_size=batch_size, options=options)
    with tqdm(total=len(missing) * frames, desc="sampling", unit="frame", smoothing=0.1) as progress:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            # All batches have one size, so that the sampler is compiled once. The surplus is dropped.
            rows = np.array(batch + batch[-1:] * (batch_size - len(batch)))
            clips = model.stream(key, len(rows), num_frames, labels=_in_turn(labels, rows), indices=rows, **options)
            targets = [paths[number] for number in batch]
            rates = [fps] * len(batch)
            before = 0
            for done in output_folder.write_clips(clips, targets, frames=frames, formats=formats, fps=rates):
                progress.update((done - before) * len(batch))
                before = done
    _wait_for_all("all videos are there")
    if jax.process_index() != 0:
        return
    output_folder.write_grid(output, list(paths.values()), formats=formats, fps=fps)
    if preview_every:
        rows = numbers[:PREVIEW_VIDEOS]
        previews, steps = model.preview(
            key, len(rows), every=preview_every, labels=_in_turn(labels, rows), indices=rows, **options
        )
        strips = output_folder.film_strips(previews, hold=round(fps))
        output_folder.write_for_viewing(output / "preview", strips, formats=formats, fps=fps)
        print(f"preview of the denoising after steps {', '.join(map(str, steps))}: {output / 'preview'}")


def extend(
    model: PVDM,
    sources: Sequence[Path],
    output: Path,
    *,
    num_frames: int,
    original_frames: int = 32,
    seed: int = 0,
    batch_size: int = 4,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    fps: float | None = None,
) -> None:
    """Continues each source; writes the end of the original followed by its continuation.

    videos.json records which file came from which source and where its continuation starts. The continuation of source
    i has the noise of (seed, i). Warns about sources far from the model's training data, if its card tells.

    Args:
        model: A trained model whose denoiser takes the previous clip.
        sources: Video files, and folders of them.
        output: A new or empty folder.
        num_frames: New frames for each source.
        original_frames: Frames kept from the end of the original, in whole clips and at least one clip.
        seed: The seed of the noise.
        batch_size: Videos generated at once, rounded up to a multiple of the number of devices.
        options: Fields of `SampleConfig` that replace the model's own.
        classes: Names or numbers of classes, which the sources get in turn.
        formats: The formats to write each video in.
        fps: Frames per second of the files (None: those of the source).
    """
    _check_options(model.config, options, formats=formats, fps=fps, seed=seed, batch_size=batch_size)
    check_continues(model.config, num_frames, given=True)
    labels = None if classes is None else _labels(model, classes)
    paths = list_video_files(sources)
    targets = [output / path.stem for path in paths]
    check_disk(output, targets, frames=num_frames, clip=model.config.autoencoder, formats=formats)
    output_folder.make_new_folder(output)
    batch_size = sharding.round_up(model.mesh, batch_size)
    num_clips = max(1, original_frames // model.config.autoencoder.frames)
    records: list[dict] = []
    skipped: list[dict] = []
    usable = read_usable(paths, model.config, num_clips, from_end=True, skipped=skipped)
    for number, batch in enumerate(in_batches(usable, batch_size)):
        # As in `sample`, all batches have one size. The model is given the last clip of each original.
        rows = number * batch_size + np.arange(batch_size)
        last = [original.clips[-1] for original in batch]
        for original in batch:
            familiarity.check_clips(model, shown(original.path), original.clips[-1:])
        clips = model.stream(
            make_key(seed),
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
        for _ in output_folder.write_clips(clips, targets, frames=num_frames, formats=formats, fps=rates, heads=heads):
            pass
        for original, head in zip(batch, heads, strict=True):
            records.append({"source": str(original.path), "file": original.name, "continuation_starts_at": len(head)})
            print(f"extended {original.path}")
    write_json(output / VIDEOS_FILE, {"videos": records, "skipped": skipped})


def interpolate(
    model: PVDM,
    first: Path,
    second: Path,
    output: Path,
    *,
    num_videos: int = 1,
    seed: int = 0,
    batch_size: int = 4,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    fps: float | None = None,
) -> None:
    """Generates clips that lead from the end of one video to the start of another.

    Writes between_00000.mp4 and so on: the last clip of `first`, the new clip, the first clip of `second`. videos.json
    records where the new frames are.

    Args:
        model: A trained model whose denoiser takes the clips on both sides.
        first: The video file that the new clip follows.
        second: The video file that the new clip leads to.
        output: A new or empty folder.
        num_videos: How many clips to generate, each from different noise.
        seed: The seed of the noise.
        batch_size: Clips generated at once, rounded up to a multiple of the number of devices.
        options: Fields of `SampleConfig` that replace the model's own.
        classes: Names or numbers of classes, which the clips get in turn.
        formats: The formats to write each video in.
        fps: Frames per second of the files (None: those of `first`).
    """
    _check_options(model.config, options, formats=formats, fps=fps, seed=seed, batch_size=batch_size)
    labels = None if classes is None else _labels(model, classes)
    check_interpolates(model.config)
    require(0 < num_videos <= MAX_VIDEOS, "num_videos", num_videos, f"from 1 to {MAX_VIDEOS:,}")
    targets = [output / "between"] * num_videos
    frames = 3 * model.config.autoencoder.frames
    check_disk(output, targets, frames=frames, clip=model.config.autoencoder, formats=formats)
    before, rate = read_clips(first, model.config, 1, from_end=True)
    after, _ = read_clips(second, model.config, 1, from_end=False)
    output_folder.make_new_folder(output)
    frames = model.config.autoencoder.frames
    batch_size = sharding.round_up(model.mesh, batch_size)
    for start in range(0, num_videos, batch_size):
        rows = start + np.arange(batch_size)
        between = model.interpolate(
            np.repeat(before, batch_size, axis=0),
            np.repeat(after, batch_size, axis=0),
            make_key(seed),
            labels=_in_turn(labels, rows),
            indices=rows,
            **(options or {}),
        )
        for row, clip in zip(rows[: num_videos - start], between, strict=False):
            video = np.concatenate([before[0], clip, after[0]])
            output_folder.write_whole(output / f"between_{row:05d}", video, formats=formats, fps=fps or rate)
    write_json(
        output / VIDEOS_FILE,
        {"first": str(first), "second": str(second), "new_frames": [frames, 2 * frames], "videos": num_videos},
    )


def _check_options(
    config: Config,
    options: Mapping[str, Any] | None,
    *,
    formats: Sequence[str],
    fps: float | None,
    seed: int,
    batch_size: int,
) -> SampleConfig:
    """The model's sampling settings with `options` in place. Raises ConfigError if the model can't sample that way."""
    output_folder.check_formats(formats, fps)
    check_seed("seed", seed)
    require(0 < batch_size <= MAX_BATCH, "batch_size", batch_size, f"from 1 to {MAX_BATCH:,}")
    return settings_of(config, options)


def _video_numbers(num_videos: int, first_video: int, videos: Sequence[int] | None) -> list[int]:
    """The numbers of the videos to make. Raises ConfigError for one outside 0 to 2^32 - 1, or one that occurs twice."""
    asked = num_videos if videos is None else len(videos)
    require(0 < asked <= MAX_VIDEOS, "videos", asked, f"from 1 to {MAX_VIDEOS:,} videos can be made by one command")
    numbers = list(range(first_video, first_video + num_videos)) if videos is None else list(videos)
    for number in (min(numbers), max(numbers)):
        check_seed("videos", number)
    twice = [number for number, count in collections.Counter(numbers).items() if count > 1]
    require(not twice, "videos", twice[:5], "name each video once")
    return numbers


def _labels(model: PVDM, classes: Sequence[str]) -> list[int]:
    """The class indices of names or numbers. Raises ConfigError for classes that the model doesn't know."""
    count = model.config.denoiser.num_classes
    require(count > 0, "classes", list(classes), "the model was trained without classes")
    require(len(classes) > 0, "classes", list(classes), "name at least one class")
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
    """The label of each numbered video: video i has label i, modulo the number of labels."""
    return None if labels is None else [labels[row % len(labels)] for row in rows]


def _class_name(model: PVDM, label: int) -> str:
    return model.class_names[label] if model.class_names else str(label)


def _wait_for_all(name: str) -> None:
    """Waits until every process of a multi-host run has reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
