"""Files of official weights to a model folder: what `pvdm convert` does."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from pvdm_jax.config import AutoencoderConfig, ConfigError, ProcessConfig, SampleConfig, UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.weights import model_folder
from pvdm_jax.weights.foreign_files import read_weights
from pvdm_jax.weights.model_folder import AUTOENCODER, DENOISER
from pvdm_jax.weights.official.autoencoder import autoencoder_from_torch
from pvdm_jax.weights.official.unet import unet_from_torch

CONVERTERS = {AUTOENCODER: autoencoder_from_torch, DENOISER: unet_from_torch}
UNKNOWN_TRAINING = "not known: files of the official code don't say on which videos, nor for how long"


@dataclasses.dataclass(frozen=True)
class _Network:
    """One of the two, and what the card says of it."""

    config: AutoencoderConfig | UNetConfig
    params: functional.Params
    source: Any
    training: Any
    process: ProcessConfig = ProcessConfig()
    sample: SampleConfig = SampleConfig()
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

    autoencoder, denoiser: files of official weights (`model_last.pth`, `ema_model_N.pth`; also .npz and .safetensors of
    the same names), or model folders that have that network. overrides: what shapes don't tell, such as num_heads.
    Nothing in a file is run. Raises FileExistsError, FileNotFoundError, and ConfigError naming the file for one that
    can't be read, is refused, or whose weights don't fit.
    """
    model_folder.check_new(output)
    asked = {
        AUTOENCODER: (autoencoder, dict(autoencoder_overrides or {})),
        DENOISER: (denoiser, dict(denoiser_overrides or {})),
    }
    networks = {
        name: _read(name, pathlib.Path(path), overrides)
        for name, (path, overrides) in asked.items()
        if path is not None
    }
    if not networks:
        raise ConfigError("name an autoencoder, a denoiser or both")
    settings = networks.get(DENOISER) or networks[AUTOENCODER]
    config = model_folder.complete_config(
        *(networks[name].config if name in networks else None for name in asked), settings.process, settings.sample
    )
    card = {
        "source": {name: network.source for name, network in networks.items()},
        "training": {name: network.training for name, network in networks.items()},
    }
    params = (networks[name].params if name in networks else None for name in asked)
    return model_folder.write_model(output, config, *params, card, settings.class_names, dtype)


def _read(name: str, path: pathlib.Path, overrides: dict[str, Any]) -> _Network:
    if path.is_dir():
        return _from_folder(name, path, overrides)
    try:
        file = read_weights(path, plain=True)
        model = CONVERTERS[name](file.weights, **overrides)
    except ValueError as error:
        text = str(error)
        raise ConfigError(text if str(path) in text else f"{path}, as the {name}: {text}") from error
    source = {"weights of the official PyTorch code": path.name, "SHA-256": file.sha256}
    return _Network(model.config, functional.split(model)[1], source, UNKNOWN_TRAINING)


def _from_folder(name: str, path: pathlib.Path, overrides: dict[str, Any]) -> _Network:
    if overrides:
        raise ConfigError(f"{', '.join(overrides)}: only for a file of weights; the model folder {path} has its own")
    model = model_folder.read_model(path, (name,))
    params = {AUTOENCODER: model.autoencoder, DENOISER: model.denoiser}[name]
    if params is None:
        raise ConfigError(f"the model folder {path} holds no {name}")
    network = {AUTOENCODER: model.config.autoencoder, DENOISER: model.config.unet}[name]
    source, training = (model.card.get(key, {}).get(name, "not known") for key in ("source", "training"))
    return _Network(network, params, source, training, model.config.process, model.config.sample, model.class_names)
