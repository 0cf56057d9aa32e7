"""Stage 1's schedule: when its adversarial phase begins, when the guard rolls it back or ends the run, and which
checkpoint is the best.

The best checkpoint is the one whose EMA has the lowest held-out reconstruction error (the pixel and LPIPS terms of the
loss). The adversarial phase accepts a higher error in exchange for detail, so its checkpoints only compete among
themselves: after its warm-up, the first one that the guard accepts replaces the best of the reconstruction phase.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

from pvdm_jax.config import AdversarialConfig
from pvdm_jax.training.adversarial import AdversarialState, begin, roll_back
from pvdm_jax.training.policy import BEGIN, END, ROLL_BACK, PhaseRecord

# The names of the stage's steps, after what an update trains.
RECONSTRUCTION = "reconstruction"  # the autoencoder, before the adversarial phase
BOTH = "adversarial"  # autoencoder and discriminators
GENERATOR, DISCRIMINATOR = "generator", "discriminator"  # one of them


class AdversarialSchedule:
    """The policy of stage 1. Without an adversarial phase in `config` it only chooses the best checkpoint."""

    def __init__(self, config: AdversarialConfig):
        self.config, self.record = config, PhaseRecord()

    def resume(self, record: PhaseRecord) -> None:
        """Continues from a saved record."""
        self.record = record

    def step_name(self, step: int) -> str:
        """The step that makes update number `step`, counted from 1."""
        start = self.record.adversarial_start
        if start < 0:
            return RECONSTRUCTION
        if not self.config.alternate:
            return BOTH
        return GENERATOR if (step - start) % 2 == 1 else DISCRIMINATOR

    def last_step(self, steps: int) -> int:
        """The update after which the run ends, as far as is known; at most `steps`, the configured number."""
        if self.record.ended >= 0:
            return min(steps, self.record.ended)
        if self.config.steps and self.record.adversarial_start >= 0:
            return min(steps, self.record.adversarial_start + self.config.steps)
        return steps

    def evaluation_due(self, step: int) -> bool:
        """Whether the phase begins after `step`, which needs an evaluation."""
        return self.config.enabled and self.record.adversarial_start < 0 and step == self.config.start_step

    def judge(self, step: int, values: Mapping[str, float]) -> PhaseRecord:
        """Decides on the evaluation after `step`, and returns the new record.

        values: "error" of the EMA's held-out reconstructions and, if the run has an adversarial phase, "error_now" of
        the current parameters; within that phase also "discriminator_loss", the discriminators' held-out hinge loss.
        """
        old = dataclasses.replace(self.record, judged=step, action="", reason="")
        if old.adversarial_start < 0:
            self.record = self._judge_reconstruction(_with_lowest(old, values), step, values["error"])
        else:
            self.record = self._judge_adversarial(old, step, values)
        return self.record

    def apply(self, state: AdversarialState, restore: Callable[[int], AdversarialState]) -> AdversarialState:
        """The state after the record's action. restore(step) reads the state of a checkpoint."""
        if self.record.action == BEGIN:
            return begin(state)
        if self.record.action == ROLL_BACK:
            scale = self.config.guard_factor**self.record.rollbacks
            return roll_back(restore(self.record.best_step), state, scale)
        return state

    def announcement(self) -> str:
        """The record's action and its reason, for people."""
        record = self.record
        if record.action == BEGIN:
            return f"the adversarial phase begins after step {record.judged}: {record.reason}"
        if record.action == ROLL_BACK:
            times = f"roll-back {record.rollbacks} of {self.config.guard_rollbacks}"
            return f"{record.reason}; back to the checkpoint of step {record.best_step} ({times})"
        if record.action == END:
            return f"{record.reason}; the run ends, its best is step {record.best_step}"
        return ""

    def _judge_reconstruction(self, record: PhaseRecord, step: int, error: float) -> PhaseRecord:
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

    def _judge_adversarial(self, record: PhaseRecord, step: int, values: Mapping[str, float]) -> PhaseRecord:
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

    def _divergence(self, record: PhaseRecord, values: Mapping[str, float]) -> str:
        """Why an evaluation of the adversarial phase counts as a divergence; "" if it does not."""
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


def _with_lowest(record: PhaseRecord, values: Mapping[str, float]) -> PhaseRecord:
    lowest = min(values["error"], record.lowest_error)
    return dataclasses.replace(
        record, lowest_error=lowest, lowest_error_now=min(values.get("error_now", math.inf), record.lowest_error_now)
    )
