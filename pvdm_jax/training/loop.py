"""The training loop of both stages.

A stage is a state and pure steps. The loop shards the state over a mesh, compiles the steps, feeds them batches, and
logs, evaluates, saves and resumes. A policy (`training.policy`) says which step comes next and when the run ends.
Everything that decides a run's numbers (batches, keys, the state) is a function of the seed and the step, so a run that
is killed and resumed ends with the same bits.

The order within a step is: log, save, evaluate. Every evaluation has a checkpoint, saved before it.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from clu.parameter_overview import get_parameter_overview
from jax.sharding import Mesh

from pvdm_jax.config import StageConfig
from pvdm_jax.runtime import sharding
from pvdm_jax.runtime.preemption import SIGTERM_EXIT, stop_requests
from pvdm_jax.storage import buckets
from pvdm_jax.storage.checkpoint import Checkpoints
from pvdm_jax.storage.files import write_json, write_text
from pvdm_jax.storage.run_folder import StageFolder
from pvdm_jax.storage.run_lock import check_still_writer
from pvdm_jax.storage.same_settings import check_settings
from pvdm_jax.training import decisions
from pvdm_jax.training.metrics import MetricWriter
from pvdm_jax.training.non_finite import NonFiniteGuard, NonFiniteRecord, go_back
from pvdm_jax.training.policy import PhaseRecord, Policy
from pvdm_jax.training.progress import Progress, StepClock, duration, parameter_table
from pvdm_jax.training.run import Run
from pvdm_jax.training.schedule_change import warn_of_schedule
from pvdm_jax.training.step import Batch, Stage, Step, compile_step, first_state, keys, run_step

AHEAD = 100  # updates whose steps are compiled together

# Settings that may change when a run is resumed. The others decide its numbers.
FREE_SETTINGS = (
    "*.steps",
    "*.log_every",
    "*.eval_every",
    "*.eval_clips",
    "*.eval_samples",
    "*.checkpoint_every",
    "*.keep",
    "*.keep_every",
    "*.best_metric",
    "*.max_skipped",
    "*.max_rollbacks",
    "*.remat",
    "mesh.*",
    "sample.*",
    "data.threads",
    "data.prefetch",
    "data.workers",
)


def train(
    stage: Stage,
    policy: Policy,
    batches: Callable[[int], Iterator[Batch]],
    *,
    directory: str | pathlib.Path,
    config: StageConfig,
    settings: dict[str, Any],
    mesh: Mesh,
    seed: int,
    unrelated: Sequence[str] = (),
) -> Any:
    """Trains `stage` for `config.steps` updates, resuming from the newest checkpoint in `directory`. Returns the last
    state.

    policy: chooses the step of each update and the best checkpoint, and may end the run before `config.steps`.
    batches: `batches(start)` yields this process's share of batch `start` and the following ones, nested dicts of numpy
    arrays (batch, ...); its `videos(k)`, if it has one, names the videos of batch k.
    settings: the whole configuration. It is written to config.json, beside the shapes of all parameters in
    parameters.txt, and stored with checkpoints. Resuming with other settings is refused, except for FREE_SETTINGS and
    fields that match a pattern of `unrelated`, which this stage's numbers do not depend on.

    An update whose gradient is not finite is skipped, with a warning. After more than `config.max_skipped` of them in a
    row, the run goes back to a checkpoint (see `training.non_finite`). Raises FloatingPointError if this happens more
    than `config.max_rollbacks` times, or if a metric of an update with a finite gradient is not finite (nothing is
    saved then), ConfigError for a batch that does not split over the mesh or for other settings, OSError if no
    checkpoint can be read, CheckpointError if none can be written, and SystemExit(143) after SIGTERM, once the state is
    saved.
    """
    sharding.check_batch(mesh, config.batch_size, f"{config.section}.batch_size", config.accumulate)
    directory = pathlib.Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    folder = StageFolder(directory)
    buckets.fetch(directory)
    abstract = jax.eval_shape(stage.init, keys(seed)[0])
    placed = sharding.place(mesh, abstract)
    free = (*FREE_SETTINGS, *unrelated)

    with Checkpoints(directory, config.keep, config.keep_every) as checkpoints:
        restored = checkpoints.restore(placed, lambda info: check_settings(info["settings"], settings, free))
        if restored is None:
            state = first_state(stage, placed, seed)
            start, window, skipped = 0, [], NonFiniteRecord()
        else:
            state, start, info = restored
            warn_of_schedule(stage.name, config, info["settings"], start)
            window, skipped = info["window"], NonFiniteRecord(**info["non_finite"])
            policy.resume(PhaseRecord.from_json(info["phases"]))
        if jax.process_index() == 0:
            write_json(folder.config, settings)
            write_text(folder.parameters, get_parameter_overview(abstract.params, include_stats=False) + "\n")
        with (
            MetricWriter(directory, start) as writer,
            Progress(stage.name, start, config.steps, config.batch_size) as progress,
        ):
            run = _Training(
                stage=stage,
                policy=policy,
                config=config,
                folder=folder,
                checkpoints=checkpoints,
                writer=writer,
                progress=progress,
                placed=placed,
                settings=settings,
                mesh=mesh,
                seed=seed,
                guard=NonFiniteGuard(stage.name, config, directory, skipped),
                window=window,
            )
            if start:
                state = decisions.resume(run, state, start)
                progress.retarget(run.last_step)
            if start >= run.last_step:
                progress.say(f"{stage.name}: finished, {start} of {run.last_step} steps are done ({directory})")
                return state
            progress.say(f"{stage.name}: parameters\n{parameter_table(abstract.params)}")
            if start:
                progress.say(f"{stage.name}: resuming after step {start} ({directory})")
            return run.train(state, start, batches)


@dataclasses.dataclass
class _Training(Run):
    """A run, with the parts of it that only the loop needs."""

    settings: dict[str, Any]
    mesh: Mesh
    seed: int
    guard: NonFiniteGuard
    window: list[dict[str, float]]  # metrics of every step since the last log; checkpoints keep them
    pending: list[dict[str, jax.Array]] = dataclasses.field(default_factory=list)  # the newest, still on the device
    programs: dict[Step, Callable] = dataclasses.field(default_factory=dict)  # the stage's compiled steps
    clock: StepClock = dataclasses.field(default_factory=StepClock)

    def train(self, state: Any, start: int, batches: Callable[[int], Iterator[Batch]]) -> Any:
        """Trains from update `start` + 1 to the last one. Returns the last state."""
        with stop_requests() as stop_requested, contextlib.ExitStack() as stack:
            iterator = batches(start)
            self.guard.videos = getattr(iterator, "videos", None)
            if hasattr(iterator, "close"):
                stack.callback(iterator.close)
            batch = sharding.global_batch(self.mesh, next(iterator))
            self.compile(start + 1, state, batch)
            self.progress.begin()
            self.clock.reset()
            step = start
            while step < self.last_step:
                step += 1
                state, metrics = self.program(step, state, batch)(state, batch)
                self.pending.append(metrics)
                if step < self.last_step:
                    batch = self.next_batch(iterator)
                if len(self.pending) > 1:
                    # One step runs while the next is prepared; with more in flight, batches would only fill memory.
                    jax.block_until_ready(self.pending[-2])
                self.progress.advance(step)
                state = self.finish_step(state, step, stop_requested(step))
        self.checkpoints.wait()
        self.share()
        return state

    def finish_step(self, state: Any, step: int, stop: bool) -> Any:
        """Logs, saves and evaluates after `step` where that is due, and ends the program if it must `stop`."""
        config, last = self.config, step == self.last_step
        log = last or step % config.log_every == 0
        evaluate = decisions.evaluation_due(self, step)
        save = evaluate or last or step % config.checkpoint_every == 0
        save = save or (config.keep_every > 0 and step % config.keep_every == 0)
        if not (log or save or stop):
            return state
        self.clock.pause(self.fetch(step))
        if log:
            state = self.recover(state, step)
            self.log(step)
        if save or stop:
            self.save(step, state, scheduled=save)
        if stop:
            self.checkpoints.wait()
            self.progress.say(f"{self.stage.name}: SIGTERM; saved after step {step}, run again to resume")
            raise SystemExit(SIGTERM_EXIT)
        if evaluate:
            state = decisions.evaluate(self, state, step)
        self.progress.skip()
        self.clock.resume()
        return state

    def next_batch(self, iterator: Iterator[Batch]) -> Batch:
        """The next batch, over all devices; the clock records the wait."""
        began = time.perf_counter()
        local = next(iterator)
        self.clock.wait(time.perf_counter() - began)
        return sharding.global_batch(self.mesh, local)

    def program(self, step: int, state: Any, batch: Batch) -> Callable:
        """The compiled step (state, batch) -> (state, metrics) for update `step`."""
        name = self.policy.step_name(step)
        function = self.stage.steps[name]
        if function not in self.programs:
            self.clock.pause(0)
            self.compile(step, state, batch)
            self.progress.skip()
            self.clock.resume()
        return functools.partial(run_step, self.programs[function], self.stage, name)

    def compile(self, step: int, state: Any, batch: Batch) -> None:
        """Compiles the missing steps of update `step` and of the AHEAD updates after it.

        As many are compiled in parallel as there are pairs of cores: more would take as long, and each takes more than
        a gigabyte of memory. In a run of several processes they are compiled one after the other: processes may wait
        for each other while XLA compiles, so all need the same order.
        """
        until = min(step + AHEAD, self.last_step) + 1
        missing: dict[Step, str] = {}
        for name in map(self.policy.step_name, range(step, until)):
            if self.stage.steps[name] not in self.programs:
                missing.setdefault(self.stage.steps[name], name)
        names = list(missing.values())

        def make(name: str) -> Callable:
            return compile_step(
                self.stage, name, state=state, batch=batch, placed=self.placed, mesh=self.mesh, seed=self.seed
            )

        began = time.perf_counter()
        at_once = max(1, (os.cpu_count() or 1) // 2) if jax.process_count() == 1 else 1
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            self.programs |= zip(missing, pool.map(make, names), strict=True)
        seconds = duration(time.perf_counter() - began)
        plural = "s" if len(names) > 1 else ""
        self.progress.say(f"{self.stage.name}: {' and '.join(names)} step{plural} compiled in {seconds}")

    def save(self, step: int, state: Any, scheduled: bool) -> None:
        """Saves in the background. scheduled: whether the settings ask for it at this step."""
        check_still_writer(self.folder.path)
        self.guard.note_checkpoint(step, scheduled)
        info = {
            "settings": self.settings,
            "window": self.window,
            "non_finite": dataclasses.asdict(self.guard.record),
            "phases": self.policy.record.to_json(),
        }
        # A run that resumes from this checkpoint may have to go back to one of these steps.
        needed = (self.guard.record.good_step, self.policy.record.best_step)
        self.share()  # the metrics up to here belong to the checkpoint
        self.checkpoints.save(step, state, info, needed)

    def fetch(self, step: int) -> int:
        """Fetches the metrics of the steps up to `step` from the device and checks them. Returns their number."""
        self.checkpoints.check()
        fetched = jax.device_get(self.pending)
        self.pending = []
        for number, metrics in enumerate(fetched, start=step - len(fetched) + 1):
            self.window.append(self.guard.check(number, metrics))
        return len(fetched)

    def recover(self, state: Any, step: int) -> Any:
        """The state, or after too many skipped updates that of an earlier checkpoint, to continue at this step."""
        target = self.guard.step_to_restore(step)
        if target < 0:
            return state
        self.checkpoints.wait()
        return go_back(self.checkpoints.restore_step(target, self.placed), state)

    def log(self, step: int) -> None:
        """Writes the means of the metrics since the last log; for "skipped", the number of skipped updates."""
        means = {}
        for name in dict.fromkeys(name for metrics in self.window for name in metrics):
            values = [metrics[name] for metrics in self.window if name in metrics]
            means[name] = sum(values) if name == "skipped" else float(np.mean(values))
        self.window = []
        times = {
            "time/step": self.clock.step_seconds,
            "time/clips_per_second": self.config.batch_size / self.clock.step_seconds,
            "time/data_wait": self.clock.data_wait,
        }
        self.writer.write(step, {f"train/{name}": value for name, value in means.items()} | times)
        self.progress.report(step, self.clock.step_seconds, self.clock.data_wait, means)
        self.clock.reset()
