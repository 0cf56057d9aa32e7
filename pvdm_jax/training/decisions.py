"""Evaluations in the training loop, and carrying out what the policy decides by them.

Every evaluation has a checkpoint, made before it, so that a failed evaluation costs no training. Resuming from that
checkpoint makes up for an evaluation that is missing, and carries out its decision again: best.json holds the newest
decision, and the record with a checkpoint all those before it.
"""

import dataclasses
import json
import logging
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pvdm_jax.config import StageConfig
from pvdm_jax.storage import buckets
from pvdm_jax.storage.checkpoint import Checkpoints
from pvdm_jax.storage.files import write_json
from pvdm_jax.storage.json_files import try_read_json
from pvdm_jax.storage.run_folder import StageFolder
from pvdm_jax.training.metrics import MetricWriter
from pvdm_jax.training.policy import BEGIN, RECORD_SHAPE, PhaseRecord, Policy
from pvdm_jax.training.progress import Progress, duration
from pvdm_jax.training.step import Stage


@dataclasses.dataclass(frozen=True)
class Decisions:
    """Evaluates a stage and carries out its policy's decisions."""

    stage: Stage
    policy: Policy
    config: StageConfig
    folder: StageFolder
    checkpoints: Checkpoints
    writer: MetricWriter
    progress: Progress
    placed: Any  # the state's structure, of ShapeDtypeStructs with shardings

    @property
    def last_step(self) -> int:
        """The update after which the run ends, as far as is known."""
        return self.policy.last_step(self.config.steps)

    def due(self, step: int) -> bool:
        """Whether an evaluation is due after `step`."""
        return step == self.last_step or step % self.config.eval_every == 0 or self.policy.evaluation_due(step)

    def evaluate(self, state: Any, step: int, report: bool = True) -> Any:
        """Evaluates the state after `step`, decides and writes the metrics. Returns the state after the decision.

        report: False if the metrics have been written already.
        """
        began = time.perf_counter()
        folder = self.folder.evaluation(step)
        folder.mkdir(parents=True, exist_ok=True)
        values = self.stage.evaluate(state, folder)
        seconds = time.perf_counter() - began
        if self.policy.record.judged < step:
            self.policy.judge(step, values)
            self.checkpoints.wait()  # best.json may only name a checkpoint that is complete
            self._write_record()
        if report:
            named = {f"eval/{name}": value for name, value in values.items()}
            self.writer.write(step, named | {"time/evaluation": seconds})
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        best = ", the best so far" if self.policy.record.best_step == step else ""
        after = f"evaluation after step {step} ({duration(seconds)})"
        self.progress.say(f"{self.stage.name}: {after}: {numbers}{best}")
        self.share()
        return self._act(state, step)

    def resume(self, state: Any, step: int) -> Any:
        """Catches up on what was due after `step`, whose checkpoint was made before its evaluation.

        Returns the state after the decision.
        """
        kept = self._read_record()
        if kept.judged == step:
            self.policy.resume(kept)
        # Any other record is of a later step, which will be trained again.
        self._write_record()
        judged, reported = self.policy.record.judged, self._reported(step)
        if (judged < step and self.due(step)) or (judged == step and not reported):
            return self.evaluate(state, step, report=not reported)
        return self._act(state, step)

    def share(self) -> None:
        """Copies what the run has written so far to its bucket, if it has one."""
        if jax.process_index() == 0:
            buckets.push(self.folder.path)

    def _act(self, state: Any, step: int) -> Any:
        """Carries out the decision after `step`, if there is one. Returns the state."""
        action = self.policy.record.action
        if self.policy.record.judged != step or not action:
            return state
        tell = self.progress.say if action == BEGIN else logging.warning
        tell(f"{self.stage.name}: {self.policy.announcement()}")
        state = self.policy.apply(state, lambda step: self.checkpoints.restore_step(step, self.placed))
        self.progress.retarget(self.last_step)
        return state

    def _reported(self, step: int) -> bool:
        """Whether the metrics of the evaluation after `step` were written before this start; alike on all processes."""
        found = np.asarray(self.writer.resumed_with(step, "time/evaluation"))  # only process 0 has the file
        return bool(multihost_utils.broadcast_one_to_all(found))

    def _write_record(self) -> None:
        if jax.process_index() == 0:
            write_json(self.folder.best, self.policy.record.to_json())

    def _read_record(self) -> PhaseRecord:
        """The record in process 0's best.json, on every process; an empty one if there is no file, or a damaged one."""
        known = None
        if jax.process_index() == 0:
            again = "the record of the checkpoint is used"
            known = try_read_json(self.folder.best, RECORD_SHAPE, logging.warning, again)
        known = json.loads(_broadcast(json.dumps(known)))
        return PhaseRecord.from_json(known) if known else PhaseRecord()


def _broadcast(text: str) -> str:
    """Process 0's text, on every process."""
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(data))))
    padded = np.zeros(length, np.uint8)
    if jax.process_index() == 0:
        padded[:] = data
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).decode()
