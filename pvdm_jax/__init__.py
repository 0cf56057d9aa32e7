"""Video generation in JAX with projected latent video diffusion models (PVDM, arXiv 2302.07685).

`pvdm_jax.load(folder)` gives a trained model. Importing this package imports nothing else, so that the command line
and the core folders can be used without the libraries that only training needs.
"""

import os
import typing

if typing.TYPE_CHECKING:
    from pvdm_jax.inference.pipeline import PVDM

__version__ = "0.1.0"


def load(directory: str | os.PathLike) -> "PVDM":
    """Loads a trained model on all devices: of a run's folder or a model folder, or a packaged one by its name.

    `pvdm models` lists the packaged ones; see `inference.loading`. Raises FileNotFoundError where the folder holds no
    trained autoencoder and no packaged model has the name.
    """
    from pvdm_jax.inference import loading

    return loading.load(directory)
