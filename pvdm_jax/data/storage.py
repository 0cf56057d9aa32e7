"""How a video lies in a dataset's records: as its file's own bytes, as pictures, or as plain frames.

    file      one record: the bytes of the avi, mp4, ... file; decoding starts at the last key frame before a window
    pictures  records of PIECE_FRAMES frames: png or jpg files one after the other, each of which can be decoded alone
    array     records of PIECE_FRAMES frames: uint8 (frames, height, width, 3) in C order

A record of pictures begins with the number n of pictures and n + 1 offsets of their bytes, as little-endian uint64.
"""

from collections.abc import Callable, Sequence

import numpy as np

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import decode_image
from pvdm_jax.video.read import decode_frames

FORMATS = ("file", "pictures", "array")
PIECE_FRAMES = 16


def pack_pictures(pictures: Sequence[bytes]) -> bytes:
    """The bytes of several picture files as one record."""
    header = 8 * (len(pictures) + 2)
    offsets = np.cumsum([header, *(len(picture) for picture in pictures)])
    return np.array([len(pictures), *offsets], "<u8").tobytes() + b"".join(pictures)


def unpack_pictures(data: bytes, numbers: Sequence[int], name: str) -> list[bytes]:
    """Those of a record's pictures that `numbers` names. Raises VideoError for a record that is cut off."""
    count = int.from_bytes(data[:8], "little")
    if len(data) < 8 * (count + 2):
        raise VideoError(f"{name}: its record is damaged")
    offsets = np.frombuffer(data, "<u8", count + 1, offset=8)
    if offsets[-1] != len(data):
        raise VideoError(f"{name}: its record is damaged")
    return [data[offsets[number] : offsets[number + 1]] for number in numbers]


def read_frames(
    load: Callable[[int], bytes],
    stored: str,
    shape: tuple[int, int, int],
    numbers: Sequence[int],
    name: str,
    transform: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """The frames `numbers` of a video, each after `transform` (h, w, 3) -> (h', w', 3), stacked.

    load: the bytes of the video's record 0, 1, ...; stored: one of FORMATS; shape: frames, height and width of the
    video. Raises VideoError where it can't be decoded.
    """
    if stored == "file":
        return decode_frames(load(0), numbers, name, transform)
    made: dict[int, np.ndarray] = {}
    wanted = sorted(set(numbers))
    for piece in sorted({number // PIECE_FRAMES for number in wanted}):
        first = piece * PIECE_FRAMES
        inside = [number for number in wanted if first <= number < first + PIECE_FRAMES]
        data = load(piece)
        if stored == "pictures":
            pictures = unpack_pictures(data, [number - first for number in inside], name)
            frames = (decode_image(picture, name) for picture in pictures)
        else:
            if len(data) != min(PIECE_FRAMES, shape[0] - first) * shape[1] * shape[2] * 3:
                raise VideoError(f"{name}: its record is damaged")
            frames = np.frombuffer(data, np.uint8).reshape(-1, *shape[1:], 3)[[n - first for n in inside]]
        for number, frame in zip(inside, frames, strict=True):
            if frame.shape[:2] != tuple(shape[1:]):
                raise VideoError(f"{name}: its frames change their size")
            made[number] = transform(frame)
    return np.stack([made[number] for number in numbers])
