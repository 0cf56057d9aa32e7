"""The training loop of both stages.

A stage is a state and a pure step; the loop shards the state over a mesh, compiles the step once, feeds it batches,
and logs, evaluates, saves and resumes. Everything that decides a run's numbers (batches, keys, the state) is a
function of the seed and the step, so a run that is killed and started again ends with the same bits.

Order within a step that is due for everything: log, save, evaluate. A checkpoint comes before the evaluation, so that
an evaluation that fails costs no training; on resuming, an evaluation that is missing is made up for.

A stage with phases has several steps, and its evaluations decide (`training.phases`) which of them comes next, whether
the run goes back to its best checkpoint, and when it ends. Each of its evaluations has a checkpoint, made before the
decision; resuming from it decides again, or takes the decision from phases.json.
"""

import contextlib
import dataclasses
import json
import logging
import math
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from clu.parameter_overview import get_parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pvdm_jax import sharding
from pvdm_jax.checkpoint import BEST_FILE, Checkpoints, check_settings
from pvdm_jax.config import StageConfig
from pvdm_jax.files import write_json, write_text
from pvdm_jax.training.metrics import MetricWriter
from pvdm_jax.training.phases import BEGIN, END, ROLL_BACK, Phases, Record
from pvdm_jax.training.progress import Progress, StepClock, duration, parameter_table
from pvdm_jax.training.step import Stage, compile_step, keys

# Settings that may change when a run is resumed. The others decide its numbers.
FREE_SETTINGS = (
    *("*.steps", "*.log_every", "*.eval_every", "*.eval_clips", "*.eval_samples", "*.checkpoint_every", "*.keep"),
    *("*.max_skipped", "*.remat", "mesh.*", "data.threads", "data.prefetch", "data.workers", "sample.*"),
)
SIGTERM_EXIT = 128 + signal.SIGTERM


def train(
    stage: Stage,
    batches: Callable[[int], Iterator[Any]],
    directory: str | pathlib.Path,
    config: StageConfig,
    settings: dict[str, Any],
    mesh: Mesh,
    seed: int,
    unrelated: Sequence[str] = (),
    phases: Phases | None = None,
) -> Any:
    """Trains `stage` up to `config.steps` updates and returns its state, resuming from what is in `directory`.

    `batches(start)` yields this process's share of batch `start` and the following ones, nested dicts of numpy arrays
    (batch, ...). `settings` is the whole configuration: it is written to config.json, beside the shapes of all
    parameters in parameters.txt, and stored with checkpoints. Resuming with others is refused, except for
    FREE_SETTINGS and fields that match a pattern of `unrelated`, which this stage's numbers don't depend on.
    `phases` are those of a PhasedStage; they may end the run before `config.steps`.

    An update whose gradient isn't finite is left out, with a warning. Raises FloatingPointError after more than
    `config.max_skipped` of them in a row, or at a metric of another update that isn't finite (nothing is saved then),
    ConfigError for a batch that doesn't split over the mesh or for other settings, OSError where no checkpoint can be
    read, and SystemExit(143) after SIGTERM, once the state is saved.
    """
    sharding.check_batch(mesh, config.batch_size, f"{config.section}.batch_size", config.accumulate)
    directory = pathlib.Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    abstract = jax.eval_shape(stage.init, keys(seed)[0])
    shardings = sharding.parameter_shardings(mesh, abstract)
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    free = (*FREE_SETTINGS, *unrelated)

    with Checkpoints(directory, config.keep) as checkpoints:
        restored = checkpoints.restore(placed, lambda info: check_settings(info["settings"], settings, free))
        if restored is None:
            state, start, window = jax.jit(stage.init, out_shardings=shardings)(keys(seed)[0]), 0, []
        else:
            state, start, window = restored[0], restored[1], restored[2]["window"]
            if phases is not None:
                phases.record = Record.from_json(restored[2]["phases"])
        if jax.process_index() == 0:
            write_json(directory / "config.json", settings)
            write_text(
                directory / "parameters.txt", get_parameter_overview(abstract.params, include_stats=False) + "\n"
            )
        with (
            MetricWriter(directory, start) as writer,
            Progress(stage.name, start, config.steps, config.batch_size) as progress,
        ):
            run = _Run(stage, directory, config, settings, mesh, checkpoints, writer, progress, window, placed, phases)
            if start:
                state = run.take_up_decision(state, start)
                state = run.make_up_evaluation(state, start)
            if start >= run.last_step:
                progress.say(f"{stage.name}: finished, {start} of {run.last_step} steps are done ({directory})")
                return state
            progress.say(f"{stage.name}: parameters\n{parameter_table(abstract.params)}")
            if start:
                progress.say(f"{stage.name}: resuming after step {start} ({directory})")
            return run.go_on(state, start, batches, seed)


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
    placed: Any  # the state's structure, of ShapeDtypeStructs with shardings
    phases: Phases | None
    pending: list[dict[str, jax.Array]] = dataclasses.field(default_factory=list)  # the latest, still on the device
    programs: dict[str, Callable] = dataclasses.field(default_factory=dict)  # compiled steps of each kind

    @property
    def last_step(self) -> int:
        """The update after which the run ends, as far as is known."""
        return self.phases.last_step(self.config.steps) if self.phases else self.config.steps

    def evaluation_due(self, step: int) -> bool:
        due = step == self.last_step or step % self.config.eval_every == 0
        return due or (self.phases is not None and self.phases.due(step))

    def go_on(self, state: Any, start: int, batches: Callable, seed: int) -> Any:
        """Trains from update `start` to the last one."""
        config, progress, clock = self.config, self.progress, StepClock()
        with _sigterm() as stop_requested, contextlib.ExitStack() as stack:
            iterator = batches(start)
            if hasattr(iterator, "close"):
                stack.callback(iterator.close)
            batch = sharding.global_batch(self.mesh, next(iterator))
            self.program(start + 1, state, batch, seed)
            progress.begin()
            clock.reset()
            step = start
            while step < self.last_step:
                step += 1
                update = self.program(step, state, batch, seed, clock)
                state, metrics = update(state, batch)
                self.pending.append(metrics)
                if step < self.last_step:
                    began = time.perf_counter()
                    local = next(iterator)
                    clock.wait(time.perf_counter() - began)
                    batch = sharding.global_batch(self.mesh, local)
                if len(self.pending) > 1:
                    # One step runs while the next is prepared; more in flight would only fill memory with batches.
                    jax.block_until_ready(self.pending[-2])
                progress.advance(step)

                last, stop, evaluate = step == self.last_step, stop_requested(step), self.evaluation_due(step)
                log, save = (last or step % every == 0 for every in (config.log_every, config.checkpoint_every))
                save |= evaluate and self.phases is not None
                if not (log or save or evaluate or stop):
                    continue
                clock.pause(self.fetch(step))
                if log:
                    self.log(step, clock)
                if save or stop:
                    self.save(step, state)
                if stop:
                    self.checkpoints.wait()
                    progress.say(f"{self.stage.name}: SIGTERM; saved after step {step}, run again to go on")
                    raise SystemExit(SIGTERM_EXIT)
                if evaluate:
                    state = self.evaluate(state, step)
                progress.skip()
                clock.resume()
        self.checkpoints.wait()
        return state

    def program(self, step: int, state: Any, batch: Any, seed: int, clock: StepClock | None = None) -> Callable:
        """The compiled step (state, batch) -> (state, metrics) for update `step`."""
        kind = self.phases.kind(step) if self.phases else ""
        if kind not in self.programs:
            if clock is not None:
                clock.pause(0)
            began = time.perf_counter()
            self.programs[kind] = compile_step(self.stage, kind, state, batch, self.placed, self.mesh, seed)
            step_name = f"{kind} step " if kind and self.phases.config.enabled else ""
            self.progress.say(f"{self.stage.name}: {step_name}compiled in {duration(time.perf_counter() - began)}")
            if clock is not None:
                self.progress.skip()
                clock.resume()
        return self.programs[kind]

    def save(self, step: int, state: Any) -> None:
        info, needed = {"settings": self.settings, "window": self.window}, ()
        if self.phases:
            record = self.phases.record
            # Going on from here may mean going back to the best.
            info, needed = info | {"phases": record.to_json()}, (record.best_step,)
        self.checkpoints.save(step, state, info, needed)

    def fetch(self, step: int) -> int:
        """Brings the metrics of the steps up to `step` from the device and checks them; returns how many."""
        fetched = jax.device_get(self.pending)
        self.pending = []
        for number, metrics in enumerate(fetched, start=step - len(fetched) + 1):
            skipped = int(metrics.pop("skipped"))
            spoilt = [name for name, value in metrics.items() if not math.isfinite(value)]
            if skipped:
                self.report_skipped(number, skipped, spoilt)
                self.window.append({"skipped": 1.0})
                continue
            for name in spoilt:
                raise FloatingPointError(
                    f"{self.stage.name}: {name} is {metrics[name]} at step {number}; the checkpoints in "
                    f"{self.directory} are of earlier steps"
                )
            self.window.append({name: float(value) for name, value in metrics.items()})
        return len(fetched)

    def report_skipped(self, step: int, skipped: int, spoilt: list[str]) -> None:
        """Warns of the first update in a row that was left out, and raises after more than are allowed."""
        what = f"{self.stage.name}: the gradient at step {step - skipped + 1} was not finite"
        what += f" ({', '.join(spoilt)} neither)" if spoilt else ""
        if skipped > self.config.max_skipped:
            raise FloatingPointError(
                f"{what}, nor were those of the {skipped - 1} steps after it; {self.config.section}.max_skipped is "
                f"{self.config.max_skipped}; the checkpoints in {self.directory} are of earlier steps"
            )
        if skipped == 1:
            logging.warning("%s; that update is left out", what)

    def log(self, step: int, clock: StepClock) -> None:
        """Writes the means of the metrics since the last log; of "skipped", how many updates were left out."""
        means = {}
        for name in dict.fromkeys(name for metrics in self.window for name in metrics):
            values = [metrics[name] for metrics in self.window if name in metrics]
            means[name] = sum(values) if name == "skipped" else float(np.mean(values))
        self.window = []
        times = {
            "time/step": clock.step_seconds,
            "time/clips_per_second": self.config.batch_size / clock.step_seconds,
            "time/data_wait": clock.data_wait,
        }
        self.writer.write(step, {f"train/{name}": value for name, value in means.items()} | times)
        self.progress.report(step, clock.step_seconds, clock.data_wait, means)
        clock.reset()

    def evaluate(self, state: Any, step: int) -> Any:
        """The stage's evaluation, in a folder named after the step, and what it decides. Returns the state."""
        began = time.perf_counter()
        folder = self.directory / "evaluation" / f"step_{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        values = self.stage.evaluate(state, folder)
        seconds = time.perf_counter() - began
        decided = ""
        if self.phases and self.phases.record.judged < step:
            record = self.phases.judge(step, values)
            self.checkpoints.wait()  # what phases.json calls the best must be there
            if jax.process_index() == 0:
                write_json(self.directory / BEST_FILE, record.to_json())
            decided = ", the best so far" if record.best_step == step else ""
        named = {f"eval/{name}": value for name, value in values.items()}
        self.writer.write(step, named | {"time/evaluation": seconds})
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        after = f"evaluation after step {step} ({duration(seconds)})"
        self.progress.say(f"{self.stage.name}: {after}: {numbers}{decided}")
        return self.act(state, step)

    def act(self, state: Any, step: int) -> Any:
        """Does what the decision after `step` asks for, and returns the state."""
        if self.phases is None or self.phases.record.judged != step:
            return state
        record, name = self.phases.record, self.stage.name
        if record.action == BEGIN:
            self.progress.say(f"{name}: the adversarial phase begins after step {step}: {record.reason}")
            state = self.stage.begin(state)
        elif record.action == ROLL_BACK:
            times = f"roll-back {record.rollbacks} of {self.phases.config.guard_rollbacks}"
            logging.warning(
                "%s: %s; back to the checkpoint of step %d (%s)", *(name, record.reason), *(record.best_step, times)
            )
            best = self.checkpoints.restore_step(record.best_step, self.placed)
            state = self.stage.roll_back(best, state, record.rollbacks)
        elif record.action == END:
            logging.warning("%s: %s; the run ends, its best is step %d", name, record.reason, record.best_step)
        self.progress.retarget(self.last_step)
        return state

    def take_up_decision(self, state: Any, step: int) -> Any:
        """What the run had decided after `step` when it ended; the checkpoint was made before. Returns the state."""
        if self.phases is None:
            return state
        path, text = self.directory / BEST_FILE, ""
        if jax.process_index() == 0 and path.exists():
            text = path.read_text()
        text = _broadcast(text)
        record = Record.from_json(json.loads(text)) if text else Record()
        if record.judged == step:
            self.phases.record = record
        elif jax.process_index() == 0:
            # Of a later step, if any, that has to be trained again.
            write_json(path, self.phases.record.to_json())
        return self.act(state, step)

    def make_up_evaluation(self, state: Any, step: int) -> Any:
        """Evaluates a resumed state if that was due and the run ended before it was done. Returns the state."""
        done = np.asarray(self.writer.resumed_with(step, "time/evaluation"))
        # Only process 0 has the file, and an evaluation takes all processes.
        if self.evaluation_due(step) and not multihost_utils.broadcast_one_to_all(done):
            return self.evaluate(state, step)
        return state


def _broadcast(text: str) -> str:
    """Process 0's text, on every process."""
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(data))))
    padded = np.zeros(length, np.uint8)
    if jax.process_index() == 0:
        padded[:] = data
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).decode()


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
