"""The demo's judgement on clips whose quality is known, and a whole demo of the smallest size."""

import dataclasses
import json

import numpy as np
import pytest

import pvdm_jax
from pvdm_jax.commands import demo, demo_packaged, demo_report
from pvdm_jax.commands.demo_clips import Clips, all_numbers, judge
from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, DataConfig, SampleConfig, UNetConfig
from pvdm_jax.data.synthetic import SyntheticVideos
from pvdm_jax.evaluation.card import read_card
from pvdm_jax.evaluation.evaluate import evaluate_model
from pvdm_jax.evaluation.feature_spaces import EvaluationPaths

COUNT = 48


def real_clips(seed):
    source = SyntheticVideos(COUNT, 16, 32, 32, seed)
    return np.stack([source[i].read(0, 16) for i in range(COUNT)])


@pytest.fixture(scope="module")
def clips():
    held_out, others, training = (real_clips(seed) for seed in range(3))
    noise = np.random.default_rng(0).normal(0, 6, held_out.shape)
    blurred = np.clip(held_out + noise, 0, 255).astype(np.uint8)
    return Clips(held_out, others, training, blurred, real_clips(3), held_out[:2])


def test_copies_show(clips):
    numbers = judge(clips)
    assert 0.8 < numbers["nearest_generated"] / numbers["nearest_held_out"] < 1.25
    assert numbers["frechet_mean"] > 100
    assert judge(dataclasses.replace(clips, generated=clips.training))["nearest_generated"] == 0


def test_numbers_are_those_of_the_card(clips):
    names = ("frechet_scattering_16", "real_frechet_scattering_16", "psnr", "seam_score", "shapes_long_1")
    card = {"results": {name: {"value": float(i)} for i, name in enumerate((*names, "shapes_long_2"))}}
    numbers = all_numbers(clips, card)
    expected = {"frechet_generated": 0, "frechet_real": 1, "psnr": 2, "seam_long": 3, "shapes_long": [4, 5]}
    assert expected.items() <= numbers.items()
    assert numbers.keys() - expected.keys() == {"frechet_mean", "nearest_generated", "nearest_held_out"}


def test_other_data_is_refused(tmp_path):
    config = Config(data=DataConfig(source="tfds", path="videos"))
    with pytest.raises(ConfigError, match="data.source is 'tfds'; the demo needs the synthetic source"):
        demo.run(config, tmp_path)


class Ready:
    """A packaged model that draws grey clips: the number of a video is its grey level, that of a clip its red."""

    class_names = ("bounce", "orbit", "spin")
    config = Config(
        autoencoder=AutoencoderConfig(frames=4, height=16, width=16), denoiser=UNetConfig(channel_mult=(1,))
    )

    def stream(self, key, count, frames, *, labels, indices=None):
        assert len(labels) == count
        for clip in range(frames // 4):
            grey = np.array(indices or range(count), np.uint8)[:, None, None, None, None]
            video = np.broadcast_to(grey, (count, 4, 16, 16, 3)).copy()
            video[..., 0] = clip
            yield video


def test_a_first_report_shows_the_packaged_model(tmp_path, monkeypatch):
    report = tmp_path / "report.html"
    monkeypatch.setattr(demo_packaged, "packaged_names", lambda: [])
    assert demo._first_report(report) is None and not report.exists()
    monkeypatch.setattr(demo_packaged, "packaged_names", lambda: ["shapes"])
    monkeypatch.setattr(demo_packaged, "load", lambda folder: Ready())
    videos = demo._first_report(report)
    assert videos.classes == ["bounce", "orbit", "spin"] * 2 + ["bounce", "orbit"]
    np.testing.assert_array_equal(videos.clips[:, 0, 0, 0, 1], range(8))
    assert videos.long.shape == (4, 32, 16, 16, 3) and videos.long[0, -1, 0, 0, 0] == 7
    page = report.read_text()
    assert page.count("<video") == 8 + 4 and "is training a model of its own" in page
    # The report of an earlier run is kept until the new one replaces it.
    report.write_text("earlier")
    demo._first_report(report)
    assert report.read_text() == "earlier"


@pytest.mark.long
def test_a_whole_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_packaged, "packaged_names", lambda: [])
    for name, value in (("JUDGED", 6), ("LONG_CLIPS", 2), ("LONG_VIDEOS", 2), ("CONTINUATIONS", 3)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo_report, "SHOWN", 4)
    small = dict(steps=4, batch_size=4, log_every=2, eval_every=4, eval_clips=4, checkpoint_every=4)
    default = Config()
    config = Config(
        data=DataConfig(synthetic_videos=12, synthetic_frames=32),
        autoencoder=AutoencoderConfig(
            height=32, width=32, channels=32, depth=1, num_heads=1, plane_depth=1, plane_num_heads=1, plane_mlp_dim=32
        ),
        denoiser=UNetConfig(
            model_channels=32,
            channel_mult=(1,),
            num_res_blocks=1,
            attention_resolutions=(1,),
            num_heads=1,
            num_classes=3,
        ),
        train_autoencoder=dataclasses.replace(default.train_autoencoder, **small),
        encode=dataclasses.replace(default.encode, windows=1),
        train_diffusion=dataclasses.replace(default.train_diffusion, **small, eval_samples=4),
        sample=SampleConfig(steps=2, later_steps=2),
    )
    report = demo.run(config, tmp_path / "run")
    page = report.read_text()
    assert page.count("<video") == 4 + 2 + 6 + 8  # generated, long, real, reconstructions
    assert "Frechet distance to 6 real clips" in page
    assert "Frechet distance between samples and held-out clips, during training" in page
    numbers = json.loads((tmp_path / "run" / "numbers.json").read_text())
    assert numbers["still_psnr"] > 0 and len(numbers["shapes_long"]) == 2
    assert {"next_psnr", "repeat_psnr", "next_ceiling", "position_error_16", "frechet_generated"} <= numbers.keys()
    assert "Do videos hold together?" in page and "repeating the last frame" in page
    assert (tmp_path / "run" / "samples" / "long.gif").stat().st_size > 0
    # The card says what `pvdm evaluate` finds by the same protocol.
    card = read_card(tmp_path / "run" / "evaluation")
    assert "Evaluation card" in page and "seam score" in page and "protocol.seam_clips" in page
    again = evaluate_model(
        pvdm_jax.load(tmp_path / "run"), demo.demo_protocol(config), EvaluationPaths(tmp_path / "cache")
    )
    assert again["results"].keys() == card["results"].keys() >= {"frechet_scattering_16", "seam_score", "psnr", "ssim"}
    for name, entry in card["results"].items():
        assert again["results"][name]["value"] == pytest.approx(entry["value"], rel=1e-3)
    # A second call trains nothing: the finished stages say so, and the report is written again.
    report.unlink()
    assert demo.run(config, tmp_path / "run").exists()
