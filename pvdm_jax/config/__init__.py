"""Settings as frozen dataclasses, checked when they are made.

A configuration file (`configs/*.py`, ml_collections) becomes one `Config` at the edge of the program, through
`config_from_dict`. Each constructor after that takes only its own part of it. Every refusal is a `ConfigError` that
names the field, its value and what is allowed.
"""

from pvdm_jax.config.checks import ConfigError, check_seed, require
from pvdm_jax.config.data import DataConfig, EncodeConfig
from pvdm_jax.config.denoisers import DenoiserConfig, DiTConfig, UNetConfig
from pvdm_jax.config.diffusion import LatentsConfig, ProcessConfig, SampleConfig
from pvdm_jax.config.mapping import config_from_dict, config_to_dict, default_settings
from pvdm_jax.config.models import DTYPES, AutoencoderConfig, DiscriminatorConfig
from pvdm_jax.config.run import Config, MeshConfig
from pvdm_jax.config.training import (
    AdversarialConfig,
    AutoencoderTrainingConfig,
    DiffusionTrainingConfig,
    OptimizerConfig,
    StageConfig,
)

__all__ = [
    "AdversarialConfig",
    "AutoencoderConfig",
    "AutoencoderTrainingConfig",
    "Config",
    "ConfigError",
    "DTYPES",
    "DataConfig",
    "DiffusionTrainingConfig",
    "DiscriminatorConfig",
    "EncodeConfig",
    "LatentsConfig",
    "MeshConfig",
    "OptimizerConfig",
    "ProcessConfig",
    "SampleConfig",
    "StageConfig",
    "DenoiserConfig",
    "DiTConfig",
    "UNetConfig",
    "check_seed",
    "config_from_dict",
    "config_to_dict",
    "default_settings",
    "require",
]
