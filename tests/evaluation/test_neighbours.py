"""Distance to the nearest training clip, against the plain double loop."""

import numpy as np
import pytest

from pvdm_jax.evaluation import neighbours
from pvdm_jax.evaluation.neighbours import nearest_distance


@pytest.fixture
def clips():
    return np.random.default_rng(0).integers(0, 256, (12, 2, 4, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("clips_at_a_time", [1, 3, 100])
def test_is_the_smallest_of_all_distances(clips, clips_at_a_time, monkeypatch):
    monkeypatch.setattr(neighbours, "_CHUNK_BYTES", clips_at_a_time * 8 * clips[0].size)
    few, many = clips[:5], clips[5:]
    differences = few[:, None].astype(float) - many[None].astype(float)
    expected = np.sqrt(np.mean(differences**2, axis=(2, 3, 4, 5))).min(1)
    np.testing.assert_allclose(nearest_distance(few, many), expected)


def test_a_copy_is_at_distance_zero_and_one_grey_level_at_one(clips):
    shifted = np.where(clips == 255, 254, clips + 1).astype(np.uint8)
    assert np.array_equal(nearest_distance(clips[:4], clips), np.zeros(4))
    np.testing.assert_allclose(nearest_distance(shifted[:4], clips), np.ones(4))


def test_refuses(clips):
    with pytest.raises(ValueError, match="training_clips is empty"):
        nearest_distance(clips, clips[:0])
    with pytest.raises(ValueError, match="sizes must be equal"):
        nearest_distance(clips, clips[:, :1])
    with pytest.raises(ValueError, match="float32"):
        nearest_distance(clips.astype(np.float32), clips)
