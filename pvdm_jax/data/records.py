"""How a dataset's records store a video: as its file's bytes, as pictures, or as plain frames.

    file      one record: the bytes of the avi, mp4, ... file; decoding starts at the last key frame before a window
    pictures  records of PIECE_FRAMES frames: png or jpg files, one after the other; each can be decoded by itself
    array     records of PIECE_FRAMES frames: uint8 (frames, height, width, 3) in C order

A record of pictures begins with the number n of pictures and n + 1 offsets of their bytes, as little-endian uint64.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import decode_image
from pvdm_jax.video.read import decode_frames

PIECE_FRAMES = 16


@contextlib.contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turns errors of reading a record of the video `name` into VideoError: damage makes readers raise anything.

    ArrayRecord has checksums, so no damage goes unnoticed.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise VideoError(f"{name}: its record is damaged ({reason})") from error


def pack_pictures(pictures: Sequence[bytes]) -> bytes:
    """One record from the bytes of several picture files."""
    header = 8 * (len(pictures) + 2)
    offsets = np.cumsum([header, *(len(picture) for picture in pictures)])
    return np.array([len(pictures), *offsets], "<u8").tobytes() + b"".join(pictures)


def unpack_pictures(data: bytes, numbers: Sequence[int], name: str) -> list[bytes]:
    """The pictures `numbers` of a record of the video `name`. Raises VideoError if the record is incomplete."""
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
    """The frames `numbers` of a video, each transformed by `transform` (h, w, 3) -> (h', w', 3), stacked.

    load: gives the bytes of record number 0, 1, ... of the video. stored: "file", "pictures" or "array". shape: the
    video's frames, height and width. name: the video's name, for messages. Raises VideoError if the video can't be
    decoded.
    """
    if stored == "file":
        return decode_frames(load(0), numbers, name, transform, total=shape[0])
    decoded: dict[int, np.ndarray] = {}
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
            decoded[number] = transform(frame)
    return np.stack([decoded[number] for number in numbers])
