"""Which frames and which pixels of a video become a clip.

Time: a clip of n frames, every stride-th, stands for a span of n * stride frames, so that the next clip starts just
where it ends. The end of each video can be kept out of training. Space: the largest centred window with the clip's
aspect ratio, resized; or, to make much of few videos, a random smaller one.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

METHODS = ("antialias", "bilinear")


@dataclasses.dataclass(frozen=True)
class Crop:
    """A window that isn't the largest centred one, the same for all frames of a clip."""

    scale: float  # its side, as a part of the largest window's
    row: float  # where it lies in the room that is left: 0 at the top, 1 at the bottom
    column: float  # 0 at the left, 1 at the right


def random_crop(rng: np.random.Generator, smallest: float) -> Crop | None:
    """A crop of at least `smallest` of the largest window's side, anywhere in the frame; None where `smallest` is 1."""
    return Crop(float(rng.uniform(smallest, 1)), *rng.random(2).tolist()) if smallest < 1 else None


def clip_span(clip_frames: int, stride: int) -> int:
    """Frames of the video that a clip stands for."""
    return clip_frames * stride


def train_range(frames: int, span: int, holdout: float) -> int:
    """How many of a video's `frames` are for training, counted from its start; the rest is held out.

    The held-out tail is the fraction `holdout`, at least one clip (`span` frames) and at most what leaves one clip for
    training. There is none where `holdout` is 0 or the video is shorter than two clips.
    """
    if holdout == 0 or frames < 2 * span:
        return frames
    return frames - min(max(span, math.ceil(holdout * frames)), frames - span)


def resample(frames: int, fps: float, target: float) -> Sequence[int]:
    """The frame numbers, of a video of `frames` frames at `fps`, that show it at `target` frames per second.

    Frame k of the result is the frame nearest to the time k / target. Faster than the video plays, frames repeat.
    """
    if fps == target:
        return range(frames)
    count = int((frames - 1) * target / fps + 1e-6) + 1
    return np.minimum(np.floor(np.arange(count) * (fps / target) + 0.5), frames - 1).astype(np.int32)


def lengthen(places: Sequence[int], clip_frames: int, stride: int, policy: str) -> Sequence[int]:
    """What to do with a video that is shorter than a clip: frame numbers that are enough for one, or none.

    "skip" leaves it out. "loop" repeats it from its start, up to two clips, so that one follows the other. "pad" holds
    its last frame, up to one clip, which has none before it. Longer videos stay as they are.
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
    """Crops uint8 (t, h, w, 3) to the largest centred window of the target's aspect ratio and resizes it.

    "antialias" averages over the area that a target pixel covers (Pillow's bilinear filter), "bilinear" takes the four
    nearest pixels whatever the scale, as the official code does. With `crop` the window is that one. Returns uint8
    (t, height, width, 3).
    """
    size = video.shape[1:3]
    window = crop_window(*size, height, width, crop) if crop else center_window(*size, height, width)
    return resize(video[:, window[0], window[1]], height, width, method)


def shrunk_size(height: int, width: int, target_height: int, target_width: int, smallest: float) -> tuple[int, int]:
    """The size of whole frames in which a crop of scale `smallest` just has the target's size; never a larger one."""
    rows, columns = center_window(height, width, target_height, target_width)
    factor = max(target_height / (rows.stop - rows.start), target_width / (columns.stop - columns.start)) / smallest
    return (height, width) if factor >= 1 else (math.ceil(factor * height), math.ceil(factor * width))


def resize(video: np.ndarray, height: int, width: int, method: str = "antialias") -> np.ndarray:
    """uint8 (t, h, w, 3) to (t, height, width, 3); the methods are those of `center_crop_resize`."""
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

    Pixel centres lie at halves and the edge is repeated: PyTorch's interpolate(align_corners=False).
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
