"""LPIPS against the official implementation, its stand-in without weights, and its weight files."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.losses.lpips import LPIPS_NAME, RANDOM_NAME
from pvdm_jax.models import functional
from pvdm_jax.weights import official


@pytest.fixture(scope="module")
def weights(reference, recipe):
    """{official name: array}; the linear layers' weights are positive."""
    info, _ = reference("lpips")
    weights = recipe.weights(info["weights"], info["seed"])
    return {name: np.abs(array) if name.startswith("lin") else array for name, array in weights.items()}


@pytest.fixture(scope="module")
def images(reference, recipe):
    seed = reference("lpips").info["seed"]
    first = recipe.video(2, 64, 64, seed)[0]
    return first, np.clip(first + 0.3 * recipe.noise(first.shape, seed, "b"), -1, 1)


def distance(model, first, second):
    graphdef, params = functional.split(model)
    return jax.jit(lambda params, a, b: functional.merge(graphdef, params)(a, b))(params, first, second)


def torchvision_names(weights):
    """Two files as users have them: torchvision's VGG16, classifier included, and LPIPS's linear layers."""
    vgg = {".".join(["features", *name.split(".")[2:]]): x for name, x in weights.items() if name.startswith("net")}
    lins = {name: x for name, x in weights.items() if name.startswith("lin")}
    return vgg | {"classifier.0.bias": np.zeros(3)}, lins | {f"lins.{k[3:]}": x for k, x in lins.items()}


def test_lpips(reference, weights, images):
    expected = reference("lpips").arrays["distance"]
    model = official.lpips_from_torch(weights)
    assert model.name == LPIPS_NAME
    found = distance(model, *images)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5


def test_names_of_torchvision_and_lpips(weights, images):
    expected = official.lpips_from_torch(weights)(*images)
    np.testing.assert_array_equal(official.lpips_from_torch(*torchvision_names(weights))(*images), expected)
    saved = {f"module.perceptual_loss.{name}": x for name, x in weights.items()}
    saved |= {"module.discriminator_2d.model0.0.bias": np.zeros(3), "module.perceptual_loss.scaling_layer.shift": 0.0}
    np.testing.assert_array_equal(official.lpips_from_torch(saved)(*images), expected)


def test_files(weights, images, tmp_path, caplog):
    from safetensors.numpy import save_file

    vgg, lins = torchvision_names(weights)
    save_file({name: np.ascontiguousarray(x) for name, x in vgg.items()}, tmp_path / "vgg16.safetensors")
    np.savez(tmp_path / "lpips.npz", **lins)
    with caplog.at_level(logging.WARNING):
        model = official.load_lpips([tmp_path / "vgg16.safetensors", tmp_path / "lpips.npz"])
    np.testing.assert_array_equal(model(*images), official.lpips_from_torch(weights)(*images))
    assert not caplog.records
    with pytest.raises(ValueError, match="lin0.model.1.weight is missing"):
        official.load_lpips([tmp_path / "vgg16.safetensors"])


def test_problems_are_named(weights):
    broken = dict(weights)
    broken["features.3.weight"] = broken.pop("net.slice3.12.bias")
    broken["lin2.model.1.weight"] = np.zeros((1, 3, 1, 1))
    with pytest.raises(ValueError) as caught:
        official.lpips_from_torch(broken)
    message = str(caught.value)
    assert "net.slice3.12.bias is missing" in message
    assert "features.3.weight is not a weight" in message
    assert "lin2.model.1.weight has shape (1, 3, 1, 1); (1, 256, 1, 1) is needed" in message


def test_stand_in_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        model = official.load_lpips()
    assert model.name == RANDOM_NAME
    assert "NO LPIPS WEIGHTS" in caplog.text and "not LPIPS" in caplog.text


def test_stand_in_orders_images(recipe):
    """More blur, more noise and another image are farther away; the weights are always the same."""
    model = official.load_lpips()
    video = recipe.video(1, 32, 32, seed=1, batch=3)[:, 0]
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(video.shape, dtype=np.float32)
    others = [video, video + 0.05 * noise, video + 0.2 * noise, np.roll(video, 1, axis=0)]
    found = [float(np.mean(distance(model, video, other))) for other in others]
    assert found[0] < 1e-6
    assert found == sorted(found)
    assert 0.2 < found[-1] < 1
    np.testing.assert_array_equal(official.load_lpips()(video, others[1]), model(video, others[1]))


@pytest.mark.slow
def test_gradient_is_finite_on_flat_images():
    """Features may all be zero, where a length has no gradient."""
    model = official.load_lpips()
    flat = jnp.zeros((1, 16, 16, 3))
    dead = jax.tree.map(lambda x: -jnp.abs(x), functional.split(model)[1]["stages"])
    graphdef, params = functional.split(model)
    graph = functional.merge(graphdef, params | {"stages": dead})
    gradient = jax.grad(lambda x: graph(x, flat + 0.5).sum())(flat)
    assert np.all(np.isfinite(gradient))


def test_wrong_images(images):
    model = official.load_lpips()
    with pytest.raises(ValueError, match="16 pixels or more"):
        model(images[0][:, :8], images[1][:, :8])
    with pytest.raises(ValueError, match=r"must be \(b, h, w, 3\)"):
        model(images[0], images[1][:1])
