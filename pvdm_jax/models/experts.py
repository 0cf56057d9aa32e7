"""A network of its own for where the next clip is decided (expert denoisers: eDiff-I, Balaji et al. 2022, section 4).

A sampler begins with an answer to pure noise. For a clip that follows another one, that answer is read off the other
clip alone, and it settles where bodies go; at all later times they are only drawn. One network learns both slowly. Two
networks, each for its own times, cost as much for a sample as one: a call asks one of them.
"""

import functools
from collections.abc import Collection

import jax
import jax.numpy as jnp
from flax import nnx

from pvdm_jax.config import DenoiserConfig
from pvdm_jax.models.condition import Condition
from pvdm_jax.models.latent import LatentSpec, Tokens

EXPERT, REST = "expert", "rest"  # the names of the two networks in the weights


class Experts(nnx.Module):
    """Two networks of one kind, a `models.denoiser.Denoiser`. The class for a kind is `with_expert(kind)`.

    `expert` answers for clips with a neighbouring one at times from `config.expert_from` on, `rest` for everything
    else. Samplers ask for one time in each call, so they pay for one network; in a batch of mixed times both run.
    """

    KIND: type[nnx.Module]

    def __init__(self, config: DenoiserConfig, spec: LatentSpec, *, rngs: nnx.Rngs):
        self.config = config
        self.expert = self.KIND(config, spec, rngs=rngs)
        self.rest = self.KIND(config, spec, rngs=rngs)

    def __call__(self, x: Tokens, time: jax.Array, condition: Condition) -> Tokens:
        """As `models.denoiser.Denoiser`."""
        asked = condition.sees_neighbour & (time >= self.config.expert_from)

        def unasked(x, time, condition):
            return jnp.zeros_like(x)

        expert = jax.lax.cond(jnp.any(asked), self.expert, unasked, x, time, condition)
        rest = jax.lax.cond(jnp.all(asked), unasked, self.rest, x, time, condition)
        return jnp.where(asked[:, None, None], expert, rest)


@functools.cache
def with_expert(kind: type[nnx.Module]) -> type[Experts]:
    """The class of two networks of the class `kind`, which names the layers of both as `kind` names those of one."""

    def of_both(paths: Collection[str]) -> tuple[str, ...]:
        return tuple(f"{network}/{path}" for network in (EXPERT, REST) for path in paths)

    class WithExpert(Experts):
        KIND = kind
        NOT_MATRICES = of_both(kind.NOT_MATRICES)
        BLOCKS = of_both(getattr(kind, "BLOCKS", ()))

    return WithExpert
