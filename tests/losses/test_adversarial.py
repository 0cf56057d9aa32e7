"""Discriminators with converted weights, and stage 1's adversarial losses, against the official implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pvdm_jax.config import DiscriminatorConfig
from pvdm_jax.losses.adversarial import adversarial_loss, hinge_loss
from pvdm_jax.losses.feature_matching import feature_matching
from pvdm_jax.models import functional
from pvdm_jax.models.discriminators import Discriminators
from pvdm_jax.weights import official

PARTS = {"image": "discriminator_2d", "video": "discriminator_3d"}


def relative_error(found, expected):
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def case(reference, recipe):
    """The case's info and numbers, and the official names and arrays of both discriminators, buffers included."""
    info, expected = reference("discriminators_tiny")
    weights = {}
    for name in PARTS.values():
        arrays = recipe.weights(info[name]["weights"], info["seed"])
        arrays |= {key: np.asarray(7 + i) for i, (key, _) in enumerate(info[name]["other_buffers"])}
        weights |= {f"{name}.{key}": value for key, value in arrays.items()}
    return info, expected, weights


@pytest.fixture(scope="module")
def inputs(case, recipe):
    info = case[0]
    real = recipe.video(16, 64, 64, info["seed"], batch=2)
    fake = np.clip(real + 0.3 * recipe.noise(real.shape, info["seed"], "fake"), -1, 1)
    videos = {"video": (real, fake), "image": (real[:, info["frame"]], fake[:, info["frame"]])}
    return {part: tuple(jnp.asarray(x) for x in pair) for part, pair in videos.items()}


@pytest.mark.parametrize("part", PARTS)
def test_discriminator(case, inputs, part):
    info, expected, weights = case
    model = official.discriminators_from_torch(weights)
    assert model.config == DiscriminatorConfig(width=info["ndf"])
    graphdef, params = functional.split(model)
    run = jax.jit(lambda params, x: getattr(functional.merge(graphdef, params), part)(x))
    (real, real_features), (fake, fake_features) = (run(params, x) for x in inputs[part])
    suffix = PARTS[part][-2:]
    assert relative_error(real, expected[f"logits_real_{suffix}"]) < 1e-5
    assert relative_error(fake, expected[f"logits_fake_{suffix}"]) < 1e-5
    assert relative_error(hinge_loss(real, fake), expected[f"hinge_d_{suffix}"]) < 1e-5
    assert relative_error(feature_matching(fake_features, real_features), expected[f"feature_l1_{suffix}"]) < 1e-5
    assert relative_error(adversarial_loss(fake, real), -(fake.mean() + real.mean())) < 1e-6


def test_feature_matching_leaves_the_real_side_alone():
    features = [jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((2, 3))]
    apart = [x + shift for x, shift in zip(features, (1.0, -3.0, 100.0), strict=True)]
    assert float(feature_matching(apart, features)) == 4.0
    gradient = jax.grad(lambda real: feature_matching(apart, real))(features)
    assert all(not np.any(x) for x in gradient)


def test_round_trip(case):
    """Names, values and buffers, of the file that the official trainer saves, perceptual loss included."""
    _, _, weights = case
    saved = {f"module.{key}": value for key, value in weights.items()} | {"module.perceptual_loss.lin0": np.ones(1)}
    written = official.to_torch(official.discriminators_from_torch(saved))
    assert written.keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(written[key], value)
        assert written[key].dtype == (np.int64 if key.endswith("tracked") else np.float32)


def test_statistics_are_no_parameters(case):
    """An optimizer would change them by weight decay."""
    _, params = functional.split(official.discriminators_from_torch(case[2]))
    _, fresh = functional.split(Discriminators(DiscriminatorConfig(width=8), rngs=nnx.Rngs(0)))
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    assert set(params["image"]["layers"]["1"]["norm"]) == {"scale", "bias"}


def test_problems_are_named(case):
    weights = dict(case[2])
    weights["discriminator_2d.surplus"] = weights.pop("discriminator_2d.model1.1.bias")
    weights["discriminator_3d.model2.0.bias"] = np.zeros(5)
    with pytest.raises(ValueError) as caught:
        official.discriminators_from_torch(weights)
    message = str(caught.value)
    assert "discriminator_2d.model1.1.bias is missing" in message
    assert "discriminator_2d.surplus is not a weight" in message
    assert "discriminator_3d.model2.0.bias has shape (5,); (32,) is needed" in message
    with pytest.raises(ValueError, match="discriminator_3d.model1.1.running_mean has shape"):
        official.discriminators_from_torch(case[2] | {"discriminator_3d.model1.1.running_mean": np.zeros(3)})
    with pytest.raises(ValueError, match="begins neither with discriminator_2d. nor"):
        official.discriminators_from_torch({"model0.0.weight": np.zeros((8, 3, 4, 4))})


def test_input_of_another_rank(case, inputs):
    model = official.discriminators_from_torch(case[2])
    with pytest.raises(ValueError, match=r"it takes \(b, h, w, 3\)"):
        model.image(inputs["video"][0])


def test_initial_values():
    """Convolutions N(0, 0.02), norms N(1, 0.02) and 0, at the paper's size."""
    rngs = nnx.Rngs(0)
    _, params = functional.split(Discriminators(DiscriminatorConfig(), rngs=rngs))
    assert functional.count(params["image"]) == 2_766_529
    layer = params["video"]["layers"]["3"]
    assert np.std(layer["conv"]["kernel"]) == pytest.approx(0.02, rel=0.01)
    assert np.std(layer["norm"]["scale"]) == pytest.approx(0.02, rel=0.1)
    assert np.mean(layer["norm"]["scale"]) == pytest.approx(1, abs=0.005)
    assert not np.any(layer["norm"]["bias"])
