"""C3D against PyTorch's operations put together as TGANv2's code has them."""

import jax
import numpy as np
import pytest

from pvdm_jax.evaluation import c3d
from pvdm_jax.models import functional
from pvdm_jax.weights.foreign_files import WeightFileError, read_weights


@pytest.fixture(scope="module")
def case(reference, recipe, tmp_path_factory):
    """Files as people have them, and a video."""
    folder = tmp_path_factory.mktemp("c3d")
    info, arrays = reference("c3d")
    weights = recipe.weights(info["weights"], info["seed"])
    weights = {name: array * info["gain"] if name.endswith("W") else array for name, array in weights.items()}
    colours = np.array([90, 98, 101], np.float32)[:, None, None, None]
    np.savez(folder / "weights.npz", **weights)
    np.savez(folder / "mean.npz", mean=10 * recipe.noise((3, 16, 128, 171), info["seed"], "mean") + colours)
    clips = recipe.video(info["frames"], info["height"], info["width"], info["seed"], batch=2)
    return folder, np.rint((clips + 1) * 127.5).astype(np.uint8), arrays


def relative_error(found, expected) -> float:
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def test_agrees_with_pytorch(case):
    folder, video, expected = case
    graphdef, params = functional.split(c3d.c3d_from_weights(read_weights(folder / "weights.npz")))
    prepared = jax.jit(c3d.preprocess)(video, c3d.read_mean(read_weights(folder / "mean.npz")))
    assert relative_error(prepared[:, [0, 9], ::16, ::16], expected["preprocessed_sample"]) < 1e-6
    logits = jax.jit(lambda p, x: functional.merge(graphdef, p)(x))(params, prepared)
    assert relative_error(logits, expected["logits"]) < 1e-5


def test_full_size_has_the_published_shapes():
    from flax import nnx

    _, shapes = functional.abstract(lambda: c3d.C3D(rngs=nnx.Rngs(0)))
    assert shapes["fc6"]["kernel"].shape == (8192, 4096) and shapes["fc8"]["kernel"].shape == (4096, 101)
    assert functional.count(shapes) == 78_409_573  # 27.66 M of the convolutions, 50.75 M of the linear layers


def test_refuses_other_files(case, tmp_path):
    folder, _, _ = case
    weights = dict(np.load(folder / "weights.npz"))
    np.savez(tmp_path / "less.npz", **{name: array for name, array in weights.items() if name != "conv4b/W"})
    with pytest.raises(WeightFileError, match=r"less.npz holds no C3D: conv4b/W is missing"):
        c3d.c3d_from_weights(read_weights(tmp_path / "less.npz"))
    np.savez(tmp_path / "wrong.npz", **weights | {"fc7/W": np.zeros((256, 255))})
    with pytest.raises(WeightFileError, match=r"fc7's kernel has shape \(255, 256\); \(256, 256\) is needed"):
        c3d.c3d_from_weights(read_weights(tmp_path / "wrong.npz"))
    with pytest.raises(WeightFileError, match="no array `mean`"):
        c3d.read_mean(read_weights(tmp_path / "less.npz"))
    np.savez(tmp_path / "small.npz", mean=np.zeros((3, 16, 112, 112)))
    with pytest.raises(WeightFileError, match=r"\(3, 16, 112, 112\)"):
        c3d.read_mean(read_weights(tmp_path / "small.npz"))
