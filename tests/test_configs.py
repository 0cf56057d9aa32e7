"""Every configuration of the project builds, without memory, to the sizes that it promises."""

import functools

import pytest
from flax import nnx

from pvdm_jax.config import AutoencoderConfig, UNetConfig
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.functional import abstract, count
from pvdm_jax.models.unet import UNet
from pvdm_jax.settings import config_names, load_settings

SPECS = ("demo", "sky_timelapse:l", "sky_timelapse:s", "ucf101:l", "ucf101:s", "video_folder")
MILLION = 1e6


@functools.cache  # several configurations have the same models
def autoencoder_parameters(config: AutoencoderConfig) -> int:
    return count(abstract(lambda: Autoencoder(config, rngs=nnx.Rngs(0)))[1])


@functools.cache
def denoiser_parameters(config: UNetConfig) -> int:
    return count(abstract(lambda: UNet(config, rngs=nnx.Rngs(0)))[1])


def test_the_list_above_is_complete():
    assert {spec.partition(":")[0] for spec in SPECS} == set(config_names())


@pytest.mark.parametrize("spec", SPECS)
def test_config_loads_and_both_models_build(spec):
    config = load_settings(spec)
    assert autoencoder_parameters(config.autoencoder) > 0
    assert denoiser_parameters(config.unet) > 0


@pytest.mark.parametrize("dataset", ["ucf101", "sky_timelapse"])
@pytest.mark.parametrize(("variant", "millions"), [("l", 528.27), ("s", 132.16)])
def test_published_sizes(dataset, variant, millions):
    config = load_settings(f"{dataset}:{variant}")
    clip = config.autoencoder
    assert (clip.frames, clip.height, clip.width) == (16, 256, 256)
    assert autoencoder_parameters(config.autoencoder) / MILLION == pytest.approx(62.06, abs=0.01)
    assert denoiser_parameters(config.unet) / MILLION == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(("dataset", "context_prob"), [("ucf101", 0.3), ("sky_timelapse", 0.2)])
def test_published_training(dataset, context_prob):
    large, small = load_settings(dataset), load_settings(f"{dataset}:s")
    assert large == load_settings(f"{dataset}:l")
    assert (large.train_diffusion.steps, small.train_diffusion.steps) == (850_000, 400_000)
    for config in (large, small):
        first, second = config.train_autoencoder, config.train_diffusion
        assert (first.batch_size, first.optimizer.b1, first.optimizer.b2) == (24, 0.5, 0.9)
        assert (second.batch_size, second.ema_every, second.context_prob) == (64, 25, context_prob)
        assert first.optimizer.learning_rate == second.optimizer.learning_rate == 1e-4


@pytest.mark.parametrize("spec", ["demo", "video_folder"])
def test_the_small_configs_are_small(spec):
    """They are for a laptop's CPU: a few million parameters, no half precision."""
    config = load_settings(spec)
    assert autoencoder_parameters(config.autoencoder) < 10 * MILLION
    assert denoiser_parameters(config.unet) < 20 * MILLION
    assert config.autoencoder.dtype == config.unet.dtype == "float32"
