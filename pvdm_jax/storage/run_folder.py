"""The layout of a run's folder: every path and file name in one place.

    RUN/
      run.lock                while a command writes to the folder: which one (`storage.run_lock`)
      autoencoder/            stage 1, or a model folder where the run uses an autoencoder trained elsewhere
      latents/                the training videos, encoded
      diffusion/              stage 2
    and in the folder of a stage
      config.json             the whole configuration
      parameters.txt          the shape of every parameter
      metrics.jsonl           one line {"step": n, name: value, ...} per report, in the order of steps
      checkpoints/            Orbax's
      best.json               the best checkpoint so far, and the decisions that led to it
      evaluation/step_N/      pictures of the evaluation after update N

A run's folder may be in a bucket (`storage.buckets`); the paths here are local.
"""

import json
import pathlib
from typing import Any

from pvdm_jax.config import require

# Folders of a run.
AUTOENCODER, LATENTS, DIFFUSION = "autoencoder", "latents", "diffusion"
LOCK = "run.lock"
DATASET = "dataset"  # in config.json and in what made the latents: the dataset's fingerprint (`data.dataset_identity`)
ENCODED_BY = "encoded_by"  # in stage 2's config.json: the fingerprint of the autoencoder whose latents it trains on
# Files and folders of a stage.
CONFIG, PARAMETERS, METRICS, BEST = "config.json", "parameters.txt", "metrics.jsonl", "best.json"
CHECKPOINTS, EVALUATION = "checkpoints", "evaluation"
# Orbax looks for its own files by patterns, in which these characters of the folder's name have another meaning.
PATTERNS = "*?[\\"


def check_folder_name(directory: str | pathlib.Path) -> None:
    """Raises ConfigError for a folder in which checkpoints could not be read again."""
    path = str(pathlib.Path(directory).absolute())
    allowed = f"Orbax can't keep checkpoints below a folder whose path has one of {' '.join(PATTERNS)}"
    require(not set(PATTERNS) & set(path), "--workdir", path, allowed)


class RunFolder:
    """The paths of the run in `directory`."""

    def __init__(self, directory: str | pathlib.Path):
        self.path = pathlib.Path(directory)
        self.autoencoder = StageFolder(self.path / AUTOENCODER)
        self.latents = self.path / LATENTS
        self.diffusion = StageFolder(self.path / DIFFUSION)

    @property
    def stages(self) -> dict[str, "StageFolder"]:
        """Both stages by name, begun or not."""
        return {AUTOENCODER: self.autoencoder, DIFFUSION: self.diffusion}


class StageFolder:
    """The paths of one stage."""

    def __init__(self, directory: str | pathlib.Path):
        self.path = pathlib.Path(directory)
        self.config = self.path / CONFIG
        self.parameters = self.path / PARAMETERS
        self.metrics = self.path / METRICS
        self.best = self.path / BEST
        self.checkpoints = self.path / CHECKPOINTS

    @property
    def has_begun(self) -> bool:
        return self.config.exists()

    def evaluation(self, step: int) -> pathlib.Path:
        """The folder for pictures of the evaluation after update `step`."""
        return self.path / EVALUATION / f"step_{step:07d}"


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """The reports of a metrics file, {"step": n, name: value, ...} each; none where there is no file.

    A last line that a running or killed program left incomplete is skipped. Raises ValueError, with the file and the
    line, for any other line that is not such an object.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    reports = []
    for number, line in enumerate(path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines(), 1):
        try:
            report = json.loads(line)
            report["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {line[:80]!r} is not a JSON object with a step") from error
        reports.append(report)
    return reports
