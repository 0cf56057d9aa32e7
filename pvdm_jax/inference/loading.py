"""Reads a trained model: from a run's folder (the EMA weights of its stages), from a model folder, or by the name of a
packaged model."""

import logging
import pathlib

from jax.sharding import Mesh

from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.models import functional
from pvdm_jax.storage import buckets
from pvdm_jax.storage.checkpoint import read_part
from pvdm_jax.storage.run_folder import RunFolder, read_settings
from pvdm_jax.weights import model_folder, packaged, run_autoencoder


def load(directory: str | pathlib.Path, mesh: Mesh | None = None) -> PVDM:
    """The model of a run's folder or a model folder, local or in a bucket (gs://), or the packaged model of that name.
    Without a denoiser (before stage 2's first checkpoint), it can encode, decode and reconstruct.

    mesh: the devices to use (None: all of this process's, each with a copy of the weights), whatever the run was
    trained on. Raises FileNotFoundError if the folder holds no trained autoencoder or no model has the name, and
    ConfigError for a damaged model folder.
    """
    directory = packaged.find_model(buckets.local(directory))
    buckets.fetch(directory, model_folder.CONFIG_FILE)
    if model_folder.is_model_folder(directory):
        buckets.fetch(directory)
        model = model_folder.read_model(directory)
        if model.autoencoder is None:
            raise FileNotFoundError(
                f"{directory} holds no autoencoder; pvdm convert --autoencoder=... --denoiser={directory} --output=... "
                "makes a folder of both"
            )
        return PVDM(model.config, model.autoencoder, model.denoiser, model.class_names, mesh, model.card)
    run = RunFolder(directory)
    if not run.autoencoder.has_begun:
        raise FileNotFoundError(f"{directory} is not a run's folder: there is no {run.autoencoder.config}")
    if model_folder.is_model_folder(run.autoencoder.path) and not run.diffusion.has_begun:
        return load(run.autoencoder.path, mesh)  # trained elsewhere, and stage 2 has not begun
    newest = run.diffusion if run.diffusion.has_begun else run.autoencoder
    settings = read_settings(newest.config)
    config = settings.config
    weights = run_autoencoder.load_autoencoder(config.autoencoder, directory)
    if settings.encoded_by not in ("", functional.fingerprint(weights)):
        logging.warning(
            "the denoiser in %s was trained on latents of another autoencoder than the one that %s has now: stage 1 "
            "was trained further since then. Encode and train stage 2 again in another folder (--autoencoder)",
            run.diffusion.path,
            run.autoencoder.path,
        )
    abstract = LatentModel(config.autoencoder, config.denoiser).denoiser_shapes
    try:
        denoiser = read_part(run.diffusion.path, "ema", abstract)
    except FileNotFoundError:
        denoiser = None
    return PVDM(config, weights, denoiser, settings.class_names, mesh)
