"""The autoencoder that stage 2 trains on: the one that the run trained itself, or one that it took over.

A run takes over the autoencoder of a model folder or of another run by copying it: its `autoencoder` folder is then
a model folder, with a hash of the weights and a card that says where they come from. So the run stays whole whatever
becomes of the other folder, and `encode`, `train-diffusion`, `load` and `export` find the same weights in it.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, config_from_dict
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.runtime import sharding
from pvdm_jax.storage import buckets
from pvdm_jax.storage.checkpoint import read_part
from pvdm_jax.storage.files import read_json
from pvdm_jax.storage.run_folder import AUTOENCODER, RunFolder, StageFolder
from pvdm_jax.weights import model_folder

FREE = ("dtype", "remat")  # of the settings: how the weights are used, which is the run's own matter


def load_autoencoder(
    model: AutoencoderConfig, workdir: str | pathlib.Path, mesh: Mesh | None = None
) -> tuple[nnx.GraphDef, functional.Params]:
    """The autoencoder of a run: the EMA weights that it trained, or those that it took over.

    They are shared out over the mesh, or on this process's first device.
    Raises FileNotFoundError where it has neither, ConfigError for weights taken over that `model` doesn't describe.
    """
    graphdef, abstract = functional.abstract(lambda: Autoencoder(model, rngs=nnx.Rngs(0)))
    folder = RunFolder(workdir).autoencoder.path
    if _is_taken_over(folder):
        buckets.fetch(folder)
        found, params = model_folder.read_autoencoder(folder)
        _check_settings(model, found, folder)
        return graphdef, jax.tree.map(jax.numpy.asarray, params) if mesh is None else sharding.place(mesh, params)
    try:
        return graphdef, read_part(folder, "ema", abstract if mesh is None else sharding.place(mesh, abstract))
    except FileNotFoundError as error:
        hint = "train stage 1 (`pvdm train-autoencoder`), or name a trained autoencoder with --autoencoder"
        raise FileNotFoundError(f"{workdir} has no autoencoder: {error}; {hint}") from error


def take_over(source: str | pathlib.Path, config: Config, workdir: str | pathlib.Path) -> None:
    """Makes the autoencoder of `source`, a model folder or a run's folder, that of the run in `workdir`.

    A run that has it already stays as it is. Raises ConfigError for a run that has another one, and for one of other
    settings than `config.autoencoder` (naming them), FileNotFoundError where `source` holds no autoencoder.
    """
    source, folder = pathlib.Path(source), RunFolder(workdir).autoencoder.path
    model, params, card = _read(source)
    _check_settings(config.autoencoder, model, source)
    identity = functional.fingerprint(params)
    # As the first process finds it: the others may look while it is being written.
    if jax.process_index() == 0:
        buckets.fetch(folder)
    there = folder.exists() and any(folder.iterdir())
    if multihost_utils.broadcast_one_to_all(np.asarray(there)):
        found = functional.fingerprint(load_autoencoder(config.autoencoder, workdir)[1])
        if found != identity:
            raise ConfigError(
                f"--autoencoder is {source}, whose weights are {identity[:12]}; the run in {workdir} has another "
                f"autoencoder already, {found[:12]}{_origin(folder)}: take another --workdir"
            )
        return
    if jax.process_index() == 0:
        model_folder.write_model(folder, config, params, None, card)
        buckets.push(folder)
    multihost_utils.sync_global_devices("autoencoder taken over")


def check_own(workdir: str | pathlib.Path) -> None:
    """Raises ConfigError for a run whose autoencoder was taken over: stage 1 can't be trained there."""
    folder = RunFolder(workdir).autoencoder.path
    if _is_taken_over(folder):
        raise ConfigError(
            f"{folder} holds an autoencoder that this run took over{_origin(folder)}; "
            "train stage 1 in another --workdir"
        )


def _is_taken_over(folder: pathlib.Path) -> bool:
    """Whether a run's folder of stage 1, perhaps in a bucket, holds an autoencoder that the run took over."""
    buckets.fetch(folder, model_folder.CONFIG_FILE)
    return model_folder.is_model_folder(folder)


def _read(source: pathlib.Path) -> tuple[AutoencoderConfig, functional.Params, dict[str, Any]]:
    """Settings, weights, and what the new card says."""
    folder = source if model_folder.is_model_folder(source) else RunFolder(source).autoencoder.path
    if model_folder.is_model_folder(folder):
        model, params = model_folder.read_autoencoder(folder)
        card = model_folder.read_model(folder, ()).card
    elif StageFolder(folder).has_begun:
        model = config_from_dict(
            AutoencoderConfig, read_json(StageFolder(folder).config)["autoencoder"], "autoencoder."
        )
        _, params = load_autoencoder(model, source)
        card = model_folder.run_card(RunFolder(source))
    else:
        raise FileNotFoundError(f"--autoencoder is {source}; it is neither a model folder nor a run with a stage 1")
    facts = {
        key: {AUTOENCODER: card[key][AUTOENCODER]}
        for key in ("source", "training", "numbers")
        if AUTOENCODER in card.get(key, {})
    }
    return model, params, facts | {"notes": [f"Taken over from {source.absolute()} to train stage 2 on."]}


def _check_settings(wanted: AutoencoderConfig, found: AutoencoderConfig, folder: pathlib.Path) -> None:
    pairs = [
        (field.name, getattr(wanted, field.name), getattr(found, field.name))
        for field in dataclasses.fields(AutoencoderConfig)
        if field.name not in FREE
    ]
    differing = [(name, ours, theirs) for name, ours, theirs in pairs if ours != theirs]
    if differing:
        texts = [f"autoencoder.{name} is {ours} (it has {theirs})" for name, ours, theirs in differing]
        arguments = " ".join(f"--config.autoencoder.{name}={theirs}" for name, _, theirs in differing)
        raise ConfigError(
            f"these settings are not those of the autoencoder in {folder}: {', '.join(texts)}; add {arguments}"
        )


def _origin(folder: pathlib.Path) -> str:
    """Where an autoencoder that was taken over came from, in brackets; nothing for one that the run trained."""
    if not model_folder.is_model_folder(folder):
        return ""
    notes = model_folder.read_model(folder, ()).card.get("notes", ())
    return "".join(f" ({note.rstrip('.')})" for note in notes if note.startswith("Taken over"))
