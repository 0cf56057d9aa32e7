"""Every refusal names the field, its value and what is allowed."""

import dataclasses
import json
import math
import typing

import numpy as np
import pytest

from pvdm_jax.config import (
    AutoencoderConfig,
    Config,
    ConfigError,
    DenoiserConfig,
    ProcessConfig,
    checks,
    config_from_dict,
    config_to_dict,
)
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.diffusion.process import Process


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sede": 1}, "sede is 1; there is no such field; the config has seed, data, "),
        ({"data": {"frames": 3}}, "data.frames is 3; there is no such field; data has source, "),
        ({"data": {"source": "folder"}}, "data.source is 'folder'; choose one of synthetic, tfds"),
        ({"data": {"source": "tfds"}}, "data.path is ''; data.source=tfds needs the folder"),
        ({"data": {"flip": 1}}, "data.flip is 1; bool is needed here, not int"),
        ({"data": 3}, "data is 3; a group of fields is needed here"),
        (
            {"autoencoder": {"height": 60}},
            "autoencoder.height is 60; it must be a multiple of autoencoder.patch_size (8)",
        ),
        ({"autoencoder": {"frames": 12}}, "autoencoder.frames is 12; it must be a multiple of 8: the denoiser shrinks"),
        ({"autoencoder": {"dtype": "float16"}}, "autoencoder.dtype is 'float16'; choose one of float32, bfloat16"),
        ({"autoencoder": {"depth": 2.0}}, "autoencoder.depth is 2.0; int is needed here, not float"),
        (
            {"autoencoder": {"latent_channels": 8}},
            "denoiser.latent_channels is 4; it must equal autoencoder.latent_channels (8)",
        ),
        ({"denoiser": {"channel_mult": [1, "2"]}}, "denoiser.channel_mult is '2'; int is needed here, not str"),
        (
            {"denoiser": {"model_channels": 48}},
            "denoiser.model_channels is 48; 1 x model_channels must be a multiple of 32",
        ),
        (
            {"denoiser": {"attention_across": False}},
            "denoiser.attention_across is False; the planes would know nothing of each other",
        ),
        ({"train_diffusion": {"accumulate": 3}}, "train_diffusion.accumulate is 3; it must divide batch_size (64)"),
        ({"train_autoencoder": {"steps": 0}}, "train_autoencoder.steps is 0; it must be positive"),
        ({"train_diffusion": {"optimizer": {"learning_rate": float("inf")}}}, "a finite number is needed here"),
        ({"train_autoencoder": {"keep_every": -1}}, "train_autoencoder.keep_every is -1; it can't be negative"),
        ({"train_diffusion": {"max_rollbacks": -1}}, "train_diffusion.max_rollbacks is -1; it can't be negative"),
        ({"train_diffusion": {"best_metric": "psnr"}}, "best_metric is 'psnr'; choose one of , loss_unconditional, "),
        (
            {"train_diffusion": {"best_metric": "frechet_scattering"}},
            "train_diffusion.best_metric is 'frechet_scattering'; it needs eval_samples",
        ),
        (
            {"train_diffusion": {"best_metric": "loss_given_both"}},
            "train_diffusion.best_metric is 'loss_given_both'; it is measured with denoiser.next_clip only",
        ),
        (
            {"train_diffusion": {"eval_samples": 2**40}},
            "train_diffusion.eval_samples is 1099511627776; it can't",
        ),
        ({"denoiser": {"attention_resolutions": [4, 0]}}, "denoiser.attention_resolutions is (4, 0); factors of"),
        ({"sample": {"steps": 2000}}, "sample.steps is 2000; at most process.num_steps (1000)"),
        ({"mesh": {"data": -1, "fsdp": -1}}, "only one of mesh.data and mesh.fsdp can be -1"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ConfigError) as caught:
        config_from_dict(Config, values)
    assert message in str(caught.value)


def test_a_config_survives_json():
    config = Config(seed=3, autoencoder=AutoencoderConfig(height=128))
    assert config_from_dict(Config, json.loads(json.dumps(config_to_dict(config)))) == config


def test_integers_are_taken_for_floats():
    config = config_from_dict(Config, {"sample": {"guidance": 1}})
    assert config.sample.guidance == 1.0 and isinstance(config.sample.guidance, float)


def test_configs_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


def test_a_refusal_shows_the_beginning_of_a_long_value():
    with pytest.raises(ConfigError) as raised:
        checks.require(False, "names", ["a"] * 10_000, "name fewer")
    assert str(raised.value).endswith("... (50,000 characters); name fewer") and len(str(raised.value)) < 400


@pytest.mark.parametrize("value", [10**400, -(10**400), 1e300])
def test_numbers_that_32_bits_do_not_hold_are_refused_by_their_full_name(value):
    with pytest.raises(ConfigError, match="^train_diffusion.optimizer.clip_norm is .*; a finite number is needed here"):
        config_from_dict(Config, {"train_diffusion": {"optimizer": {"clip_norm": value}}})


def float_fields(cls):
    """(class, name) of every float, or tuple of floats, of a class of settings and of its groups."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            kinds = DenoiserConfig.kinds().values() if hint is DenoiserConfig else [hint]
            yield from (found for kind in kinds for found in float_fields(kind))
        elif hint in (float, tuple[float, ...]):
            yield cls, name


FLOATS = sorted({*float_fields(Config), *float_fields(ProtocolConfig)}, key=str)
NEEDED = {  # so that a field may have another value than its default
    "DataConfig": {"source": "tfds", "path": "data"},
    "DiffusionTrainingConfig": {"times": "logit_normal"},
    "LatentsConfig": {"normalize": True, "mean": (0.0,), "std": (1.0,)},
}


@pytest.mark.parametrize("cls, name", FLOATS, ids=[f"{cls.__name__}.{name}" for cls, name in FLOATS])
def test_no_setting_takes_a_number_that_32_bits_do_not_hold(cls, name):
    settings = NEEDED.get(cls.__name__, {})
    for value in (math.inf, -math.inf, math.nan, 1e300, -1e300, 1e-300):
        wrong = (value,) if cls.__name__ == "LatentsConfig" else value
        with pytest.raises(ConfigError, match=rf"\.{name} is "):
            cls(**settings | {name: wrong})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"train_diffusion": {"times_shift": 17.0, "times": "logit_normal"}}, "times_shift is 17.0; it must lie"),
        ({"train_diffusion": {"ema_decay": 1 - 1e-9}}, "ema_decay is 0.999999999; it must lie between 0 and 0.999999"),
        ({"train_diffusion": {"optimizer": {"b2": 1 - 1e-9}}}, "b2 is 0.999999999; it must lie between 0 and 0.999999"),
        ({"train_diffusion": {"optimizer": {"learning_rate": 1e3}}}, "learning_rate is 1000.0; it can't be larger"),
        ({"train_diffusion": {"optimizer": {"weight_decay": 1e6}}}, "weight_decay is 1000000.0; times the learning"),
        ({"process": {"beta_start": 1e-12}}, "process.beta_start is 1e-12; 1e-08 <= beta_start"),
        ({"process": {"beta_end": 0.9999}}, "process.beta_end is 0.9999; with 1000 steps so little"),
        ({"process": {"num_steps": 10**4}}, "process.beta_end is 0.0195; with 10000 steps so little"),
        ({"data": {"source": "tfds", "path": "x", "fps": 1e-9}}, "data.fps is 1e-09; 0, or 0.01 to 1000"),
    ],
)
def test_numbers_that_training_would_not_survive(values, message):
    with pytest.raises(ConfigError) as caught:
        config_from_dict(Config, values)
    assert message in str(caught.value)


@pytest.mark.parametrize("settings", [{"beta_start": 1e-8, "beta_end": 1e-8}, {"beta_end": 0.14}, {"num_steps": 6000}])
def test_the_longest_and_shortest_processes_stay_finite(settings):
    process = Process(ProcessConfig(**settings))
    steps = np.arange(process.num_steps)
    assert all(np.isfinite(np.float32(values)).all() for values in (*process.posterior(steps), process.log_snr(steps)))
    assert np.isfinite(1 / process.signal).all() and (process.noise > 0).all()
