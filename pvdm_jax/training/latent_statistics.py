"""The mean and deviation of the training latents, by which `latents.normalize` scales them."""

import dataclasses
from typing import Any

import jax

from pvdm_jax.config import Config, ConfigError, LatentsConfig, config_from_dict, config_to_dict
from pvdm_jax.models.autoencoder import latent_spec
from pvdm_jax.runtime.distributed import broadcast_json
from pvdm_jax.storage import buckets
from pvdm_jax.storage.run_folder import CONFIG, StageFolder, read_settings
from pvdm_jax.training.latent_files import LatentCache
from pvdm_jax.training.latents import PixelLatents

SMALLEST_STD = 1e-3  # lower bound when normalising a channel; an unused channel may have deviation 0


def with_statistics(config: Config, latents: LatentCache | PixelLatents, folder: StageFolder) -> Config:
    """The configuration with the statistics of the training latents, if it normalises them but does not set these.

    A run that has begun in `folder` keeps its statistics, because other devices might measure other last digits. All
    processes use those of the first process, whether or not they share its folder.
    """
    if not config.latents.normalize or config.latents.mean:
        return config
    kept = _begun_statistics(folder, latents.identity) if jax.process_index() == 0 else None
    found = broadcast_json(kept) or broadcast_json(_measured_statistics(config, latents))
    return dataclasses.replace(config, latents=config_from_dict(LatentsConfig, found, "latents."))


def _begun_statistics(folder: StageFolder, autoencoder: str) -> dict[str, Any] | None:
    """The settings `latents` of the run in `folder`; None unless it has begun with latents of that autoencoder."""
    buckets.fetch(folder.path, CONFIG)
    try:
        begun = read_settings(folder.config) if folder.has_begun else None
    except ConfigError:  # damaged; the loop rewrites it
        return None
    known = begun and begun.config.latents.mean and begun.encoded_by == autoencoder
    return config_to_dict(begun.config.latents) if known else None


def _measured_statistics(config: Config, latents: LatentCache | PixelLatents) -> dict[str, Any]:
    """These settings, measured on the latents themselves."""
    statistics = latents.statistics(config)
    segments = [statistics[part.name] for part in latent_spec(config.autoencoder).parts]
    mean = [value for segment in segments for value in segment["mean"]]
    std = [max(value, SMALLEST_STD) for segment in segments for value in segment["std"]]
    return {"normalize": True, "mean": mean, "std": std}
