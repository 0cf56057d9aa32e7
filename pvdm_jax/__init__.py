"""Video generation in JAX with projected latent video diffusion models (PVDM, arXiv 2302.07685).

`pvdm_jax.load(folder)` loads a trained model. Importing this package imports nothing else, so that the command line and
the core folders can be used without the libraries that only training needs.
"""

import os
import typing

if typing.TYPE_CHECKING:
    from pvdm_jax.inference.pipeline import PVDM

__version__ = "0.1.0"


def load(directory: str | os.PathLike) -> "PVDM":
    """Loads a trained model on all devices, from a run's folder, from a model folder, or by a packaged model's name.

    `pvdm models` lists the packaged models; see `inference.loading`. Raises FileNotFoundError if the folder holds no
    trained autoencoder and no packaged model has the name.
    """
    from pvdm_jax.inference import loading

    return loading.load(directory)
