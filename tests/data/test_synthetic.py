"""The synthetic videos move as their class says, and their truth is what the pixels show."""

import itertools

import numpy as np
import pytest

from pvdm_jax.data.clips import Crop
from pvdm_jax.data.synthetic import MOTIONS, OUTER_RADIUS, SyntheticVideos

SIDE = 64
VIDEOS = SyntheticVideos(30, 48, SIDE, SIDE, seed=3)


def with_motion(motion):
    return [VIDEOS.truth(i) for i in range(len(VIDEOS)) if MOTIONS[VIDEOS[i].label] == motion]


def test_a_video_is_a_function_of_seed_and_index():
    again = SyntheticVideos(5, 48, SIDE, SIDE, seed=3)[4]
    np.testing.assert_array_equal(VIDEOS[4].read(0, 48), again.read(0, 48))
    shifted = SyntheticVideos(5, 48, SIDE, SIDE, seed=3, first_index=4)[0]
    np.testing.assert_array_equal(VIDEOS[4].read(0, 48), shifted.read(0, 48))
    assert (VIDEOS[4].read(0, 1) != VIDEOS[7].read(0, 1)).any()
    assert (VIDEOS[4].read(0, 1) != SyntheticVideos(5, 48, SIDE, SIDE, seed=4)[4].read(0, 1)).any()


def test_any_frames_can_be_drawn_alone():
    whole = VIDEOS[8].read(0, 48)
    np.testing.assert_array_equal(VIDEOS[8].read(5, 12, 3), whole[5:41:3])


def test_labels_are_balanced_in_no_fixed_order():
    labels = [VIDEOS[i].label for i in range(30)]
    groups = [tuple(labels[i : i + 3]) for i in range(0, 30, 3)]
    assert all(sorted(group) == [0, 1, 2] for group in groups)
    assert len(set(groups)) > 2
    assert VIDEOS.class_names == MOTIONS and all(MOTIONS[VIDEOS[i].label] in VIDEOS[i].name for i in range(30))


def test_two_or_three_shapes_of_different_colours_stay_inside():
    for i in range(len(VIDEOS)):
        shapes = VIDEOS.truth(i)
        assert len(shapes) in (2, 3)
        for one, other in itertools.combinations(shapes, 2):
            assert np.abs(np.subtract(one.colour, other.colour)).max() > 100
        for shape in shapes:
            assert 0.14 <= shape.radius / SIDE <= 0.2
            outer = shape.radius * OUTER_RADIUS[shape.kind]
            assert shape.centre.min() - outer >= -0.5 - 1e-9 and shape.centre.max() + outer <= SIDE - 0.5 + 1e-9


def test_bounce_has_constant_velocity_between_walls_and_turns_slowly():
    reflections = 0
    for shape in itertools.chain(*with_motion("bounce")):
        steps = np.diff(shape.centre, axis=0)
        speed = np.abs(steps).max(axis=0)  # of each axis; only a step with a reflection within is shorter
        reflected = np.abs(np.abs(steps) - speed) > 1e-6
        assert 0.01 * SIDE <= np.hypot(*speed) <= 0.02 * SIDE + 1e-9
        assert reflected.sum(axis=0).max() <= 5
        turned_back = (np.diff(np.sign(steps), axis=0) != 0).any(axis=1)
        reflections += turned_back.sum()
        assert 0.02 <= np.abs(np.diff(shape.angle)).max() <= 0.05
    assert reflections > 10


def test_orbit_keeps_distance_spacing_and_angular_speed():
    middle = (SIDE - 1) / 2
    for shapes in with_motion("orbit"):
        offsets = np.stack([shape.centre - middle for shape in shapes])
        distance = np.hypot(offsets[..., 0], offsets[..., 1])
        np.testing.assert_allclose(distance, distance[0, 0])
        assert 0.2 * SIDE < distance[0, 0] < 0.3 * SIDE
        angles = np.unwrap(np.arctan2(offsets[..., 0], offsets[..., 1]), axis=1)
        turns = np.diff(angles, axis=1)
        np.testing.assert_allclose(turns, turns[0, 0], rtol=1e-6)
        assert 0.05 <= abs(turns[0, 0]) <= 0.09
        spacing = np.sort(angles[:, 0] % (2 * np.pi))
        np.testing.assert_allclose(np.diff(spacing), 2 * np.pi / len(shapes))


def test_spin_turns_quickly_drifts_slowly_and_has_no_circle():
    for shape in itertools.chain(*with_motion("spin")):
        assert shape.kind != "circle"
        turns = np.diff(shape.angle)
        np.testing.assert_allclose(turns, turns[0])
        assert 0.15 <= abs(turns[0]) <= 0.25
        assert np.linalg.norm(np.diff(shape.centre, axis=0), axis=1).max() <= 0.005 * SIDE + 1e-9


def test_pixels_show_the_truth():
    """The shape drawn last is seen whole: its colour, its area by the polygon's formula, and its centre."""
    area = {"circle": np.pi, "square": 2 * 1.2**2, "triangle": 3**1.5 / 4 * 1.3**2}
    kinds = set()
    for i in range(len(VIDEOS)):
        video, shape = VIDEOS[i].read(0, 48, 1).astype(float), VIDEOS.truth(i)[-1]
        kinds.add(shape.kind)
        for frame, centre in zip(video[::8], shape.centre[::8], strict=True):
            inside = np.abs(frame - shape.colour).max(axis=-1) < 60
            assert inside.sum() == pytest.approx(area[shape.kind] * shape.radius**2, rel=0.1)
            np.testing.assert_allclose(np.argwhere(inside).mean(axis=0), centre, atol=0.5)
            np.testing.assert_array_equal(frame[tuple(np.rint(centre).astype(int))], shape.colour)
    assert kinds == set(OUTER_RADIUS)


def test_triangle_points_along_its_angle():
    for shapes, video in ((VIDEOS.truth(i), VIDEOS[i].read(0, 1)) for i in range(len(VIDEOS))):
        shape = shapes[-1]
        if shape.kind == "triangle":
            # A corner lies at the angle itself, a side half as far away in the opposite direction.
            ahead = np.array([np.sin(shape.angle[0]), np.cos(shape.angle[0])]) * shape.radius
            corner, opposite = (np.rint(shape.centre[0] + k * ahead).astype(int) for k in (1.0, -0.95))
            np.testing.assert_array_equal(video[0][tuple(corner)], shape.colour)
            assert np.abs(video[0][tuple(opposite)] - np.array(shape.colour, float)).max() > 60


def test_frames_need_not_be_square():
    video = SyntheticVideos(6, 20, 32, 48, seed=0)
    assert video[0].read(0, 16).shape == (16, 32, 48, 3)
    centres = np.concatenate([shape.centre for i in range(6) for shape in video.truth(i)])
    assert centres[:, 0].max() < 32 < centres[:, 1].max() < 48


def test_a_crop_is_a_window_of_the_picture_drawn_larger():
    whole, crop = VIDEOS[4].read(3, 2), VIDEOS[4].read(3, 2, crop=Crop(0.5, 1.0, 0.0))
    assert crop.shape == whole.shape
    shrunk = crop.reshape(2, SIDE // 2, 2, SIDE // 2, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - whole[:, SIDE // 2 :, : SIDE // 2]).mean() < 4


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="has 48 frames; 16 of them from 40"):
        VIDEOS[0].read(40, 16)
    with pytest.raises(IndexError, match="no video 30"):
        VIDEOS[30]
