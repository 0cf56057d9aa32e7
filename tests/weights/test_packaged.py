"""Packaged models: found by name by every command, listed, shipped in the wheel, with a card that describes them."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_model import FRAMES, SIDE, formula_model, tiny_model

import pvdm_jax
from pvdm_jax import cli
from pvdm_jax.commands import familiarity, generate, reconstruct
from pvdm_jax.config import DataConfig
from pvdm_jax.data.synthetic import SyntheticVideos
from pvdm_jax.evaluation.card import VERSION
from pvdm_jax.inference import loading
from pvdm_jax.video.write import write_video
from pvdm_jax.weights import model_folder, packaged, run_autoencoder

ROOT = pathlib.Path(__file__).parents[2]
MAX_BYTES = 12_000_000  # of a packaged model
HELD_OUT = {"clips": 8, "psnr_mean": 20.0, "psnr_median": 20.0, "psnr_lowest_percent": 15.0}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of packaged models with one toy."""
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "pretrained")
    model = tiny_model()
    weights = {name: jax.tree.map(np.asarray, params) for name, params in model.weights.items()}
    model_folder.write_model(
        tmp_path / "pretrained" / "toy",
        model.config,
        weights["autoencoder"],
        weights["denoiser"],
        {"summary": "Noise.", "license": "MIT", "held_out": HELD_OUT},
        model.class_names,
        data=DataConfig(stride=2),
    )
    (tmp_path / "pretrained" / "README.md").write_text("no model")
    return tmp_path / "pretrained"


def test_a_name_is_loaded_and_a_path_comes_first(shelf, tmp_path, monkeypatch):
    model = pvdm_jax.load("toy")
    assert model.config.autoencoder.height == SIDE and model.card["summary"] == "Noise."
    assert model.config.data.stride == 2  # videos are read as in training
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    assert packaged.find_model("toy") == pathlib.Path("toy")
    assert packaged.find_model(shelf / "toy") == shelf / "toy"


def test_another_name_lists_what_there_is(shelf, capsys):
    assert cli.main(["sample", "--model=shpaes", "--output=out"]) == 2
    assert "shpaes is not a run's folder, a model folder or the name of a packaged model; packaged are toy\n" in (
        capsys.readouterr().err
    )


def test_the_list(shelf, capsys):
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    assert "toy: Noise.\n" in text and f"clips of {FRAMES} frames of {SIDE} x {SIDE}" in text and "license: MIT" in text
    assert "bounce, orbit, spin" in text and "--model=toy" in text


def test_a_run_imports_its_autoencoder(shelf, tmp_path):
    config = loading.load("toy").config
    run_autoencoder.import_autoencoder("toy", config, tmp_path / "run")
    assert model_folder.is_model_folder(tmp_path / "run" / "autoencoder")


def test_export_writes_one_in_bfloat16_with_its_card(shelf, tmp_path, capsys):
    """It can also export a packaged model, whose facts it keeps."""
    evaluation = {
        "card": VERSION,
        "results": {"psnr": {"value": 21.5, "low": 21.0, "high": 22.0, "better": "higher"}},
        **{name: {} for name in ("networks", "real", "generated")},
        "protocol": {"name": "quick"},
    }
    (tmp_path / "card.json").write_text(json.dumps(evaluation))
    arguments = ["--dtype=bfloat16", "--summary=Shapes.", "--made-by=pvdm demo", f"--evaluation={tmp_path}"]
    assert cli.main(["export", "--model=toy", f"--output={shelf / 'half'}", "--held-out=6", *arguments]) == 0
    model = model_folder.read_model(shelf / "half")
    card = model.card
    assert card["summary"] == "Shapes." and card["license"] == "MIT" and card["command"] == "pvdm demo"
    assert card["evaluation"]["results"]["psnr"]["value"] == 21.5
    assert card["held_out"]["clips"] == 6 and 0 < card["held_out"]["psnr_lowest_percent"] < 20
    assert model.data == DataConfig(stride=2)
    assert json.loads((shelf / "half" / "config.json").read_text())["files"]["denoiser"]["dtype"] == "bfloat16"
    page = (shelf / "half" / "README.md").read_text()
    assert "Shapes." in page and "## Licence\n\nMIT" in page and "| psnr | 21.5 |" in page and "pvdm demo" in page
    assert packaged.packaged_names() == ["half", "toy"]


@pytest.mark.parametrize(("lowest", "far"), [(1.0, False), (90.0, True)])
def test_a_video_far_from_the_training_data_is_named(tmp_path, caplog, lowest, far):
    """The toy reconstructs nothing well, so what is far is decided by the number on its card."""
    model = formula_model()
    model.card = {"held_out": HELD_OUT | {"psnr_lowest_percent": lowest}}
    video = SyntheticVideos(1, 2 * FRAMES, SIDE, SIDE, seed=0)[0].read(0, 2 * FRAMES)
    write_video(tmp_path / "a.mp4", video, fps=10.0)
    reconstruct.reconstruct(model, [tmp_path / "a.mp4"], tmp_path / "reconstructed", formats=["gif"])
    assert ("a.mp4 is far from what this model was trained on" in caplog.text) == far
    record = json.loads((tmp_path / "reconstructed" / "reconstruction.json").read_text())["videos"][0]
    assert record["like_training_data"] is not far
    caplog.clear()
    generate.extend(model, [tmp_path / "a.mp4"], tmp_path / "extended", num_frames=FRAMES, formats=["gif"])
    assert ("a.mp4 is far from what this model was trained on" in caplog.text) == far
    assert familiarity.check_dataset(model, DataConfig(synthetic_videos=4)) is not far
    assert ("the synthetic source is far" in caplog.text) == far


def test_a_card_without_numbers_decides_nothing():
    model = formula_model()
    assert familiarity.check_clips(model, "a.mp4", np.zeros((1, FRAMES, SIDE, SIDE, 3), np.uint8)) is None


def test_evaluation_against_another_dataset_is_refused_early(capsys, tmp_path):
    """--data names a dataset, for a model only."""
    assert cli.main(["evaluate", "--model=toy", f"--data={tmp_path}", "--output=c"]) == 2
    assert "there is no prepared dataset" in capsys.readouterr().err
    assert cli.main(["evaluate", "--real=a", "--fake=b", f"--data={tmp_path}"]) == 2
    assert "it needs --model" in capsys.readouterr().err


def test_what_is_packaged_is_small_and_described():
    for name in packaged.packaged_names():
        folder = packaged.FOLDER / name
        assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES
        model = model_folder.read_model(folder)  # checks every hash
        assert {"summary", "license", "command", "held_out", "evaluation", "training", "source"} <= model.card.keys()
        assert model.autoencoder is not None and model.denoiser is not None and model.data is not None


def test_the_wheel_ships_them(tmp_path):
    """With setup.py's own patterns, on a copy of the package's skeleton."""
    pytest.importorskip("setuptools")
    for path in ("setup.py", "pyproject.toml", "LICENSE", "pvdm_jax/__init__.py", "configs/__init__.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    (tmp_path / "pvdm_jax" / "pretrained" / "toy").mkdir(parents=True)
    for name in ("config.json", "denoiser.safetensors", "card.json", "README.md"):
        (tmp_path / "pvdm_jax" / "pretrained" / "toy" / name).write_bytes(b"{}")
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", "built"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shipped = {path.name for path in (tmp_path / "built" / "pvdm_jax" / "pretrained" / "toy").iterdir()}
    assert shipped == {"config.json", "denoiser.safetensors", "card.json", "README.md"}
