"""Folders of generated videos: new ones, and those of an interrupted command.

request.json records what a folder holds. A command that finds its own request there generates the missing videos. Any
other request is refused, so that no result is overwritten and no folder mixes the videos of two requests.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pvdm_jax.config import ConfigError, require
from pvdm_jax.config.data import MAX_FPS, MIN_FPS
from pvdm_jax.storage.files import check_new_folder, remove_leftovers, write_json
from pvdm_jax.storage.json_files import read_json
from pvdm_jax.video.defaults import DEFAULT_FORMATS, FORMATS
from pvdm_jax.video.grid import enlarge, video_grid
from pvdm_jax.video.images import write_image
from pvdm_jax.video.read import first_frames
from pvdm_jax.video.write import VideoWriter, video_path, write_video_or_frames

REQUEST_FILE = "request.json"
GRID_VIDEOS = 25  # at most, side by side
GRID_FRAMES = 128  # at most, of each of them
STRIP_FRAMES = 8  # at most, of each video in a preview of the denoising


def check_formats(formats: Sequence[str], fps: float | None = None) -> None:
    """Raises ConfigError unless files can be written in these formats at this frame rate.

    formats: each in `FORMATS` and named once. fps: None if it follows from the source.
    """
    require(len(formats) > 0, "formats", list(formats), f"choose from {', '.join(FORMATS)}")
    for name in formats:
        require(name in FORMATS, "formats", name, f"choose from {', '.join(FORMATS)}")
    require(len(set(formats)) == len(formats), "formats", list(formats), "name each format once")
    allowed = f"it must lie between {MIN_FPS:g} and {MAX_FPS:g}"
    require(fps is None or MIN_FPS <= fps <= MAX_FPS, "fps", fps, allowed)


def make_new_folder(output: Path) -> None:
    """Makes a folder. Raises FileExistsError unless it is new, or empty except for leftovers of a killed command."""
    remove_leftovers(output)
    check_new_folder(output)
    output.mkdir(parents=True, exist_ok=True)


def make_or_resume_folder(output: Path, request: Mapping[str, Any], may_change: Sequence[str] = ()) -> None:
    """Makes the folder of a request, or accepts an existing one of the same request.

    Args:
        output: The folder.
        request: What determines its videos, as JSON can hold it.
        may_change: Fields of the request that may differ from the recorded ones.

    Raises FileExistsError if the folder holds something else, ConfigError if it holds the videos of another request.
    """
    remove_leftovers(output)
    path = output / REQUEST_FILE
    if path.exists():
        _check_same_request(output, read_json(path, dict), json.loads(json.dumps(request)), may_change)
    else:
        make_new_folder(output)
    write_json(path, request)


def _check_same_request(output: Path, earlier: Mapping, now: Mapping, may_change: Sequence[str]) -> None:
    differences = [
        f"{name} is {now.get(name)!r} (it was {earlier.get(name)!r})"
        for name in sorted((earlier.keys() | now.keys()) - set(may_change))
        if earlier.get(name) != now.get(name)
    ]
    if differences:
        raise ConfigError(
            f"the videos in {output} belong to another request: {', '.join(differences)}; name another folder, or "
            "repeat the earlier request to make its missing videos"
        )


def is_finished(path: Path, formats: Sequence[str]) -> bool:
    """Whether the video at `path` (without suffix) exists in all formats."""
    return all(video_path(path, name).exists() for name in formats)


def write_clips(
    clips: Iterator[np.ndarray],
    paths: Sequence[Path],
    *,
    frames: int,
    formats: Sequence[str],
    fps: Sequence[float],
    heads: Sequence[np.ndarray] | None = None,
) -> Iterator[int]:
    """Writes several videos at once, clip by clip. A clip is written while the next one is made.

    Args:
        clips: uint8 (b, t, height, width, 3) each, with b at least the number of paths; further videos are dropped.
        paths: The videos' files, without suffix.
        frames: The number of frames of each video, over all clips.
        formats: Each video is written in all of these.
        fps: Frames per second of each video.
        heads: What each video begins with, uint8 (t, height, width, 3).

    Yields the number of frames that have arrived, after every clip.
    """
    clips = iter(clips)
    first = next(clips)
    heads = heads or [first[0, :0]] * len(paths)
    height, width = first.shape[2:4]
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        writers = []
        for path, head, rate in zip(paths, heads, fps, strict=True):
            sizes = {"frames": len(head) + frames, "height": height, "width": width}
            writers.append(
                [stack.enter_context(VideoWriter(video_path(path, name), name, fps=rate, **sizes)) for name in formats]
            )

        def write(videos):
            for video, targets in zip(videos, writers, strict=False):
                for writer in targets:
                    writer.write(video)

        done = 0
        writing = pool.submit(write, heads)
        for clip in itertools.chain([first], clips):
            writing.result()
            writing = pool.submit(write, clip)
            done += clip.shape[1]
            yield done
        writing.result()


def write_whole(path: Path, video: np.ndarray, *, formats: Sequence[str], fps: float) -> None:
    """Writes a whole video (t, height, width, 3) in all formats."""
    for _ in write_clips(iter([video[None]]), [path], frames=len(video), formats=formats, fps=[fps]):
        pass


def write_grid(output: Path, paths: Sequence[Path], *, formats: Sequence[str], fps: float) -> None:
    """Shows the first GRID_VIDEOS of the finished videos at `paths` side by side, as grid.mp4 or .gif and grid.png."""
    most_exact = min(formats, key=("npz", "png", "mp4", "gif").index)
    videos = [first_frames(video_path(path, most_exact), GRID_FRAMES) for path in paths[:GRID_VIDEOS]]
    frames = min(len(video) for video in videos)
    grid = video_grid(enlarge(np.stack([video[:frames] for video in videos])))
    write_for_viewing(output / "grid", grid, formats=formats, fps=fps)
    write_image(output / "grid.png", grid[len(grid) // 2])


def write_for_viewing(path: Path, video: np.ndarray, *, formats: Sequence[str], fps: float) -> None:
    """Writes a whole video as mp4 and gif, whichever of them are among `formats`; as mp4 if neither is."""
    for name in [name for name in formats if name in DEFAULT_FORMATS] or ["mp4"]:
        write_video_or_frames(video_path(path, name), video, fps=fps)


def film_strips(previews: np.ndarray, hold: int) -> np.ndarray:
    """Turns the stages of denoising into a video in which each frame shows one stage.

    Args:
        previews: uint8 (stages, n, t, h, w, 3).
        hold: How many times the last frame is repeated.

    Returns:
        uint8 (stages + hold, H, W, 3), with a row for each video that shows some of its frames.
    """
    frames = previews.shape[2]
    columns = np.linspace(0, frames - 1, min(STRIP_FRAMES, frames)).round().astype(int)
    cells = np.moveaxis(previews[:, :, columns], 0, 2)  # (n, columns, stages, h, w, 3)
    strips = video_grid(enlarge(cells.reshape(-1, *cells.shape[2:])), columns=len(columns))
    return np.concatenate([strips, np.repeat(strips[-1:], hold, axis=0)])
