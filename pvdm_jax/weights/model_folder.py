"""Model folders: trained weights with all that it takes to use them, and nothing of how they were trained.

    config.json              the networks' and the sampler's settings, and each weight file's hash
    autoencoder.safetensors  weights under our names, "encoder/mlp/down/kernel"
    denoiser.safetensors     likewise; the EMA's. Either file may be missing
    card.json, README.md     where the weights come from, sizes, training data, numbers: as data and as a page

A run's export and converted official weights are the same. `docs/model_folder.md` has every field.
"""

import dataclasses
import datetime
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pvdm_jax.config import (
    AutoencoderConfig,
    Config,
    ConfigError,
    ProcessConfig,
    SampleConfig,
    UNetConfig,
    config_from_dict,
    config_to_dict,
    require,
)
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, plane_shape
from pvdm_jax.models.unet import UNet
from pvdm_jax.storage.checkpoint import best_step
from pvdm_jax.storage.files import file_hash, write_json
from pvdm_jax.storage.run_folder import RunFolder, StageFolder, read_metrics

FORMAT = 1
CONFIG_FILE, CARD_FILE, PAGE_FILE = "config.json", "card.json", "README.md"
AUTOENCODER, DENOISER = "autoencoder", "denoiser"
DTYPES = ("float32", "bfloat16", "float16")
EXCHANGED_PLANES = (
    "This denoiser has no position embedding. Like the official one it can't tell its two motion planes apart, so "
    "about half of the clips that it samples without a previous clip have them exchanged, and decode to rubbish as "
    "they are. `pvdm sample` asks the autoencoder which order fits and puts them right (sample.plane_order=auto, or "
    "confirm; keep leaves them). Other code that samples from these weights must do the same."
)


@dataclasses.dataclass(frozen=True)
class Model:
    """What a model folder holds. Weights are nested dicts of float32 NumPy arrays, or None where the file is missing.

    `config` has default values wherever the folder says nothing: of training, of data, and of a network that is
    missing (made to fit the other one).
    """

    config: Config
    autoencoder: functional.Params | None
    denoiser: functional.Params | None
    class_names: tuple[str, ...]
    card: dict[str, Any]


def is_model_folder(directory: str | pathlib.Path) -> bool:
    """Whether a folder calls itself one, whatever state it is in."""
    path = pathlib.Path(directory) / CONFIG_FILE
    try:
        return "model_folder" in json.loads(path.read_text(encoding="utf-8"))
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
    """Writes a model folder, and returns its path.

    Of `config`, the fields autoencoder, unet, process and sample are kept. card: facts by name (see
    docs/model_folder.md: "source", "training", "numbers", "notes"); sizes are added. dtype: of the files; weights are
    float32 again when read. Raises FileExistsError where the folder is there and not empty, ConfigError for no weights
    at all or another dtype. What stopped half way leaves no folder of that name.
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
        "unet": config_to_dict(config.unet) if DENOISER in networks else None,
        "process": config_to_dict(config.process),
        "sample": config_to_dict(config.sample),
        "class_names": list(class_names),
        "files": files,
    }
    facts = _card(config, files, card)
    write_json(partial / CONFIG_FILE, settings)
    write_json(partial / CARD_FILE, facts)
    (partial / PAGE_FILE).write_text(_page(directory.name, facts), encoding="utf-8")
    if directory.exists():
        directory.rmdir()  # it is empty
    partial.rename(directory)
    return directory


def check_new(directory: str | pathlib.Path) -> None:
    """Raises FileExistsError where a model folder can't be written: something is there."""
    directory = pathlib.Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is there already; a model folder is not written over anything")


def read_model(directory: str | pathlib.Path, networks: tuple[str, ...] = (AUTOENCODER, DENOISER)) -> Model:
    """Reads a model folder; of weights only those of `networks`.

    Raises FileNotFoundError where it, or a file that it names, is missing, ConfigError for settings of another version
    or that can't work, for a file whose hash is another than the folder says, and for weights that don't fit.
    """
    directory = pathlib.Path(directory)
    settings = _read_settings(directory)
    config = _config(settings, directory)
    makers = {
        AUTOENCODER: lambda: Autoencoder(config.autoencoder, rngs=nnx.Rngs(0)),
        DENOISER: lambda: UNet(config.unet, rngs=nnx.Rngs(0)),
    }
    weights: dict[str, functional.Params | None] = {AUTOENCODER: None, DENOISER: None}
    for name in networks:
        if name in settings["files"]:
            path = directory / f"{name}.safetensors"
            _check_hash(path, settings["files"][name]["sha256"])
            weights[name] = _read_weights(path, functional.abstract(makers[name])[1])
    card_path = directory / CARD_FILE
    card = json.loads(card_path.read_text(encoding="utf-8")) if card_path.exists() else {}
    return Model(config, weights[AUTOENCODER], weights[DENOISER], tuple(settings["class_names"]), card)


def read_autoencoder(directory: str | pathlib.Path) -> tuple[AutoencoderConfig, functional.Params]:
    """The autoencoder of a model folder and its settings, as stage 2 trains on it. Raises as `read_model`, and
    ConfigError for a folder without one."""
    model = read_model(directory, (AUTOENCODER,))
    if model.autoencoder is None:
        raise ConfigError(f"{directory} holds no autoencoder")
    return model.config.autoencoder, model.autoencoder


def run_card(run: RunFolder) -> dict[str, Any]:
    """What a run's folder tells of the stages that have begun, for the card: {"source", "training", "numbers"}.

    The numbers are those of the best checkpoint's evaluation, or of the last evaluation where no checkpoint is the
    best.
    """
    source, training, numbers = {}, {}, {}
    for name, folder in run.stages.items():
        if is_model_folder(folder.path):  # taken over: its own card tells
            card = read_model(folder.path, ()).card
            for facts, key in ((source, "source"), (training, "training"), (numbers, "numbers")):
                facts |= {name: value for name, value in card.get(key, {}).items() if name == AUTOENCODER}
            continue
        if not folder.has_begun:
            continue
        settings = json.loads(folder.config.read_text(encoding="utf-8"))
        step, values = _evaluation(folder)
        source[name] = "the EMA weights of a training run of pvdm_jax"
        data = settings.get("data", {})
        training[name] = {"data": data.get("path") or data.get("source", "not known"), "seed": settings.get("seed")}
        if step is not None:
            training[name] |= {"evaluated after step": step}
            numbers[name] = values
    return {"source": source, "training": training, "numbers": numbers}


def _evaluation(folder: StageFolder) -> tuple[int | None, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for report in read_metrics(folder.metrics):
        values = {name.removeprefix("eval/"): x for name, x in report.items() if name.startswith("eval/")}
        if values:
            found[report["step"]] = values
    step = best_step(folder.path)
    if step not in found:
        step = max(found, default=None)
    return step, found.get(step, {})


def _read_settings(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{directory} is not a model folder: there is no {path}")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    version = settings.get("model_folder") if isinstance(settings, dict) else None
    if version is None:
        raise ConfigError(f"{path} is not of a model folder: it has no field model_folder")
    require(version == FORMAT, f"{path}: model_folder", version, f"this version of pvdm_jax reads {FORMAT}")
    missing = [
        name for name in ("autoencoder", "unet", "process", "sample", "class_names", "files") if name not in settings
    ]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}")
    return settings


def complete_config(
    autoencoder: AutoencoderConfig | None,
    unet: UNetConfig | None,
    process: ProcessConfig,
    sample: SampleConfig,
) -> Config:
    """The whole configuration of a model; a missing network (None) gets settings that fit the other one's.

    Raises ConfigError for two networks that don't fit each other.
    """
    channels = (autoencoder or unet).latent_channels
    return Config(
        autoencoder=autoencoder or AutoencoderConfig(latent_channels=channels),
        unet=unet or UNetConfig(latent_channels=channels, channel_mult=(1,), attention_resolutions=(1,)),
        process=process,
        sample=sample,
    )


def _config(settings: Mapping[str, Any], directory: pathlib.Path) -> Config:
    sections = {"autoencoder": AutoencoderConfig, "unet": UNetConfig, "process": ProcessConfig, "sample": SampleConfig}
    try:
        return complete_config(
            *(settings[name] and config_from_dict(cls, settings[name], f"{name}.") for name, cls in sections.items())
        )
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG_FILE}: {error}") from error


def _write_weights(path: pathlib.Path, params: functional.Params, dtype: str) -> dict[str, Any]:
    """Writes one network's weights. Returns what config.json says of the file."""
    from safetensors.numpy import save_file

    arrays = {
        name: np.ascontiguousarray(np.asarray(array).astype(jnp.dtype(dtype), copy=False))
        for name, array in functional.flatten(params).items()
    }
    save_file(arrays, path, {"format": "pvdm_jax"})
    count = sum(array.size for array in arrays.values())
    return {"sha256": file_hash(path), "parameters": count, "dtype": dtype, "bytes": path.stat().st_size}


def _read_weights(path: pathlib.Path, expected: functional.Params) -> functional.Params:
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
            f"{path} is damaged or of another model: its SHA-256 is {found}; {CONFIG_FILE} says {expected}"
        )


def _card(config: Config, files: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, Any]:
    """The given facts, and those that follow from the model."""
    sizes: dict[str, Any] = {}
    if AUTOENCODER in files:
        model, shape = config.autoencoder, plane_shape(config.autoencoder)
        sizes |= {"clip": [model.frames, model.height, model.width, 3], "latent_grid": list(shape)}
        sizes |= {"latent_positions": shape.positions, "latent_channels": model.latent_channels}
    notes = list(card.get("notes", ()))
    if DENOISER in files and not config.unet.position_embedding and EXCHANGED_PLANES not in notes:
        notes.append(EXCHANGED_PLANES)
    facts = {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "software": {"jax": jax.__version__},
        "sizes": sizes,
        "parameters": {name: file["parameters"] for name, file in files.items()},
    }
    return facts | dict(card) | {"notes": notes}


def _page(name: str, card: Mapping[str, Any]) -> str:
    """The card as a page."""
    parameters = [f"{network} {count:,} parameters" for network, count in card["parameters"].items()]
    parts = [f"# {name}", f"A PVDM video model of pvdm_jax: {', '.join(parameters)}. Made {card['made']}."]
    if card["sizes"]:
        frames, height, width, _ = card["sizes"]["clip"]
        positions, channels = card["sizes"]["latent_positions"], card["sizes"]["latent_channels"]
        parts.append(
            f"A clip is {frames} frames of {width} x {height} pixels; its latent is {positions} positions of "
            f"{channels} channels."
        )
    for key, title in (("source", "Where the weights come from"), ("training", "Training"), ("numbers", "Numbers")):
        if card.get(key):
            parts += [f"## {title}", "\n".join(f"- {line}" for line in _lines(card[key]))]
    if card["notes"]:
        parts += ["## Notes", "\n\n".join(card["notes"])]
    parts += ["## Use", "```\n" + "\n".join(_commands(name, card["parameters"])) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _lines(facts: Any, prefix: str = "") -> list[str]:
    """Nested facts as lines "name of the fact: value"."""
    if not isinstance(facts, Mapping):
        return [f"{prefix}: {facts}" if prefix else str(facts)]
    return [line for name, value in facts.items() for line in _lines(value, f"{prefix} {name}".strip())]


def _commands(name: str, parameters: Mapping[str, int]) -> list[str]:
    both = {AUTOENCODER, DENOISER} <= parameters.keys()
    commands = [f"pvdm sample --model={name} --output=samples --num-frames=64"] if both else []
    if AUTOENCODER in parameters:
        commands.append(f"pvdm reconstruct --model={name} --source my_videos --output=reconstructed")
    else:
        commands.append(f"pvdm convert --autoencoder=AUTOENCODER --denoiser={name} --output=BOTH")
    return commands
