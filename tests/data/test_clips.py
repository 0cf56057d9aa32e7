"""Which frames and pixels become a clip, against the official code's numbers and simple cases."""

import numpy as np
import pytest

from pvdm_jax.data.clips import (
    Crop,
    center_crop_resize,
    center_window,
    crop_window,
    lengthen,
    random_crop,
    resample,
    resize_bilinear,
    shrunk_size,
    train_range,
)


def test_bilinear_agrees_with_the_official_crop_and_resize(reference, recipe):
    info, expected = reference("resize_crop")
    assert len(expected) == 4
    for name, frames in expected.items():
        source, size = name.removeprefix("crop_").split("_to_")
        height, width = (int(side) for side in source.split("x"))
        video = np.rint((recipe.video(4, height, width, info["seed"])[0] + 1) * 127.5).astype(np.float32)
        rows, columns = center_window(height, width, 1, 1)
        size = int(size)
        mine = resize_bilinear(video[:, rows, columns], size, size)
        step = size // 32
        np.testing.assert_allclose(mine[[0, 3], ::step, ::step], frames, rtol=1e-5, atol=1e-3)
        rounded = center_crop_resize(video.astype(np.uint8), size, size, "bilinear")
        assert rounded.dtype == np.uint8
        np.testing.assert_allclose(rounded[[0, 3], ::step, ::step], frames, atol=0.501)


@pytest.mark.parametrize(
    ("size", "target", "rows", "columns"),
    [
        ((240, 320), (64, 64), (0, 240), (40, 280)),
        ((320, 240), (64, 64), (40, 280), (0, 240)),
        ((100, 100), (32, 64), (25, 75), (0, 100)),
        ((90, 160), (90, 160), (0, 90), (0, 160)),
        ((101, 100), (50, 50), (0, 100), (0, 100)),
        ((1, 300), (8, 8), (0, 1), (149, 150)),
    ],
)
def test_window_is_the_largest_centred_one_of_the_aspect_ratio(size, target, rows, columns):
    assert center_window(*size, *target) == (slice(*rows), slice(*columns))


@pytest.mark.parametrize("method", ["antialias", "bilinear"])
def test_resizing_keeps_flat_colours_and_the_wanted_shape(method):
    video = np.broadcast_to(np.array([10, 128, 250], np.uint8), (2, 45, 80, 3))
    made = center_crop_resize(video, 24, 16, method)
    assert made.shape == (2, 24, 16, 3)
    np.testing.assert_array_equal(made, np.broadcast_to(video[0, 0, 0], made.shape))


def test_only_antialias_averages_over_the_area():
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::4] = 255
    stripes[:, :, 3::4] = 255
    smooth = center_crop_resize(stripes, 8, 8, "antialias")[:, 2:-2, 2:-2].astype(float)
    np.testing.assert_allclose(smooth, 127.5, atol=8)
    rough = center_crop_resize(stripes, 8, 8, "bilinear").astype(float)
    assert np.abs(rough - 127.5).max() > 100


def test_a_fitting_video_is_left_as_it_is():
    video = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(center_crop_resize(video, 16, 16), video)


@pytest.mark.parametrize(
    ("crop", "rows", "columns"),
    [
        (Crop(1.0, 0.0, 0.0), (0, 240), (0, 240)),
        (Crop(1.0, 0.5, 0.5), (0, 240), (40, 280)),  # the largest centred window
        (Crop(0.5, 0.0, 1.0), (0, 120), (200, 320)),
        (Crop(0.5, 1.0, 0.25), (120, 240), (50, 170)),
    ],
)
def test_crops_lie_where_they_say(crop, rows, columns):
    assert crop_window(240, 320, 64, 64, crop) == (slice(*rows), slice(*columns))
    video = np.random.default_rng(0).integers(0, 256, (2, 240, 320, 3), np.uint8)
    expected = center_crop_resize(video[:, slice(*rows), slice(*columns)], 64, 64)
    np.testing.assert_array_equal(center_crop_resize(video, 64, 64, crop=crop), expected)


def test_random_crops_have_all_allowed_sizes_and_places():
    crops = [random_crop(np.random.default_rng([0, i]), 0.6) for i in range(500)]
    for values, low in (([c.scale for c in crops], 0.6), ([c.row for c in crops], 0), ([c.column for c in crops], 0)):
        assert low <= min(values) < low + 0.02 and 0.98 < max(values) <= 1
    assert random_crop(np.random.default_rng(0), 1.0) is None


def test_shrunk_frames_still_have_the_pixels_of_the_smallest_crop():
    assert shrunk_size(240, 320, 60, 60, 0.5) == (120, 160)
    assert shrunk_size(240, 320, 60, 60, 0.2) == (240, 320)  # never larger
    height, width = shrunk_size(301, 517, 64, 96, 0.7)
    rows, columns = crop_window(height, width, 64, 96, Crop(0.7, 0, 0))
    assert rows.stop in (64, 65) and columns.stop in (96, 97)


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method is 'cubic'; choose one of antialias, bilinear"):
        center_crop_resize(np.zeros((1, 8, 8, 3), np.uint8), 4, 4, "cubic")


@pytest.mark.parametrize(
    ("frames", "span", "holdout", "expected"),
    [
        (100, 16, 0.15, 84),  # the tail is at least one clip
        (200, 16, 0.15, 170),
        (201, 16, 0.15, 170),  # 30.15 frames, rounded up
        (32, 16, 0.15, 16),
        (31, 16, 0.15, 31),  # shorter than two clips: no tail
        (100, 16, 0.99, 16),  # one clip stays for training
        (100, 16, 0.0, 100),
    ],
)
def test_train_range(frames, span, holdout, expected):
    assert train_range(frames, span, holdout) == expected


@pytest.mark.parametrize(
    ("frames", "fps", "target", "expected"),
    [
        (10, 30.0, 10.0, [0, 3, 6, 9]),
        (9, 30.0, 10.0, [0, 3, 6]),
        (10, 25.0, 10.0, [0, 3, 5, 8]),  # at 0, 2.5, 5 and 7.5 frames
        (3, 10.0, 20.0, [0, 1, 1, 2, 2]),  # faster than it plays: frames repeat
        (4, 24.0, 24.0, [0, 1, 2, 3]),
    ],
)
def test_resampling_takes_the_nearest_frames(frames, fps, target, expected):
    assert list(resample(frames, fps, target)) == expected


def test_short_videos_are_left_out_repeated_or_held():
    places = range(3, 6)
    assert list(lengthen(places, 2, 2, "skip")) == []
    assert list(lengthen(places, 2, 2, "loop")) == [3, 4, 5, 3, 4, 5, 3, 4]  # two clips of 4 frames
    assert list(lengthen(places, 2, 2, "pad")) == [3, 4, 5, 5]  # one, so that none lies before it
    for policy in ("skip", "loop", "pad"):
        assert list(lengthen(range(4), 2, 2, policy)) == [0, 1, 2, 3]
        assert list(lengthen(range(0), 2, 2, policy)) == []
