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
PutBack = Callable[[TrainState, Metrics], tuple[TrainState, Metrics]]


class Stage(Protocol):
    """A stage: its first state, its steps and its evaluation.

    steps: by name, pure functions `step(part, batch, key, constants) -> (part, metrics)`, each one update of a part of
    the state. A policy (`training.policy`) chooses among them. Names whose function is the same share one compiled
    program, so their parts must be alike. constants: arrays that all steps take beside the state, or {}.
    """

    name: str
    steps: Mapping[str, Step]
    constants: Constants

    def init(self, key: jax.Array) -> TrainState:
        """The first state."""

    def split(self, name: str, state: TrainState) -> tuple[TrainState, PutBack]:
        """The part of the state that the step of that name changes, and a function that puts it back: from the step's
        part and metrics to the new state and the metrics as they are logged."""

    def evaluate(self, state: TrainState, folder: pathlib.Path) -> dict[str, float]:
        """The numbers of the fixed evaluation. Process 0 writes pictures into `folder`."""


def whole(name: str, state: TrainState) -> tuple[TrainState, PutBack]:
    """`Stage.split` of a stage whose steps change the whole state."""
    return state, lambda part, metrics: (part, metrics)


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The key of the initialisation, and the key into which each step folds its number."""
    init, step = jax.random.split(make_key(seed))
    return init, step


def first_state(stage: Stage, placed: Any, seed: int) -> TrainState:
    """The state before the first update, laid out as `placed`, a state of ShapeDtypeStructs with shardings.

    It is made on the host and without jit. A network draws hundreds of arrays by the same few operations, each of which
    is then compiled once; as one program, they take as long to compile as a training step.
    """
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told not to use the CPU
        host = None
    with jax.default_device(host):
        state = stage.init(keys(seed)[0])
    return jax.tree.map(lambda x, wanted: sharding.put(x, wanted.sharding), state, placed)


def compile_step(stage: Stage, name: str, state: Any, batch: Batch, placed: Any, mesh: Mesh, seed: int) -> Callable:
    """The step of that name as one compiled call (part, batch) -> (part, metrics); the part is donated."""
    traced = trace_step(stage, name, state=state, batch=batch, placed=placed, mesh=mesh, seed=seed)
    compiled = traced.lower().compile()
    return lambda part, batch: compiled(part, batch, stage.constants)


def run_step(compiled: Callable, stage: Stage, name: str, state: Any, batch: Batch) -> tuple[Any, Metrics]:
    """The state after the step of that name, which `compile_step` has compiled, and its metrics."""
    part, put_back = stage.split(name, state)
    return put_back(*compiled(part, batch))


def trace_step(
    stage: Stage, name: str, state: Any, batch: Batch, placed: Any, mesh: Mesh, seed: int
) -> jax.stages.Traced:
    """The step of that name as the loop compiles it, a function of a part of the state, batch and constants.

    state, batch: arrays, or ShapeDtypeStructs. placed: the state's structure, of ShapeDtypeStructs with shardings.
    """

    def step(part, batch, constants):
        key = jax.random.fold_in(keys(seed)[1], part.step)
        new, metrics = stage.steps[name](part, batch, key, constants)
        # The norm reveals infinite parameters before they are saved.
        return new, metrics | {"param_norm": global_norm(new.params), "skipped": new.skipped}

    (part, _), (placed_part, _) = stage.split(name, state), stage.split(name, placed)
    shardings = jax.tree.map(lambda x: x.sharding, placed_part)
    constant_shardings = jax.tree.map(lambda x: x.sharding, stage.constants)
    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, sharding.batch_sharding(mesh), constant_shardings),
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
    return jitted.trace(part, batch, stage.constants)
