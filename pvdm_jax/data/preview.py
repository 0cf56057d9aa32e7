"""`pvdm data`: what the model will see, to look at before training.

Writes clips.mp4 and clips.gif (a grid of training clips, as they are cropped, mirrored and resized), held_out.mp4 and
.gif, preview.json (shapes, rates, statistics, problems) and index.html, which shows all of it in one file.
"""

import base64
import collections
import dataclasses
import html
import json
import math
import pathlib
from typing import Any

import numpy as np

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.clips import clip_span
from pvdm_jax.data.loader import fixed_clips, train_batches
from pvdm_jax.data.sources import VideoSource, open_source
from pvdm_jax.data.streams import BatchSpec
from pvdm_jax.video.media import encode_mp4, upscale, video_grid, write_video

SIDE = 128  # pixels, at least, of a clip in the grid
STILL = 0.5  # mean change from frame to frame, in grey levels, below which a clip hardly moves
FLAT = 2.0  # standard deviation, in grey levels, below which a clip is one colour
NAMED = 5  # examples of each problem
FPS = 8.0  # of the grid, where the videos don't say how fast they play


@dataclasses.dataclass(frozen=True)
class Preview:
    """What `preview` found."""

    folder: pathlib.Path
    facts: dict[str, Any]
    problems: list[str]

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.facts.items() if not isinstance(value, dict | list)]
        lines += [f"problem: {problem}" for problem in self.problems] or ["no problems found"]
        return "\n".join([*lines, f"to look at: {self.folder / 'index.html'}"])


def preview(data: DataConfig, clip: AutoencoderConfig, seed: int, output, count: int = 16) -> Preview:
    """Shows `count` training clips and as many held-out ones in the new or empty folder `output`.

    Raises FileExistsError where `output` isn't empty, and what `open_source` and `train_batches` raise.
    """
    folder = pathlib.Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    training, held_out = (open_source(data, clip, split, seed) for split in ("train", "holdout"))
    batches = train_batches(training, clip, dataclasses.replace(data, workers=0), BatchSpec(count, seed))
    batch = next(batches)
    batches.close()
    fixed = fixed_clips(held_out, clip, data, count) if len(held_out) else None

    rate = _rate(training, data)
    facts = _facts(training, held_out, clip, data, rate) | _statistics(batch["video"])
    problems = _problems(training, held_out, clip, data, batch["video"], batches.broken)
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for name, title, clips in (("clips", "Training clips", batch), ("held_out", "Held-out clips", fixed)):
        if clips is None:
            continue
        grid = _grid(clips["video"])
        for suffix in ("mp4", "gif"):
            write_video(folder / f"{name}.{suffix}", grid, fps=rate or FPS)
        pages.append((title, encode_mp4(grid, rate or FPS), _captions(clips, training.class_names)))
    (folder / "preview.json").write_text(json.dumps({"facts": facts, "problems": problems}, indent=2) + "\n")
    (folder / "index.html").write_text(_html(pages, facts, problems), encoding="utf-8")
    return Preview(folder, facts, problems)


def _rate(source: VideoSource, data: DataConfig) -> float:
    """Frames per second of the clips, 0 where it isn't known; of different ones the middle one."""
    rates = [facts["fps"] for facts in getattr(source, "facts", ()) if facts["fps"] > 0]
    return (data.fps or float(np.median(rates)) if rates else data.fps) / data.stride


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
        facts["stored sizes"] = dict(sizes.most_common(NAMED))
        facts["stored rates"] = dict(rates.most_common(NAMED))
    if training.class_names:
        facts["number of classes"] = len(training.class_names)
        facts["classes"] = {name: labels[i] for i, name in enumerate(training.class_names)}
    return facts


def _statistics(video: np.ndarray) -> dict[str, Any]:
    """Of uint8 (n, t, h, w, 3), in grey levels."""
    pixels = video.astype(np.float32)
    mean, std = pixels.mean(axis=(0, 1, 2, 3)), pixels.std(axis=(0, 1, 2, 3))
    return {
        "mean of red, green, blue": ", ".join(f"{value:.1f}" for value in mean),
        "standard deviation": ", ".join(f"{value:.1f}" for value in std),
        "change from frame to frame": f"{_motion(pixels).mean():.2f} grey levels",
    }


def _motion(pixels: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(pixels, axis=1)).mean(axis=(1, 2, 3, 4)) if pixels.shape[1] > 1 else np.zeros(len(pixels))


def _problems(
    training: VideoSource,
    held_out: VideoSource,
    clip: AutoencoderConfig,
    data: DataConfig,
    video: np.ndarray,
    broken: dict[str, str],
) -> list[str]:
    found = []
    facts, left_out = getattr(training, "facts", ()), getattr(training, "left_out", ())
    found += [f"{name} is replaced by other videos: {reason}" for name, reason in list(broken.items())[:NAMED]]
    if left_out:
        span = clip_span(clip.frames, data.stride)
        found.append(
            f"{_videos(len(left_out))} left out for being shorter than a clip's {span} frames: {_some(left_out)}; "
            "data.short_videos=loop or pad uses them"
        )
    skipped = _skipped(data)
    if skipped:
        reasons = [f"{name} ({reason})" for name, reason in list(skipped.items())[:NAMED]]
        found.append(f"`pvdm prepare` skipped {_videos(len(skipped))}: {_some(reasons, len(skipped))}")
    if not len(held_out):
        found.append("nothing is held out from training, so evaluations say nothing of new videos")
    small = [f["name"] for f in facts if f["height"] < clip.height or f["width"] < clip.width]
    if small:
        found.append(f"{_videos(len(small))} smaller than a clip, to be enlarged: {_some(small)}")
    rates = {round(f["fps"], 2) for f in facts if f["fps"] > 0}
    if rates and max(rates) > 1.5 * min(rates) and not data.fps:
        found.append(
            f"videos play at {min(rates):g} to {max(rates):g} frames per second; data.fps would make them equal"
        )
    empty = set(range(len(training.class_names))) - {training[i].label for i in range(len(training))}
    if empty:
        found.append(f"{len(empty)} classes have no training video: {_some([training.class_names[i] for i in empty])}")
    still, flat = (
        int((_motion(video.astype(np.float32)) < STILL).sum()),
        int((video.std(axis=(1, 2, 3, 4)) < FLAT).sum()),
    )
    if flat:
        found.append(f"{flat} of the {len(video)} clips shown are of one colour")
    if still - flat > 0:
        found.append(f"{still - flat} of the {len(video)} clips shown hardly move")
    return found


def _skipped(data: DataConfig) -> dict[str, str]:
    path = pathlib.Path(data.path) / "summary.json"
    if data.source == "synthetic" or not path.exists():
        return {}
    return json.loads(path.read_text()).get("skipped", {})


def _videos(count: int) -> str:
    return f"{count} video{'s' if count != 1 else ''}"


def _some(names: Any, count: int | None = None) -> str:
    names = list(names)
    count = len(names) if count is None else count
    more = f" and {count - NAMED} more" if count > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _grid(video: np.ndarray) -> np.ndarray:
    factor = math.ceil(SIDE / min(video.shape[2:4]))
    return video_grid(upscale(video, factor), columns=math.ceil(math.sqrt(len(video))))


def _captions(clips: dict[str, Any], class_names: tuple[str, ...]) -> list[str]:
    """For each clip of the grid, row by row, what is known of it."""
    classes = [class_names[label] if label >= 0 else "" for label in clips["label"]]
    names = clips.get("name", [""] * len(classes))
    return [", ".join(filter(None, parts)) for parts in zip(names, classes, strict=True)]


def _html(pages: list, facts: dict[str, Any], problems: list[str]) -> str:
    """One self-contained page."""
    rows = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(_shown(v))}</td></tr>" for n, v in facts.items())
    listed = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems) or "<li>none found</li>"
    videos = ""
    for title, mp4, captions in pages:
        source = f"data:video/mp4;base64,{base64.b64encode(mp4).decode()}"
        videos += f"<h2>{title}</h2><video autoplay loop muted playsinline controls src='{source}'></video>"
        if any(captions):
            items = "".join(f"<li>{html.escape(caption)}</li>" for caption in captions)
            videos += f"<details><summary>What they are, row by row</summary><ol>{items}</ol></details>"
    style = (
        "body{font:16px/1.4 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}video{max-width:100%}"
        "th{text-align:left;padding-right:1em;vertical-align:top}"
    )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Data</title><style>{style}</style>"
        f"<h1>What the model will see</h1><h2>Problems</h2><ul>{listed}</ul>{videos}"
        f"<h2>Facts</h2><table>{rows}</table>\n"
    )


def _shown(value: Any) -> str:
    return ", ".join(f"{name} ({count})" for name, count in value.items()) if isinstance(value, dict) else str(value)
