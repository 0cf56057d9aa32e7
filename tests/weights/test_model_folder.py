"""Model folders: what is written is read, damage and misfits are named, and `pvdm convert` makes them."""

import dataclasses
import json
import os
import pickle
import zipfile

import jax
import numpy as np
import pytest
from flax import nnx

import pvdm_jax
from pvdm_jax import cli
from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, SampleConfig, UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, latent_spec
from pvdm_jax.models.triplane import PlaneShape
from pvdm_jax.models.unet import UNet
from pvdm_jax.storage.run_folder import RunFolder
from pvdm_jax.weights import model_folder, official
from pvdm_jax.weights.model_card import EXCHANGED_PLANES
from pvdm_jax.weights.run_card import run_card

AUTOENCODER = AutoencoderConfig(
    frames=4, height=16, width=16, patch_size=4, channels=16, latent_channels=2, depth=2, num_heads=2, head_dim=8
)
AUTOENCODER = dataclasses.replace(AUTOENCODER, plane_depth=2, plane_num_heads=2, plane_head_dim=4, plane_mlp_dim=24)
UNET = UNetConfig(
    latent_channels=2,
    model_channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_resolutions=(1,),
    num_heads=2,
)
CONFIG = Config(autoencoder=AUTOENCODER, denoiser=UNET, sample=SampleConfig(steps=2, later_steps=2))


@pytest.fixture(scope="module")
def modules():
    return Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0)), UNet(UNET, latent_spec(AUTOENCODER), rngs=nnx.Rngs(1))


@pytest.fixture(scope="module")
def params(modules):
    return [functional.split(module)[1] for module in modules]


@pytest.fixture
def folder(params, tmp_path):
    card = {"source": {"autoencoder": "made up"}, "notes": ["A note."]}
    return model_folder.write_model(tmp_path / "model", CONFIG, *params, card, class_names=("a", "b"))


@pytest.fixture
def official_files(modules, tmp_path):
    """Official weights of both as .npz files."""
    paths = [tmp_path / "model_last.npz", tmp_path / "ema_model_10.npz"]
    for path, module, prefix in zip(paths, modules, ("", "diffusion_model."), strict=True):
        np.savez(path, **{prefix + name: array for name, array in official.to_torch(module).items()})
    return paths


HEADS = ["--num-heads=2", "--autoencoder-num-heads=2", "--autoencoder-plane-num-heads=2"]


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, expected))


def edit(folder, change):
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))


def test_what_is_written_is_read(folder, params):
    model = model_folder.read_model(folder)
    assert model.config == CONFIG and model.class_names == ("a", "b")
    same([model.autoencoder, model.denoiser], params)
    assert model.card["source"] == {"autoencoder": "made up"}
    assert model.card["parameters"] == {
        "autoencoder": functional.count(params[0]),
        "denoiser": functional.count(params[1]),
    }
    assert model.card["sizes"]["latent_positions"] == 4 * 4 + 2 * 4 * 4
    assert model.card["notes"] == ["A note.", EXCHANGED_PLANES]
    page = (folder / "README.md").read_text()
    assert "4 frames of 16 x 16" in page and "autoencoder: made up" in page and "two motion planes" in page
    assert not list(folder.parent.glob(".*"))


def test_a_denoiser_with_positions_has_no_note_on_planes(params, tmp_path):
    unet = dataclasses.replace(UNET, position_embedding=True)
    denoiser = functional.split(UNet(unet, latent_spec(AUTOENCODER), rngs=nnx.Rngs(0)))[1]
    config = dataclasses.replace(CONFIG, denoiser=unet)
    model_folder.write_model(tmp_path / "m", config, params[0], denoiser, {})
    assert model_folder.read_model(tmp_path / "m").card["notes"] == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_the_size(params, tmp_path, dtype):
    model_folder.write_model(tmp_path / "m", CONFIG, *params, {}, dtype=dtype)
    found = model_folder.read_model(tmp_path / "m")
    for ours, theirs in zip(jax.tree.leaves(found.denoiser), jax.tree.leaves(params[1]), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype(jax.numpy.dtype(dtype)).astype(np.float32))
    with pytest.raises(ConfigError, match="dtype is 'int8'"):
        model_folder.write_model(tmp_path / "n", CONFIG, *params, {}, dtype="int8")


def test_load(folder, params):
    """The loaded model samples, extends and reconstructs."""
    model = pvdm_jax.load(folder)
    assert model.config == CONFIG and model.class_names == ("a", "b")
    same(model.weights, {"autoencoder": params[0], "denoiser": params[1]})
    video = model.sample(jax.random.key(0), num_videos=1)
    assert video.shape == (1, 4, 16, 16, 3) and video.dtype == np.uint8
    assert model.reconstruct(video).shape == video.shape


def test_an_autoencoder_alone(params, tmp_path):
    folder = model_folder.write_model(tmp_path / "m", CONFIG, params[0], None, {})
    config, found = model_folder.read_autoencoder(folder)
    assert config == AUTOENCODER
    same(found, params[0])
    model = pvdm_jax.load(folder)
    video = np.zeros((1, 4, 16, 16, 3), np.uint8)
    assert model.reconstruct(video).shape == video.shape
    with pytest.raises(ValueError, match="has no denoiser"):
        model.sample(jax.random.key(0), num_videos=1)


def test_a_denoiser_alone(params, tmp_path):
    folder = model_folder.write_model(tmp_path / "m", CONFIG, None, params[1], {})
    assert model_folder.read_model(folder).config.denoiser == UNET
    with pytest.raises(ConfigError, match="holds no autoencoder"):
        model_folder.read_autoencoder(folder)
    with pytest.raises(FileNotFoundError, match="pvdm convert --autoencoder"):
        pvdm_jax.load(folder)
    with pytest.raises(ConfigError, match="an autoencoder, a denoiser or both"):
        model_folder.write_model(tmp_path / "n", CONFIG, None, None, {})


def test_nothing_is_written_over(folder, params):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="is not empty; name a new folder"):
        model_folder.write_model(folder, CONFIG, *params, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_empty_folder_will_do(params, tmp_path):
    (tmp_path / "empty").mkdir()
    model_folder.write_model(tmp_path / "empty", CONFIG, params[0], None, {})
    assert model_folder.is_model_folder(tmp_path / "empty")
    assert not model_folder.is_model_folder(tmp_path) and not model_folder.is_model_folder(tmp_path / "absent")


def test_damage_is_named(folder):
    path = folder / "denoiser.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="denoiser.safetensors is damaged or belongs to another model: its SHA-256"):
        model_folder.read_model(folder)
    model_folder.read_autoencoder(folder)  # the other file is good
    path.unlink()
    with pytest.raises(FileNotFoundError, match="denoiser.safetensors is missing"):
        pvdm_jax.load(folder)


def test_weights_that_do_not_fit(folder):
    def change(settings):
        settings["autoencoder"]["channels"] = 24

    edit(folder, change)
    with pytest.raises(ConfigError, match=r"down/bias has shape \(2, 16\); \(2, 24\) is needed; .*; and \d+ more$"):
        model_folder.read_model(folder)


def test_settings_that_do_not_work(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a model folder"):
        model_folder.read_model(tmp_path)
    edit(folder, lambda settings: settings["denoiser"].update(depth=3))
    with pytest.raises(ConfigError, match="config.json: denoiser.depth is 3; there is no such field"):
        model_folder.read_model(folder)
    edit(folder, lambda settings: settings.update(model_folder=3))
    with pytest.raises(ConfigError, match="model_folder is 3; this version of pvdm_jax reads 2"):
        model_folder.read_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="config.json is not JSON"):
        model_folder.read_model(folder)


def test_convert(official_files, params, tmp_path, capsys):
    argv = [
        "convert",
        f"--autoencoder={official_files[0]}",
        f"--denoiser={official_files[1]}",
        f"--output={tmp_path / 'm'}",
    ]
    assert cli.main(argv + HEADS) == 0
    assert "two motion planes" in capsys.readouterr().out
    model = model_folder.read_model(tmp_path / "m")
    assert (model.config.autoencoder, model.config.denoiser) == (AUTOENCODER, UNET)
    same([model.autoencoder, model.denoiser], params)
    source = model.card["source"]["denoiser"]
    assert source["weights of the official PyTorch code"] == "ema_model_10.npz" and len(source["SHA-256"]) == 64
    assert "not known" in model.card["training"]["autoencoder"]
    assert cli.main(argv + HEADS) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err


def test_convert_either_alone_and_join(official_files, params, tmp_path, capsys):
    one, other, both = (tmp_path / name for name in ("one", "other", "both"))
    assert cli.main(["convert", f"--autoencoder={official_files[0]}", f"--output={one}", *HEADS[1:]]) == 0
    assert cli.main(["convert", f"--denoiser={official_files[1]}", f"--output={other}", HEADS[0]]) == 0
    assert cli.main(["convert", f"--autoencoder={one}", f"--denoiser={other}", f"--output={both}"]) == 0
    model = model_folder.read_model(both)
    same([model.autoencoder, model.denoiser], params)
    assert model.card["source"]["autoencoder"]["weights of the official PyTorch code"] == "model_last.npz"
    assert cli.main(["convert", f"--autoencoder={other}", f"--output={tmp_path / 'x'}"]) == 2
    assert "holds no autoencoder" in capsys.readouterr().err
    assert cli.main(["convert", f"--output={tmp_path / 'x'}"]) == 2
    assert cli.main(["convert", f"--denoiser={other}", f"--output={tmp_path / 'x'}", HEADS[0]]) == 2
    assert "only for a file of weights" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_convert_names_what_is_wrong(official_files, tmp_path, capsys):
    def error(*argv):
        assert cli.main(["convert", *argv, f"--output={tmp_path / 'x'}"]) == 2
        return capsys.readouterr().err

    assert "model_last.npz, as the denoiser: " in error(f"--denoiser={official_files[0]}")
    assert "no_such.pth" in error("--denoiser=no_such.pth")
    with np.load(official_files[1]) as arrays:
        weights = dict(arrays)
    weights["diffusion_model.surplus"] = weights.pop("diffusion_model.out.0.bias")
    weights["diffusion_model.out.2.bias"] = np.zeros(9)
    np.savez(tmp_path / "bad.npz", **weights)
    message = error(f"--denoiser={tmp_path / 'bad.npz'}", HEADS[0])
    assert "out.0.bias is missing, shape (32,)" in message
    assert "surplus is not a weight of this model" in message
    assert "out.2.bias has shape (9,); (2,) is needed" in message
    (tmp_path / "text.pth").write_text("weights")
    assert "text.pth can't be read as weights" in error(f"--autoencoder={tmp_path / 'text.pth'}")


def test_networks_that_do_not_fit_each_other(official_files, tmp_path, capsys):
    unet = UNet(dataclasses.replace(UNET, latent_channels=3), PlaneShape(4, 4, 4).latent_spec(3), rngs=nnx.Rngs(0))
    np.savez(tmp_path / "three.npz", **official.to_torch(unet))
    argv = [f"--autoencoder={official_files[0]}", f"--denoiser={tmp_path / 'three.npz'}", f"--output={tmp_path / 'x'}"]
    assert cli.main(["convert", *argv, *HEADS]) == 2
    assert "denoiser.latent_channels is 3; it must equal autoencoder.latent_channels (2)" in capsys.readouterr().err


class Crafted:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_crafted_pickle_is_refused(tmp_path, capsys, zipped):
    made = tmp_path / "made"
    pickled = pickle.dumps({"to_pixel.1.weight": Crafted(made)}, protocol=2)
    path = tmp_path / "model_last.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", pickled)
    else:
        path.write_bytes(pickled)
    assert cli.main(["convert", f"--autoencoder={path}", f"--output={tmp_path / 'x'}"]) == 2
    message = capsys.readouterr().err
    assert f"{path} can't be read as weights" in message and "open, which " in message
    assert ("weights don't need" if zipped else "NumPy's arrays don't need") in message
    assert not made.exists() and not (tmp_path / "x").exists()
    pickle.loads(pickled)["to_pixel.1.weight"].close()  # the pickle does what is said of it
    assert made.exists()
    os.remove(made)


def test_torch_files(modules, params, tmp_path):
    """What the official trainer saves, without asking PyTorch to read it."""
    torch = pytest.importorskip("torch", reason="it writes the file")
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in official.to_torch(modules[1]).items()}
    torch.save({f"diffusion_model.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "ema_model_0.pth")
    assert (
        cli.main(["convert", f"--denoiser={tmp_path / 'ema_model_0.pth'}", f"--output={tmp_path / 'm'}", HEADS[0]]) == 0
    )
    same(model_folder.read_model(tmp_path / "m").denoiser, params[1])


def test_the_card_of_a_run(tmp_path):
    stage = tmp_path / "autoencoder"
    stage.mkdir()
    (stage / "config.json").write_text(json.dumps({"seed": 3, "data": {"path": "data/videos"}}))
    lines = [{"step": 5, "eval/psnr": 20.0}, {"step": 9, "train/loss": 0.1}, {"step": 10, "eval/psnr": 21.0}]
    (stage / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 1')
    card = run_card(RunFolder(tmp_path))
    assert card["numbers"] == {"autoencoder": {"psnr": 21.0}}
    assert card["training"]["autoencoder"] == {"data": "data/videos", "seed": 3, "evaluated after step": 10}
    assert card["source"].keys() == {"autoencoder"}
    (stage / "best.json").write_text(json.dumps({"best_step": 5}))
    assert run_card(RunFolder(tmp_path))["numbers"] == {"autoencoder": {"psnr": 20.0}}
