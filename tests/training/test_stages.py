"""Both stages on a tiny model, from videos to a loaded PVDM that samples: one run serves all tests here."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_config import changed

import pvdm_jax
from pvdm_jax.config import ConfigError, EncodeConfig
from pvdm_jax.losses.latent_noise import add_noise
from pvdm_jax.models.triplane import Planes
from pvdm_jax.training import autoencoder, diffusion, latents
from pvdm_jax.training.encode import encode

STAGE = dict(steps=6, log_every=2, eval_every=3, checkpoint_every=4, ema_decay=0.9)
CONFIG = changed(
    data={"synthetic_videos": 6, "synthetic_frames": 12},
    train_autoencoder=STAGE | {"l2_weight": 1.0},
    train_diffusion=STAGE,
)


def train_both(config, workdir):
    autoencoder.train(config, workdir)
    encode(config, workdir)
    return diffusion.train(config, workdir)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train_both(CONFIG, workdir)


@pytest.fixture(scope="module")
def model(run):
    return pvdm_jax.load(run[0])


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_numbers_and_pictures(run):
    workdir, state = run
    assert int(state.step) == 6
    names = {name for line in metrics(workdir / "autoencoder") for name in line}
    assert {"train/loss", "train/l1", "train/l2", "eval/psnr", "eval/still_psnr"} <= names
    names = {name for line in metrics(workdir / "diffusion") for name in line}
    assert {"train/loss", "eval/loss_unconditional", "eval/loss_given_previous"} <= names
    for stage, picture in (("autoencoder", "reconstruction.gif"), ("diffusion", "samples.gif")):
        assert (workdir / stage / "evaluation" / "step_0000006" / picture).stat().st_size > 0


def test_both_stages_learn(run):
    losses = [line["train/loss"] for line in metrics(run[0] / "autoencoder") if "train/loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_numbers(run, tmp_path):
    """Stopped after 4 of 6 steps in both stages: the last state is the undisturbed run's, bit for bit."""
    stages = {
        name: dataclasses.replace(getattr(CONFIG, name), steps=4) for name in ("train_autoencoder", "train_diffusion")
    }
    short = dataclasses.replace(CONFIG, train_autoencoder=stages["train_autoencoder"])
    autoencoder.train(short, tmp_path)
    autoencoder.train(CONFIG, tmp_path)
    encode(CONFIG, tmp_path)
    diffusion.train(dataclasses.replace(CONFIG, train_diffusion=stages["train_diffusion"]), tmp_path)
    state = diffusion.train(CONFIG, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, run[1])


def test_latents_are_those_of_the_autoencoder(run, model):
    cache = latents.open_latents(CONFIG, run[0], "train")
    assert len(cache) == 6 * 2
    assert cache.class_names == ("bounce", "orbit", "spin") == model.class_names
    from pvdm_jax.data.loader import clip_pairs
    from pvdm_jax.data.samples import PairSpec
    from pvdm_jax.data.sources import open_source

    source = open_source(CONFIG.data, CONFIG.autoencoder, "train", CONFIG.seed)
    pair = clip_pairs(source, CONFIG.autoencoder, CONFIG.data, PairSpec(windows=2), CONFIG.seed)[5]
    expected = model.encode(pair["video"].reshape(2, 4, 16, 24, 3))
    found = cache[5]
    assert found["has_previous"] and found["label"] == pair["label"]
    np.testing.assert_allclose(np.stack([found["previous"], found["clip"]]), expected, atol=1e-5)


def test_encoding_again_keeps_the_cache_and_other_settings_are_refused(run):
    index = run[0] / "latents" / "index.json"
    before = index.stat().st_mtime_ns
    encode(CONFIG, run[0])
    assert index.stat().st_mtime_ns == before
    other = dataclasses.replace(CONFIG, encode=EncodeConfig(windows=3))
    with pytest.raises(ConfigError, match="encode.windows is 3"):
        encode(other, run[0])
    with pytest.raises(ConfigError, match="encode.windows is 3"):
        diffusion.train(other, run[0])


def test_latents_of_another_autoencoder_are_refused(run):
    index = run[0] / "latents" / "index.json"
    text = index.read_text()
    content = json.loads(text)
    content["made_by"]["autoencoder"] = "0" * 64
    index.write_text(json.dumps(content))
    try:
        with pytest.raises(ConfigError, match="another autoencoder"):
            encode(CONFIG, run[0])
    finally:
        index.write_text(text)


def test_stage_two_needs_latents(tmp_path):
    with pytest.raises(ConfigError, match="pvdm encode"):
        diffusion.train(CONFIG, tmp_path)


def test_wrong_number_of_classes_is_refused(run):
    unet = dataclasses.replace(CONFIG.denoiser, num_classes=5)
    with pytest.raises(ConfigError, match="denoiser.num_classes is 5; the data has 3 classes"):
        diffusion.train(dataclasses.replace(CONFIG, denoiser=unet), run[0])


def test_the_run_samples_and_extends(model):
    """What sampling depends on is tested in tests/inference/test_pipeline.py, on a model that compiles faster."""
    videos = model.sample(jax.random.key(3), 2, num_frames=6)
    assert videos.shape == (2, 6, 16, 24, 3) and videos.dtype == np.uint8
    assert not np.array_equal(videos[0], videos[1])
    assert model.extend(videos, 3, jax.random.key(3)).shape == (2, 3, 16, 24, 3)


def test_a_run_without_stage_two_can_reconstruct(run, tmp_path):
    shutil.copytree(run[0] / "autoencoder", tmp_path / "autoencoder")
    model = pvdm_jax.load(tmp_path)
    video = np.zeros((1, 4, 16, 24, 3), np.uint8)
    assert model.reconstruct(video).shape == video.shape
    with pytest.raises(ValueError, match="stage 2 has not been trained"):
        model.sample(jax.random.key(0), 1)


def test_loading_needs_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run's folder"):
        pvdm_jax.load(tmp_path)


def test_latent_noise_has_its_deviation():
    planes = Planes(*(np.zeros((2, 16, 32, 4), np.float32) for _ in range(3)))
    noisy = add_noise(planes, 0.3, jax.random.key(0)).pack()
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.05)
    assert add_noise(planes, 0.0, jax.random.key(0)) is planes
