"""Every configuration of the project builds, without memory, to the sizes that it promises."""

import functools

import pytest

from pvdm_jax.config import AutoencoderConfig, ConfigError, DenoiserConfig
from pvdm_jax.config.loading import config_names, load_settings
from pvdm_jax.config.recipes import VARIANTS
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.functional import abstract, count, rngs

PAPER = [f"{dataset}:{variant}" for dataset in ("ucf101", "sky_timelapse") for variant in VARIANTS]
DOOM = [f"doom:{variant}" for variant in ("64", "128", "64-official", "128-official", "64-dit", "128-dit")]
SPECS = ("demo", "video_folder", "doom", *DOOM, *PAPER)
MILLION = 1e6


@functools.cache  # several configurations have the same models
def autoencoder_parameters(config: AutoencoderConfig) -> int:
    return count(abstract(lambda: Autoencoder(config, rngs=rngs(0)))[1])


@functools.cache
def denoiser_parameters(autoencoder: AutoencoderConfig, denoiser: DenoiserConfig) -> int:
    return count(LatentModel(autoencoder, denoiser).denoiser_shapes)


def test_the_list_above_is_complete():
    assert {spec.partition(":")[0] for spec in SPECS} == set(config_names())


@pytest.mark.parametrize("spec", SPECS)
def test_config_loads_and_both_models_build(spec):
    config = load_settings(spec)
    assert autoencoder_parameters(config.autoencoder) > 0
    assert denoiser_parameters(config.autoencoder, config.denoiser) > 0


@pytest.mark.parametrize("dataset", ["ucf101", "sky_timelapse"])
@pytest.mark.parametrize(("variant", "millions"), [("l", 528.27), ("s", 132.16)])
def test_published_sizes(dataset, variant, millions):
    config = load_settings(f"{dataset}:{variant}-official")
    clip = config.autoencoder
    assert (clip.frames, clip.height, clip.width) == (16, 256, 256)
    assert autoencoder_parameters(config.autoencoder) / MILLION == pytest.approx(62.06, abs=0.01)
    assert denoiser_parameters(config.autoencoder, config.denoiser) / MILLION == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(("dataset", "context_prob"), [("ucf101", 0.3), ("sky_timelapse", 0.2)])
@pytest.mark.parametrize("recipe", ["", "-official"])
def test_published_training(dataset, context_prob, recipe):
    large, small = (load_settings(f"{dataset}:{size}{recipe}") for size in "ls")
    assert (large.train_diffusion.steps, small.train_diffusion.steps) == (850_000, 400_000)
    for config in (large, small):
        first, second = config.train_autoencoder, config.train_diffusion
        assert (first.batch_size, first.optimizer.b1, first.optimizer.b2) == (24, 0.5, 0.9)
        assert (second.batch_size, second.ema_every, second.context_prob) == (64, 25, context_prob)
        assert first.optimizer.learning_rate == second.optimizer.learning_rate == 1e-4
    assert large.train_autoencoder == small.train_autoencoder


def test_the_default_recipe_comes_first():
    for dataset in ("ucf101", "sky_timelapse"):
        assert load_settings(dataset) == load_settings(f"{dataset}:l")


def test_official_stage_one():
    """The constants of the official code's first stage; a micro-batch is one of its iterations."""
    stage = load_settings("ucf101:l-official").train_autoencoder
    phase = stage.adversarial
    assert (stage.l1_weight, stage.l2_weight, stage.perceptual_weight) == (4.0, 0.0, 4.0)
    assert (phase.weight, phase.feature_weight, phase.adaptive, phase.warmup_steps) == (1.0, 4.0, False, 0)
    assert phase.alternate
    assert stage.batch_size // stage.accumulate == 8 and stage.accumulate == 3
    assert 8_000 <= stage.accumulate * phase.steps <= 14_001
    assert stage.accumulate * phase.start_step == pytest.approx(250_000, abs=3)
    for optimizer in (stage.optimizer, phase.optimizer):
        assert (optimizer.learning_rate, optimizer.b1, optimizer.b2) == (1e-4, 0.5, 0.9)
        assert (optimizer.weight_decay, optimizer.warmup_steps, optimizer.decay) == (0.01, 0, "constant")
    assert (stage.optimizer.clip_norm, phase.optimizer.clip_norm) == (0.0, 1.0)
    assert (phase.discriminator.width, phase.discriminator.layers) == (64, 3)
    assert stage.ema_decay == 0.0


def test_official_stage_two():
    config = load_settings("ucf101:l-official")
    stage = config.train_diffusion
    assert stage.recipe == "official"
    assert (stage.optimizer.b1, stage.optimizer.b2, stage.optimizer.weight_decay) == (0.9, 0.999, 0.01)
    assert (stage.optimizer.warmup_steps, stage.optimizer.decay, stage.optimizer.clip_norm) == (0, "constant", 0.0)
    denoiser = config.denoiser
    added = (denoiser.position_embedding, denoiser.edge_features, denoiser.shared_axes, denoiser.axis_mixing)
    assert not any(added)
    assert denoiser.attention_across and not config.latents.normalize
    assert (config.process.prediction, stage.times, stage.context_last_time) == ("eps", "uniform", 0.0)
    assert config.encode.unconditional_anywhere and not load_settings("ucf101:l").encode.unconditional_anywhere


def test_an_unknown_variant_is_refused_by_name():
    with pytest.raises(ConfigError, match="variant is 'xl'; ucf101 has l, s, dit-l, dit-s, l-official, s-official"):
        load_settings("ucf101:xl")


@pytest.mark.parametrize("spec", ["demo", "video_folder"])
def test_the_small_configs_are_small(spec):
    """They are for a laptop's CPU: a few million parameters, no half precision."""
    config = load_settings(spec)
    assert autoencoder_parameters(config.autoencoder) < 10 * MILLION
    assert denoiser_parameters(config.autoencoder, config.denoiser) < 20 * MILLION
    assert config.autoencoder.dtype == config.denoiser.dtype == "float32"
