"""Converts weights between the official PyTorch code (github.com/sihyun-yu/PVDM) and our modules, in both directions.

A state dict maps official names to arrays or PyTorch tensors; PyTorch itself is not needed.
`pvdm_jax.weights.foreign_files` reads the files. The two codes store weights differently:

- Weights of linear layers and 1 x 1 convolutions are transposed here; 3 x 3 convolutions have their features last.
- Queries, keys and values (and the values and gates of GEGLU) are one official array and separate kernels here. The
  official U-Net has the channels [q, k, v] for each head.
- Components of the video transformer's queries and keys are reordered here, even ones first, because our rotary
  embedding rotates halves where the official one rotates neighbours.
- Blocks of a stack are numbered officially and stacked on a leading axis here.
- The official "yt" plane is our tx (frame, column), and its "xt" our ty (frame, row).
"""

import numpy as np

from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.discriminators import Discriminators
from pvdm_jax.models.unet import UNet
from pvdm_jax.weights.official.autoencoder import autoencoder_from_torch, autoencoder_to_torch
from pvdm_jax.weights.official.discriminators import discriminators_from_torch, discriminators_to_torch
from pvdm_jax.weights.official.lpips import load_lpips, lpips_from_torch
from pvdm_jax.weights.official.unet import unet_from_torch, unet_to_torch

__all__ = [
    "autoencoder_from_torch",
    "discriminators_from_torch",
    "load_lpips",
    "lpips_from_torch",
    "to_torch",
    "unet_from_torch",
]

_TO_TORCH = {
    Autoencoder: autoencoder_to_torch,
    UNet: unet_to_torch,
    Discriminators: discriminators_to_torch,
}


def to_torch(model: Autoencoder | UNet | Discriminators) -> dict[str, np.ndarray]:
    """The model's weights and buffers under the official names and layouts: the inverse of `*_from_torch`.

    Raises ValueError if the official code has no place for some of them, such as the denoiser's position embeddings.
    """
    return _TO_TORCH[type(model)](model)
