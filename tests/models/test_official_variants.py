"""Other configurations of the official code than the paper's: every size is read off the shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditions import condition

from pvdm_jax.models import functional
from pvdm_jax.weights import official

UNETS = ("plain", "uneven", "one_level", "classes", "head_channels", "average_pool")
AUTOENCODERS = ("small", "short")


def relative_error(found, expected):
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def run(model, method, *args):
    graphdef, params = functional.split(model)
    return jax.jit(lambda params, *args: getattr(functional.merge(graphdef, params), method)(*args))(params, *args)


def test_every_stored_case_is_tried(reference):
    info, _ = reference("variants")
    assert tuple(info["unet"]) == UNETS and tuple(info["autoencoder"]) == AUTOENCODERS


@pytest.mark.parametrize("name", [UNETS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in UNETS[1:])])
def test_unet(reference, recipe, name):
    info, expected = reference("variants")
    case = info["unet"][name]
    config, seed = case["config"], case["seed"]
    heads = {key: config[key] for key in ("num_heads", "num_head_channels") if key in config}
    weights = recipe.weights(case["weights"], seed)
    model = official.unet_from_torch(weights, **heads)
    found = model.config
    assert found.channel_mult == tuple(config["channel_mult"])
    assert found.model_channels == config["model_channels"] and found.num_res_blocks == config["num_res_blocks"]
    assert set(found.attention_resolutions) == set(config["attention_resolutions"])
    assert (found.latent_channels, found.num_classes) == (config["in_channels"], config.get("num_classes", 0))
    assert found.use_scale_shift_norm == config["use_scale_shift_norm"]
    assert found.previous_clip == config["cond_model"]
    if len(config["channel_mult"]) > 1:
        assert found.resblock_updown == config["resblock_updown"]
        assert found.conv_resample == config.get("conv_resample", True)

    shape = (2, config["in_channels"], 2048)
    x, cond = (jnp.asarray(recipe.noise(shape, seed, key).swapaxes(1, 2)) for key in ("x", "cond"))
    step, label = jnp.asarray(case["steps"]), case["labels"] and jnp.asarray(case["labels"])
    contexts = {"eps": None} | ({"eps_cond": cond} if config["cond_model"] else {})
    for key, previous in contexts.items():
        noise = run(model, "__call__", x, step, condition(model, 2, previous=previous, label=label))
        found = np.asarray(noise).swapaxes(1, 2)[..., :: info["stride"]]
        assert relative_error(found, expected[f"{name}_{key}"]) < 1e-5

    written = official.to_torch(model)
    for key, value in weights.items():
        np.testing.assert_array_equal(written[key], value)
    assert written.keys() - weights.keys() == ({"zeros"} if config["cond_model"] else set())


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder(reference, recipe, name):
    info, expected = reference("variants")
    case = info["autoencoder"][name]
    config, seed = case["config"], case["seed"]
    weights = recipe.weights(case["weights"], seed)
    model = official.autoencoder_from_torch(weights)
    found, size = model.config, config["resolution"]
    assert (found.frames, found.height, found.width) == (config["timesteps"], size, size)
    assert (found.channels, found.latent_channels) == (config["channels"], config["embed_dim"])
    video = recipe.video(config["timesteps"], size, size, seed=seed)
    latents = run(model, "encode", video)
    assert relative_error(np.asarray(latents).swapaxes(1, 2), expected[f"{name}_latents"]) < 1e-5
    decoded = np.asarray(run(model, "decode", latents))[0, :, ::4, ::4]
    assert relative_error(decoded, expected[f"{name}_recon"]) < 1e-5
    written = official.to_torch(model)
    for key, value in weights.items():
        np.testing.assert_array_equal(written[key], value)


def test_heads_by_their_number_or_size(reference, recipe):
    """Shapes don't tell heads: by default they are the paper's; either number or size may be given."""
    case = reference("variants").info["autoencoder"]["small"]
    weights = recipe.weights(case["weights"], case["seed"])
    load = official.autoencoder_from_torch
    assert (load(weights).config.num_heads, load(weights).config.head_dim) == (8, 64)
    for override in ({"num_heads": 16}, {"head_dim": 32}, {"num_heads": 16, "head_dim": 32}):
        config = load(weights, **override).config
        assert (config.num_heads, config.head_dim) == (16, 32)
    config = load(weights, plane_num_heads=2, dtype=jnp.bfloat16).config
    assert (config.plane_num_heads, config.plane_head_dim, config.dtype) == (2, 10, "bfloat16")
    with pytest.raises(ValueError, match="num_heads is 7; the 512 channels"):
        load(weights, num_heads=7)
    with pytest.raises(ValueError, match="frames|positions|xy_pos_embedding"):
        load(weights, frames=4)
