"""Which frames and which pixels of a video become a clip.

Time: a clip of n frames, every stride-th, stands for a span of n * stride frames, so that the next clip starts just
where it ends. The end of each video can be kept out of training. Space: the largest centred window with the clip's
aspect ratio, resized.
"""

import math

import numpy as np

METHODS = ("antialias", "bilinear")


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


def center_window(height: int, width: int, target_height: int, target_width: int) -> tuple[slice, slice]:
    """Rows and columns of the largest centred window with the target's aspect ratio, to the nearest pixel."""
    if height * target_width > width * target_height:
        rows, columns = max(1, round(width * target_height / target_width)), width
    else:
        rows, columns = height, max(1, round(height * target_width / target_height))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def center_crop_resize(video: np.ndarray, height: int, width: int, method: str = "antialias") -> np.ndarray:
    """Crops uint8 (t, h, w, 3) to the largest centred window of the target's aspect ratio and resizes it.

    "antialias" averages over the area that a target pixel covers (Pillow's bilinear filter), "bilinear" takes the four
    nearest pixels whatever the scale, as the official code does. Returns uint8 (t, height, width, 3).
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    rows, columns = center_window(*video.shape[1:3], height, width)
    video = video[:, rows, columns]
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
