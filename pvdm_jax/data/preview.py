"""`pvdm data`: shows what the model will see, before training.

Writes clips.mp4 and clips.gif (a grid of training clips, cropped, mirrored and resized as for training), held_out.mp4
and .gif, preview.json (shapes, rates, statistics, problems) and index.html, a self-contained page with all of it.
"""

import collections
import dataclasses
import pathlib
from typing import Any

import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.clips import clip_span
from pvdm_jax.data.dataset_files import SUMMARY
from pvdm_jax.data.loader import fixed_clips, train_batches
from pvdm_jax.data.sources import VideoSource, open_source
from pvdm_jax.data.streams import BatchSpec
from pvdm_jax.reporting.html import write_page
from pvdm_jax.reporting.sections import Items, Section, Table, Text, Videos
from pvdm_jax.storage.files import check_new_folder, write_json
from pvdm_jax.storage.json_files import Maybe, read_json
from pvdm_jax.video.defaults import DEFAULT_FPS
from pvdm_jax.video.grid import enlarge, video_grid
from pvdm_jax.video.write import write_video

PAGE_FILE = "index.html"
FACTS_FILE = "preview.json"
STILL = 0.5  # mean change from frame to frame, in grey levels, below which a clip hardly moves
FLAT = 2.0  # standard deviation, in grey levels, below which a clip has one colour
EXAMPLES = 5  # names given with each problem


@dataclasses.dataclass(frozen=True)
class Preview:
    """What `preview` found."""

    folder: pathlib.Path
    facts: dict[str, Any]
    problems: list[str]

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.facts.items() if not isinstance(value, dict | list)]
        lines += [f"problem: {problem}" for problem in self.problems] or ["no problems found"]
        return "\n".join([*lines, f"to look at: {self.folder / PAGE_FILE}"])


def preview(data: DataConfig, clip: AutoencoderConfig, seed: int, output, count: int = 16) -> Preview:
    """Shows `count` training clips and as many held-out ones in the new or empty folder `output`.

    Raises FileExistsError if `output` isn't empty, ConfigError if training would refuse the data, and what
    `open_source` and `train_batches` raise.
    """
    data.check_held_out()
    folder = pathlib.Path(output)
    check_new_folder(folder)
    training, held_out = (open_source(data, clip, split, seed) for split in ("train", "holdout"))
    batches = train_batches(training, clip, dataclasses.replace(data, workers=0), BatchSpec(count, seed))
    batch = next(batches)
    batches.close()
    fixed = fixed_clips(held_out, clip, data, count) if len(held_out) else None

    rate = _rate(training, data)
    facts = _facts(training, held_out, clip, data, rate) | _statistics(batch["video"])
    problems = [
        *(f"{name} is replaced by other videos: {reason}" for name, reason in list(batches.broken.items())[:EXAMPLES]),
        *_problems(training, held_out, clip, data),
        *_problems_of_clips(batch["video"]),
    ]
    sections: list[Section] = [Text(heading="Problems"), Items(problems or ["none found"])]
    for name, title, clips in (("clips", "Training clips", batch), ("held_out", "Held-out clips", fixed)):
        if clips is not None:
            grid = video_grid(enlarge(clips["video"]))
            for suffix in ("mp4", "gif"):
                write_video(folder / f"{name}.{suffix}", grid, fps=rate or DEFAULT_FPS)
            sections += _clip_sections(title, grid, rate or DEFAULT_FPS, _captions(clips, training.class_names))
    rows = [(name, _shown(value)) for name, value in facts.items()]
    sections += [Text(heading="Facts"), Table(("fact", "value"), rows)]
    write_json(folder / FACTS_FILE, {"facts": facts, "problems": problems})
    write_page(folder / PAGE_FILE, "What the model will see", sections)
    return Preview(folder, facts, problems)


def _rate(source: VideoSource, data: DataConfig) -> float:
    """Frames per second of the clips (the median, if videos differ), 0 if unknown."""
    rates = [facts["fps"] for facts in getattr(source, "facts", ()) if facts["fps"] > 0]
    rate = float(np.median(rates)) if rates and data.fps == 0 else data.fps
    return rate / data.stride


def _facts(
    training: VideoSource, held_out: VideoSource, clip: AutoencoderConfig, data: DataConfig, rate: float
) -> dict[str, Any]:
    frames = np.array([training[i].frames for i in range(len(training))])
    labels = collections.Counter(training[i].label for i in range(len(training)))
    facts = {
        "source": data.source if data.source == "synthetic" else data.path,
        "training videos": len(training),
        "training frames": int(frames.sum()),
        "frames of a video": f"{frames.min()} to {frames.max()}, median {np.median(frames):.0f}",
        "held-out videos": len(held_out),
        "a clip": f"{clip.frames} frames of {clip.height} x {clip.width} (height x width), uint8 RGB",
        "frames per second": round(rate, 3) if rate else "not known",
        "a clip spans": f"{clip_span(clip.frames, data.stride)} frames"
        + (f", {clip.frames / rate:.2f} seconds" if rate else ""),
    }
    known = getattr(training, "facts", ())
    if known:
        sizes = collections.Counter(f"{f['height']} x {f['width']}" for f in known)
        rates = collections.Counter(f"{f['fps']:.4g}" for f in known)
        facts["stored as"] = ", ".join(sorted({f["stored"] for f in known}))
        facts["stored sizes"] = dict(sizes.most_common(EXAMPLES))
        facts["stored rates"] = dict(rates.most_common(EXAMPLES))
    if training.class_names:
        facts["number of classes"] = len(training.class_names)
        facts["classes"] = {name: labels[i] for i, name in enumerate(training.class_names)}
    return facts


def _statistics(video: np.ndarray) -> dict[str, Any]:
    """Statistics of uint8 clips (n, t, h, w, 3), in grey levels."""
    pixels = video.astype(np.float32)
    mean = pixels.mean(axis=(0, 1, 2, 3))
    std = pixels.std(axis=(0, 1, 2, 3))
    return {
        "mean of red, green, blue": ", ".join(f"{value:.1f}" for value in mean),
        "standard deviation": ", ".join(f"{value:.1f}" for value in std),
        "change from frame to frame": f"{_motion(pixels).mean():.2f} grey levels",
    }


def _motion(pixels: np.ndarray) -> np.ndarray:
    """The mean change from frame to frame within each clip (n, t, h, w, 3)."""
    return np.abs(np.diff(pixels, axis=1)).mean(axis=(1, 2, 3, 4)) if pixels.shape[1] > 1 else np.zeros(len(pixels))


def _problems(training: VideoSource, held_out: VideoSource, clip: AutoencoderConfig, data: DataConfig) -> list[str]:
    """What may be wrong with the dataset."""
    problems = []
    facts = getattr(training, "facts", ())
    too_short = getattr(training, "left_out", ())
    if too_short:
        span = clip_span(clip.frames, data.stride)
        problems.append(
            f"{_videos(len(too_short))} skipped, shorter than a clip's {span} frames: {_some(too_short)}; "
            "data.short_videos=loop or pad uses them"
        )
    skipped = _skipped(data)
    if skipped:
        reasons = [f"{name} ({reason})" for name, reason in list(skipped.items())[:EXAMPLES]]
        problems.append(f"`pvdm prepare` skipped {_videos(len(skipped))}: {_some(reasons, len(skipped))}")
    if not len(held_out):
        problems.append("nothing is held out from training, so evaluations say nothing about new videos")
    small = [f["name"] for f in facts if f["height"] < clip.height or f["width"] < clip.width]
    if small:
        problems.append(f"{_videos(len(small))} smaller than a clip, to be enlarged: {_some(small)}")
    rates = {round(f["fps"], 2) for f in facts if f["fps"] > 0}
    if rates and max(rates) > 1.5 * min(rates) and not data.fps:
        problems.append(
            f"videos play at {min(rates):g} to {max(rates):g} frames per second; data.fps would make them equal"
        )
    empty = set(range(len(training.class_names))) - {training[i].label for i in range(len(training))}
    if empty:
        names = [training.class_names[i] for i in empty]
        problems.append(f"{len(empty)} classes have no training video: {_some(names)}")
    return problems


def _problems_of_clips(video: np.ndarray) -> list[str]:
    """What may be wrong with the clips that are shown, uint8 (n, t, h, w, 3)."""
    problems = []
    flat = int((video.std(axis=(1, 2, 3, 4)) < FLAT).sum())
    still = int((_motion(video.astype(np.float32)) < STILL).sum()) - flat
    if flat:
        problems.append(f"{flat} of the {len(video)} clips shown have a single colour")
    if still > 0:
        problems.append(f"{still} of the {len(video)} clips shown hardly move")
    return problems


def _skipped(data: DataConfig) -> dict[str, str]:
    """The videos that `pvdm prepare` skipped, with reasons."""
    path = pathlib.Path(data.path) / SUMMARY
    if data.source == "synthetic" or not path.exists():
        return {}
    return read_json(path, {"skipped": Maybe({str: str})}).get("skipped") or {}


def _videos(count: int) -> str:
    return f"{count} video{'s' if count != 1 else ''}"


def _some(names: Any, count: int | None = None) -> str:
    """The first EXAMPLES names, and how many more of the `count` names there are."""
    names = list(names)
    count = len(names) if count is None else count
    more = f" and {count - EXAMPLES} more" if count > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more


def _captions(clips: dict[str, Any], class_names: tuple[str, ...]) -> list[str]:
    """The name and class of each clip of the grid, row by row, as far as they are known."""
    classes = [class_names[label] if label >= 0 else "" for label in clips["label"]]
    names = clips.get("name", [""] * len(classes))
    return [", ".join(filter(None, parts)) for parts in zip(names, classes, strict=True)]


def _clip_sections(title: str, grid: np.ndarray, fps: float, captions: list[str]) -> list[Section]:
    sections: list[Section] = [Text(heading=title), Videos("", [(f"{len(captions)} clips", grid)], fps, scale=1)]
    if any(captions):
        sections.append(Items(captions, summary="What they are, row by row"))
    return sections


def _shown(value: Any) -> str:
    return ", ".join(f"{name} ({count})" for name, count in value.items()) if isinstance(value, dict) else str(value)
