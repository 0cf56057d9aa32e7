"""Converts files of official weights to a model folder, for `pvdm convert`."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from pvdm_jax.config import AutoencoderConfig, ConfigError, LatentsConfig, ProcessConfig, SampleConfig, UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.storage.files import check_new_folder
from pvdm_jax.weights import model_folder
from pvdm_jax.weights.foreign_files import read_weights
from pvdm_jax.weights.model_card import AUTOENCODER, DENOISER, network_facts
from pvdm_jax.weights.official.autoencoder import autoencoder_from_torch
from pvdm_jax.weights.official.unet import unet_from_torch

CONVERTERS = {AUTOENCODER: autoencoder_from_torch, DENOISER: unet_from_torch}
UNKNOWN_TRAINING = "not known: files of the official code don't say on which videos, nor for how long"


@dataclasses.dataclass(frozen=True)
class _Network:
    """One of the two networks, and what the card says about it."""

    config: AutoencoderConfig | UNetConfig
    params: functional.Params
    source: Any
    training: Any
    process: ProcessConfig = ProcessConfig()
    sample: SampleConfig = SampleConfig()
    latents: LatentsConfig = LatentsConfig()
    class_names: tuple[str, ...] = ()


def convert_files(
    output: str | pathlib.Path,
    autoencoder: str | pathlib.Path | None = None,
    denoiser: str | pathlib.Path | None = None,
    autoencoder_overrides: Mapping[str, Any] | None = None,
    denoiser_overrides: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> pathlib.Path:
    """Writes the model folder `output` and returns its path.

    autoencoder, denoiser: files of official weights (`model_last.pth`, `ema_model_N.pth`, or .npz and .safetensors
    files with the same weight names), or model folders that have that network. overrides: settings that can't be
    inferred from shapes, such as num_heads. dtype: of the written files. Nothing in a file is executed. Raises
    FileExistsError, FileNotFoundError, and ConfigError, naming the file, if it can't be read, would call something, or
    holds weights that don't fit.
    """
    check_new_folder(output)
    networks = {}
    if autoencoder is not None:
        networks[AUTOENCODER] = _read(AUTOENCODER, pathlib.Path(autoencoder), dict(autoencoder_overrides or {}))
    if denoiser is not None:
        networks[DENOISER] = _read(DENOISER, pathlib.Path(denoiser), dict(denoiser_overrides or {}))
    if not networks:
        raise ConfigError("name an autoencoder, a denoiser or both")
    configs = {name: network.config for name, network in networks.items()}
    params = {name: network.params for name, network in networks.items()}
    settings = networks.get(DENOISER) or networks[AUTOENCODER]
    config = model_folder.complete_config(
        configs.get(AUTOENCODER),
        configs.get(DENOISER),
        process=settings.process,
        sample=settings.sample,
        latents=settings.latents,
    )
    card = {
        "source": {name: network.source for name, network in networks.items()},
        "training": {name: network.training for name, network in networks.items()},
    }
    return model_folder.write_model(
        output,
        config,
        autoencoder=params.get(AUTOENCODER),
        denoiser=params.get(DENOISER),
        card=card,
        class_names=settings.class_names,
        dtype=dtype,
    )


def _read(name: str, path: pathlib.Path, overrides: dict[str, Any]) -> _Network:
    if path.is_dir():
        return _from_folder(name, path, overrides)
    try:
        file = read_weights(path, plain=True)
        model = CONVERTERS[name](file.weights, **overrides)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        # Shapes that no such network has may break any step of the conversion.
        text = str(error) or type(error).__name__
        raise ConfigError(text if str(path) in text else f"{path}, as the {name}: {text}") from error
    return _Network(
        config=model.config,
        params=functional.split(model)[1],
        source={"weights of the official PyTorch code": path.name, "SHA-256": file.sha256},
        training=UNKNOWN_TRAINING,
    )


def _from_folder(name: str, path: pathlib.Path, overrides: dict[str, Any]) -> _Network:
    if overrides:
        raise ConfigError(f"{', '.join(overrides)}: only for a file of weights; the model folder {path} has its own")
    model = model_folder.read_model(path, (name,))
    params = {AUTOENCODER: model.autoencoder, DENOISER: model.denoiser}[name]
    if params is None:
        raise ConfigError(f"the model folder {path} holds no {name}")
    network = {AUTOENCODER: model.config.autoencoder, DENOISER: model.config.denoiser}[name]
    facts = network_facts(model.card, name)
    return _Network(
        config=network,
        params=params,
        source=facts.get("source", {}).get(name, "not known"),
        training=facts.get("training", {}).get(name, "not known"),
        process=model.config.process,
        sample=model.config.sample,
        latents=model.config.latents,
        class_names=model.class_names,
    )
