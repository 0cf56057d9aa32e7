"""Folders of generated videos: made anew, or gone on with after an interruption.

request.json says what a folder holds. A command that finds its own request there makes what is missing; any other one
is refused, so that no result is overwritten and no folder holds videos of two kinds.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pvdm_jax.config import ConfigError, require
from pvdm_jax.storage.files import write_json
from pvdm_jax.video import media, writers

REQUEST = "request.json"
DEFAULT_FORMATS = ("mp4", "gif")
GRID_VIDEOS = 25  # at most this many are shown side by side
GRID_FRAMES = 128  # and of each this many
GRID_SIDE = 128  # pixels: smaller videos are enlarged in the grid


def check_formats(formats: Sequence[str]) -> None:
    for name in formats:
        require(name in writers.FORMATS, "formats", name, f"choose from {', '.join(writers.FORMATS)}")


def new_folder(output: Path) -> None:
    """Raises FileExistsError unless `output` is new or empty."""
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; name a new folder")
    output.mkdir(parents=True, exist_ok=True)


def resumable_folder(output: Path, request: Mapping[str, Any], free: Sequence[str] = ()) -> None:
    """Makes the folder of a request, or goes on with one of the same request, but for the fields in `free`.

    Raises FileExistsError for a folder with something else in it, ConfigError for another request's.
    """
    path = output / REQUEST
    if not path.exists():
        new_folder(output)
    else:
        earlier, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(request))
        other = [
            f"{name} is {now.get(name)!r} (it was {earlier.get(name)!r})"
            for name in sorted((earlier.keys() | now.keys()) - set(free))
            if earlier.get(name) != now.get(name)
        ]
        if other:
            raise ConfigError(
                f"the videos in {output} were asked for otherwise: {', '.join(other)}; name another folder, or ask for "
                "the same to make what is missing"
            )
    write_json(path, request)


def finished(path: Path, formats: Sequence[str]) -> bool:
    return all(writers.video_path(path, name).exists() for name in formats)


def write_clips(
    clips: Iterator[np.ndarray],
    paths: Sequence[Path],
    frames: int,
    formats: Sequence[str],
    fps: Sequence[float],
    heads: Sequence[np.ndarray] | None = None,
) -> Iterator[int]:
    """Writes videos of `frames` frames that come clip by clip, (b, t, height, width, 3), b being at least the number of
    paths. fps: of each. heads: what each begins with, uint8 (t, height, width, 3).

    Files are written while the next clip is made. Yields the number of frames that have come after every clip.
    """
    clips = iter(clips)
    first = next(clips)
    heads = heads or [first[0, :0]] * len(paths)
    size = first.shape[2:4]
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        opened = [
            [stack.enter_context(writers.open_writer(path, name, len(head) + frames, *size, rate)) for name in formats]
            for path, head, rate in zip(paths, heads, fps, strict=True)
        ]

        def write(videos):
            for video, targets in zip(videos, opened, strict=False):
                for writer in targets:
                    writer.write(video)

        waiting, done = pool.submit(write, heads), 0
        for clip in itertools.chain([first], clips):
            waiting.result()
            waiting = pool.submit(write, clip)
            done += clip.shape[1]
            yield done
        waiting.result()


def write_grid(output: Path, paths: Sequence[Path], formats: Sequence[str], fps: float) -> None:
    """The first of the videos at `paths`, read back from their files, side by side as grid.mp4, .gif and .png."""
    # The format that loses least.
    best = min(formats, key=("npz", "png", "mp4", "gif").index)
    videos = [writers.read_back(path, best, GRID_FRAMES) for path in paths[:GRID_VIDEOS]]
    frames = min(len(video) for video in videos)
    shown = np.stack([video[:frames] for video in videos])
    grid = media.video_grid(enlarged(shown), columns=math.ceil(math.sqrt(len(shown))))
    write_pictures(output / "grid", grid, formats, fps)
    media.write_image(output / "grid.png", grid[len(grid) // 2])


def write_pictures(path: Path, video: np.ndarray, formats: Sequence[str], fps: float) -> None:
    """A video for looking at, as mp4 and gif where `formats` has them, else as mp4."""
    for suffix in [name for name in formats if name in DEFAULT_FORMATS] or ["mp4"]:
        media.write_video(path.with_name(f"{path.name}.{suffix}"), video, fps=fps)


def film_strips(previews: np.ndarray, hold: int) -> np.ndarray:
    """Denoising as a video: uint8 (previews, n, t, h, w, 3) to (previews + hold, H, W, 3).

    Each frame shows one preview, a row for each video with up to 8 of its frames; the last stays for `hold` more.
    """
    count, videos, frames = previews.shape[:3]
    columns = np.linspace(0, frames - 1, min(8, frames)).round().astype(int)
    cells = np.moveaxis(previews[:, :, columns], 0, 2)  # (n, columns, previews, h, w, 3)
    strips = media.video_grid(enlarged(cells.reshape(-1, *cells.shape[2:])), columns=len(columns))
    return np.concatenate([strips, np.repeat(strips[-1:], hold, axis=0)])


def enlarged(videos: np.ndarray) -> np.ndarray:
    """(..., h, w, 3) with every pixel a block, so that small videos can be looked at."""
    return media.upscale(videos, math.ceil(GRID_SIDE / min(videos.shape[-3:-1])))
