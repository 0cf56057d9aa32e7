"""PSNR, SSIM and gradient energy against their formulas, and the floor that a still picture sets."""

import numpy as np
import pytest
from scipy import ndimage

from pvdm_jax.evaluation import reconstruction
from pvdm_jax.evaluation.reconstruction import MAX_PSNR, gradient_energy_ratio, psnr, ssim, still_psnr


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


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """One clip, in float64, with scipy's filters."""

    def smooth(x):
        full = ndimage.gaussian_filter(x, (0, 1.5, 1.5, 0), truncate=3.5)  # 11 pixels
        return full[:, 5:-5, 5:-5]

    a, b = a.astype(np.float64), b.astype(np.float64)
    x, y, c1, c2 = smooth(a), smooth(b), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    cross, squares = smooth(a * b) - x * y, smooth(a * a) - x * x + smooth(b * b) - y * y
    return float(np.mean((2 * x * y + c1) * (2 * cross + c2) / ((x * x + y * y + c1) * (squares + c2))))


@pytest.mark.parametrize("values_at_a_time", [2**22, 5 * 24 * 32 * 3])
def test_ssim_is_its_formula(real_clips, soften, values_at_a_time, monkeypatch):
    monkeypatch.setattr(reconstruction, "_FRAMES_AT_A_TIME", values_at_a_time)
    clips = real_clips(3)[:, :, :24]
    for other in (soften(clips, blur=1), soften(clips, noise=20), 255 - clips):
        expected = [plain_ssim(a, b) for a, b in zip(clips, other, strict=True)]
        np.testing.assert_allclose(ssim(clips, other), expected, atol=1e-5)
    assert ssim(clips[0], clips[1]) == pytest.approx(plain_ssim(clips[0], clips[1]), abs=1e-5)
    np.testing.assert_allclose(ssim(clips, clips), np.ones(3), atol=1e-6)


def test_ssim_of_even_pictures_is_the_luminance_term():
    a, b = np.full((2, 12, 11, 3), 250, np.uint8), np.full((2, 12, 11, 3), 100, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 250 * 100 + c1) / (250**2 + 100**2 + c1), abs=1e-4)


def test_gradient_energy(real_clips, soften):
    clips = real_clips(3)
    halves = (clips // 2) * 2  # even numbers, so that half of them is exact
    np.testing.assert_allclose(gradient_energy_ratio(halves, halves // 2), np.full(3, 0.25))
    np.testing.assert_allclose(gradient_energy_ratio(clips, clips), np.ones(3))
    assert np.all(gradient_energy_ratio(clips, soften(clips, blur=1)) < 0.6)
    assert np.all(gradient_energy_ratio(clips, soften(clips, noise=20)) > 1.1)
    even = np.zeros((2, 12, 12, 3), np.uint8)
    step = even.copy()
    step[:, 3] = 9
    assert gradient_energy_ratio(even, even) == 1 and gradient_energy_ratio(even, step) == np.inf
    assert gradient_energy_ratio(step, even) == 0


def test_refuses():
    video = np.zeros((2, 4, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"reconstruction has shape \(1, 4, 8, 8, 3\)"):
        psnr(video, video[:1])
    with pytest.raises(ValueError, match="float32"):
        psnr(video, video.astype(np.float32))
    with pytest.raises(ValueError, match=r"video is uint8 \(8, 8, 3\)"):
        still_psnr(video[0, 0])
    with pytest.raises(ValueError, match="frames are 8 x 8; SSIM needs at least 11 x 11"):
        ssim(video, video)
    with pytest.raises(ValueError, match="reconstruction has shape"):
        ssim(video, video[:1])
    with pytest.raises(ValueError, match="float32"):
        gradient_energy_ratio(video, video.astype(np.float32))
