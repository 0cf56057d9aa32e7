"""The protocol of a denoiser, and the table of all denoisers.

A new denoiser is a module in its own file, a configuration class (`config/denoisers.py`) and one row here. A denoiser
from outside this package adds its own row:

    DENOISERS["mine"] = (MyConfig, MyDenoiser)
"""

from typing import Protocol

import jax
from flax import nnx

from pvdm_jax.config import DenoiserConfig, DiTConfig, UNetConfig
from pvdm_jax.models.condition import Condition
from pvdm_jax.models.dit import DiT
from pvdm_jax.models.experts import with_expert
from pvdm_jax.models.latent import LatentSpec, Tokens
from pvdm_jax.models.unet import UNet


class Denoiser(Protocol):
    """A network that predicts the noise (or x_0, v, the flow) in noisy latents.

    It is an `nnx.Module`, made from its configuration, a `LatentSpec` and `rngs`. NOT_MATRICES: the paths of layers
    that matrix optimizers (Muon) must not update, those that read or write latents.
    """

    NOT_MATRICES: tuple[str, ...]

    def __call__(self, x: Tokens, time: jax.Array, condition: Condition) -> Tokens:
        """x: noisy latents (b, positions, channels), float32. time: (b,), 0 to num_steps - 1. Returns the prediction,
        with the shape of x, float32."""


DENOISERS = {"unet": (UNetConfig, UNet), "dit": (DiTConfig, DiT)}


def denoiser_class(config: DenoiserConfig) -> type[nnx.Module]:
    """The class of a configuration's network; with `expert_from`, a class of two networks (`models.experts`).

    Raises ValueError if the table has no row for its kind.
    """
    if config.name not in DENOISERS:
        raise ValueError(f"there is no denoiser {config.name!r}; models.denoiser.DENOISERS has {', '.join(DENOISERS)}")
    kind = DENOISERS[config.name][1]
    return with_expert(kind) if config.expert_from else kind


def make_denoiser(config: DenoiserConfig, spec: LatentSpec, *, rngs: nnx.Rngs) -> nnx.Module:
    """The network of a configuration. Raises ValueError if the table has no row for its kind."""
    return denoiser_class(config)(config, spec, rngs=rngs)
