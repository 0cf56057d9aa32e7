"""The measure "shapes" on models whose continuations are known: the truth, the last frame, and another video's clip."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_model import formula_model

from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, DataConfig, MeshConfig, UNetConfig
from pvdm_jax.config.evaluation import PROTOCOLS
from pvdm_jax.data.sources import open_source
from pvdm_jax.diffusion.predictions import squared_error, target
from pvdm_jax.diffusion.process import Process
from pvdm_jax.evaluation import continuation, yardstick_numbers
from pvdm_jax.evaluation.card import to_markdown, to_text
from pvdm_jax.evaluation.evaluate import evaluate_model
from pvdm_jax.evaluation.feature_spaces import EvaluationPaths
from pvdm_jax.evaluation.held_out_loss import HeldOutLoss
from pvdm_jax.runtime import sharding

CONFIG = Config(
    data=DataConfig(synthetic_videos=8, synthetic_frames=16),
    autoencoder=AutoencoderConfig(height=32, width=32, patch_size=4, channels=8, depth=1, num_heads=1),
    denoiser=UNetConfig(model_channels=32, channel_mult=(1,), num_heads=1, num_classes=3),
)
TINY = dataclasses.replace(
    PROTOCOLS["shapes"],
    samples=4,
    real_samples=4,
    reconstruction_samples=4,
    seam_samples=2,
    seam_clips=2,
    continuations=6,
    bootstrap=20,
)


class Oracle:
    """Stands in for a trained model: its samples are held-out videos, its continuations the true next clips."""

    def __init__(self):
        self.config, self.class_names = CONFIG, ("bounce", "orbit", "spin")
        self.mesh = sharding.make_mesh(MeshConfig())
        self.weights = {"autoencoder": {"w": np.arange(3.0)}, "denoiser": {"w": np.ones(2)}}
        self.extended = []

    def fingerprint(self):
        return type(self).__name__

    def videos(self, indices, frames):
        source = open_source(dataclasses.replace(CONFIG.data, synthetic_frames=48), CONFIG.autoencoder, "holdout", 0)
        return np.stack([source[int(i) % len(source)].read(0, frames) for i in indices])

    def stream(self, key, num_videos, num_frames, *, labels, indices, **options):
        yield from np.split(self.videos(indices, num_frames), num_frames // 16, axis=1)

    def extend(self, video, num_frames, key, *, labels, indices, **options):
        self.extended.append((len(video), labels.tolist()))
        whole = self.videos(indices, 32)
        np.testing.assert_array_equal(video, whole[:, :16])
        return whole[:, 16:]

    def reconstruct(self, video):
        return np.minimum(video, 245) + np.uint8(10)


class Frozen(Oracle):
    def extend(self, video, num_frames, key, **options):
        return video[:, -1:].repeat(num_frames, axis=1)


class NoLoss:
    """Stands in for the held-out loss, which needs networks and has its own test."""

    def __init__(self, model, seed):
        pass

    def measure(self, previous, clips, labels, numbers):
        losses = {"loss_given_previous": 0.1, "loss_unconditional": 0.3, "loss_of_zero": 1.0}
        return {name: np.full(len(clips), loss) for name, loss in losses.items()}


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuation, "HeldOutLoss", NoLoss)
        cache = tmp_path_factory.mktemp("cache")
        models = Oracle(), Frozen()
        found = [evaluate_model(m, TINY, EvaluationPaths(cache, weights=cache), batch_size=4) for m in models]
        # Six continuations in two batches of one size.
        assert [count for count, _ in models[0].extended] == [4, 4]
        return found


def values(card):
    return {name: entry["value"] for name, entry in card["results"].items()}


def test_the_truth_reaches_the_good_bounds(cards):
    found = values(cards[0])
    assert found["next_psnr"] == 100 > found["next_ceiling"] > found["repeat_psnr"]
    assert found["next_ceiling"] == pytest.approx(28.1, abs=0.2)  # ten grey levels too bright
    for frame in (1, 8, 16):
        assert found[f"position_error_{frame}"] == found[f"real_position_error_{frame}"] < 0.8
    assert found["repeat_position_error_16"] > 3 and found["stranger_position_error_16"] > 3
    assert found["position_error_1"] < found["repeat_position_error_1"] < found["repeat_position_error_16"]
    for what in ("colours", "kinds", "sizes"):
        assert found[f"next_{what}_kept"] == found[f"real_{what}_kept"] > 0.8 > found[f"stranger_{what}_kept"]
    assert found["seam_next"] == found["seam_real_next"] < 1.2 and found["seam_stranger"] > 2
    assert 0.8 < found["seam_score"] < 1.2 and 0.8 < found["seam_real"] < 1.2
    rates = ("real", "reconstructed", "generated", "next", "long_1", "long_2")
    assert min(found[f"shapes_{rate}"] for rate in rates) >= 0.75
    assert found["real_frechet_scattering_16"] < found["noise_frechet_scattering_16"]
    assert cards[0]["results"]["next_psnr"]["samples"] == [6] and cards[0]["results"]["seam_real"]["samples"] == [2]


def test_a_frozen_clip_reaches_the_bad_bounds(cards):
    found = values(cards[1])
    assert found["next_psnr"] == found["repeat_psnr"] < found["next_ceiling"]
    assert found["position_error_16"] == pytest.approx(found["repeat_position_error_16"], abs=0.3)
    assert found["shapes_next"] == 0 and found["next_colours_kept"] > 0.8


def test_every_number_stands_beside_its_bounds(cards):
    results = cards[0]["results"]
    text, page = to_text(cards[0]), to_markdown(cards[0])
    line = next(line for line in text.splitlines() if line.startswith("continuation: PSNR"))
    assert "; repeating the last frame " in line and "; the autoencoder's ceiling 28." in line
    assert line.split("; ", 1)[1] in page
    assert yardstick_numbers.sentence("loss_given_previous", results) == (
        "0.1 [0.1, 0.1]; without the previous clip 0.3"
    )
    named = ("next_psnr", "position_error_8", "next_kinds_kept", "seam_next", "seam_score", "frechet_scattering_16")
    for name in named:
        assert len(yardstick_numbers.bounds(name, results)) == 2, name
    for name in ("shapes_generated", "shapes_next", "shapes_long_2"):
        assert [called for called, _ in yardstick_numbers.bounds(name, results)] == ["a frozen frame", "real clips"]


def test_other_sources_are_refused_before_the_work(tmp_path):
    model = Oracle()
    data = DataConfig(source="tfds", path="videos")
    with pytest.raises(ConfigError, match="data.source is 'tfds'; the measure shapes needs the synthetic source"):
        evaluate_model(model, TINY, EvaluationPaths(tmp_path), data=data)
    model.config = dataclasses.replace(CONFIG, data=data)
    with pytest.raises(ConfigError, match="data.source is 'tfds'"):
        evaluate_model(model, TINY, EvaluationPaths(tmp_path))
    model.config = CONFIG
    with pytest.raises(ConfigError, match="protocol.split is 'all'; the measure shapes is of .* train or holdout"):
        evaluate_model(model, dataclasses.replace(TINY, split="all"), EvaluationPaths(tmp_path))
    assert not model.extended and not list(tmp_path.iterdir())


def test_the_held_out_loss():
    """For a model of formulas, it is the squared error of predictions at fixed times, one in each quarter."""
    model, rng = formula_model(), np.random.default_rng(0)
    previous, clips = (rng.integers(0, 256, (3, 4, 16, 16, 3), np.uint8) for _ in range(2))
    labels, numbers = np.array([0, 1, 2], np.int32), np.array([5, 6, 7])
    rows = HeldOutLoss(model, seed=1).measure(previous, clips, labels, numbers)
    assert rows.keys() == {"loss_given_previous", "loss_unconditional", "loss_of_zero"}
    # A clip's loss depends on its number, not on the clips beside it.
    alone = HeldOutLoss(model, seed=1).measure(previous[1:], clips[1:], labels[1:], numbers[1:])
    for name, values in alone.items():
        np.testing.assert_allclose(values, rows[name][1:], rtol=1e-4)
    # The answer 0 to the last clip, by hand.
    drawn, latents = np.random.default_rng([1, 9, 7]), model.encode(clips[2:])
    process = Process(model.config.process)
    places, noise = drawn.random(4), drawn.standard_normal((4, *latents.shape[1:]), np.float32)
    errors = []
    for quarter in range(4):
        step = np.array([int((quarter + places[quarter]) / 4 * process.num_steps)])
        errors.append(squared_error(0.0, target(process, latents, step, noise[quarter][None]))[0])
    assert rows["loss_of_zero"][2] == pytest.approx(float(np.mean(errors)), rel=1e-5)
    assert np.all(rows["loss_given_previous"] != rows["loss_unconditional"])
    assert jax.numpy.isfinite(rows["loss_given_previous"]).all()
