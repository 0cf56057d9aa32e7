"""The feature space: distances must grow with what is wrong, and real clips must be near each other."""

import numpy as np
import pytest

from pvdm_jax.evaluation import scattering
from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.scattering import FEATURES, MIN_FRAMES, MIN_SIDE, video_features

COUNT = 96


@pytest.fixture(scope="module")
def held_out(real_clips):
    return real_clips(COUNT, 32, "holdout")


@pytest.fixture(scope="module")
def distance(real_clips):
    """distance(clips): from real training clips, in units of the distance of as many real clips of the other split."""
    training = video_features(real_clips(COUNT))
    real = frechet_distance(training, video_features(real_clips(COUNT, 32, "holdout")))
    return lambda clips: frechet_distance(training, video_features(clips)) / real


def test_grows_with_noise_and_blur(distance, held_out, soften):
    noisy = [distance(soften(held_out, noise=sigma)) for sigma in (2, 6, 12, 25)]
    blurred = [distance(soften(held_out, blur=sigma)) for sigma in (0.5, 0.7, 1, 2)]
    for distances in (noisy, blurred):
        assert distances[0] > 1.5 and np.all(np.diff(distances) > 1)


def test_grows_with_shuffled_and_frozen_frames(distance, held_out):
    shuffled, frozen = [1.0], [1.0]
    for count in (8, 16):
        order = np.arange(16)
        order[16 - count :] = np.random.default_rng(0).permutation(order[16 - count :])
        shuffled.append(distance(held_out[:, order]))
        frozen.append(distance(held_out[:, np.minimum(np.arange(16), 16 - count)]))
    assert np.all(np.diff(shuffled) > 2) and np.all(np.diff(frozen) > 10)


def test_grows_with_wrong_colours(distance, held_out):
    grey = held_out.mean(-1, keepdims=True)
    distances = [1.0] + [distance(((1 - a) * held_out + a * grey).astype(np.uint8)) for a in (0.3, 0.6, 1)]
    assert np.all(np.diff(distances) > 0.5)


def test_sees_wrong_speed_and_little_variety(distance, real_clips, held_out):
    assert distance(real_clips(COUNT, 32, "holdout", stride=2)) > 5
    assert distance(held_out[np.arange(COUNT) % 8]) > 2


def test_noise_and_the_mean_are_far_away(distance, held_out, real_clips):
    assert distance(np.random.default_rng(0).integers(0, 256, held_out.shape).astype(np.uint8)) > 100
    mean = real_clips(COUNT).mean((0, 1)).astype(np.uint8)
    assert distance(np.broadcast_to(mean, held_out.shape)) > 100


def test_no_number_dominates(real_clips):
    values = video_features(real_clips(COUNT))
    spread = values.std(0)
    assert values.shape == (COUNT, FEATURES) and values.dtype == np.float32
    assert spread.min() > 0.05 and spread.max() < 1


def test_filters_are_orthonormal_and_blind_to_even_surfaces():
    for filters in scattering._space_filters():
        flat = filters.reshape(-1, scattering.FILTERS)
        np.testing.assert_allclose(flat.T @ flat, np.eye(scattering.FILTERS), atol=1e-6)
        np.testing.assert_allclose(filters.sum((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(scattering.TIME_FILTERS @ scattering.TIME_FILTERS.T, np.eye(3), atol=1e-12)


def test_first_level_against_plain_loops():
    clip = np.random.default_rng(3).integers(0, 256, (1, MIN_FRAMES, MIN_SIDE, MIN_SIDE + 1, 3)).astype(np.uint8)
    values, filters = clip[0] / 127.5 - 1, scattering._space_filters()[0]
    t, h, w = values.shape[:3]
    expected = np.zeros((scattering.FILTERS, 3))
    for f in range(scattering.FILTERS):
        space = np.array(
            [
                [
                    [np.sum(values[k, y : y + 3, x : x + 3] * filters[..., f]) for x in range(w - 2)]
                    for y in range(h - 2)
                ]
                for k in range(t)
            ]
        )
        for g, weights in enumerate(scattering.TIME_FILTERS):
            response = sum(weights[k] * space[k : t - 2 + k] for k in range(3))
            expected[f, g] = np.log2(np.abs(response).mean() + scattering.GREY_LEVEL)
    np.testing.assert_allclose(video_features(clip)[0, : expected.size], expected.ravel(), atol=1e-4)


def test_batches_change_nothing(real_clips):
    clips = real_clips(7)
    np.testing.assert_allclose(video_features(clips, batch_size=3), video_features(clips), atol=1e-5)
    assert video_features(clips[:0]).shape == (0, FEATURES)


@pytest.mark.parametrize("frames, height, width", [(MIN_FRAMES, MIN_SIDE, MIN_SIDE), (8, 19, 30), (12, 18, 64)])
def test_other_sizes(frames, height, width):
    clips = np.random.default_rng(0).integers(0, 256, (2, frames, height, width, 3)).astype(np.uint8)
    assert np.isfinite(video_features(clips, batch_size=2)).all()


def test_refuses():
    with pytest.raises(ValueError, match=f"at least {MIN_FRAMES} frames of {MIN_SIDE} x {MIN_SIDE}"):
        video_features(np.zeros((1, MIN_FRAMES - 1, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="clips have 16 frames of 32 x 17"):
        video_features(np.zeros((1, 16, 32, 17, 3), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        video_features(np.zeros((1, 16, 32, 32, 3), np.float32))
