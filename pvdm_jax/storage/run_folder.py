"""The layout of a run's folder: every path and file name in one place.

    RUN/
      run.lock                names the command that is writing to the folder (`storage.run_lock`)
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

import dataclasses
import logging
import pathlib
from typing import Any

from pvdm_jax.config import Config, ConfigError, config_from_dict, require
from pvdm_jax.storage.files import open_regular
from pvdm_jax.storage.json_files import JsonError, Maybe, parse_json, read_json

# Folders of a run.
AUTOENCODER, LATENTS, DIFFUSION = "autoencoder", "latents", "diffusion"
LOCK = "run.lock"
DATASET = "dataset"  # in config.json and in what made the latents: the dataset's fingerprint (`data.dataset_identity`)
ENCODED_BY = "encoded_by"  # in stage 2's config.json: the fingerprint of the autoencoder whose latents it trains on
# Files and folders of a stage.
CONFIG, PARAMETERS, METRICS, BEST = "config.json", "parameters.txt", "metrics.jsonl", "best.json"
CHECKPOINTS, EVALUATION = "checkpoints", "evaluation"
# Orbax searches its own files by patterns, in which these characters have a special meaning.
PATTERNS = "*?[\\"


def check_folder_name(directory: str | pathlib.Path) -> None:
    """Raises ConfigError for a folder from which Orbax could not read its checkpoints."""
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


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """What a stage's config.json holds."""

    config: Config
    class_names: tuple[str, ...]  # that stage 2 knows
    encoded_by: str  # ENCODED_BY; "" in stage 1 and where an older version stored none


def read_settings(path: str | pathlib.Path) -> StageSettings:
    """The content of a stage's config.json.

    Raises FileNotFoundError if there is no file, and ConfigError, with the file, if it holds no configuration.
    """
    names = [field.name for field in dataclasses.fields(Config)]
    shape = {name: dict for name in ("autoencoder", "denoiser")} | {"class_names": Maybe([str]), ENCODED_BY: Maybe(str)}
    settings = read_json(path, shape)
    try:
        config = config_from_dict(Config, {name: settings[name] for name in names if name in settings})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return StageSettings(config, tuple(settings.get("class_names") or ()), settings.get(ENCODED_BY) or "")


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """The reports of a metrics file, {"step": n, name: value, ...} each; none where there is no file.

    An incomplete last line, of a running or killed program, is skipped. Any other line that is not an object of a step
    and numbers is skipped with a warning that names the file and the line; the other lines are still used.
    """
    try:
        with open_regular(path) as file:
            lines = file.read().rpartition(b"\n")[0].split(b"\n")
    except FileNotFoundError:
        return []
    reports, problems = [], []
    for number, line in enumerate(lines, 1):
        try:
            report = parse_json(line, f"{path}, line {number},", {str: float})
        except JsonError as error:
            problems.append(str(error))
            continue
        if isinstance(report.get("step"), int):
            reports.append(report)
        else:
            problems.append(f"{path}, line {number}, has no step")
    if problems:
        logging.warning("%s; %d of %d lines are skipped", problems[0], len(problems), len(lines))
    return reports
