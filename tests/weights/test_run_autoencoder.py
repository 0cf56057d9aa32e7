"""Stage 2 on an autoencoder that the run didn't train: imported once, then used by every command."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_config import CONFIG, changed

import pvdm_jax
from pvdm_jax import cli
from pvdm_jax.commands import export
from pvdm_jax.config import AutoencoderConfig, ConfigError
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.training import autoencoder, diffusion, latents
from pvdm_jax.training.encode import encode
from pvdm_jax.weights import model_folder, run_autoencoder


def make_weights(seed, model=CONFIG.autoencoder):
    return jax.tree.map(np.asarray, functional.split(Autoencoder(model, rngs=nnx.Rngs(seed)))[1])


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A model folder with an autoencoder alone, as `pvdm convert` makes of official weights."""
    card = {"source": {"autoencoder": "made up"}, "training": {"autoencoder": "not known"}}
    return model_folder.write_model(
        tmp_path_factory.mktemp("models") / "converted", CONFIG, make_weights(3), None, card
    )


@pytest.fixture(scope="module")
def run(converted, tmp_path_factory):
    """A run of stage 2 alone, on that autoencoder; the folder it came from is gone afterwards."""
    workdir, source = tmp_path_factory.mktemp("run"), converted.parent / "moved"
    shutil.copytree(converted, source)
    encode(CONFIG, workdir, autoencoder=source)
    shutil.rmtree(source)
    diffusion.train(CONFIG, workdir)
    return workdir


def test_every_later_command_uses_it(run, converted, tmp_path):
    expected = model_folder.read_autoencoder(converted)[1]
    identity = functional.fingerprint(expected)
    assert latents.open_latents(CONFIG, run, "train").identity == identity
    assert json.loads((run / "diffusion" / "config.json").read_text())["encoded_by"] == identity
    model = pvdm_jax.load(run)
    assert functional.fingerprint(model.weights["autoencoder"]) == identity and "denoiser" in model.weights
    assert model.sample(jax.random.key(0)).shape == (1, 4, 16, 24, 3)
    export.export(run, tmp_path / "exported")
    exported = model_folder.read_model(tmp_path / "exported")
    assert functional.fingerprint(exported.autoencoder) == identity and exported.denoiser is not None
    assert exported.card["source"]["autoencoder"] == "made up"
    assert exported.card["source"]["denoiser"] == "the EMA weights of a training run of pvdm_jax"


@pytest.mark.slow
def test_naming_it_again_changes_nothing_and_another_one_is_refused(run, converted, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in (run / "autoencoder").iterdir()}
    diffusion.train(CONFIG, run, autoencoder=converted)
    assert before == {path.name: path.stat().st_mtime_ns for path in (run / "autoencoder").iterdir()}
    other = model_folder.write_model(tmp_path / "other", CONFIG, make_weights(4), None, {})
    for command in (encode, diffusion.train):
        with pytest.raises(
            ConfigError, match="another autoencoder already, .*Imported from .*moved.*another --workdir"
        ):
            command(CONFIG, run, autoencoder=other)
    # Nor can another autoencoder get in by other means.
    shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "autoencoder")
    with pytest.raises(ConfigError, match="made by another autoencoder"):
        encode(CONFIG, tmp_path / "copy", autoencoder=other)
    shutil.rmtree(tmp_path / "copy" / "latents")
    encode(CONFIG, tmp_path / "copy")
    with pytest.raises(ConfigError, match="encoded_by is .*it was"):
        diffusion.train(CONFIG, tmp_path / "copy")


def test_stage_one_is_not_trained_over_it(run):
    with pytest.raises(ConfigError, match="that this run imported .*another --workdir"):
        autoencoder.train(CONFIG, run)


@pytest.mark.slow
def test_another_runs_folder_will_do(stage_one, tmp_path):
    """The best EMA of a run, straight into training from pixels; a run's own autoencoder is never replaced."""
    shutil.copytree(stage_one, tmp_path / "one")
    expected = run_autoencoder.load_autoencoder(CONFIG.autoencoder, tmp_path / "one")
    diffusion.train(changed(encode={"cache": False}), tmp_path / "two", autoencoder=tmp_path / "one")
    model = pvdm_jax.load(tmp_path / "two")
    assert functional.fingerprint(model.weights["autoencoder"]) == functional.fingerprint(expected)
    card = model_folder.read_model(tmp_path / "two" / "autoencoder", ()).card
    assert card["training"]["autoencoder"]["data"] == "synthetic" and "psnr" in card["numbers"]["autoencoder"]
    run_autoencoder.import_autoencoder(
        tmp_path / "two", CONFIG, tmp_path / "one"
    )  # the same weights by way of the other run
    assert not model_folder.is_model_folder(tmp_path / "one" / "autoencoder")
    other = model_folder.write_model(tmp_path / "other", CONFIG, make_weights(4), None, {})
    with pytest.raises(ConfigError, match="another autoencoder already"):
        encode(CONFIG, tmp_path / "one", autoencoder=other)


def test_before_stage_two_it_reconstructs(converted, tmp_path):
    run_autoencoder.import_autoencoder(converted, CONFIG, tmp_path)
    video = np.zeros((1, 4, 16, 24, 3), np.uint8)
    assert pvdm_jax.load(tmp_path).reconstruct(video).shape == video.shape


def test_sizes_are_checked_and_named(converted, tmp_path):
    model = dataclasses.replace(CONFIG.autoencoder, depth=2, height=32)
    wanted = dataclasses.replace(CONFIG, autoencoder=model)
    with pytest.raises(ConfigError) as refusal:
        encode(wanted, tmp_path, autoencoder=converted)
    text = str(refusal.value)
    assert (
        f"autoencoder in {converted}: autoencoder.height is 32 (it has 16), autoencoder.depth is 2 (it has 1)" in text
    )
    assert "add --config.autoencoder.height=16 --config.autoencoder.depth=1" in text
    assert not (tmp_path / "autoencoder").exists()
    # The run may choose how the autoencoder computes.
    free = dataclasses.replace(CONFIG, autoencoder=dataclasses.replace(CONFIG.autoencoder, remat="blocks"))
    run_autoencoder.import_autoencoder(converted, free, tmp_path)
    with pytest.raises(ConfigError, match="autoencoder.height is 32"):
        encode(wanted, tmp_path)


def test_what_is_no_autoencoder_is_named(converted, tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a model folder nor a run"):
        encode(CONFIG, tmp_path / "run", autoencoder=tmp_path)
    with pytest.raises(FileNotFoundError, match="run has no autoencoder: .*--autoencoder"):
        encode(CONFIG, tmp_path / "run")
    assert AutoencoderConfig.__dataclass_fields__.keys() > set(run_autoencoder.MAY_DIFFER)


def test_the_commands_take_it(converted, tmp_path, capsys):
    settings = ["--config=demo", f"--workdir={tmp_path}", f"--autoencoder={converted}"]
    for command in ("encode", "train-diffusion"):
        assert cli.main([command, *settings]) == 2
        assert "autoencoder.frames is 16 (it has 4)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["train-autoencoder", *settings])
