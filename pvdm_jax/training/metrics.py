"""Writes the metrics of a run, as JSON lines and as TensorBoard events.

`metrics.jsonl` has one line {"step": n, name: value, ...} per report, in the order of steps and without duplicates:
a resumed run first drops the lines of steps after the checkpoint that it resumes from.
"""

import json
import logging
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from pvdm_jax.storage.files import write_text
from pvdm_jax.storage.run_folder import StageFolder, read_metrics


class MetricWriter:
    """Writes the metrics of a run that resumes after update `step` (0: a new run).

    Only process 0 writes; on the others every method does nothing. A context manager.
    """

    def __init__(self, directory: str | pathlib.Path, step: int):
        self._path = StageFolder(directory).metrics
        self._lines: list[dict[str, Any]] = []
        self._file = self._events = None
        if jax.process_index() != 0:
            return
        from tensorboardX import SummaryWriter

        self._lines = [line for line in read_metrics(self._path) if line["step"] <= step]
        # Replaced atomically: a process killed here leaves either the old or the new file.
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in self._lines))
        self._file = self._path.open("a")
        self._events = SummaryWriter(str(self._path.parent / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one report. Values that are not finite are skipped with a warning, because JSON cannot hold them."""
        if self._file is None:
            return
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for name in values.keys() - finite.keys():
            logging.warning("%s is %s at step %d; it is not written to %s", name, values[name], step, self._path.name)
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        for name, value in finite.items():
            self._events.add_scalar(name, value, step)

    def resumed_with(self, step: int, prefix: str) -> bool:
        """Whether the file had a report of `step` with a name that starts with `prefix` when the run resumed."""
        found = (name for line in self._lines if line["step"] == step for name in line)
        return any(name.startswith(prefix) for name in found)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._events.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()
