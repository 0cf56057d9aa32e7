"""Warns about a run that resumes with another number of steps, which changes schedules that end at the last step.

The rate of a cosine schedule depends on the update's number and on the last one. If a run is made longer, its rate
jumps up to that of the longer schedule, from near 0 if the run had finished. That is what was asked for, but the loss
may rise, so the run says so.
"""

import logging
from collections.abc import Mapping
from typing import Any

import jax

from pvdm_jax.config import AutoencoderTrainingConfig, OptimizerConfig, StageConfig
from pvdm_jax.training.optimizer import learning_rate_schedule


def warn_of_schedule(name: str, config: StageConfig, saved: Mapping[str, Any], step: int) -> None:
    """Warns about learning rates that change because `config.steps` differs from the settings `saved` after `step`.

    name: the stage's name.
    """
    before = saved.get(config.section, {}).get("steps", config.steps)
    if before == config.steps or jax.process_index() != 0:
        return
    changes = [
        f"the {what} goes from {old:.3g} to {new:.3g}"
        for what, optimizer in _optimizers(config).items()
        for old, new in [_rates(optimizer, (before, config.steps), step)]
        if old != new
    ]
    if changes:
        logging.warning(
            "%s: %s.steps is %d (it was %d), where the cosine schedule ends: after step %d %s",
            name,
            config.section,
            config.steps,
            before,
            step,
            " and ".join(changes),
        )


def _optimizers(config: StageConfig) -> dict[str, OptimizerConfig]:
    """The optimizers whose schedules depend on the stage's number of steps, by the names of their rates."""
    found = {"learning rate": config.optimizer}
    if isinstance(config, AutoencoderTrainingConfig):
        phase = config.adversarial
        if phase.enabled and phase.steps == 0:
            found["discriminators' learning rate"] = phase.optimizer
    return found


def _rates(optimizer: OptimizerConfig, steps: tuple[int, int], step: int) -> tuple[float, float]:
    """The learning rates after `step` for two numbers of steps."""
    before, after = (float(learning_rate_schedule(optimizer, count)(step)) for count in steps)
    return before, after
