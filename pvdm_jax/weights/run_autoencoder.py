"""The autoencoder that stage 2 of a run trains on: trained by the run itself, or imported.

A run imports the autoencoder of a model folder or of another run by copying it: its `autoencoder` folder then is a
model folder, with a hash of the weights and a card that says where they come from. The run therefore doesn't depend on
the source folder, and `encode`, `train-diffusion`, `load` and `export` find the same weights in the run.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig, Config, ConfigError
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.runtime import sharding
from pvdm_jax.storage import buckets
from pvdm_jax.storage.checkpoint import read_part
from pvdm_jax.storage.run_folder import RunFolder, StageFolder, read_settings
from pvdm_jax.weights import model_folder, packaged
from pvdm_jax.weights.model_card import AUTOENCODER, network_facts, read_card
from pvdm_jax.weights.run_card import run_card

# Settings of the autoencoder that a run may change: they affect how it computes, not which weights it has.
MAY_DIFFER = ("dtype", "remat")
NOTE = "Imported from"  # how the note on the card begins


def load_autoencoder(
    model: AutoencoderConfig, workdir: str | pathlib.Path, mesh: Mesh | None = None
) -> functional.Params:
    """The weights of a run's autoencoder: the EMA of the trained weights, or the imported ones.

    They are distributed over the mesh; without one, they lie on this process's first device. Raises FileNotFoundError
    if the run has no autoencoder, and ConfigError if `model` does not describe the imported one.
    """
    folder = RunFolder(workdir).autoencoder.path
    if _is_imported(folder):
        buckets.fetch(folder)
        found, params = model_folder.read_autoencoder(folder)
        _check_settings(model, found, folder)
        return jax.tree.map(jax.numpy.asarray, params) if mesh is None else sharding.place(mesh, params)
    _, abstract = functional.abstract(lambda: Autoencoder(model, rngs=functional.rngs(0)))
    try:
        return read_part(folder, "ema", abstract if mesh is None else sharding.place(mesh, abstract))
    except FileNotFoundError as error:
        hint = "train stage 1 (`pvdm train-autoencoder`), or name a trained autoencoder with --autoencoder"
        raise FileNotFoundError(f"{workdir} has no autoencoder: {error}; {hint}") from error


def import_autoencoder(source: str | pathlib.Path, config: Config, workdir: str | pathlib.Path) -> None:
    """Copies the autoencoder of `source` into the run in `workdir`: a model folder, a run's folder, or a packaged
    model's name.

    Does nothing if the run has it already. Raises ConfigError if the run has another autoencoder, or if the settings
    of this one are not those of `config.autoencoder` (naming them). Raises FileNotFoundError if `source` holds no
    autoencoder.
    """
    source, folder = packaged.find_model(source), RunFolder(workdir).autoencoder.path
    model, params, card = _read(source)
    _check_settings(config.autoencoder, model, source)
    identity = functional.fingerprint(params)
    # The first process decides, because the others could look while it is writing.
    if jax.process_index() == 0:
        buckets.fetch(folder)
    has_one = folder.exists() and any(folder.iterdir())
    if multihost_utils.broadcast_one_to_all(np.asarray(has_one)):
        found = functional.fingerprint(load_autoencoder(config.autoencoder, workdir))
        if found != identity:
            raise ConfigError(
                f"--autoencoder is {source}, whose weights are {identity[:12]}; the run in {workdir} has another "
                f"autoencoder already, {found[:12]}{_origin(folder)}: use another --workdir"
            )
        return
    if jax.process_index() == 0:
        model_folder.write_model(folder, config, params, None, card)
        buckets.push(folder)
    multihost_utils.sync_global_devices("autoencoder imported")


def check_not_imported(workdir: str | pathlib.Path) -> None:
    """Raises ConfigError if the run imported its autoencoder: stage 1 can't be trained there."""
    folder = RunFolder(workdir).autoencoder.path
    if _is_imported(folder):
        raise ConfigError(
            f"{folder} holds an autoencoder that this run imported{_origin(folder)}; train stage 1 in another --workdir"
        )


def _is_imported(folder: pathlib.Path) -> bool:
    """Whether a run's folder of stage 1, perhaps in a bucket, holds an imported autoencoder."""
    buckets.fetch(folder, model_folder.CONFIG_FILE)
    return model_folder.is_model_folder(folder)


def _read(source: pathlib.Path) -> tuple[AutoencoderConfig, functional.Params, dict[str, Any]]:
    """Settings and weights of an autoencoder, and the facts for its new card."""
    folder = source if model_folder.is_model_folder(source) else RunFolder(source).autoencoder.path
    if model_folder.is_model_folder(folder):
        model, params = model_folder.read_autoencoder(folder)
        card = read_card(folder)
    elif StageFolder(folder).has_begun:
        model = read_settings(StageFolder(folder).config).config.autoencoder
        params = load_autoencoder(model, source)
        card = run_card(RunFolder(source))
    else:
        raise FileNotFoundError(f"--autoencoder is {source}; it is neither a model folder nor a run with a stage 1")
    note = f"{NOTE} {source.absolute()} to train stage 2 on it."
    return model, params, network_facts(card, AUTOENCODER) | {"notes": [note]}


def _check_settings(wanted: AutoencoderConfig, found: AutoencoderConfig, folder: pathlib.Path) -> None:
    names = [field.name for field in dataclasses.fields(AutoencoderConfig) if field.name not in MAY_DIFFER]
    differing = [name for name in names if getattr(wanted, name) != getattr(found, name)]
    if differing:
        texts = [f"autoencoder.{name} is {getattr(wanted, name)} (it has {getattr(found, name)})" for name in differing]
        arguments = " ".join(f"--config.autoencoder.{name}={getattr(found, name)}" for name in differing)
        raise ConfigError(
            f"these settings are not those of the autoencoder in {folder}: {', '.join(texts)}; add {arguments}"
        )


def _origin(folder: pathlib.Path) -> str:
    """Where an imported autoencoder came from, in brackets; nothing for one that the run trained."""
    if not model_folder.is_model_folder(folder):
        return ""
    notes = read_card(folder).get("notes", ())
    return "".join(f" ({note.rstrip('.')})" for note in notes if note.startswith(NOTE))
