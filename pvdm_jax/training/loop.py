"""The training loop of both stages.

A stage is a state and a pure step; the loop shards the state over a mesh, compiles the step once, feeds it batches,
and logs, evaluates, saves and resumes. Everything that decides a run's numbers (batches, keys, the state) is a
function of the seed and the step, so a run that is killed and started again ends with the same bits.

Order within a step that is due for everything: log, save, evaluate. A checkpoint comes before the evaluation, so that
an evaluation that fails costs no training; on resuming, an evaluation that is missing is made up for.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
import optax
from clu.parameter_overview import get_parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pvdm_jax import sharding
from pvdm_jax.checkpoint import Checkpoints, check_settings
from pvdm_jax.config import StageConfig
from pvdm_jax.training.metrics import MetricWriter
from pvdm_jax.training.progress import Progress, StepClock, duration, parameter_table

# Settings that may change when a run is resumed. The others decide its numbers.
FREE_SETTINGS = (
    *("*.steps", "*.log_every", "*.eval_every", "*.eval_clips", "*.checkpoint_every", "*.keep"),
    *("mesh.*", "data.threads", "data.prefetch", "sample.*"),
)
SIGTERM_EXIT = 128 + signal.SIGTERM


class Stage(Protocol):
    """What the loop needs to know of a stage."""

    name: str

    def init(self, key: jax.Array) -> Any:
        """The first state: a registered dataclass with step (int32 scalar, 0), params, ema, opt_state. Jitted."""

    def step(self, state: Any, batch: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """One update, pure and jitted: the new state, and float32 scalars with at least "loss"."""

    def evaluate(self, state: Any, folder: pathlib.Path) -> dict[str, float]:
        """Numbers of the fixed evaluation. Pictures go into `folder`, written by process 0 alone."""


def train(
    stage: Stage,
    batches: Callable[[int], Iterator[Any]],
    directory: str | pathlib.Path,
    config: StageConfig,
    settings: dict[str, Any],
    mesh: Mesh,
    seed: int,
    unrelated: Sequence[str] = (),
) -> Any:
    """Trains `stage` up to `config.steps` updates and returns its state, resuming from what is in `directory`.

    `batches(start)` yields this process's share of batch `start` and the following ones, nested dicts of numpy arrays
    (batch, ...). `settings` is the whole configuration: it is written to config.json, beside the shapes of all
    parameters in parameters.txt, and stored with checkpoints. Resuming with others is refused, except for
    FREE_SETTINGS and fields that match a pattern of `unrelated`, which this stage's numbers don't depend on.

    Raises ConfigError for a batch that doesn't split over the mesh or for other settings, FloatingPointError at a
    metric that isn't finite (nothing is saved then), OSError where no checkpoint can be read, and SystemExit(143)
    after SIGTERM, once the state is saved.
    """
    sharding.check_batch(mesh, config.batch_size, f"{config.section}.batch_size", config.accumulate)
    directory = pathlib.Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    abstract = jax.eval_shape(stage.init, _keys(seed)[0])
    shardings = sharding.parameter_shardings(mesh, abstract)
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    free = (*FREE_SETTINGS, *unrelated)

    with Checkpoints(directory, config.keep) as checkpoints:
        restored = checkpoints.restore(placed, lambda info: check_settings(info["settings"], settings, free))
        if restored is None:
            state, start, window = jax.jit(stage.init, out_shardings=shardings)(_keys(seed)[0]), 0, []
        else:
            state, start, window = restored[0], restored[1], restored[2]["window"]
        if jax.process_index() == 0:
            _write(directory / "config.json", json.dumps(settings, indent=2) + "\n")
            _write(directory / "parameters.txt", get_parameter_overview(abstract.params, include_stats=False) + "\n")
        with (
            MetricWriter(directory, start) as writer,
            Progress(stage.name, start, config.steps, config.batch_size) as progress,
        ):
            run = _Run(stage, directory, config, settings, mesh, checkpoints, writer, progress, window)
            if start:
                run.make_up_evaluation(state, start)
            if start >= config.steps:
                progress.say(f"{stage.name}: finished, {start} of {config.steps} steps are done ({directory})")
                return state
            progress.say(f"{stage.name}: parameters\n{parameter_table(abstract.params)}")
            if start:
                progress.say(f"{stage.name}: resuming after step {start} ({directory})")
            return run.go_on(state, start, batches, shardings, seed)


@dataclasses.dataclass
class _Run:
    """One process's part of a run."""

    stage: Stage
    directory: pathlib.Path
    config: StageConfig
    settings: dict[str, Any]
    mesh: Mesh
    checkpoints: Checkpoints
    writer: MetricWriter
    progress: Progress
    window: list[dict[str, float]]  # metrics of every step since the last log; a checkpoint keeps them
    pending: list[dict[str, jax.Array]] = dataclasses.field(default_factory=list)  # the latest, still on the device

    def go_on(self, state: Any, start: int, batches: Callable, shardings: Any, seed: int) -> Any:
        """Trains from update `start` to the last one."""
        config, progress, clock = self.config, self.progress, StepClock()
        with _sigterm() as stop_requested, contextlib.ExitStack() as stack:
            iterator = batches(start)
            if hasattr(iterator, "close"):
                stack.callback(iterator.close)
            batch = sharding.global_batch(self.mesh, next(iterator))
            began = time.perf_counter()
            update = _compile(self.stage, state, batch, shardings, self.mesh, seed)
            progress.say(f"{self.stage.name}: compiled in {duration(time.perf_counter() - began)}")
            progress.begin()
            clock.reset()
            for step in range(start + 1, config.steps + 1):
                state, metrics = update(state, batch)
                self.pending.append(metrics)
                if step < config.steps:
                    began = time.perf_counter()
                    local = next(iterator)
                    clock.wait(time.perf_counter() - began)
                    batch = sharding.global_batch(self.mesh, local)
                if len(self.pending) > 1:
                    # One step runs while the next is prepared; more in flight would only fill memory with batches.
                    jax.block_until_ready(self.pending[-2])
                progress.advance(step)

                last, stop = step == config.steps, stop_requested(step)
                log, save, evaluate = (
                    last or step % every == 0
                    for every in (config.log_every, config.checkpoint_every, config.eval_every)
                )
                if not (log or save or evaluate or stop):
                    continue
                clock.pause(self.fetch(step))
                if log:
                    self.log(step, clock)
                if save or stop:
                    info = {"settings": self.settings, "window": self.window}
                    self.checkpoints.save(step, state, info)
                if stop:
                    self.checkpoints.wait()
                    progress.say(f"{self.stage.name}: SIGTERM; saved after step {step}, run again to go on")
                    raise SystemExit(SIGTERM_EXIT)
                if evaluate:
                    self.evaluate(state, step)
                progress.skip()
                clock.resume()
        self.checkpoints.wait()
        return state

    def fetch(self, step: int) -> int:
        """Brings the metrics of the steps up to `step` from the device and checks them; returns how many."""
        fetched = jax.device_get(self.pending)
        self.pending = []
        for number, metrics in enumerate(fetched, start=step - len(fetched) + 1):
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"{self.stage.name}: {name} is {value} at step {number}; the checkpoints in {self.directory} "
                        "are of earlier steps"
                    )
            self.window.append({name: float(value) for name, value in metrics.items()})
        return len(fetched)

    def log(self, step: int, clock: StepClock) -> None:
        """Writes the means of the metrics since the last log."""
        means = {name: float(np.mean([metrics[name] for metrics in self.window])) for name in self.window[0]}
        self.window = []
        times = {
            "time/step": clock.step_seconds,
            "time/clips_per_second": self.config.batch_size / clock.step_seconds,
            "time/data_wait": clock.data_wait,
        }
        self.writer.write(step, {f"train/{name}": value for name, value in means.items()} | times)
        self.progress.report(step, clock.step_seconds, clock.data_wait, means)
        clock.reset()

    def evaluate(self, state: Any, step: int) -> None:
        """The stage's evaluation, in a folder named after the step."""
        began = time.perf_counter()
        folder = self.directory / "evaluation" / f"step_{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        values = self.stage.evaluate(state, folder)
        seconds = time.perf_counter() - began
        named = {f"eval/{name}": value for name, value in values.items()}
        self.writer.write(step, named | {"time/evaluation": seconds})
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.progress.say(f"{self.stage.name}: evaluation after step {step} ({duration(seconds)}): {numbers}")

    def make_up_evaluation(self, state: Any, step: int) -> None:
        """Evaluates a resumed state if that was due and the run ended before it was done."""
        due = step % self.config.eval_every == 0 or step == self.config.steps
        done = np.asarray(self.writer.resumed_with(step, "time/evaluation"))
        # Only process 0 has the file, and an evaluation takes all processes.
        if due and not multihost_utils.broadcast_one_to_all(done):
            self.evaluate(state, step)


def _keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The key of the initialisation, and the one that steps fold their number into."""
    init, step = jax.random.split(jax.random.key(seed))
    return init, step


def _compile(stage: Stage, state: Any, batch: Any, shardings: Any, mesh: Mesh, seed: int) -> Callable:
    """The stage's step as one compiled call (state, batch) -> (state, metrics); the state is donated."""

    def step(state, batch):
        new_state, metrics = stage.step(state, batch, jax.random.fold_in(_keys(seed)[1], state.step))
        # Tells of an update that spoils the parameters before a checkpoint of them is made.
        return new_state, metrics | {"param_norm": optax.tree.norm(new_state.params)}

    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
    return jitted.lower(state, batch).compile()


def _write(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[int], bool]]:
    """Within it SIGTERM no longer kills: the function it gives tells after each step whether to stop.

    Several processes must stop at the same step, wherever the signal arrives: JAX agrees on one for them.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield lambda step: received.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)
