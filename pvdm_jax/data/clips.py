"""Which frames and which pixels of a video become a clip.

Time: a clip of n frames, taken every `stride` frames, spans n * stride frames, and the next clip starts where it ends.
The end of each video can be held out from training. Space: a clip is the largest centred window with its aspect ratio,
resized, or a random smaller window, which gets more clips out of few videos.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

METHODS = ("antialias", "bilinear")


@dataclasses.dataclass(frozen=True)
class Crop:
    """A window of the frame, the same for all frames of a clip."""

    scale: float  # its side, as a fraction of the largest window's
    row: float  # its place in the remaining space: 0 at the top, 1 at the bottom
    column: float  # 0 at the left, 1 at the right


def random_crop(rng: np.random.Generator, smallest: float) -> Crop | None:
    """A crop of scale `smallest` to 1, anywhere in the frame; None (the largest centred window) if `smallest` is 1."""
    if smallest >= 1:
        return None
    scale = float(rng.uniform(smallest, 1))
    row, column = rng.random(2).tolist()
    return Crop(scale, row, column)


def clip_span(clip_frames: int, stride: int) -> int:
    """The number of a video's frames that a clip spans."""
    return clip_frames * stride


def check_frames(name: str, frames: int, start: int, count: int, stride: int) -> None:
    """Raises ValueError unless a video of `frames` frames has `count` frames, every `stride`-th from `start` on."""
    if count < 1 or stride < 1 or start < 0 or start + (count - 1) * stride >= frames:
        raise ValueError(f"{name} has {frames} frames; {count} of them from {start} on, every {stride}, don't exist")


def train_range(frames: int, span: int, holdout: float) -> int:
    """How many of a video's `frames`, from its start, are for training; the rest is held out.

    The held-out end is the fraction `holdout` of the video, but at least one clip (`span` frames), and it leaves at
    least one clip for training. It is empty if `holdout` is 0 or the video is shorter than two clips.
    """
    if holdout == 0 or frames < 2 * span:
        return frames
    return frames - min(max(span, math.ceil(holdout * frames)), frames - span)


def resample(frames: int, fps: float, target: float, times: Sequence[float] | None = None) -> Sequence[int]:
    """The frame numbers that show a video of `frames` frames at `fps` at the rate of `target` frames per second.

    Frame k of the result is the frame nearest to the time k / target. If `target` is above `fps`, frames repeat.
    times: when each frame is shown, in seconds from the first; None: frame i at i / fps.
    """
    if times is None:
        if fps == target:
            return range(frames)
        count = int((frames - 1) * target / fps + 1e-6) + 1
        return np.minimum(np.floor(np.arange(count) * (fps / target) + 0.5), frames - 1).astype(np.int32)
    shown = np.asarray(times, np.float64)
    wanted = np.arange(int(shown[-1] * target + 1e-6) + 1) / target
    # Frame i is the nearest one from the midpoint between the previous frame and it.
    return np.searchsorted((shown[1:] + shown[:-1]) / 2, wanted, side="right").astype(np.int32)


def lengthen(places: Sequence[int], clip_frames: int, stride: int, policy: str) -> Sequence[int]:
    """The frame numbers `places` of a video, extended to a clip if they are fewer.

    policy: "skip" returns none. "loop" repeats the video from its start to the length of two clips, so that one has a
    previous clip. "pad" repeats the last frame to the length of one clip. Longer videos are returned unchanged.
    """
    span = clip_span(clip_frames, stride)
    if len(places) >= span:
        return places
    if policy == "skip" or len(places) == 0:
        return ()
    numbers = np.arange(2 * span if policy == "loop" else span)
    numbers = numbers % len(places) if policy == "loop" else np.minimum(numbers, len(places) - 1)
    return np.asarray(places, np.int32)[numbers]


def center_window(height: int, width: int, target_height: int, target_width: int) -> tuple[slice, slice]:
    """Rows and columns of the largest centred window with the target's aspect ratio, to the nearest pixel."""
    if height * target_width > width * target_height:
        rows, columns = max(1, round(width * target_height / target_width)), width
    else:
        rows, columns = height, max(1, round(height * target_width / target_height))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def crop_window(height: int, width: int, target_height: int, target_width: int, crop: Crop) -> tuple[slice, slice]:
    """Rows and columns of `crop`, a window with the target's aspect ratio, to the nearest pixel."""
    largest = center_window(height, width, target_height, target_width)
    rows, columns = (max(1, round(crop.scale * (side.stop - side.start))) for side in largest)
    top, left = round(crop.row * (height - rows)), round(crop.column * (width - columns))
    return slice(top, top + rows), slice(left, left + columns)


def center_crop_resize(
    video: np.ndarray, height: int, width: int, method: str = "antialias", crop: Crop | None = None
) -> np.ndarray:
    """Crops uint8 (t, h, w, 3) to `crop`, or the largest centred window of the target's aspect ratio, and resizes it.

    method: "antialias" averages over the area of each target pixel (Pillow's bilinear filter); "bilinear" interpolates
    between the four nearest pixels at every scale, as the official code does. Returns uint8 (t, height, width, 3).
    """
    size = video.shape[1:3]
    window = crop_window(*size, height, width, crop) if crop else center_window(*size, height, width)
    return resize(video[:, window[0], window[1]], height, width, method)


def shrunk_size(height: int, width: int, target_height: int, target_width: int, smallest: float) -> tuple[int, int]:
    """The size of whole frames in which a crop of scale `smallest` has the target's size; at most their own size."""
    rows, columns = center_window(height, width, target_height, target_width)
    factor = max(target_height / (rows.stop - rows.start), target_width / (columns.stop - columns.start)) / smallest
    return (height, width) if factor >= 1 else (math.ceil(factor * height), math.ceil(factor * width))


def resize(video: np.ndarray, height: int, width: int, method: str = "antialias") -> np.ndarray:
    """Resizes uint8 (t, h, w, 3) to (t, height, width, 3); `method` as in `center_crop_resize`."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    if video.shape[1:3] == (height, width):
        return np.ascontiguousarray(video)
    if method == "bilinear":
        return np.rint(resize_bilinear(video.astype(np.float32), height, width)).astype(np.uint8)
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    frames = [Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), bilinear) for frame in video]
    return np.stack([np.asarray(frame) for frame in frames])


def resize_bilinear(video: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation of float (t, h, w, c) to (t, height, width, c), without antialiasing.

    Pixel centres lie at half-integers and the edges repeat, as in PyTorch's interpolate(align_corners=False).
    """
    low, high, weight = _neighbours(video.shape[1], height)
    weight = weight[:, None, None].astype(video.dtype)
    video = video[:, low] * (1 - weight) + video[:, high] * weight
    low, high, weight = _neighbours(video.shape[2], width)
    weight = weight[:, None].astype(video.dtype)
    return video[:, :, low] * (1 - weight) + video[:, :, high] * weight


def _neighbours(size: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `target` positions along an axis of `size` pixels: the two neighbours and the second one's weight."""
    place = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, size - 1), place - low
