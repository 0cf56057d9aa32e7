"""What the training loop needs from a stage, and how it compiles the stage's steps."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from pvdm_jax.runtime import sharding
from pvdm_jax.runtime.keys import make_key
from pvdm_jax.training.optimizer import TrainState, global_norm

Batch = Any  # nested dicts of arrays (batch, ...)
Constants = Any  # a pytree of arrays
Metrics = dict[str, jax.Array]  # float32 scalars
Step = Callable[[TrainState, Batch, jax.Array, Constants], tuple[TrainState, Metrics]]


class Stage(Protocol):
    """A stage: its first state, its steps and its evaluation.

    steps: by name, pure functions `step(state, batch, key, constants) -> (state, metrics)`, each one update. A policy
    (`training.policy`) chooses among them. constants: arrays that all steps take beside the state, or {}.
    """

    name: str
    steps: Mapping[str, Step]
    constants: Constants

    def init(self, key: jax.Array) -> TrainState:
        """The first state. Jitted by the loop."""

    def evaluate(self, state: TrainState, folder: pathlib.Path) -> dict[str, float]:
        """The numbers of the fixed evaluation. Process 0 writes pictures into `folder`."""


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The key of the initialisation, and the key into which each step folds its number."""
    init, step = jax.random.split(make_key(seed))
    return init, step


def compile_step(stage: Stage, name: str, state: Any, batch: Batch, placed: Any, mesh: Mesh, seed: int) -> Callable:
    """The step of that name as one compiled call (state, batch) -> (state, metrics); the state is donated."""
    traced = trace_step(stage, name, state=state, batch=batch, placed=placed, mesh=mesh, seed=seed)
    compiled = traced.lower().compile()
    return lambda state, batch: compiled(state, batch, stage.constants)


def trace_step(
    stage: Stage, name: str, state: Any, batch: Batch, placed: Any, mesh: Mesh, seed: int
) -> jax.stages.Traced:
    """The step of that name as the loop compiles it, a function of state, batch and constants.

    state, batch: arrays, or ShapeDtypeStructs. placed: the state's structure, of ShapeDtypeStructs with shardings.
    """

    def step(state, batch, constants):
        key = jax.random.fold_in(keys(seed)[1], state.step)
        new_state, metrics = stage.steps[name](state, batch, key, constants)
        # The norm reveals infinite parameters before they are saved.
        return new_state, metrics | {"param_norm": global_norm(new_state.params), "skipped": new_state.skipped}

    shardings = jax.tree.map(lambda x: x.sharding, placed)
    constant_shardings = jax.tree.map(lambda x: x.sharding, stage.constants)
    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, sharding.batch_sharding(mesh), constant_shardings),
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
    return jitted.trace(state, batch, stage.constants)
