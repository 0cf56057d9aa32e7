"""The parts of a run that the training loop and its decisions share."""

import dataclasses
from typing import Any

import jax

from pvdm_jax.config import StageConfig
from pvdm_jax.storage import buckets
from pvdm_jax.storage.checkpoint import Checkpoints
from pvdm_jax.storage.run_folder import StageFolder
from pvdm_jax.training.metrics import MetricWriter
from pvdm_jax.training.policy import Policy
from pvdm_jax.training.progress import Progress
from pvdm_jax.training.step import Stage


@dataclasses.dataclass
class Run:
    """One process's part of a run."""

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

    def share(self) -> None:
        """Copies what the run has written so far to its bucket, if it has one."""
        if jax.process_index() == 0:
            buckets.push(self.folder.path)
