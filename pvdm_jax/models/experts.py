"""A second network for the times that decide the next clip (expert denoisers: eDiff-I, Balaji et al. 2022, section 4).

A sampler begins with the denoiser's answer to pure noise. For a clip that follows another, this answer depends on the
other clip alone, and settles where bodies go; the remaining steps only draw them. One network learns both tasks slowly.
Two networks, each for its own times, cost no more per sample than one, because each call uses only one of them.
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

    `expert` answers for clips with a neighbour at times >= `config.expert_from`, `rest` for everything else. A sampler
    calls with one time for all samples, so usually only one network runs; in a batch of mixed times, both do. A scan
    over the two compiles them once.
    """

    KIND: type[nnx.Module]

    def __init__(self, config: DenoiserConfig, spec: LatentSpec, *, rngs: nnx.Rngs):
        self.config = config
        self.expert = self.KIND(config, spec, rngs=rngs)
        self.rest = self.KIND(config, spec, rngs=rngs)

    def __call__(self, x: Tokens, time: jax.Array, condition: Condition) -> Tokens:
        """As `models.denoiser.Denoiser`."""
        asked = condition.sees_neighbour & (time >= self.config.expert_from)
        graph, expert = nnx.split(self.expert)
        _, rest = nnx.split(self.rest)

        def answer(_, network):
            weights, answers = network
            ask = nnx.merge(graph, weights)
            return None, jax.lax.cond(jnp.any(answers), ask, lambda x, *_: jnp.zeros_like(x), x, time, condition)

        networks = jax.tree.map(lambda *both: jnp.stack(both), (expert, asked), (rest, ~asked))
        _, (by_expert, by_rest) = jax.lax.scan(answer, None, networks)
        return jnp.where(asked[:, None, None], by_expert, by_rest)


@functools.cache
def with_expert(kind: type[nnx.Module]) -> type[Experts]:
    """The class of two networks of the class `kind`. Its lists of layers (`NOT_MATRICES`, ...) name those of both."""

    def of_both(paths: Collection[str]) -> tuple[str, ...]:
        return tuple(f"{network}/{path}" for network in (EXPERT, REST) for path in paths)

    class WithExpert(Experts):
        KIND = kind
        NOT_MATRICES = of_both(kind.NOT_MATRICES)
        BLOCKS = of_both(getattr(kind, "BLOCKS", ()))

    return WithExpert
