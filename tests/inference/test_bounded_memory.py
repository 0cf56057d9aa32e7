"""Encoding and decoding many clips takes no more memory than a few, and gives the same results as one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import model_config, random_weights

from pvdm_jax.inference import latent_model
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.runtime import sharding

CONFIG = model_config()
CLIP = (CONFIG.autoencoder.frames, CONFIG.autoencoder.height, CONFIG.autoencoder.width, 3)
TOKENS = 4 * 4 * 4  # of a clip


@pytest.fixture(autouse=True)
def four_at_once(monkeypatch):
    monkeypatch.setattr(latent_model, "TOKENS_AT_ONCE", 4 * TOKENS)
    assert latent_model.clips_at_once(CONFIG.autoencoder) == 4


def compiled(name, count):
    model = LatentModel(CONFIG.autoencoder)
    item = (
        jax.ShapeDtypeStruct(CLIP, np.uint8) if name == "encode" else jax.ShapeDtypeStruct(model.spec.shape, "float32")
    )
    items = jax.ShapeDtypeStruct((count, *item.shape), item.dtype)
    return jax.jit(getattr(model, name)).lower(model.autoencoder_shapes, items).compile()


@pytest.mark.parametrize("name", ["encode", "decode"])
def test_memory_does_not_grow_with_the_clips(name):
    few, many = (compiled(name, count).memory_analysis() for count in (4, 64))
    assert few.temp_size_in_bytes > 4 * TOKENS * CONFIG.autoencoder.channels * 4  # activations are counted
    clips = many.output_size_in_bytes + many.argument_size_in_bytes
    assert many.temp_size_in_bytes <= few.temp_size_in_bytes + clips


def test_every_clip_is_encoded_as_alone():
    params = random_weights(lambda: Autoencoder(CONFIG.autoencoder, rngs=functional.rngs(0)), 0)
    model = LatentModel(CONFIG.autoencoder)
    clips = np.random.default_rng(0).integers(0, 256, (7, *CLIP), np.uint8)  # two parts, the last one is filled up
    found = jax.jit(model.encode)(params, clips)
    alone = jnp.concatenate([jax.jit(model.encode)(params, clip[None]) for clip in clips])
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_parts_of_a_batch_keep_their_order():
    items = {"a": jnp.arange(11.0), "b": jnp.arange(22.0).reshape(11, 2)}
    seen = []

    def function(factor, items):
        seen.append(items["a"].shape)
        return items["b"] * factor + items["a"][:, None]

    for at_once, size in ((1, 1), (3, 3), (4, 4), (10, 6), (11, 11), (50, 11)):
        run = jax.jit(functools.partial(sharding.map_parts, None, function, at_once=at_once))
        np.testing.assert_array_equal(run(2.0, items), function(2.0, items))
        assert seen[-2] == (size,)
