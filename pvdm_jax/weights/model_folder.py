"""Model folders: trained weights with everything needed to use them, and no state of their training.

    config.json              settings of the networks and of sampling, and each weight file's hash
    autoencoder.safetensors  weights under this project's names, "encoder/mlp/down/kernel"; a run's EMA
    denoiser.safetensors     likewise. One of the two files may be missing
    card.json, README.md     where the weights come from, sizes, training data, numbers (see `model_card`)

Exported runs and converted official weights have the same layout. `docs/model_folder.md` has every field.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from pvdm_jax.config import (
    AutoencoderConfig,
    Config,
    ConfigError,
    DataConfig,
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
from pvdm_jax.storage.files import (
    check_new_folder,
    file_hash,
    remove,
    remove_leftovers,
    temporary_path,
    write_bytes,
    write_json,
)
from pvdm_jax.storage.json_files import JsonError, Maybe, read_json
from pvdm_jax.storage.run_folder import StageFolder
from pvdm_jax.weights.model_card import AUTOENCODER, DENOISER, read_card, write_card
from pvdm_jax.weights.weight_files import DTYPES, read_weights, write_weights

FORMAT = 2
CONFIG_FILE = "config.json"
_SETTINGS = {
    "model_folder": int,
    "autoencoder": Maybe(dict),
    "denoiser": Maybe(dict),
    "latents": dict,
    "process": dict,
    "sample": dict,
    "data": Maybe(dict),
    "class_names": [str],
    "files": {str: {"sha256": str}},
}


@dataclasses.dataclass(frozen=True)
class Model:
    """The content of a model folder. Weights are nested dicts of float32 NumPy arrays, None for a missing network.

    `config` has default values for everything that the folder does not specify: training, possibly the data, and a
    missing network (with settings that fit the other one).
    """

    config: Config
    autoencoder: functional.Params | None
    denoiser: functional.Params | None
    class_names: tuple[str, ...]
    card: dict[str, Any]
    data: DataConfig | None  # which clips the networks were trained on; None: the folder does not say


def is_model_folder(directory: str | pathlib.Path) -> bool:
    """Whether a folder's config.json says that it is a model folder; its other files may be damaged.

    Raises JsonError if config.json is damaged, unless the folder has checkpoints: then it belongs to a run's stage,
    which writes a new config.json when it resumes.
    """
    folder = StageFolder(directory)
    try:
        return "model_folder" in read_json(folder.config, dict)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except JsonError:
        if folder.checkpoints.exists():
            return False
        raise


def write_model(
    directory: str | pathlib.Path,
    config: Config,
    autoencoder: functional.Params | None,
    denoiser: functional.Params | None,
    card: Mapping[str, Any],
    class_names: tuple[str, ...] = (),
    dtype: str = "float32",
    other_files: Mapping[str, bytes] | None = None,
    data: DataConfig | None = None,
) -> pathlib.Path:
    """Writes a model folder and returns its path.

    Stores the fields autoencoder, denoiser, latents, process and sample of `config`. data: which clips the networks
    were trained on, if known; videos are then read in the same way. card: facts by name (see `model_card` and
    docs/model_folder.md), to which sizes are added. dtype: the dtype of the weight files; weights are converted back to
    float32 when they are read. other_files: additional files of the folder, by name. Raises FileExistsError if the
    folder exists and is not empty, and ConfigError if there are no weights, if one of them is not finite in `dtype`, or
    if dtype is not one of DTYPES. An interrupted call leaves no folder of that name; leftovers of killed calls are
    removed.
    """
    directory = pathlib.Path(directory)
    check_new_folder(directory)
    require(dtype in DTYPES, "dtype", dtype, f"choose one of {', '.join(DTYPES)}")
    networks = {name: params for name, params in ((AUTOENCODER, autoencoder), (DENOISER, denoiser)) if params}
    if not networks:
        raise ConfigError("a model folder needs an autoencoder, a denoiser or both")
    remove_leftovers(directory.parent)
    partial = temporary_path(directory)
    partial.mkdir(parents=True)
    try:
        _write_content(partial, config, networks, card, class_names, dtype, name=directory.name, data=data)
        for name, data in (other_files or {}).items():
            write_bytes(partial / name, data)
        if directory.exists():
            directory.rmdir()  # it is empty
        partial.rename(directory)
    finally:
        remove(partial)  # what an error left
    return directory


def _write_content(
    folder: pathlib.Path,
    config: Config,
    networks: Mapping[str, functional.Params],
    card: Mapping[str, Any],
    class_names: tuple[str, ...],
    dtype: str,
    *,
    name: str,
    data: DataConfig | None,
) -> None:
    """Writes the files of a model folder into `folder`; its page calls the model `name`."""
    files = {
        network: write_weights(folder / f"{network}.safetensors", params, dtype) for network, params in networks.items()
    }
    settings = {
        "model_folder": FORMAT,
        "autoencoder": config_to_dict(config.autoencoder) if AUTOENCODER in networks else None,
        "denoiser": config_to_dict(config.denoiser) if DENOISER in networks else None,
        "latents": config_to_dict(config.latents),
        "process": config_to_dict(config.process),
        "sample": config_to_dict(config.sample),
        "data": None if data is None else config_to_dict(data),
        "class_names": list(class_names),
        "files": files,
    }
    write_json(folder / CONFIG_FILE, settings)
    parameters = {network: file["parameters"] for network, file in files.items()}
    write_card(folder, card, name=name, config=config, parameters=parameters)


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
        AUTOENCODER: lambda: Autoencoder(config.autoencoder, rngs=functional.rngs(0)),
        DENOISER: lambda: make_denoiser(config.denoiser, spec, rngs=functional.rngs(0)),
    }
    weights: dict[str, functional.Params | None] = {AUTOENCODER: None, DENOISER: None}
    for name in networks:
        if name in settings["files"]:
            path = directory / f"{name}.safetensors"
            _check_hash(path, settings["files"][name]["sha256"])
            weights[name] = read_weights(path, functional.abstract(makers[name])[1])
    return Model(
        config=config,
        autoencoder=weights[AUTOENCODER],
        denoiser=weights[DENOISER],
        class_names=tuple(settings["class_names"]),
        card=read_card(directory),
        data=None if settings.get("data") is None else config.data,
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
    version = read_json(path, dict).get("model_folder")
    if version is None:
        raise ConfigError(f"{path} does not belong to a model folder: it has no field model_folder")
    require(version == FORMAT, f"{path}: model_folder", version, f"this version of pvdm_jax reads {FORMAT}")
    settings = read_json(path, _SETTINGS)
    for name in settings["files"]:
        allowed = f"{path} must name the files of {AUTOENCODER} and {DENOISER}, with their settings"
        require(name in (AUTOENCODER, DENOISER) and settings.get(name) is not None, "files", name, allowed)
    require(len(settings["files"]) > 0, f"{path}: files", {}, "name at least one network")
    return settings


def complete_config(
    autoencoder: AutoencoderConfig | None,
    denoiser: DenoiserConfig | None,
    process: ProcessConfig,
    sample: SampleConfig,
    latents: LatentsConfig,
    data: DataConfig | None = None,
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
        latents=latents,
        data=data or DataConfig(),
    )


def _config(settings: Mapping[str, Any], directory: pathlib.Path) -> Config:
    sections = {
        "autoencoder": AutoencoderConfig,
        "denoiser": DenoiserConfig,
        "latents": LatentsConfig,
        "process": ProcessConfig,
        "sample": SampleConfig,
        "data": DataConfig,
    }
    try:
        given = {name: settings.get(name) for name in sections}
        config = complete_config(
            **{
                name: None if given[name] is None else config_from_dict(cls, given[name], f"{name}.")
                for name, cls in sections.items()
            }
        )
        names, classes = settings["class_names"], config.denoiser.num_classes
        allowed = f"denoiser.num_classes is {classes}: name as many, or none"
        require(not names or not classes or len(names) == classes, "class_names", names, allowed)
        return config
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG_FILE}: {error}") from error


def _check_hash(path: pathlib.Path, expected: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; {path.parent / CONFIG_FILE} names it")
    found = file_hash(path)
    if found != expected:
        raise ConfigError(
            f"{path} is damaged or belongs to another model: its SHA-256 is {found}; {CONFIG_FILE} says {expected}"
        )
