"""Weights of the official PyTorch code (github.com/sihyun-yu/PVDM) to our modules, and back.

A state dict is a mapping from official names to arrays, or to PyTorch's tensors; no PyTorch is needed. Files of
them are read by `pvdm_jax.weights.foreign_files`. What the two sides store differently:

- linear and 1 x 1 convolution weights are transposed, 3 x 3 convolutions have their features last;
- queries, keys and values (and the values and gates of GEGLU) are one array there and separate kernels here, and the
  U-Net's qkv channels lie there as [q, k, v] for each head;
- components of the video transformer's queries and keys are reordered, even ones first, because our rotary embedding
  rotates halves where theirs rotates neighbours;
- blocks of a stack are numbered there and stacked on a leading axis here;
- the official "yt" plane is our tx, (frame, column), and its "xt" our ty, (frame, row).
"""

import numpy as np

from pvdm_jax.losses.lpips import LPIPS
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.models.discriminators import Discriminators, PatchDiscriminator
from pvdm_jax.models.unet import UNet
from pvdm_jax.weights.official.autoencoder import autoencoder_from_torch, autoencoder_to_torch
from pvdm_jax.weights.official.discriminators import (
    discriminator_from_torch,
    discriminator_to_torch,
    discriminators_from_torch,
    discriminators_to_torch,
)
from pvdm_jax.weights.official.lpips import load_lpips, lpips_from_torch, lpips_to_torch
from pvdm_jax.weights.official.unet import unet_from_torch, unet_to_torch

__all__ = [
    "autoencoder_from_torch",
    "discriminator_from_torch",
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
    PatchDiscriminator: discriminator_to_torch,
    LPIPS: lpips_to_torch,
}


def to_torch(model: Autoencoder | UNet | Discriminators | PatchDiscriminator | LPIPS) -> dict[str, np.ndarray]:
    """The model's weights under the official names and layouts, buffers included: the inverse of `*_from_torch`.

    Raises ValueError for a denoiser with position embeddings, which the official code has no place for.
    """
    return _TO_TORCH[type(model)](model)
