"""Reading weights: what PyTorch writes comes back, and nothing in a file is ever run."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from pvdm_jax.storage.files import file_hash
from pvdm_jax.weights.foreign_files import WeightFileError, read_weights


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch writes these files")


@pytest.fixture(scope="module")
def state_dict(torch):
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    return {
        "a.weight": base,
        "a.part": base[1:, ::2],  # shares a's numbers
        "b": torch.arange(5),
        "half": torch.randn(3).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts(torch, state_dict, tmp_path, zipped):
    path = tmp_path / "weights.pt"
    torch.save(state_dict, path, _use_new_zipfile_serialization=zipped)
    found = read_weights(path)
    assert found.weights.keys() == state_dict.keys() and found.sha256 == file_hash(path) and found.code == ""
    for name, tensor in state_dict.items():
        assert found.weights[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(found.weights[name].astype(np.float64), tensor.double().numpy())


def test_nested_checkpoints(torch, state_dict, tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    torch.save({"model": state_dict, "step": 3, "parameter": parameter, "names": ["x"]}, tmp_path / "c.pth")
    found = read_weights(tmp_path / "c.pth").weights
    assert found.keys() == {f"model.{name}" for name in state_dict} | {"parameter"}


@pytest.mark.parametrize("make", ["script", "trace"])
def test_torchscript_is_read_and_not_run(torch, tmp_path, make):
    unit = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 1), torch.nn.BatchNorm3d(3, eps=1e-3))
    model = torch.nn.Sequential(unit, torch.nn.ReLU()).eval()
    module = torch.jit.script(model) if make == "script" else torch.jit.trace(model, torch.zeros(1, 2, 2, 2, 2))
    torch.jit.save(module, tmp_path / "model.pt")
    found = read_weights(tmp_path / "model.pt")
    expected = model.state_dict()
    assert found.weights.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found.weights[name], tensor.numpy())
    assert "0.001" in found.code and "def forward" in found.code


def test_npz_and_safetensors(tmp_path):
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.ones(2, np.int64)}
    np.savez(tmp_path / "a.npz", **arrays)
    header = b'{"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[2,3],"data_offsets":[16,40]},'
    header += b'"y":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}'
    data = len(header).to_bytes(8, "little") + header + arrays["y"].tobytes() + arrays["x"].tobytes()
    (tmp_path / "a.safetensors").write_bytes(data)
    for name in ("a.npz", "a.safetensors"):
        found = read_weights(tmp_path / name).weights
        assert found.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[key], array)


class Calls:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def archive(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickled)
    return buffer.getvalue()


def test_calls_in_a_pickle_do_nothing(tmp_path):
    pickled = pickle.dumps({"weights": Calls(tmp_path / "made")}, protocol=2)
    (tmp_path / "bad.pt").write_bytes(archive(pickled))
    with pytest.raises(WeightFileError, match="bad.pt can't be read as weights: there is no array in it"):
        read_weights(tmp_path / "bad.pt")
    (tmp_path / "old.pt").write_bytes(pickled)
    with pytest.raises(WeightFileError, match="old.pt"):
        read_weights(tmp_path / "old.pt")
    np.save(tmp_path / "objects.npy", np.array([Calls(tmp_path / "made")], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "objects.npz", "w") as file:
        file.write(tmp_path / "objects.npy", "x.npy")
    with pytest.raises(WeightFileError, match="objects.npz"):
        read_weights(tmp_path / "objects.npz")
    assert not (tmp_path / "made").exists()


def test_plain_files_alone(torch, tmp_path):
    """With `plain`, a call next to good weights is not ignored."""
    torch.save({"x": torch.ones(3), "y": Calls(tmp_path / "made")}, tmp_path / "bad.pth")
    assert read_weights(tmp_path / "bad.pth").weights.keys() == {"x"}
    with pytest.raises(WeightFileError, match=r"its pickle would call (posix|nt).mkdir, which weights don't need"):
        read_weights(tmp_path / "bad.pth", plain=True)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"plain text", b"\x80\x02", b"PK\x03\x04 cut short", b"\xff" * 8 + b"{}"])
def test_refuses_other_files(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(WeightFileError, match="x.pt can't be read as weights"):
        read_weights(tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "missing.pt")


def test_views_that_reach_too_far_are_refused(torch, tmp_path):
    torch.save({"x": torch.arange(4.0)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as file:
        contents = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(tmp_path / "short.pt", "w") as file:
        for name, data in contents.items():
            file.writestr(name, data[:8] if name.endswith("data/0") else data)
    with pytest.raises(WeightFileError, match="reaches to number 3 of a storage of 2"):
        read_weights(tmp_path / "short.pt")
