"""Pictures, written and decoded."""

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
