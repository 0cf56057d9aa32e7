"""What stage 1 trains in its adversarial phase: the state with discriminators, and their optimizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pvdm_jax.config import OptimizerConfig
from pvdm_jax.training.optimizer import NetworkState, TrainState, make_optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdversarialState(TrainState):
    """Stage 1's state if it has an adversarial phase; its network and ema are the autoencoder's.

    discriminators: the networks "image" and "video"; they keep their initial values until the phase begins.
    warmup_start: int32 scalar, the updates done when the phase began or was last rolled back; -1 before.
    scale: float32 scalar, factor of the phase's weights and learning rates; the guard lowers it.
    """

    discriminators: NetworkState
    warmup_start: jax.Array
    scale: jax.Array


def with_discriminators(state: TrainState, discriminators: NetworkState) -> AdversarialState:
    """The first state of a run with an adversarial phase, from the autoencoder's."""
    return AdversarialState(
        step=state.step,
        skipped=state.skipped,
        network=state.network,
        ema=state.ema,
        discriminators=discriminators,
        warmup_start=jnp.full((), -1, jnp.int32),
        scale=jnp.ones((), jnp.float32),
    )


def begin(state: AdversarialState) -> AdversarialState:
    """The state with which the adversarial phase begins."""
    start = jax.device_put(np.asarray(state.step), state.warmup_start.sharding)
    return dataclasses.replace(state, warmup_start=start)


def roll_back(best: AdversarialState, state: AdversarialState, scale: float) -> AdversarialState:
    """The networks of `best` at the step of `state`: a new warm-up, and weights and learning rates times `scale`."""
    return dataclasses.replace(
        begin(state),
        network=best.network.with_counts_of(state.network),
        ema=best.ema,
        discriminators=best.discriminators.with_counts_of(state.discriminators),
        scale=jax.device_put(np.float32(scale), state.scale.sharding),
    )


def make_discriminator_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """One optimizer for the tree {"image", "video"}; it clips each gradient by its own norm, and is never Muon."""
    optimizer = make_optimizer(dataclasses.replace(config, clip_norm=0.0, muon_learning_rate=0.0), steps)
    if config.clip_norm == 0:
        return optimizer
    clip = optax.clip_by_global_norm(config.clip_norm)
    each = optax.stateless(lambda grads, _: {name: clip.update(g, clip.init(g))[0] for name, g in grads.items()})
    return optax.chain(each, optimizer)
