"""What stage 1 decides at its evaluations: which checkpoint is the best, when the adversarial phase begins, and when
the guard rolls it back or ends the run.

A decision is a function of the record so far and of an evaluation's numbers, so a run that is killed and started
again decides the same. The loop keeps the record with the checkpoints and, after each decision, in best.json.

The best checkpoint is the one of the lowest error in the held-out reconstruction (the pixel and LPIPS terms of the
loss, of the EMA). The adversarial phase buys detail with some of that error, so its checkpoints compete among
themselves: once its warm-up is over, the first that the guard lets pass takes the place of the best before.
"""

import dataclasses
import math
from collections.abc import Mapping

from pvdm_jax.config import AdversarialConfig, require

# The stage's steps: what an update trains.
RECONSTRUCTION = "reconstruction"  # the autoencoder, before the adversarial phase
BOTH = "adversarial"  # autoencoder and discriminators
GENERATOR, DISCRIMINATOR = "generator", "discriminator"  # one of them

BEGIN, ROLL_BACK, END = "begin", "roll back", "end"  # what the last decision asks for, beside "": nothing


@dataclasses.dataclass(frozen=True)
class Record:
    """All decisions so far, as JSON can hold them. Steps are counted in updates; -1 stands for none yet."""

    judged: int = 0  # step of the last evaluation
    action: str = ""  # that it led to
    reason: str = ""  # of the action, for people
    best_step: int = -1
    best_error: float = math.inf  # of that checkpoint
    lowest_error: float = math.inf  # of all evaluations that were not a divergence
    lowest_error_now: float = math.inf
    plateau_error: float = math.inf  # of the last gain
    without_gain: int = 0  # evaluations since then
    adversarial_start: int = -1
    warmup_start: int = -1  # adversarial_start, or the last roll-back
    rollbacks: int = 0
    ended: int = -1  # the step at which the guard ended the run
    metric: str = "error"  # that best_error is of

    def to_json(self) -> dict:
        """Plain values; numbers that JSON has no words for become null."""
        values = dataclasses.asdict(self)
        return {name: None if value == math.inf else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping) -> "Record":
        return cls(**{name: math.inf if value is None else value for name, value in values.items()})


class Phases:
    """The decisions of a run under `config`. `record` is the newest."""

    def __init__(self, config: AdversarialConfig, record: Record = Record()):
        self.config, self.record = config, record

    def take(self, record: Record) -> None:
        """Goes on from a record that was kept."""
        self.record = record

    def kind(self, step: int) -> str:
        """What update number `step`, counted from 1, trains."""
        start = self.record.adversarial_start
        if start < 0:
            return RECONSTRUCTION
        if not self.config.alternate:
            return BOTH
        return GENERATOR if (step - start) % 2 == 1 else DISCRIMINATOR

    def last_step(self, steps: int) -> int:
        """The update after which the run ends, as far as is known; `steps` at most."""
        if self.record.ended >= 0:
            return min(steps, self.record.ended)
        if self.config.steps and self.record.adversarial_start >= 0:
            return min(steps, self.record.adversarial_start + self.config.steps)
        return steps

    def due(self, step: int) -> bool:
        """Whether a decision is due after `step`, whatever the settings say about evaluations."""
        return self.config.enabled and self.record.adversarial_start < 0 and step == self.config.start_step

    def judge(self, step: int, values: Mapping[str, float]) -> Record:
        """Decides on the evaluation after `step`, and returns the new record.

        values: "error" of the EMA's held-out reconstructions and, where an adversarial phase is planned, "error_now" of
        the current parameters; within that phase also "discriminator_loss", the discriminators' held-out hinge loss.
        """
        old = dataclasses.replace(self.record, judged=step, action="", reason="")
        if old.adversarial_start < 0:
            self.record = self._judge_reconstruction(_with_lowest(old, values), step, values["error"])
        else:
            self.record = self._judge_adversarial(old, step, values)
        return self.record

    def _judge_reconstruction(self, record: Record, step: int, error: float) -> Record:
        config = self.config
        if error < record.best_error:
            record = dataclasses.replace(record, best_step=step, best_error=error)
        if error < (1 - config.plateau_gain) * record.plateau_error:
            record = dataclasses.replace(record, plateau_error=error, without_gain=0)
        else:
            record = dataclasses.replace(record, without_gain=record.without_gain + 1)
        if not config.enabled:
            return record
        if step >= config.start_step:
            reason = f"{step} updates are done"
        elif config.plateau and record.without_gain >= config.plateau:
            reason = f"{record.without_gain} evaluations brought no gain of {config.plateau_gain:.0%} in the error"
        else:
            return record
        return dataclasses.replace(record, action=BEGIN, reason=reason, adversarial_start=step, warmup_start=step)

    def _judge_adversarial(self, record: Record, step: int, values: Mapping[str, float]) -> Record:
        config, error = self.config, values["error"]
        reason = self._divergence(record, values)
        if reason and record.rollbacks < config.guard_rollbacks and record.best_step >= 0:
            rollbacks = record.rollbacks + 1
            return dataclasses.replace(record, action=ROLL_BACK, reason=reason, rollbacks=rollbacks, warmup_start=step)
        if reason:
            return dataclasses.replace(record, action=END, reason=reason, ended=step)
        record = _with_lowest(record, values)
        settled = step >= record.warmup_start + config.warmup_steps
        first = record.best_step <= record.adversarial_start
        if settled and (first or error < record.best_error) and math.isfinite(error):
            record = dataclasses.replace(record, best_step=step, best_error=error)
        return record

    def _divergence(self, record: Record, values: Mapping[str, float]) -> str:
        """What is wrong with a state of the adversarial phase, or nothing."""
        config, hinge = self.config, values["discriminator_loss"]
        if config.guard_tolerance == 0:
            return ""
        for name, lowest in (("error", record.lowest_error), ("error_now", record.lowest_error_now)):
            if not values[name] <= (1 + config.guard_tolerance) * lowest:
                allowed = f"{config.guard_tolerance:.0%} over the lowest, {lowest:.4g}"
                return f"the held-out {name} is {values[name]:.4g}, more than {allowed}"
        if not config.guard_collapse <= hinge <= config.guard_explosion:
            allowed = f"outside {config.guard_collapse:.4g} to {config.guard_explosion:.4g}"
            return f"the held-out discriminator_loss is {hinge:.4g}, {allowed}"
        return ""


class Watch:
    """Of a stage with one kind of step: its evaluations tell the best checkpoint, by the lowest value of `metric`.

    To the loop it is what `Phases` is.
    """

    def __init__(self, metric: str):
        self.metric, self.record = metric, Record(metric=metric)

    def take(self, record: Record) -> None:
        """Goes on from a record that was kept; a record of another metric says nothing of this one."""
        self.record = record if record.metric == self.metric else Record(judged=record.judged, metric=self.metric)

    def kind(self, step: int) -> str:
        return ""

    def last_step(self, steps: int) -> int:
        return steps

    def due(self, step: int) -> bool:
        return False

    def judge(self, step: int, values: Mapping[str, float]) -> Record:
        """Takes note of the evaluation after `step`, and returns the new record. Raises ConfigError where it lacks the
        metric."""
        require(self.metric in values, "best_metric", self.metric, f"the evaluation has {', '.join(values)}")
        record = dataclasses.replace(self.record, judged=step)
        if values[self.metric] < record.best_error:
            record = dataclasses.replace(record, best_step=step, best_error=values[self.metric])
        self.record = record
        return record


def _with_lowest(record: Record, values: Mapping[str, float]) -> Record:
    lowest = min(values["error"], record.lowest_error)
    return dataclasses.replace(
        record, lowest_error=lowest, lowest_error_now=min(values.get("error_now", math.inf), record.lowest_error_now)
    )
