"""Numbers that aren't finite: noticed without slowing the steps, and what a run does about them.

The step itself leaves an update out whose gradient isn't finite. The loop looks at the metrics when it fetches them,
so within `log_every` steps, and warns with the step and the names of the videos in its batch. After more than
`max_skipped` such updates in a row it goes back, when it logs next, to the last checkpoint that was made before them on
schedule, and goes on from there with the batches that follow; after `max_rollbacks` of these the run ends. All of this
is a function of the steps alone, so a run that is killed and started again does the same.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from pvdm_jax.config import StageConfig

NAMED = 64  # videos of a batch that are named


@dataclasses.dataclass
class FaultRecord:
    """What a checkpoint keeps. Steps are counted in updates; -1 stands for none."""

    good_step: int = -1  # the newest checkpoint made on schedule while gradients were finite
    rollbacks: int = 0
    too_many: int = -1  # first step of a row of more than max_skipped, which the next log will act on


class Faults:
    """What a stage's metrics tell of numbers that aren't finite. `where` names the stage's folder in messages.

    videos(k) gives the names of the videos in batch k, over all processes; None where they have no names.
    """

    def __init__(
        self,
        name: str,
        config: StageConfig,
        where: Any,
        record: FaultRecord,
        videos: Callable[[int], Sequence[str]] | None = None,
    ):
        self.record, self.videos = record, videos
        self._name, self._config, self._where = name, config, where
        self._skipped = 0  # updates in a row left out, at the newest step that was looked at

    def look(self, step: int, metrics: dict[str, Any]) -> dict[str, float]:
        """The metrics of `step` for its log: {"skipped": 1} of an update that was left out.

        Raises FloatingPointError for a metric of another update that isn't finite.
        """
        self._skipped = int(metrics["skipped"])
        values = {name: float(value) for name, value in metrics.items() if name != "skipped"}
        spoilt = [name for name, value in values.items() if not math.isfinite(value)]
        if not self._skipped:
            for name in spoilt:
                raise FloatingPointError(
                    f"{self._name}: {name} is {values[name]} at step {step}{self._batch(step)}; the checkpoints in "
                    f"{self._where} are of earlier steps"
                )
            return values
        if self._skipped == 1:
            neither = f" ({', '.join(spoilt)} neither)" if spoilt else ""
            what = f"{self._name}: the gradient at step {step} was not finite{neither}; that update is left out"
            logging.warning("%s%s", what, self._batch(step))
        if self._skipped > self._config.max_skipped:
            self.record.too_many = step - self._skipped + 1
        return {"skipped": 1.0}

    def saved(self, step: int, scheduled: bool) -> None:
        """Takes note of a checkpoint that is about to be made."""
        if scheduled and self._skipped == 0 and self.record.too_many < 0:
            self.record.good_step = step

    def target(self, step: int) -> int:
        """The step of the checkpoint to go back to from `step`, or -1: no need.

        Raises FloatingPointError where there is none or the run has gone back often enough.
        """
        record, config = self.record, self._config
        if record.too_many < 0:
            return -1
        what = (
            f"{self._name}: the gradient at step {record.too_many} was not finite, nor were those of the "
            f"{config.max_skipped} steps after it; {config.section}.max_skipped is {config.max_skipped}"
        )
        if record.good_step < 0 or record.rollbacks >= config.max_rollbacks:
            why = (
                f"max_rollbacks is {config.max_rollbacks}"
                if record.good_step >= 0
                else "there is no earlier checkpoint"
            )
            raise FloatingPointError(f"{what}{self._batch(record.too_many)}; the run ends, as {why} ({self._where})")
        self.record = FaultRecord(record.good_step, record.rollbacks + 1)
        self._skipped = 0
        times = f"roll-back {record.rollbacks + 1} of {config.max_rollbacks}"
        logging.warning("%s; back to the checkpoint of step %d after step %d (%s)", what, record.good_step, step, times)
        return record.good_step

    def _batch(self, step: int) -> str:
        """The videos of the batch of `step`, for a message."""
        if self.videos is None:
            return ""
        names = list(dict.fromkeys(self.videos(step - 1)))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"; the videos of its batch: {', '.join(names[:NAMED])}{more}"


def go_back(old: Any, now: Any) -> Any:
    """The state (a `TrainState`) that goes on from `old` at the step of `now`.

    Parameters and moments are the old ones; counts, and all scalars beside the parameters, are those of now, so that
    learning rates follow the steps done. The updates left out in a row are none.
    """
    fields = {
        field.name: jax.tree.map(
            lambda old, now: now if now.ndim == 0 else old, *(getattr(x, field.name) for x in (old, now))
        )
        for field in dataclasses.fields(now)
        if field.name not in ("params", "ema", "discriminators", "skipped")
    }
    return dataclasses.replace(old, **fields)
