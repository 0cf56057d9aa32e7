"""Model folders: trained weights with everything needed to use them, and no state of their training.

    config.json              settings of the networks and of sampling, and each weight file's hash
    autoencoder.safetensors  weights under this project's names, "encoder/mlp/down/kernel"; a run's EMA
    denoiser.safetensors     likewise. One of the two files may be missing
    card.json, README.md     where the weights come from, sizes, training data, numbers (see `model_card`)

The export of a run and converted official weights have the same layout. `docs/model_folder.md` has every field.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pvdm_jax.config import (
    AutoencoderConfig,
    Config,
    ConfigError,
    DenoiserConfig,
    DiTConfig,
    LatentsConfig,
    ProcessConfig,
    SampleConfig,
    config_from_dict,
    config_to_dict,
    require,
)
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, latent_spec
from pvdm_jax.models.denoiser import make_denoiser
from pvdm_jax.storage.files import file_hash, read_json, write_json
from pvdm_jax.weights.model_card import AUTOENCODER, DENOISER, read_card, write_card

FORMAT = 2
CONFIG_FILE = "config.json"
DTYPES = ("float32", "bfloat16", "float16")  # of weight files


@dataclasses.dataclass(frozen=True)
class Model:
    """The content of a model folder. Weights are nested dicts of float32 NumPy arrays, None for a missing network.

    `config` has default values for everything that the folder does not specify: training, data, and a missing network
    (which is made to fit the other one).
    """

    config: Config
    autoencoder: functional.Params | None
    denoiser: functional.Params | None
    class_names: tuple[str, ...]
    card: dict[str, Any]


def is_model_folder(directory: str | pathlib.Path) -> bool:
    """Whether a folder's config.json says that it is a model folder; its other files may be damaged."""
    try:
        return "model_folder" in read_json(pathlib.Path(directory) / CONFIG_FILE)
    except (OSError, ValueError):
        return False


def write_model(
    directory: str | pathlib.Path,
    config: Config,
    autoencoder: functional.Params | None,
    denoiser: functional.Params | None,
    card: Mapping[str, Any],
    class_names: tuple[str, ...] = (),
    dtype: str = "float32",
) -> pathlib.Path:
    """Writes a model folder and returns its path.

    Of `config`, the fields autoencoder, denoiser, latents, process and sample are stored. card: facts by name
    ("source", "training", "numbers", "notes"; see docs/model_folder.md), to which sizes are added. dtype: of the files;
    weights are converted back to float32 when they are read. Raises FileExistsError if the folder exists and is not
    empty, and ConfigError if there are no weights or if dtype is not one of DTYPES. An interrupted call leaves no
    folder of that name.
    """
    directory = pathlib.Path(directory)
    check_new(directory)
    require(dtype in DTYPES, "dtype", dtype, f"choose one of {', '.join(DTYPES)}")
    networks = {name: params for name, params in ((AUTOENCODER, autoencoder), (DENOISER, denoiser)) if params}
    if not networks:
        raise ConfigError("a model folder needs an autoencoder, a denoiser or both")
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files = {name: _write_weights(partial / f"{name}.safetensors", params, dtype) for name, params in networks.items()}
    settings = {
        "model_folder": FORMAT,
        "autoencoder": config_to_dict(config.autoencoder) if AUTOENCODER in networks else None,
        "denoiser": config_to_dict(config.denoiser) if DENOISER in networks else None,
        "latents": config_to_dict(config.latents),
        "process": config_to_dict(config.process),
        "sample": config_to_dict(config.sample),
        "class_names": list(class_names),
        "files": files,
    }
    write_json(partial / CONFIG_FILE, settings)
    parameters = {name: file["parameters"] for name, file in files.items()}
    write_card(partial, card, name=directory.name, config=config, parameters=parameters)
    if directory.exists():
        directory.rmdir()  # it is empty
    partial.rename(directory)
    return directory


def check_new(directory: str | pathlib.Path) -> None:
    """Raises FileExistsError if a model folder can't be written because `directory` exists and is not empty."""
    directory = pathlib.Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists already; a model folder never overwrites anything")


def read_model(directory: str | pathlib.Path, networks: tuple[str, ...] = (AUTOENCODER, DENOISER)) -> Model:
    """Reads a model folder, with the weights of `networks` only.

    Raises FileNotFoundError if the folder or a file that it names is missing. Raises ConfigError if its settings are
    invalid or of another version, if a file's hash differs from the stored one, or if weights don't fit the settings.
    """
    directory = pathlib.Path(directory)
    settings = _read_settings(directory)
    config = _config(settings, directory)
    spec = latent_spec(config.autoencoder)
    makers = {
        AUTOENCODER: lambda: Autoencoder(config.autoencoder, rngs=nnx.Rngs(0)),
        DENOISER: lambda: make_denoiser(config.denoiser, spec, rngs=nnx.Rngs(0)),
    }
    weights: dict[str, functional.Params | None] = {AUTOENCODER: None, DENOISER: None}
    for name in networks:
        if name in settings["files"]:
            path = directory / f"{name}.safetensors"
            _check_hash(path, settings["files"][name]["sha256"])
            weights[name] = _read_weights(path, functional.abstract(makers[name])[1])
    return Model(
        config=config,
        autoencoder=weights[AUTOENCODER],
        denoiser=weights[DENOISER],
        class_names=tuple(settings["class_names"]),
        card=read_card(directory),
    )


def read_autoencoder(directory: str | pathlib.Path) -> tuple[AutoencoderConfig, functional.Params]:
    """The settings and weights of a model folder's autoencoder, as stage 2 trains on it.

    Raises what `read_model` raises, and ConfigError if the folder has no autoencoder.
    """
    model = read_model(directory, (AUTOENCODER,))
    if model.autoencoder is None:
        raise ConfigError(f"{directory} holds no autoencoder")
    return model.config.autoencoder, model.autoencoder


def _read_settings(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{directory} is not a model folder: there is no {path}")
    try:
        settings = read_json(path)
    except ValueError as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    version = settings.get("model_folder") if isinstance(settings, dict) else None
    if version is None:
        raise ConfigError(f"{path} does not belong to a model folder: it has no field model_folder")
    require(version == FORMAT, f"{path}: model_folder", version, f"this version of pvdm_jax reads {FORMAT}")
    missing = [
        name
        for name in ("autoencoder", "denoiser", "latents", "process", "sample", "class_names", "files")
        if name not in settings
    ]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}")
    return settings


def complete_config(
    autoencoder: AutoencoderConfig | None,
    denoiser: DenoiserConfig | None,
    process: ProcessConfig,
    sample: SampleConfig,
    latents: LatentsConfig | None = None,
) -> Config:
    """The configuration of a model; a missing network (None) gets settings that fit those of the other one.

    Raises ConfigError if the two networks don't fit each other.
    """
    channels = (autoencoder or denoiser).latent_channels
    return Config(
        autoencoder=autoencoder or AutoencoderConfig(latent_channels=channels),
        denoiser=denoiser or DiTConfig(latent_channels=channels),
        process=process,
        sample=sample,
        latents=latents or LatentsConfig(),
    )


def _config(settings: Mapping[str, Any], directory: pathlib.Path) -> Config:
    sections = {
        "autoencoder": AutoencoderConfig,
        "denoiser": DenoiserConfig,
        "latents": LatentsConfig,
        "process": ProcessConfig,
        "sample": SampleConfig,
    }
    try:
        return complete_config(
            **{
                name: settings[name] and config_from_dict(cls, settings[name], f"{name}.")
                for name, cls in sections.items()
            }
        )
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG_FILE}: {error}") from error


def _write_weights(path: pathlib.Path, params: functional.Params, dtype: str) -> dict[str, Any]:
    """Writes one network's weights. Returns what config.json says about the file."""
    from safetensors.numpy import save_file

    arrays = {
        name: np.ascontiguousarray(np.asarray(array).astype(jnp.dtype(dtype), copy=False))
        for name, array in functional.flatten(params).items()
    }
    save_file(arrays, path, {"format": "pvdm_jax"})
    count = sum(array.size for array in arrays.values())
    return {"sha256": file_hash(path), "parameters": count, "dtype": dtype, "bytes": path.stat().st_size}


def _read_weights(path: pathlib.Path, expected: functional.Params) -> functional.Params:
    """Reads one network's weights as float32. Raises ConfigError if names or shapes are not the expected ones."""
    from safetensors import SafetensorError, safe_open

    shapes = {name: leaf.shape for name, leaf in functional.flatten(expected).items()}
    problems, arrays = [], {}
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            for name in sorted(names & shapes.keys()):
                arrays[name] = file.get_tensor(name).astype(np.float32, copy=False)
    except SafetensorError as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    problems += [f"{name} is missing, shape {shapes[name]}" for name in sorted(shapes.keys() - names)]
    problems += [f"{name} is not a weight of this model" for name in sorted(names - shapes.keys())]
    problems += [
        f"{name} has shape {array.shape}; {shapes[name]} is needed"
        for name, array in arrays.items()
        if array.shape != shapes[name]
    ]
    if problems:
        raise ConfigError(f"{path} doesn't fit {path.parent / CONFIG_FILE}:\n  " + "\n  ".join(problems))
    return functional.unflatten(arrays)


def _check_hash(path: pathlib.Path, expected: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; {path.parent / CONFIG_FILE} names it")
    found = file_hash(path)
    if found != expected:
        raise ConfigError(
            f"{path} is damaged or belongs to another model: its SHA-256 is {found}; {CONFIG_FILE} says {expected}"
        )
