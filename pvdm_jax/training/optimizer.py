"""The optimizer, the state that both stages train, and gradient accumulation.

AdamW, or Muon for the hidden matrices, with a warmed-up learning rate; an exponential moving average (EMA) of the
parameters. The EMA's decay is min(ema_decay, (1 + n) / (10 + n)) at its n-th update, so that the first averages forget
the initialisation quickly (the ramp of the official code and of most diffusion models).

Parameters are nested dicts of arrays (`nnx.to_pure_dict`). Nothing here depends on devices.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pvdm_jax.config import OptimizerConfig
from pvdm_jax.runtime.sharding import SMALL
from pvdm_jax.training.adamw import adamw
from pvdm_jax.training.muon import muon_with_adamw

LossFn = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def learning_rate_schedule(
    config: OptimizerConfig, steps: int | jax.Array, rate: float | None = None
) -> optax.Schedule:
    """The learning rate after a number of updates: warmup times decay, from `rate` (None: AdamW's).

    The warmup is linear from 0 over `warmup_steps`; the decay is none, or half a cosine that reaches 0 at `steps`, an
    integer, or a scalar of a compiled function. Because the two are multiplied, a run that is shorter than its warmup
    works as well.
    """
    rate = config.learning_rate if rate is None else rate
    warmup = optax.linear_schedule(0.0, 1.0, config.warmup_steps) if config.warmup_steps else optax.constant_schedule(1)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        # optax.cosine_decay_schedule takes no scalar of a compiled function.
        done = jnp.minimum(count, steps) / jnp.float32(steps) if config.decay == "cosine" else 0.0
        return warmup(count) * rate * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return schedule


def make_optimizer(
    config: OptimizerConfig, steps: int | jax.Array, not_matrices: Collection[str] | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a run of `steps` updates. Gradients are first clipped by their global norm if `clip_norm` > 0.

    steps: as in `learning_rate_schedule`. not_matrices: the layers whose kernels Muon must not update, as the model's
    class names them (`NOT_MATRICES`). The optimizer's `update` takes `finite`, a scalar: where it is false, the
    optimizer's state is unchanged. Raises ValueError if the config asks for Muon and `not_matrices` is None.
    """
    schedule = learning_rate_schedule(config, steps)
    if config.muon_learning_rate == 0:
        optimizer = adamw(schedule, config.b1, config.b2, config.weight_decay)
    elif not_matrices is None:
        raise ValueError("Muon needs not_matrices, the layers that the model excludes from it")
    else:
        optimizer = muon_with_adamw(
            learning_rate_schedule(config, steps, config.muon_learning_rate),
            adam_schedule=schedule,
            not_matrices=not_matrices,
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
        )
    if config.clip_norm == 0:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NetworkState:
    """A network's parameters and its optimizer's state."""

    params: Any
    opt_state: optax.OptState

    def with_counts_of(self, other: "NetworkState") -> "NetworkState":
        """These parameters and moments with the update counts of `other`, which learning rates depend on."""
        opt_state = jax.tree.map(lambda x, y: y if y.ndim == 0 else x, self.opt_state, other.opt_state)
        return dataclasses.replace(self, opt_state=opt_state)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of a stage.

    step: updates done, an int32 scalar. skipped: how many of the latest updates in a row were skipped because their
    gradient was not finite, an int32 scalar. network: what the stage trains. ema: the average of its parameters.
    """

    step: jax.Array
    skipped: jax.Array
    network: NetworkState
    ema: Any

    @property
    def params(self) -> Any:
        return self.network.params

    @property
    def opt_state(self) -> optax.OptState:
        return self.network.opt_state


def init_network(params: Any, optimizer: optax.GradientTransformationExtraArgs) -> NetworkState:
    """A network before its first update."""
    return NetworkState(params=params, opt_state=optimizer.init(params))


def init_state(params: Any, optimizer: optax.GradientTransformationExtraArgs) -> TrainState:
    """The state before the first update. The EMA starts as a copy of the parameters, in buffers of its own."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        network=init_network(params, optimizer),
        ema=jax.tree.map(jnp.copy, params),
    )


def update(
    state: TrainState,
    grads: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    ema_decay: float,
    ema_every: int = 1,
) -> TrainState:
    """One update of the parameters and their EMA. `grads` has the parameters' structure.

    A gradient that is not finite changes neither parameters nor moments, and is counted in `skipped`.
    """
    finite = is_finite(grads)
    network = apply_gradients(state.network, grads, optimizer, finite)
    return advance(state, finite, ema_decay, ema_every, network=network)


def join_networks(states: dict[str, TrainState]) -> TrainState:
    """The state of several networks that take turns, from each network's first state, by their names."""
    params, opt_state, ema = (
        {name: getattr(state, part) for name, state in states.items()} for part in ("params", "opt_state", "ema")
    )
    first = next(iter(states.values()))
    return dataclasses.replace(first, network=NetworkState(params, opt_state), ema=ema)


def network_of(state: TrainState, name: str) -> TrainState:
    """One of several networks that take turns, in a state of its own; `step` is the number of updates of all."""
    network = NetworkState(state.params[name], state.opt_state[name])
    return dataclasses.replace(state, network=network, ema=state.ema[name])


def with_network(state: TrainState, name: str, changed: TrainState) -> TrainState:
    """The state of all these networks after one of them has changed."""
    params, opt_state = state.params | {name: changed.params}, state.opt_state | {name: changed.opt_state}
    return dataclasses.replace(changed, network=NetworkState(params, opt_state), ema=state.ema | {name: changed.ema})


def is_finite(grads: Any) -> jax.Array:
    """Whether a tree's norm is finite: a norm too large for float32 would make the moments infinite for good."""
    return jnp.isfinite(global_norm(grads))


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all arrays together.

    Small arrays, which are whole on every device, are concatenated first: a network has hundreds of them, and each sum
    takes time to compile.
    """
    leaves = jax.tree.leaves(tree)
    large = [leaf for leaf in leaves if leaf.size >= SMALL]
    small = [leaf.ravel() for leaf in leaves if leaf.size < SMALL]
    parts = [*large, jnp.concatenate(small)] if small else large
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in parts))


def apply_gradients(
    network: NetworkState,
    grads: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    finite: jax.Array,
    scale: jax.Array | None = None,
) -> NetworkState:
    """The network after one update, or unchanged where `finite` (a scalar) is false.

    scale: factor of the learning rate (None: 1).
    """
    updates, opt_state = optimizer.update(grads, network.opt_state, network.params, finite=finite)
    if scale is not None:
        updates = jax.tree.map(lambda x: scale * x, updates)
    new = optax.apply_updates(network.params, updates)
    params = jax.tree.map(lambda ours, old: jnp.where(finite, ours, old), new, network.params)
    return NetworkState(params=params, opt_state=opt_state)


def advance(state: TrainState, finite: jax.Array, ema_decay: float, ema_every: int, **networks: NetworkState) -> Any:
    """The state one update later: with the networks that changed, and with the EMA updated.

    networks: by their names in the state. Returns a state of the same class.
    """
    state = dataclasses.replace(state, step=state.step + 1, **networks)
    count = (state.step // ema_every).astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
    # Between two EMA updates the weight of the new parameters is 0, which leaves the average unchanged.
    weight = jnp.where(state.step % ema_every == 0, 1 - decay, 0.0)
    ema = optax.incremental_update(state.params, state.ema, weight)
    return dataclasses.replace(state, ema=ema, skipped=jnp.where(finite, 0, state.skipped + 1))


def accumulate_gradients(
    loss_fn: LossFn, params: Any, batch: Any, key: jax.Array, accumulate: int
) -> tuple[Any, dict[str, jax.Array]]:
    """Gradients and metrics of a batch, computed in `accumulate` micro-batches one after the other.

    `loss_fn(params, batch, key) -> (loss, metrics)`, the loss being a mean over the batch; metrics are scalars. Every
    leaf of `batch` is (batch, ...), and `accumulate` must divide that batch. Returns the means over the micro-batches
    of the gradients and the metrics. Each micro-batch gets its own key; with `accumulate` 1, `key` itself.
    """
    gradient = jax.grad(loss_fn, has_aux=True)
    if accumulate == 1:
        return gradient(params, batch, key)

    def split(x):
        # Micro-batch m takes rows m, m + accumulate, ... Each device holds a block of consecutive rows, so it already
        # has its share of every micro-batch, and no row has to move.
        return jnp.swapaxes(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 0, 1)

    def add(total, micro):
        grads, metrics = gradient(params, *micro)
        return jax.tree.map(jnp.add, total, grads), metrics

    zeros = jax.tree.map(jnp.zeros_like, params)
    micros = jax.tree.map(split, batch), jax.random.split(key, accumulate)
    total, metrics = jax.lax.scan(add, zeros, micros)
    return jax.tree.map(lambda x: x / accumulate, total), jax.tree.map(lambda x: x.mean(axis=0), metrics)
