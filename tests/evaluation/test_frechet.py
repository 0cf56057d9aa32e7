"""The Frechet distance against stored numbers, closed forms, and with fewer samples than dimensions."""

import numpy as np
import pytest
from scipy import linalg

from pvdm_jax.evaluation.frechet import Moments, frechet_distance, moments_distance


@pytest.mark.parametrize("samples, dimension", [(64, 16), (256, 400), (2048, 400)])
def test_agrees_with_the_stored_distances(reference, recipe, samples, dimension):
    info, arrays = reference("frechet")
    a = recipe.noise((samples, dimension), info["seed"], f"a{samples}")
    b = 1.3 * recipe.noise((samples, dimension), info["seed"], f"b{samples}") + 0.2
    np.testing.assert_allclose(frechet_distance(a, b), arrays[f"fd_{samples}_{dimension}"], rtol=1e-6)


def test_one_dimension_is_the_closed_form():
    a, b = np.random.default_rng(0).normal(size=(2, 50, 1)) * [[[2.0]], [[0.5]]] + [[[1.0]], [[3.0]]]
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    np.testing.assert_allclose(frechet_distance(a, b), expected)


def test_fewer_samples_than_dimensions():
    a = np.random.default_rng(1).normal(size=(5, 40))
    # Twice the deviations: Tr(C + 4 C - 2 (4 C C)^(1/2)) = Tr C.
    expected = np.trace(np.cov(a.T))
    np.testing.assert_allclose(frechet_distance(a, 2 * a - a.mean(0)), expected, rtol=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_symmetric_and_blind_to_rotation():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(30, 8)), 3 * rng.normal(size=(12, 8)) + 1
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    distance = frechet_distance(a, b)
    np.testing.assert_allclose([frechet_distance(b, a), frechet_distance(a @ rotation, b @ rotation)], distance)


@pytest.mark.parametrize(
    "a, b, message",
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), r"\(4, 3\) and \(4, 2\)"),
        (np.zeros((1, 3)), np.zeros((4, 3)), "features_a has 1 samples"),
        (np.zeros((4, 3)), np.full((4, 3), np.nan), "features_b has values that aren't finite"),
    ],
)
def test_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


@pytest.mark.parametrize("samples, dimension, pieces", [(64, 16, 9), (30, 400, 4), (1000, 200, 5)])
def test_merged_moments_equal_one_shot(samples, dimension, pieces):
    rng = np.random.default_rng(3)
    a = rng.normal(size=(samples, dimension)) * np.geomspace(1e-3, 10, dimension) + 5
    b = 1.2 * rng.normal(size=(samples, dimension)) + 4.5
    cuts = np.sort(rng.integers(0, samples, pieces - 1))
    streamed = Moments.stream(np.split(a, cuts))
    np.testing.assert_allclose(streamed.mean, a.mean(0), rtol=1e-12)
    np.testing.assert_allclose(streamed.covariance(), np.cov(a.T), rtol=0, atol=1e-10)
    # As hosts would: each streams its own share, then the shares are merged.
    shares = [Moments.stream(np.array_split(part, 3)) for part in np.array_split(a, 2)]
    for found in (streamed, shares[0].merge(shares[1]), shares[1].merge(shares[0])):
        distance = moments_distance(found, Moments.of(b))
        np.testing.assert_allclose(distance, frechet_distance(a, b), rtol=1e-8)
        assert moments_distance(found, Moments.of(a)) < 1e-8


def test_agrees_with_the_matrix_square_root():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(200, 30)), rng.normal(size=(150, 30)) @ rng.normal(size=(30, 30))
    for ddof in (0, 1):
        covariances = [np.cov(x.T, ddof=ddof) for x in (a, b)]
        root = linalg.sqrtm(covariances[0] @ covariances[1]).real
        expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(sum(covariances) - 2 * root)
        np.testing.assert_allclose(frechet_distance(a, b, ddof), expected, rtol=1e-8)


def test_moments_refuse():
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        Moments.of(np.zeros((2, 3))).merge(Moments.of(np.zeros((2, 4))))
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        Moments.of(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="no features"):
        Moments.stream([])
