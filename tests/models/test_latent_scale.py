"""Latents normalised for the process."""

import numpy as np
import pytest

from pvdm_jax.config import ConfigError, LatentsConfig
from pvdm_jax.models.latent import LatentScale
from pvdm_jax.models.triplane import PlaneShape

SPEC = PlaneShape(2, 3, 4).latent_spec(2)  # 12 + 8 + 6 positions
MEAN = (0.1, -0.2, 0.3, 0.4, -0.5, 0.6)
STD = (0.5, 0.25, 1.0, 2.0, 0.1, 0.2)
SCALE = LatentScale.of(SPEC, LatentsConfig(normalize=True, mean=MEAN, std=STD))


def test_each_segment_has_its_own_statistics():
    x = np.random.default_rng(0).standard_normal((5, *SPEC.shape)).astype(np.float32)
    normal = SCALE.normalize(x)
    for index, part in enumerate(SPEC.parts):
        for channel in range(2):
            expected = (x[:, part.slice, channel] - MEAN[2 * index + channel]) / STD[2 * index + channel]
            np.testing.assert_allclose(normal[:, part.slice, channel], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(SCALE.restore(normal), x, atol=1e-6)


def test_bounds_are_where_the_autoencoder_ends():
    low, high = SCALE.bounds
    np.testing.assert_allclose(SCALE.restore(low), -1, atol=1e-6)
    np.testing.assert_allclose(SCALE.restore(high), 1, atol=1e-6)


def test_without_normalisation_latents_are_the_same_array():
    scale, x = LatentScale.of(SPEC, LatentsConfig()), np.ones(SPEC.shape)
    assert scale.normalize(x) is x and scale.restore(x) is x and scale.bounds == (-1.0, 1.0)


def test_missing_statistics_are_refused():
    with pytest.raises(ConfigError, match="latents.mean is .*3 segments x 2 channels"):
        LatentScale.of(SPEC, LatentsConfig(normalize=True))
    with pytest.raises(ConfigError, match="latents.std.*positive"):
        LatentsConfig(normalize=True, mean=(0.0,), std=(0.0,))
    with pytest.raises(ConfigError, match="latents.mean.*normalize=True"):
        LatentsConfig(mean=(0.0,), std=(1.0,))
