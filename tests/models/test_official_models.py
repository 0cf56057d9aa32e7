"""Models with converted weights against outputs of the official implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditions import condition

from pvdm_jax.models import functional
from pvdm_jax.weights import official


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def to_tokens(array):
    """(b, c, positions), the official layout, to (b, positions, c), or back."""
    return jnp.asarray(np.asarray(array).transpose(0, 2, 1))


def call(model, method=None):
    """The module's function, jitted with its weights as arguments."""
    graphdef, params = functional.split(model)

    def function(params, *args):
        merged = functional.merge(graphdef, params)
        return getattr(merged, method)(*args) if method else merged(*args)

    return lambda *args: jax.jit(function)(params, *args)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ["autoencoder_tiny", pytest.param("autoencoder_paper", marks=pytest.mark.slow)])
def test_autoencoder(reference, recipe, name):
    info, expected = reference(name)
    weights = recipe.weights(info["weights"], info["seed"])
    model = official.autoencoder_from_torch(weights)
    video = recipe.video(16, 256, 256, seed=info["seed"])
    latents = call(model, "encode")(video)
    assert relative_error(to_tokens(latents), expected["latents"]) < 1e-5
    decode = call(model, "decode")
    noise = np.tanh(recipe.noise((1, model.config.latent_channels, 2048), info["seed"], "latent"))
    for tokens, key in ((latents, "recon_of_video"), (to_tokens(noise), "recon_of_noise")):
        decoded = np.asarray(decode(tokens))[0, [0, 7, 15], ::4, ::4]
        assert relative_error(decoded, expected[key]) < 1e-5


@pytest.mark.parametrize("name", ["unet_tiny", "unet_uncond_tiny", pytest.param("unet_paper", marks=pytest.mark.slow)])
def test_unet(reference, recipe, name):
    info, expected = reference(name)
    # The official weights have no name here: together with the model's own they would fill 5 GB.
    model = official.unet_from_torch(recipe.weights(info["weights"], info["seed"]))
    config = info["config"]
    assert model.config.channel_mult == tuple(config["channel_mult"])
    assert set(model.config.attention_resolutions) == set(config["attention_resolutions"])
    assert model.config.num_res_blocks == config["num_res_blocks"]
    assert model.config.previous_clip == config["cond_model"]
    step = jnp.asarray(expected["timesteps"], jnp.int32)
    x, cond = (to_tokens(recipe.noise((len(step), 4, 2048), info["seed"], key)) for key in ("x", "cond"))
    predict = call(model)
    absent = condition(model, len(step))
    assert relative_error(to_tokens(predict(x, step, absent)), expected["eps_uncond"]) < 1e-5
    if config["cond_model"]:
        given = condition(model, len(step), previous=cond)
        assert relative_error(to_tokens(predict(x, step, given)), expected["eps_cond"]) < 1e-5


@pytest.mark.parametrize("name", ["autoencoder_tiny", "unet_tiny", "unet_uncond_tiny"])
def test_round_trip(reference, recipe, name):
    info, expected = reference(name)
    weights = recipe.weights(info["weights"], info["seed"])
    load = official.unet_from_torch if "unet" in name else official.autoencoder_from_torch
    written = official.to_torch(load({f"module.diffusion_model.{key}": value for key, value in weights.items()}))
    buffers = {key: tuple(shape) for key, shape in info["other_buffers"]}
    assert {key: value.shape for key, value in written.items() if key not in weights} == buffers
    for key, value in weights.items():
        np.testing.assert_array_equal(written[key], value)


def test_problems_are_named(reference, recipe):
    info, _ = reference("unet_tiny")
    weights = recipe.weights(info["weights"], info["seed"])
    weights["surplus.weight"] = weights.pop("mid_attn.norm.bias")
    weights["out.0.bias"] = weights["out.0.bias"][:5]
    with pytest.raises(ValueError) as caught:
        official.unet_from_torch(weights)
    message = str(caught.value)
    assert "mid_attn.norm.bias is missing" in message
    assert "surplus.weight is not a weight" in message
    assert "out.0.bias has shape (5,); (32,) is needed" in message
