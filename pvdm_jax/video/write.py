"""Writing videos, whole or a few frames at a time, so that a video never has to be in memory as a whole.

    with VideoWriter(folder / "video.mp4", "mp4", frames=4096, height=64, width=64, fps=8) as writer:
        for clip in clips:
            writer.write(clip)  # uint8 (t, height, width, 3)

A file appears under its name only when all of its frames are written.
"""

import importlib.util
import io
import logging
import pathlib

import numpy as np

from pvdm_jax.config.data import MAX_FPS, MIN_FPS
from pvdm_jax.storage.files import failures_named, remove, temporary_path
from pvdm_jax.video.defaults import DEFAULT_FPS, FORMATS
from pvdm_jax.video.encoders import ENCODERS
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import write_image

STILLS = 4  # frames that are written in place of a video if PyAV is missing


def video_path(path: pathlib.Path, format: str) -> pathlib.Path:
    """The path with the suffix of a format, one of FORMATS; unchanged for the folder of pictures that is "png"."""
    return path if format == "png" else path.with_name(f"{path.name}.{format}")


def write_video(path: str | pathlib.Path, frames: np.ndarray, fps: float = DEFAULT_FPS) -> None:
    """Writes a whole video as .mp4 (plays in browsers) or .gif (loops), by the suffix of `path`. Makes its folder.

    Args:
        path: The file; an older one is replaced once the new one is complete.
        frames: uint8 (t, h, w, 3).
        fps: Frames per second.

    Raises VideoError for another suffix, another kind of array, or a frame rate beyond MIN_FPS .. MAX_FPS.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise VideoError(f"{path}: can't write {suffix or 'a file without a suffix'}; choose .mp4 or .gif")
    _check_frames(frames)
    count, height, width, _ = frames.shape
    with VideoWriter(path, suffix[1:], frames=count, height=height, width=width, fps=fps) as writer:
        writer.write(frames)


def write_video_or_frames(path: str | pathlib.Path, frames: np.ndarray, fps: float = DEFAULT_FPS) -> pathlib.Path:
    """Writes a video for viewing as `write_video` does or, if PyAV is not installed, some of its frames.

    The frames are stacked vertically in a .png file of the same name, so that training on a machine without PyAV still
    produces pictures. Returns the path of the file.
    """
    path = pathlib.Path(path)
    if importlib.util.find_spec("av") is not None:
        write_video(path, frames, fps)
        return path
    _check_frames(frames)
    stills = path.with_suffix(".png")
    logging.warning("PyAV is not installed: %s has frames of what would be %s", stills, path.name)
    chosen = np.linspace(0, len(frames) - 1, min(STILLS, len(frames))).round().astype(int)
    write_image(stills, frames[chosen].reshape(-1, *frames.shape[2:]))
    return stills


def encode_mp4(frames: np.ndarray, fps: float = DEFAULT_FPS) -> bytes:
    """The bytes of an mp4 file of uint8 (t, h, w, 3), for embedding. Raises VideoError as `write_video` does."""
    _check_frames(frames)
    _check_fps(fps)
    count, height, width, _ = frames.shape
    buffer = io.BytesIO()
    encoder = ENCODERS["mp4"](buffer, frames=count, height=height, width=width, fps=fps)
    for frame in frames:
        encoder.write(frame)
    encoder.close()
    return buffer.getvalue()


class VideoWriter:
    """A video file being written. A context manager: leaving it completes the file, or removes it after an error.

    Args:
        path: The file (for png the folder) that appears when the video is complete. Missing parents are made.
        format: One of FORMATS.
        frames: The number of frames that will be written.
        height: Height of the frames, in pixels.
        width: Width of the frames, in pixels.
        fps: Frames per second, for formats with a frame rate.

    Raises VideoError for an unknown format or a frame rate beyond MIN_FPS .. MAX_FPS; on leaving, if fewer frames were
    written than announced.
    """

    def __init__(self, path: pathlib.Path, format: str, *, frames: int, height: int, width: int, fps: float):
        if format not in ENCODERS:
            raise VideoError(f"{path}: can't write {format}; choose from {', '.join(FORMATS)}")
        _check_fps(fps)
        self._path = path
        self._missing = frames
        self._shape = (height, width, 3)
        self._unfinished = temporary_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with failures_named(path):
                make = ENCODERS[format]
                self._encoder = make(self._unfinished, frames=frames, height=height, width=width, fps=fps)
        except BaseException:
            remove(self._unfinished)
            raise

    def write(self, frames: np.ndarray) -> None:
        """Appends uint8 (t, height, width, 3). Raises VideoError for another size, or more frames than announced."""
        if frames.dtype != np.uint8 or frames.shape[1:] != self._shape or len(frames) > self._missing:
            needed = f"uint8 (at most {self._missing}, {', '.join(map(str, self._shape))})"
            raise VideoError(f"{self._path}: frames are {frames.dtype} {frames.shape}; {needed} is needed")
        self._missing -= len(frames)
        with failures_named(self._path):
            for frame in frames:
                self._encoder.write(frame)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            with failures_named(self._path):
                self._encoder.close()
            if kind is None and self._missing > 0:
                raise VideoError(f"{self._path}: {self._missing} frames were announced and never written")
            if kind is None:
                self._unfinished.replace(self._path)
        finally:
            remove(self._unfinished)


def _check_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise VideoError(f"frames are {frames.dtype} {frames.shape}; uint8 (frames, height, width, 3) is needed")


def _check_fps(fps: float) -> None:
    if not MIN_FPS <= fps <= MAX_FPS:
        raise VideoError(f"fps is {fps}; it must lie between {MIN_FPS:g} and {MAX_FPS:g}")
