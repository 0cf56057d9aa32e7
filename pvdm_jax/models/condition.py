"""What a denoiser gets besides the noisy latents: the neighbouring clips and the class.

Every part may be absent: for a whole model (the field is None) or for single samples (`present` is False, the label is
-1). Dropping a part in training and leaving it out for guidance are the same operation, `Condition.keep`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from pvdm_jax.config import DenoiserConfig
from pvdm_jax.models.latent import LatentSpec, Tokens

NEIGHBOURS = ("previous", "next")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Neighbour:
    """The latents of a clip next to the one that is modelled."""

    latents: Tokens  # (b, positions, channels)
    present: jax.Array  # (b,) bool: whether the sample has this neighbour

    def visible(self) -> Tokens:
        """The latents, with zeros for samples without this neighbour."""
        return jnp.where(self.present[:, None, None], self.latents, 0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Condition:
    """One batch of conditions. A part that the model doesn't take is None."""

    previous: Neighbour | None = None
    next: Neighbour | None = None
    label: jax.Array | None = None  # (b,) int32 class indices, -1 for none

    @property
    def sees_neighbour(self) -> jax.Array:
        """Which samples (b,) have a neighbouring clip; a single False for a model that takes none."""
        present = [getattr(self, name).present for name in NEIGHBOURS if getattr(self, name) is not None]
        return functools.reduce(jnp.logical_or, present, jnp.bool_(False))

    def keep(self, **masks: jax.Array | bool) -> "Condition":
        """The condition with each named part absent where its mask, (b,) or a bool for the whole batch, is False.

        Parts that aren't named stay as they are; a part that the model doesn't take may be named.
        """
        changed = {}
        for name, mask in masks.items():
            part = getattr(self, name)
            if part is None:
                continue
            if name == "label":
                changed[name] = jnp.where(mask, part, -1)
            else:
                changed[name] = dataclasses.replace(part, present=part.present & mask)
        return dataclasses.replace(self, **changed)

    def without(self, *names: str) -> "Condition":
        """The condition with the named parts absent for all samples."""
        return self.keep(**dict.fromkeys(names, False))

    def check(self, config: DenoiserConfig) -> None:
        """Raises ValueError for a part that the denoiser doesn't take, or if a neighbour that it takes is missing."""
        for name in NEIGHBOURS:
            given, taken = getattr(self, name) is not None, name in config.neighbours
            if given and not taken:
                raise ValueError(f"the condition has a {name} clip, but the denoiser takes none")
            if taken and not given:
                raise ValueError(f"the denoiser takes a {name} clip, but the condition has no such part")
        if self.label is not None and not config.num_classes:
            raise ValueError("the condition has a label, but the denoiser was built with num_classes=0")

    @staticmethod
    def absent(config: DenoiserConfig, spec: LatentSpec, count: int) -> "Condition":
        """The condition of `count` samples that have none of the parts that a denoiser takes."""
        nothing = Neighbour(jnp.zeros((count, *spec.shape), jnp.float32), jnp.zeros(count, bool))
        label = jnp.full(count, -1, jnp.int32) if config.num_classes else None
        return Condition(**dict.fromkeys(config.neighbours, nothing), label=label)
