"""What a run does about gradients and metrics that are not finite, without slowing its steps.

The step itself skips an update whose gradient is not finite. The loop checks the metrics when it fetches them, after at
most `log_every` steps, and warns with the step and the names of the videos in its batch. After more than `max_skipped`
such updates in a row, the run goes back at the next log: it restores the last scheduled checkpoint before them, and
continues with the batches that follow. If this happens more than `max_rollbacks` times, the run ends. All of this is a
function of the steps alone, so a run that is killed and resumed does the same.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from pvdm_jax.config import StageConfig
from pvdm_jax.training.optimizer import NetworkState, TrainState

NAMED = 64  # videos of a batch that a message names


@dataclasses.dataclass
class NonFiniteRecord:
    """The guard's state, which checkpoints keep. Steps are counted in updates; -1 stands for none."""

    good_step: int = -1  # the newest scheduled checkpoint that was made while gradients were finite
    rollbacks: int = 0
    too_many: int = -1  # the first step of more than max_skipped in a row, which the next log acts on


class NonFiniteGuard:
    """Finds metrics that are not finite, and says when a run must go back.

    name, folder: the stage's, for messages. videos(k) names the videos in batch k, over all processes; None if they
    have no names.
    """

    def __init__(
        self,
        name: str,
        config: StageConfig,
        folder: Any,
        record: NonFiniteRecord,
    ):
        self.record = record
        self.videos: Callable[[int], Sequence[str]] | None = None
        self._name, self._config, self._folder = name, config, folder
        self._skipped = 0  # updates skipped in a row, up to the newest step that was checked

    def check(self, step: int, metrics: dict[str, Any]) -> dict[str, float]:
        """The metrics of `step` for its log: {"skipped": 1} if its update was skipped.

        Raises FloatingPointError if the update was not skipped and a metric is not finite.
        """
        self._skipped = int(metrics["skipped"])
        values = {name: float(value) for name, value in metrics.items() if name != "skipped"}
        not_finite = [name for name, value in values.items() if not math.isfinite(value)]
        if not self._skipped:
            for name in not_finite:
                raise FloatingPointError(
                    f"{self._name}: {name} is {values[name]} at step {step}{self._batch(step)}; the checkpoints in "
                    f"{self._folder} are of earlier steps"
                )
            return values
        if self._skipped == 1:
            also = f" (nor {', '.join(not_finite)})" if not_finite else ""
            what = f"{self._name}: the gradient at step {step} was not finite{also}; that update is skipped"
            logging.warning("%s%s", what, self._batch(step))
        if self._skipped > self._config.max_skipped:
            self.record.too_many = step - self._skipped + 1
        return {"skipped": 1.0}

    def note_checkpoint(self, step: int, scheduled: bool) -> None:
        """Records a checkpoint that is about to be made. scheduled: whether the settings ask for it at this step."""
        if scheduled and self._skipped == 0 and self.record.too_many < 0:
            self.record.good_step = step

    def step_to_restore(self, step: int) -> int:
        """The step of the checkpoint to go back to from `step`, or -1 if there is no need.

        Raises FloatingPointError if there is no checkpoint to go back to, or if the run has gone back max_rollbacks
        times.
        """
        record, config = self.record, self._config
        if record.too_many < 0:
            return -1
        what = (
            f"{self._name}: the gradient at step {record.too_many} was not finite, nor were those of the "
            f"{config.max_skipped} steps after it; {config.section}.max_skipped is {config.max_skipped}"
        )
        why = ""
        if record.good_step < 0:
            why = "there is no earlier checkpoint"
        elif record.rollbacks >= config.max_rollbacks:
            why = f"max_rollbacks is {config.max_rollbacks}"
        if why:
            raise FloatingPointError(f"{what}{self._batch(record.too_many)}; the run ends, as {why} ({self._folder})")
        self.record = NonFiniteRecord(good_step=record.good_step, rollbacks=record.rollbacks + 1)
        self._skipped = 0
        times = f"roll-back {record.rollbacks + 1} of {config.max_rollbacks}"
        logging.warning("%s; back to the checkpoint of step %d after step %d (%s)", what, record.good_step, step, times)
        return record.good_step

    def _batch(self, step: int) -> str:
        """The videos in the batch of `step`, for a message."""
        if self.videos is None:
            return ""
        names = list(dict.fromkeys(self.videos(step - 1)))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"; the videos of its batch: {', '.join(names[:NAMED])}{more}"


def go_back(old: TrainState, now: TrainState) -> TrainState:
    """The state of a checkpoint, `old`, from which training resumes at the step of `now`.

    Parameters, moments and averages are the old ones. The optimizers' counts and the state's scalars are those of
    `now`, so that learning rates follow the number of steps done. No update counts as skipped.
    """

    def resume(old, now):
        if isinstance(old, NetworkState):
            return old.with_counts_of(now)
        return now if isinstance(now, jax.Array) and now.ndim == 0 else old

    fields = {
        field.name: resume(getattr(old, field.name), getattr(now, field.name)) for field in dataclasses.fields(old)
    }
    return dataclasses.replace(old, **fields | {"skipped": old.skipped})
