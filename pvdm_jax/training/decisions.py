"""Runs evaluations in the training loop, and carries out the policy's decisions.

A checkpoint is saved before every evaluation, so that a failed evaluation loses no training. A run that resumes from
that checkpoint repeats the evaluation if it is missing, and carries out its decision again: best.json holds the newest
decision, and the record with a checkpoint all decisions before it.
"""

import logging
import time
from typing import Any

import jax

from pvdm_jax.runtime.distributed import broadcast_json
from pvdm_jax.storage.files import write_json
from pvdm_jax.storage.json_files import try_read_json
from pvdm_jax.training.policy import BEGIN, RECORD_SHAPE, PhaseRecord
from pvdm_jax.training.progress import duration
from pvdm_jax.training.run import Run


def evaluation_due(run: Run, step: int) -> bool:
    """Whether an evaluation is due after `step`."""
    return step == run.last_step or step % run.config.eval_every == 0 or run.policy.evaluation_due(step)


def evaluate(run: Run, state: Any, step: int, report: bool = True) -> Any:
    """Evaluates the state after `step`, decides and writes the metrics. Returns the state after the decision.

    report: False if the metrics have been written already.
    """
    began = time.perf_counter()
    folder = run.folder.evaluation(step)
    folder.mkdir(parents=True, exist_ok=True)
    values = run.stage.evaluate(state, folder)
    seconds = time.perf_counter() - began
    if run.policy.record.judged < step:
        run.policy.judge(step, values)
        run.checkpoints.wait()  # best.json must name a complete checkpoint
        _write_record(run)
    if report:
        named = {f"eval/{name}": value for name, value in values.items()}
        run.writer.write(step, named | {"time/evaluation": seconds})
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    best = ", the best so far" if run.policy.record.best_step == step else ""
    after = f"evaluation after step {step} ({duration(seconds)})"
    run.progress.say(f"{run.stage.name}: {after}: {numbers}{best}")
    run.share()
    return _act(run, state, step)


def resume(run: Run, state: Any, step: int) -> Any:
    """Catches up on what was due after `step`, whose checkpoint was made before its evaluation.

    Returns the state after the decision.
    """
    kept = _read_record(run)
    if kept.judged == step:
        run.policy.resume(kept)
    # Any other record is from a later step, which will be trained again.
    _write_record(run)
    judged, reported = run.policy.record.judged, _reported(run, step)
    if (judged < step and evaluation_due(run, step)) or (judged == step and not reported):
        return evaluate(run, state, step, report=not reported)
    return _act(run, state, step)


def _act(run: Run, state: Any, step: int) -> Any:
    """Carries out the decision after `step`, if there is one. Returns the state."""
    action = run.policy.record.action
    if run.policy.record.judged != step or not action:
        return state
    tell = run.progress.say if action == BEGIN else logging.warning
    tell(f"{run.stage.name}: {run.policy.announcement()}")
    state = run.policy.apply(state, lambda step: run.checkpoints.restore_step(step, run.placed))
    run.progress.retarget(run.last_step)
    return state


def _reported(run: Run, step: int) -> bool:
    """Whether the metrics of the evaluation after `step` were written before this start, for all processes."""
    return broadcast_json(run.writer.resumed_with(step, "time/evaluation"))  # only process 0 has the file


def _write_record(run: Run) -> None:
    if jax.process_index() == 0:
        write_json(run.folder.best, run.policy.record.to_json())


def _read_record(run: Run) -> PhaseRecord:
    """The record in process 0's best.json, on every process; an empty one if there is no file, or a damaged one."""
    known = None
    if jax.process_index() == 0:
        again = "the record of the checkpoint is used"
        known = try_read_json(run.folder.best, RECORD_SHAPE, logging.warning, again)
    known = broadcast_json(known)
    return PhaseRecord.from_json(known) if known else PhaseRecord()
