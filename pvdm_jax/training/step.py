"""What a stage is to the training loop, and its step as the loop compiles it."""

import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from pvdm_jax.runtime import sharding
from pvdm_jax.training.optimizer import global_norm


class Stage(Protocol):
    """What the loop needs to know of a stage."""

    name: str

    def init(self, key: jax.Array) -> Any:
        """The first state, a `TrainState` or a dataclass that adds fields to it. Jitted."""

    def step(self, state: Any, batch: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """One update, pure and jitted: the new state, and float32 scalars with at least "loss"."""

    def evaluate(self, state: Any, folder: pathlib.Path) -> dict[str, float]:
        """Numbers of the fixed evaluation. Pictures go into `folder`, written by process 0 alone."""


class PhasedStage(Stage, Protocol):
    """What the loop needs to know of a stage with phases."""

    constants: Any  # arrays that its steps take beside the state

    def step(
        self, state: Any, batch: Any, key: jax.Array, kind: str, constants: Any
    ) -> tuple[Any, dict[str, jax.Array]]:
        """One update of the given kind, named by `Phases.kind`. "loss" may be missing from its metrics."""

    def begin(self, state: Any) -> Any:
        """The state with which the second phase begins."""

    def roll_back(self, best: Any, state: Any, rollbacks: int) -> Any:
        """The state that goes on from that of the best checkpoint, at the step of `state`."""


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The key of the initialisation, and the one that steps fold their number into."""
    init, step = jax.random.split(jax.random.key(seed))
    return init, step


def compile_step(stage: Stage, kind: str, state: Any, batch: Any, placed: Any, mesh: Mesh, seed: int) -> Callable:
    """The stage's step as one compiled call (state, batch) -> (state, metrics); the state is donated."""
    constants = stage.constants if kind else None
    compiled = trace_step(stage, kind, state, batch, placed, mesh, seed).lower().compile()
    return lambda state, batch: compiled(state, batch, constants)


def trace_step(
    stage: Stage, kind: str, state: Any, batch: Any, placed: Any, mesh: Mesh, seed: int
) -> jax.stages.Traced:
    """The stage's step as it will be compiled, a function of state, batch and constants.

    kind: of a PhasedStage's step, which takes the stage's constants too; empty for a stage without phases. state,
    batch: arrays, or ShapeDtypeStructs. placed: the state's structure, of ShapeDtypeStructs with shardings.
    """
    constants = stage.constants if kind else None

    def step(state, batch, constants):
        key = jax.random.fold_in(keys(seed)[1], state.step)
        new_state, metrics = stage.step(state, batch, key, *((kind, constants) if kind else ()))
        # The norm tells of an update that spoils the parameters before a checkpoint of them is made.
        return new_state, metrics | {"param_norm": global_norm(new_state.params), "skipped": new_state.skipped}

    shardings = jax.tree.map(lambda x: x.sharding, placed)
    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, sharding.batch_sharding(mesh), jax.tree.map(lambda x: x.sharding, constants)),
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
    return jitted.trace(state, batch, constants)
