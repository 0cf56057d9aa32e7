"""Videos side by side, and small ones enlarged."""

import numpy as np

from pvdm_jax.video.grid import enlarge, upscale, video_grid


def test_grid_puts_videos_in_rows():
    videos = np.stack([np.full((2, 3, 4, 3), value, np.uint8) for value in (10, 20, 30)])
    grid = video_grid(videos, columns=2, padding=1)
    assert grid.shape == (2, 7, 9, 3)
    expected = np.full((7, 9), 255)
    expected[:3, :4], expected[:3, 5:], expected[4:, :4] = 10, 20, 30
    np.testing.assert_array_equal(grid, np.broadcast_to(expected[None, :, :, None], grid.shape))


def test_upscale_repeats_pixels():
    frame = np.arange(6, dtype=np.uint8).reshape(1, 2, 1, 3)
    assert upscale(frame, 2)[..., 0].tolist() == [[[0, 0], [0, 0], [3, 3], [3, 3]]]


def test_a_grid_is_about_square_by_default():
    assert video_grid(np.zeros((7, 1, 4, 4, 3), np.uint8), padding=0).shape == (1, 12, 12, 3)


def test_small_videos_are_enlarged_and_large_ones_stay():
    assert enlarge(np.zeros((2, 5, 30, 60, 3), np.uint8)).shape == (2, 5, 150, 300, 3)
    assert enlarge(np.zeros((5, 200, 128, 3), np.uint8)).shape == (5, 200, 128, 3)
