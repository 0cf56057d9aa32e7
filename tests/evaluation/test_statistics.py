"""Intervals and dependence on counts, against what is known of the distributions."""

import numpy as np
import pytest

from pvdm_jax.evaluation.statistics import frechet_estimate, inception_estimate, inception_score, mean_estimate


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = mean_estimate(values, 1000, 0)
    assert found.value == pytest.approx(values.mean())
    np.testing.assert_allclose([found.value - found.low, found.high - found.value], 1.96 * 2 / 20, rtol=0.15)
    assert mean_estimate(values, 0, 0).low is None


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        found = mean_estimate(rng.normal(size=60), 200, trial)
        covered += found.low <= 0 <= found.high
    assert 51 <= covered <= 60


def test_frechet_distance_falls_with_the_samples_to_what_it_is_without_limit():
    rng = np.random.default_rng(2)
    # Two normal distributions of 8 dimensions: |3 e|^2 = 9 is the distance of infinitely many samples.
    real, generated = rng.normal(size=(2, 800, 8))
    generated[:, 0] += 3
    found = frechet_estimate(real, generated, 1, 60, 0)
    assert found.low < found.value < found.high and found.high - found.low < 2.5
    counts, values = zip(*found.by_count, strict=True)
    assert counts == (100, 200, 400, 800) and values[0] > values[-1] == found.value
    assert found.unlimited == pytest.approx(9, abs=0.8)
    assert abs(found.unlimited - 9) < abs(values[0] - 9)


def test_a_set_with_itself():
    features = np.random.default_rng(3).normal(size=(50, 6))
    found = frechet_estimate(features, features, 1, 20, 0)
    assert found.value == pytest.approx(0, abs=1e-10) and found.low == 0
    assert found == frechet_estimate(features, features, 1, 20, 0)


def test_inception_score_of_known_probabilities():
    sure = np.eye(5)[np.arange(100) % 5]
    assert inception_score(sure, 1) == pytest.approx(5) and inception_score(sure, 10) == pytest.approx(5)
    assert inception_score(np.full((20, 4), 0.25), 2) == pytest.approx(1)
    assert inception_score(np.eye(3)[np.zeros(9, int)], 3) == pytest.approx(1)
    p = np.random.default_rng(0).dirichlet(np.ones(4), 30)
    expected = np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)), axis=1)))
    assert inception_score(p, 1) == pytest.approx(expected)
    found = inception_estimate(sure, 2, 50, 0)
    assert found.value == pytest.approx(5) and found.by_count[-1] == (100, pytest.approx(5))
    with pytest.raises(ValueError, match="at least 10 samples"):
        inception_score(sure[:5], 10)
