"""PSNR against its formula, and the floor that a still picture sets."""

import numpy as np
import pytest

from pvdm_jax.evaluation.reconstruction import MAX_PSNR, psnr, still_psnr


def test_psnr_of_known_errors():
    video = np.full((3, 4, 8, 8, 3), 100, np.uint8)
    other = video.copy()
    other[1] = 90
    other[2, :2] = 120
    expected = [MAX_PSNR, 20 * np.log10(255 / 10), 20 * np.log10(255 / np.sqrt(0.5 * 20**2))]
    np.testing.assert_allclose(psnr(video, other), expected)
    assert psnr(video[1], other[1]) == pytest.approx(expected[1])


def test_nothing_is_lost_where_uint8_would_wrap():
    black, white = np.zeros((1, 2, 4, 4, 3), np.uint8), np.full((1, 2, 4, 4, 3), 255, np.uint8)
    np.testing.assert_allclose(psnr(black, white), [0.0], atol=1e-9)


def test_still_psnr():
    still = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8, 3)).astype(np.uint8).repeat(6, 1)
    half = still.copy()
    half[:, 3:] = 255 - still[:, 3:]
    error = np.mean((127.5 - still[0, 0].astype(float)) ** 2)
    np.testing.assert_allclose(still_psnr(np.concatenate([still, half])), [MAX_PSNR, 10 * np.log10(255**2 / error)])


def test_no_still_is_better_than_the_mean(real_clips):
    clips = real_clips(6)
    first_frame = np.broadcast_to(clips[:, :1], clips.shape)
    assert np.all(still_psnr(clips) > psnr(clips, first_frame))


def test_refuses():
    video = np.zeros((2, 4, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"reconstruction has shape \(1, 4, 8, 8, 3\)"):
        psnr(video, video[:1])
    with pytest.raises(ValueError, match="float32"):
        psnr(video, video.astype(np.float32))
    with pytest.raises(ValueError, match=r"video is uint8 \(8, 8, 3\)"):
        still_psnr(video[0, 0])
