"""A run identifies its dataset (wherever that is) and its autoencoder by their content."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_config import CONFIG, changed

from pvdm_jax.config import ConfigError, DataConfig, config_to_dict
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.inference.loading import load
from pvdm_jax.runtime.sharding import make_mesh
from pvdm_jax.storage.checkpoint import Checkpoints
from pvdm_jax.storage.files import write_json
from pvdm_jax.storage.run_folder import RunFolder, read_settings
from pvdm_jax.training import autoencoder, diffusion, latents
from pvdm_jax.training.encode import encode
from pvdm_jax.training.encoder import Encoder
from pvdm_jax.weights.run_autoencoder import load_autoencoder


def make_dataset(path, shade):
    """Videos of one size and length, told apart by their pixels alone."""
    for number in range(4):
        video = np.random.default_rng(number).integers(0, 200, (20, 16, 24, 3), np.uint8)
        (path.parent / "videos").mkdir(parents=True, exist_ok=True)
        np.save(path.parent / "videos" / f"{number}.npy", video + np.uint8(shade))
    prepare(path.parent / "videos", path)


def on(path):
    data = DataConfig(source="tfds", path=str(path), crop_scale=0.8, flip=True, holdout=0.4)
    return dataclasses.replace(CONFIG, data=data, denoiser=dataclasses.replace(CONFIG.denoiser, num_classes=0))


def test_the_dataset_counts_and_not_its_path(tmp_path, monkeypatch, capsys):
    path, run = tmp_path / "data", tmp_path / "run"
    make_dataset(path, 0)
    autoencoder.train(on(path), run)
    encode(on(path), run)
    # Moved, and named by a relative path: all resume.
    moved = tmp_path / "elsewhere" / "data"
    shutil.copytree(path, moved)
    monkeypatch.chdir(moved.parent)
    for config in (on("data"),):
        autoencoder.train(config, run)
        assert "autoencoder: finished, 1 of 1 steps" in capsys.readouterr().out
        encode(config, run)
        latents.open_latents(config, run, "train")
    assert json.loads((run / "autoencoder" / "config.json").read_text())["data"]["path"] == "data"
    # Prepared again, from other videos: nothing resumes.
    shutil.rmtree(path)
    make_dataset(path, 9)
    other = r"the content of data.path \(its fingerprint\) is '\w+' \(it was '\w+'\)"
    for step in (autoencoder.train, encode, diffusion.train):
        with pytest.raises(ConfigError, match=other):
            step(on(path), run)
    # Latents serve without their dataset; stage 2 keeps the fingerprint that they have.
    shutil.rmtree(path)
    kept = latents.open_latents(on(path), run, "train")
    assert kept.dataset == json.loads((run / "autoencoder" / "config.json").read_text())["dataset"]
    settings = {}
    monkeypatch.setattr("pvdm_jax.training.loop.train", lambda *_, **options: settings.update(options["settings"]))
    diffusion.train(on(path), run)
    assert settings["dataset"] == kept.dataset and settings["encoded_by"] == kept.identity


def test_stage_two_refuses_latents_of_an_autoencoder_that_was_trained_on(stage_one, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(stage_one, run)
    encode(CONFIG, run)
    identity = latents.open_latents(CONFIG, run, "train").identity
    folder = RunFolder(run).autoencoder
    params = load_autoencoder(CONFIG.autoencoder, run)
    with Checkpoints(folder.path, keep=1) as checkpoints:
        checkpoints.save(2, {"ema": jax.tree.map(lambda x: x * 1.01, params)}, {})
    folder.best.unlink()
    assert Encoder(CONFIG.autoencoder, run, make_mesh(CONFIG.mesh)).identity != identity
    for step in (encode, diffusion.train):
        with pytest.raises(ConfigError, match=f"made by another autoencoder .{identity[:12]}, this run's is"):
            step(CONFIG, run)
    # Loading the run warns about a denoiser that was trained before.
    RunFolder(run).diffusion.path.mkdir()
    settings = json.loads(folder.config.read_text()) | {"encoded_by": identity}
    RunFolder(run).diffusion.config.write_text(json.dumps(settings))
    load(run)
    assert "was trained on latents of another autoencoder" in caplog.text


def test_latents_of_an_older_version_know_no_dataset(stage_one, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stage_one, run)
    encode(CONFIG, run)
    index = json.loads((run / "latents" / "index.json").read_text())
    assert index["made_by"].pop("dataset") == "synthetic"
    (run / "latents" / "index.json").write_text(json.dumps(index))
    assert latents.open_latents(CONFIG, run, "train").dataset == ""
    with pytest.raises(ConfigError, match="data.flip is False"):
        latents.open_latents(changed(data={"flip": False}), run, "train")


def test_training_is_not_evaluated_on_its_own_videos_but_older_runs_that_were_are_read(tmp_path):
    config = dataclasses.replace(CONFIG, data=DataConfig(source="tfds", path="none", split="all", eval_split="test"))
    for start in (autoencoder.train, encode, diffusion.train):
        with pytest.raises(ConfigError, match="data.eval_split is 'test'; data.split=all trains on these videos"):
            start(config, tmp_path / "run")
    write_json(tmp_path / "config.json", config_to_dict(config))
    assert read_settings(tmp_path / "config.json").config == config
