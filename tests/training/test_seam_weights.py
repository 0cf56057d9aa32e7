"""Errors beside a neighbouring clip count more: where, how much, and for which samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import CONFIG

from pvdm_jax.config import ConfigError, DiffusionTrainingConfig, MeshConfig
from pvdm_jax.diffusion.predictions import draw_noisy_batch
from pvdm_jax.diffusion.times import uniform_times
from pvdm_jax.models.condition import Condition
from pvdm_jax.models.triplane import PlaneShape
from pvdm_jax.runtime.sharding import make_mesh
from pvdm_jax.training.diffusion import DiffusionStage
from pvdm_jax.training.diffusion_losses import Drawn
from pvdm_jax.training.seam_weights import seam_weights, weights_of

SPEC = PlaneShape(6, 2, 3).latent_spec(4)


def test_the_frames_at_the_seam_count_most():
    weights = seam_weights(SPEC, 6, 4.0)
    for name, order in (("previous", slice(None)), ("next", slice(None, None, -1))):
        assert weights[name].dtype == np.float32 and weights[name].mean() == pytest.approx(1)
        for segment, width in (("tx", 3), ("ty", 2)):
            plane = weights[name][SPEC.segments[segment]].reshape(6, width)[order]
            assert (np.diff(plane, axis=0) < 0).all() and (np.ptp(plane, axis=1) == 0).all()
            # 1 + 4 at the seam, 1 + 4 / e two frames further.
            assert plane[0, 0] / plane[2, 0] == pytest.approx(5 / (1 + 4 / np.e), rel=1e-6)
            still = weights[name][SPEC.segments["yx"]]
            np.testing.assert_allclose(still, plane.mean(), rtol=1e-6)


def test_a_sample_that_sees_no_neighbour_counts_evenly():
    weights = seam_weights(SPEC, 6, 4.0)
    seen = Condition.absent(dataclasses.replace(CONFIG.denoiser, next_clip=True), SPEC, 4)
    masks = {"previous": jnp.array([True, False, True, False]), "next": jnp.array([False, True, True, False])}
    seen = dataclasses.replace(
        seen, **{name: dataclasses.replace(getattr(seen, name), present=mask) for name, mask in masks.items()}
    )
    found = np.asarray(weights_of(weights, seen))
    np.testing.assert_allclose(found[0], weights["previous"], rtol=1e-6)
    np.testing.assert_allclose(found[1], weights["next"], rtol=1e-6)
    np.testing.assert_allclose(found[2], weights["previous"] + weights["next"] - 1, rtol=1e-6)
    np.testing.assert_allclose(found[3], 1)


def test_training_weighs_the_errors():
    training = dataclasses.replace(CONFIG.train_diffusion, seam_weight=3.0)
    stage = DiffusionStage(
        dataclasses.replace(CONFIG, train_diffusion=training), make_mesh(MeshConfig(), jax.devices()[:1])
    )
    params = stage.init(jax.random.key(0)).params
    clip = jax.random.normal(jax.random.key(1), (2, *stage.model.spec.shape))
    given = stage.model.absent(2)
    given = dataclasses.replace(given, previous=dataclasses.replace(given.previous, present=jnp.array([True, False])))
    noisy = draw_noisy_batch(stage.losses.process, clip, jax.random.key(2), uniform_times)
    errors = jax.jit(stage.losses.errors)(params, Drawn(noisy, given, jnp.ones(2, bool)))
    squared = np.square(np.asarray(stage.model.denoise(params, noisy.x, noisy.time, given)) - noisy.target)
    weights = seam_weights(stage.model.spec, CONFIG.autoencoder.frames, 3.0)["previous"]
    np.testing.assert_allclose(errors, [np.mean(weights * squared[0]), np.mean(squared[1])], rtol=1e-5)


def test_impossible_weights_are_refused():
    for weight in (-1.0, 1e6):
        with pytest.raises(ConfigError, match="train_diffusion.seam_weight is"):
            DiffusionTrainingConfig(seam_weight=weight)
