"""Sampling with a model whose latents are normalised for the process."""

import dataclasses

import jax
import numpy as np
from tiny_model import FormulaPVDM, formula_model

from pvdm_jax.config import LatentsConfig

MODEL = formula_model()
COUNT = 3 * MODEL.latent_spec.channels


def normalised(mean: float, std: float) -> FormulaPVDM:
    """The formulas' model with the same statistics for all channels."""
    latents = LatentsConfig(normalize=True, mean=(mean,) * COUNT, std=(std,) * COUNT)
    config = dataclasses.replace(MODEL.config, latents=latents)
    weights = {name: jax.tree.map(np.asarray, params) for name, params in MODEL.weights.items()}
    return FormulaPVDM(config, weights["autoencoder"], weights["denoiser"], MODEL.class_names)


def test_mean_zero_and_deviation_one_change_nothing():
    key, video = jax.random.key(0), np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    same = normalised(0.0, 1.0)
    np.testing.assert_array_equal(same.sample(key, 2, 8), MODEL.sample(key, 2, 8))
    np.testing.assert_array_equal(same.extend(video, 4, key), MODEL.extend(video, 4, key))


def test_the_denoiser_sees_normalised_neighbours_and_the_decoder_restored_latents():
    model = normalised(0.25, 0.5)
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    latents = model.encode(video)
    np.testing.assert_array_equal(latents, MODEL.encode(video))  # encode and decode know nothing of it
    seen = model._previous(video)["previous"]
    np.testing.assert_allclose(seen, (latents - 0.25) / 0.5, atol=1e-6)
    # Clip by clip, what one call hands to the next is the same as within one call.
    key = jax.random.key(1)
    np.testing.assert_array_equal(np.concatenate(list(model.stream(key, 2, 12)), axis=1), model.sample(key, 2, 12))
    previews, _ = model.preview(key, 2)
    np.testing.assert_array_equal(previews[-1], model.sample(key, 2))


def test_other_statistics_need_no_other_program():
    def program(model):
        key, asked = jax.random.key(0), {"num_frames": None, "labels": None, "indices": None, "options": {}}
        request = model._request(key, {}, count=2, **asked)
        given = model.weights, request.key, np.int32(0), request.batch, request.numbers
        return model._generate.lower(*given, settings=request.settings, clips=1, given=False).as_text()

    assert program(normalised(0.25, 0.5)) == program(normalised(0.1, 2.0))
