"""Pictures, written and decoded."""

import io

import numpy as np
import pytest

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import decode_image, encode_jpeg, write_image


def test_a_png_is_exact(moving, tmp_path):
    frame = moving(1)[0]
    write_image(tmp_path / "a.png", frame)
    np.testing.assert_array_equal(decode_image((tmp_path / "a.png").read_bytes()), frame)


def test_pictures_are_decoded_to_rgb(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    write_image(tmp_path / "a.png", frame)
    np.testing.assert_array_equal(decode_image((tmp_path / "a.png").read_bytes()), frame)
    flat = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    assert np.abs(decode_image(encode_jpeg(flat)).astype(int) - flat).max() <= 3
    for data, reason in ((b"", "it is empty"), (b"no picture", "it can't be decoded")):
        with pytest.raises(VideoError, match=f"p: {reason}"):
            decode_image(data, "p")


def test_what_is_no_picture_is_refused(moving, tmp_path):
    with pytest.raises(VideoError, match="can't write .jpg; choose .png"):
        write_image(tmp_path / "a.jpg", moving(1)[0])
    with pytest.raises(VideoError, match=r"float64 \(48, 64, 3\); uint8"):
        write_image(tmp_path / "a.png", moving(1)[0] / 2)
    assert not list(tmp_path.iterdir())


def test_grey_pictures_of_16_bits_are_scaled():
    from PIL import Image

    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    for kind in ("png", "ppm"):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, format=kind)
        np.testing.assert_array_equal(decode_image(buffer.getvalue())[..., 1], [[0, 1, 128, 255]])


def test_pictures_are_turned_as_their_camera_says(moving):
    from PIL import Image

    frame = moving(1, 32, 48)[0]
    for orientation, expected in ((6, np.rot90(frame, -1)), (3, frame[::-1, ::-1]), (2, frame[:, ::-1])):
        exif = Image.Exif()
        exif[0x112] = orientation
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="png", exif=exif)
        np.testing.assert_array_equal(decode_image(buffer.getvalue()), expected)


def test_no_picture_runs_a_program():
    """Pillow decodes PostScript by starting Ghostscript."""
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    with pytest.raises(VideoError, match="p.png: it can't be decoded"):
        decode_image(data, "p.png")
