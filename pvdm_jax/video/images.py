"""Single pictures: decoded from any common format, written as png or jpeg. Uses Pillow."""

import io
import pathlib

import numpy as np

from pvdm_jax.storage.files import write_bytes
from pvdm_jax.video.errors import VideoError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")  # of the pictures in folders of frames
# The formats that are decoded, whatever a file's suffix. Some of Pillow's other formats run programs, such as EPS.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def decode_image(data: bytes, name: str = "the picture") -> np.ndarray:
    """Decodes the bytes of a picture file to uint8 (height, width, 3), rotated as its EXIF data say.

    Grey pictures of 16 bits are scaled to 8. Raises VideoError if the picture can't be decoded.
    """
    from PIL import Image, ImageOps

    if not data:
        raise VideoError(f"{name}: it is empty")
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
                image = Image.fromarray(np.rint(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # damaged files make Pillow raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise VideoError(f"{name}: it can't be decoded ({reason})") from error


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
