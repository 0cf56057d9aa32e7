"""What stage 2 trains on: a batch of windows of encoded clips."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pvdm_jax.config import Config
from pvdm_jax.models.autoencoder import latent_spec

Array = jax.Array | np.ndarray | jax.ShapeDtypeStruct


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentBatch:
    """Latents (b, positions, channels), float32, of b windows of consecutive clips, with facts about each window.

    A clip that the video doesn't have is zero, and its `has_` field is false. Optional fields are None unless the
    configuration asks for them: `next` and `has_next` with denoiser.next_clip, `unconditional` with
    encode.unconditional_anywhere.
    """

    clip: Array
    previous: Array  # the previous clip
    has_previous: Array  # bool (b,)
    label: Array  # int32 (b,), -1: none
    next: Array | None = None  # the clip after `clip`
    has_next: Array | None = None  # bool (b,)
    unconditional: Array | None = None  # a clip at a random place in the window

    def __len__(self) -> int:
        """The number of windows."""
        return self.label.shape[0]

    def map_latents(self, function: Callable[[Array], Array]) -> "LatentBatch":
        """The batch with `function` applied to the latents of every clip that it has."""
        clips = {name: getattr(self, name) for name in ("clip", "previous", "next", "unconditional")}
        return dataclasses.replace(self, **{name: function(x) for name, x in clips.items() if x is not None})

    @classmethod
    def stack(cls, items: Sequence[Mapping[str, Any]]) -> "LatentBatch":
        """The batch of several windows, each a dict {name of a field: numpy array without the batch axis}."""
        return cls(**{name: np.stack([item[name] for item in items]) for name in items[0]})

    @classmethod
    def abstract(cls, config: Config, count: int, sharding: jax.sharding.Sharding | None = None) -> "LatentBatch":
        """The shapes and types of a batch of `count` windows under a configuration, as jax.ShapeDtypeStruct."""

        def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=sharding)

        latents = array(np.float32, *latent_spec(config.autoencoder).shape)
        with_next = config.denoiser.next_clip
        return cls(
            clip=latents,
            previous=latents,
            has_previous=array(np.bool_),
            label=array(np.int32),
            next=latents if with_next else None,
            has_next=array(np.bool_) if with_next else None,
            unconditional=latents if config.encode.unconditional_anywhere else None,
        )
