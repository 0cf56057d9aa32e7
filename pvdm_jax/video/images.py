"""Single pictures: decoded from any common format, written as png or jpeg. Uses Pillow."""

import io
import pathlib
import struct

import numpy as np

from pvdm_jax.storage.files import write_bytes
from pvdm_jax.video.errors import VideoError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")  # of the pictures in folders of frames


def decode_image(data: bytes, name: str = "the picture") -> np.ndarray:
    """Decodes the bytes of a picture file to uint8 (height, width, 3). Raises VideoError if that is not possible."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "it is empty" if not data else f"it can't be decoded ({str(error).splitlines()[0]})"
        raise VideoError(f"{name}: {reason}") from error


def encode_png(frame: np.ndarray) -> bytes:
    """The bytes of a png file of uint8 (h, w, 3)."""
    return _encode(frame, format="png")


def encode_jpeg(frame: np.ndarray, quality: int = 95) -> bytes:
    """The bytes of a jpeg file of uint8 (h, w, 3)."""
    return _encode(frame, format="jpeg", quality=quality)


def write_image(path: str | pathlib.Path, frame: np.ndarray) -> None:
    """Writes uint8 (h, w, 3) as png. Raises VideoError for another suffix or another kind of array."""
    path = pathlib.Path(path)
    if path.suffix.lower() != ".png":
        raise VideoError(f"{path}: can't write {path.suffix or 'a file without a suffix'}; choose .png")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or 0 in frame.shape:
        raise VideoError(f"{path}: the picture is {frame.dtype} {frame.shape}; uint8 (height, width, 3) is needed")
    write_bytes(path, encode_png(frame))


def _encode(frame: np.ndarray, **options) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, **options)
    return buffer.getvalue()
