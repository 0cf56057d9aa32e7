"""What a reviewer would expect of distances: 0 for a set with itself, larger for worse videos, independent of order."""

import numpy as np
import pytest
from damage import DAMAGES

from pvdm_jax.config import MeshConfig
from pvdm_jax.evaluation.feature_spaces import open_features
from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.runtime import sharding

STRENGTHS = (0.2, 0.5, 1.0)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(MeshConfig())


@pytest.fixture(scope="module")
def scattering(mesh):
    return open_features("scattering", mesh)


@pytest.fixture(scope="module")
def clips(real_clips):
    return real_clips(32)


@pytest.fixture(scope="module")
def features(scattering, clips):
    return scattering(clips, 32)


def test_a_set_with_itself_is_at_zero(features):
    assert frechet_distance(features, features) < 1e-9


def test_order_and_batch_size_change_nothing(scattering, clips, features, real_clips):
    others = scattering(real_clips(32, split="holdout"), 32)
    distance = frechet_distance(features, others)
    order = np.random.default_rng(0).permutation(32)
    assert frechet_distance(features[order], others[::-1]) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(scattering(clips[order], 5), others) == pytest.approx(distance, rel=1e-3)


@pytest.mark.parametrize("kind", DAMAGES)
def test_grows_with_every_damage(scattering, clips, features, kind):
    distances = [frechet_distance(features, scattering(DAMAGES[kind](clips, s), 32)) for s in STRENGTHS]
    assert np.all(np.diff([0, *distances]) > 0)


@pytest.mark.long
def test_random_i3d_reacts_too(mesh, real_clips):
    """I3D's architecture alone, without what it learned."""
    space = open_features("i3d_random", mesh)
    clips = real_clips(3)[:, :9]
    features = space(clips, 3)
    assert frechet_distance(features, features) < 1e-9
    for kind in ("noise", "blur", "frozen frames"):
        weak, strong = (frechet_distance(features, space(DAMAGES[kind](clips, s), 3)) for s in (0.3, 1.0))
        assert 0 < weak < strong


@pytest.mark.parametrize("kind", DAMAGES)
def test_damages(clips, kind):
    damage = DAMAGES[kind]
    assert np.array_equal(damage(clips, 0), clips)
    some = damage(clips, 0.5)
    assert some.shape == clips.shape and some.dtype == np.uint8 and not np.array_equal(some, clips)
    if kind == "shuffled frames":
        whole = damage(clips, 1)
        assert sorted(frame.tobytes() for frame in whole[0]) == sorted(frame.tobytes() for frame in clips[0])
    if kind == "frozen frames":
        assert np.array_equal(damage(clips, 1), np.repeat(clips[:, :1], 16, 1))
