"""What a run decides by its evaluations: which step comes next, which checkpoint is the best, when the run ends.

The loop asks a policy. One is here, `BestByMetric`, for a stage whose steps are known beforehand; the other, stage 1's
`AdversarialSchedule`, is in `training.phases`. A decision is a function of the record so far and of an evaluation's
numbers, so a run that is killed and resumed decides the same. The loop keeps the record with each checkpoint and, after
each decision, in best.json.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pvdm_jax.config import require
from pvdm_jax.storage.json_files import Maybe

BEGIN, ROLL_BACK, END = "begin", "roll back", "end"  # actions of a record; "" means that there is nothing to do


@dataclasses.dataclass(frozen=True)
class PhaseRecord:
    """All decisions so far, as JSON can hold them. Steps are counted in updates; -1 stands for none yet."""

    judged: int = 0  # step of the last evaluation
    action: str = ""  # the action that the last evaluation led to
    reason: str = ""  # for the action, as text
    best_step: int = -1
    best_error: float = math.inf  # of that checkpoint
    lowest_error: float = math.inf  # over all evaluations that were not a divergence
    lowest_error_now: float = math.inf
    plateau_error: float = math.inf  # of the last gain
    without_gain: int = 0  # evaluations since then
    adversarial_start: int = -1
    warmup_start: int = -1  # adversarial_start, or the last roll-back
    rollbacks: int = 0
    ended: int = -1  # the step at which the guard ended the run
    metric: str = "error"  # the metric of best_error; "": evaluations are not compared

    def to_json(self) -> dict:
        """Plain values; infinity, which JSON cannot hold, becomes null."""
        values = dataclasses.asdict(self)
        return {name: None if value == math.inf else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping) -> "PhaseRecord":
        """The record of what `to_json` returned."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: math.inf if value is None else value for name, value in values.items() if name in known})


# What `PhaseRecord.to_json` returns, as `read_json` checks it.
RECORD_SHAPE = {
    field.name: Maybe(float) if field.default == math.inf else type(field.default)
    for field in dataclasses.fields(PhaseRecord)
}


class Policy(Protocol):
    """The decisions of a run. `record` holds them; it is the only thing that changes."""

    record: PhaseRecord

    def resume(self, record: PhaseRecord) -> None:
        """Continues from a saved record."""

    def step_name(self, step: int) -> str:
        """The stage's step that makes update number `step`, counted from 1."""

    def last_step(self, steps: int) -> int:
        """The update after which the run ends, as far as is known; at most `steps`, the configured number."""

    def evaluation_due(self, step: int) -> bool:
        """Whether a decision needs an evaluation after `step`, beside those of every `eval_every` steps."""

    def judge(self, step: int, values: Mapping[str, float]) -> PhaseRecord:
        """Decides on the evaluation after `step`, and returns the new record."""

    def apply(self, state: Any, restore: Callable[[int], Any]) -> Any:
        """The state after the record's action. restore(step) reads the state of a checkpoint."""

    def announcement(self) -> str:
        """The record's action and its reason, for people."""


class BestByMetric:
    """The policy of a stage whose steps don't depend on its evaluations. The best checkpoint is the one with the lowest
    value of `metric`.

    step_name: gives the step of each update, counted from 1. metric: a number of the evaluation; "" compares none, and
    there is no best checkpoint.
    """

    def __init__(self, step_name: Callable[[int], str], metric: str = ""):
        self.step_name, self.metric, self.record = step_name, metric, PhaseRecord(metric=metric)

    def resume(self, record: PhaseRecord) -> None:
        """Continues from a saved record; values of another metric are dropped."""
        self.record = record if record.metric == self.metric else PhaseRecord(judged=record.judged, metric=self.metric)

    def last_step(self, steps: int) -> int:
        return steps

    def evaluation_due(self, step: int) -> bool:
        return False

    def judge(self, step: int, values: Mapping[str, float]) -> PhaseRecord:
        """Records the evaluation after `step`. Raises ConfigError if it lacks the metric."""
        record = dataclasses.replace(self.record, judged=step)
        if self.metric:
            require(self.metric in values, "best_metric", self.metric, f"the evaluation has {', '.join(values)}")
            if values[self.metric] < record.best_error:
                record = dataclasses.replace(record, best_step=step, best_error=values[self.metric])
        self.record = record
        return record

    def apply(self, state: Any, restore: Callable[[int], Any]) -> Any:
        return state

    def announcement(self) -> str:
        return ""
