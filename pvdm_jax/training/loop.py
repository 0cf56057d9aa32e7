"""The training loop of both stages.

A stage is a state and a pure step; the loop shards the state over a mesh, compiles the step once, feeds it batches,
and logs, evaluates, saves and resumes. Everything that decides a run's numbers (batches, keys, the state) is a
function of the seed and the step, so a run that is killed and started again ends with the same bits.

Order within a step that is due for everything: log, save, evaluate. A checkpoint comes before the evaluation, so that
an evaluation that fails costs no training; on resuming, an evaluation that is missing is made up for.

A stage with phases has several steps, and its evaluations decide (`training.phases`) which of them comes next, whether
the run goes back to its best checkpoint, and when it ends. Each of its evaluations has a checkpoint, made before the
decision; resuming from it decides again, or takes the decision from best.json.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from clu.parameter_overview import get_parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pvdm_jax.config import StageConfig
from pvdm_jax.runtime import sharding
from pvdm_jax.runtime.preemption import SIGTERM_EXIT, stop_requests
from pvdm_jax.storage import buckets
from pvdm_jax.storage.checkpoint import Checkpoints, check_settings
from pvdm_jax.storage.files import write_json, write_text
from pvdm_jax.storage.run_folder import StageFolder
from pvdm_jax.training.faults import FaultRecord, Faults, go_back
from pvdm_jax.training.metrics import MetricWriter
from pvdm_jax.training.phases import BEGIN, END, ROLL_BACK, Phases, Record, Watch
from pvdm_jax.training.progress import Progress, StepClock, duration, parameter_table
from pvdm_jax.training.step import Stage, compile_step, keys

# Settings that may change when a run is resumed. The others decide its numbers.
FREE_SETTINGS = (
    *("*.steps", "*.log_every", "*.eval_every", "*.eval_clips", "*.eval_samples", "*.checkpoint_every"),
    *("*.keep", "*.keep_every", "*.best_metric", "*.max_skipped", "*.max_rollbacks", "*.remat", "mesh.*", "sample.*"),
    *("data.threads", "data.prefetch", "data.workers"),
)


def train(
    stage: Stage,
    batches: Callable[[int], Iterator[Any]],
    directory: str | pathlib.Path,
    config: StageConfig,
    settings: dict[str, Any],
    mesh: Mesh,
    seed: int,
    unrelated: Sequence[str] = (),
    phases: Phases | Watch | None = None,
) -> Any:
    """Trains `stage` up to `config.steps` updates and returns its state, resuming from what is in `directory`.

    `batches(start)` yields this process's share of batch `start` and the following ones, nested dicts of numpy arrays
    (batch, ...); its `videos(k)`, if it has one, names the videos of batch k. `settings` is the whole configuration: it
    is written to config.json, beside the shapes of all parameters in parameters.txt, and stored with checkpoints.
    Resuming with others is refused, except for FREE_SETTINGS and fields that match a pattern of `unrelated`, which this
    stage's numbers don't depend on.
    `phases` are those of a PhasedStage, and may end the run before `config.steps`; or a Watch, by which evaluations
    tell the best checkpoint.

    An update whose gradient isn't finite is left out, with a warning; after more than `config.max_skipped` of them in
    a row the run goes back to a checkpoint (see `training.faults`). Raises FloatingPointError when it has done that
    `config.max_rollbacks` times, or at a metric of another update that isn't finite (nothing is saved then),
    ConfigError for a batch that doesn't split over the mesh or for other settings, OSError where no checkpoint can be
    read, CheckpointError where none can be written, and SystemExit(143) after SIGTERM, once the state is saved.
    """
    sharding.check_batch(mesh, config.batch_size, f"{config.section}.batch_size", config.accumulate)
    directory = pathlib.Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    folder = StageFolder(directory)
    buckets.fetch(directory)
    abstract = jax.eval_shape(stage.init, keys(seed)[0])
    shardings = sharding.parameter_shardings(mesh, abstract)
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    free = (*FREE_SETTINGS, *unrelated)

    with Checkpoints(directory, config.keep, config.keep_every) as checkpoints:
        restored = checkpoints.restore(placed, lambda info: check_settings(info["settings"], settings, free))
        if restored is None:
            state, start, info = jax.jit(stage.init, out_shardings=shardings)(keys(seed)[0]), 0, {"window": []}
        else:
            state, start, info = restored
            if phases is not None:
                phases.take(Record.from_json(info.get("phases", {})))
        faults = Faults(stage.name, config, directory, FaultRecord(**info.get("faults", {})))
        if jax.process_index() == 0:
            write_json(folder.config, settings)
            if phases is None:
                folder.best.unlink(missing_ok=True)  # of a best that is no longer kept
            write_text(folder.parameters, get_parameter_overview(abstract.params, include_stats=False) + "\n")
        with (
            MetricWriter(directory, start) as writer,
            Progress(stage.name, start, config.steps, config.batch_size) as progress,
        ):
            common = (stage, directory, config, settings, mesh, checkpoints, writer, progress)
            run = _Run(*common, info["window"], placed, phases, faults)
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
    phases: Phases | Watch | None
    faults: Faults
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
        with stop_requests() as stop_requested, contextlib.ExitStack() as stack:
            iterator = batches(start)
            self.faults.videos = getattr(iterator, "videos", None)
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
                save |= config.keep_every > 0 and step % config.keep_every == 0
                if not (log or save or evaluate or stop):
                    continue
                clock.pause(self.fetch(step))
                if log:
                    state = self.recover(state, step)
                    self.log(step, clock)
                if save or stop:
                    self.save(step, state, scheduled=save)
                if stop:
                    self.checkpoints.wait()
                    progress.say(f"{self.stage.name}: SIGTERM; saved after step {step}, run again to go on")
                    raise SystemExit(SIGTERM_EXIT)
                if evaluate:
                    state = self.evaluate(state, step)
                progress.skip()
                clock.resume()
        self.checkpoints.wait()
        self.share()
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

    def save(self, step: int, state: Any, scheduled: bool) -> None:
        """Saves in the background. scheduled: whether every run with these settings does so at this step."""
        self.faults.saved(step, scheduled)
        info = {"settings": self.settings, "window": self.window, "faults": dataclasses.asdict(self.faults.record)}
        needed = [self.faults.record.good_step]  # going on from here may mean going back
        if self.phases:
            record = self.phases.record
            info |= {"phases": record.to_json()}
            needed.append(record.best_step)
        self.share()  # the metrics up to here come with the checkpoint
        self.checkpoints.save(step, state, info, needed)

    def share(self) -> None:
        """Copies what the run has left here so far to its bucket, if it has one."""
        if jax.process_index() == 0:
            buckets.push(self.directory)

    def fetch(self, step: int) -> int:
        """Brings the metrics of the steps up to `step` from the device and looks at them; returns how many."""
        self.checkpoints.check()
        fetched = jax.device_get(self.pending)
        self.pending = []
        for number, metrics in enumerate(fetched, start=step - len(fetched) + 1):
            self.window.append(self.faults.look(number, metrics))
        return len(fetched)

    def recover(self, state: Any, step: int) -> Any:
        """The state to go on with: after too many updates that were left out, of an earlier checkpoint."""
        target = self.faults.target(step)
        if target < 0:
            return state
        self.checkpoints.wait()
        return go_back(self.checkpoints.restore_step(target, self.placed), state)

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
        folder = StageFolder(self.directory).evaluation(step)
        folder.mkdir(parents=True, exist_ok=True)
        values = self.stage.evaluate(state, folder)
        seconds = time.perf_counter() - began
        decided = ""
        if self.phases and self.phases.record.judged < step:
            record = self.phases.judge(step, values)
            self.checkpoints.wait()  # what best.json calls the best must be there
            if jax.process_index() == 0:
                write_json(StageFolder(self.directory).best, record.to_json())
            decided = ", the best so far" if record.best_step == step else ""
        named = {f"eval/{name}": value for name, value in values.items()}
        self.writer.write(step, named | {"time/evaluation": seconds})
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        after = f"evaluation after step {step} ({duration(seconds)})"
        self.progress.say(f"{self.stage.name}: {after}: {numbers}{decided}")
        self.share()
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
        path, text = StageFolder(self.directory).best, ""
        if jax.process_index() == 0 and path.exists():
            text = path.read_text()
        text = _broadcast(text)
        record = Record.from_json(json.loads(text)) if text else Record()
        if record.judged == step:
            self.phases.take(record)
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
