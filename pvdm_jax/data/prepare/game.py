"""`pvdm prepare --source=vizdoom:SCENARIO`: a dataset of videos that a game engine renders.

Splits are "train" (to train on), "holdout" (to choose checkpoints by) and "test" (to evaluate on). The classes are the
scenarios; within a split, their numbers of videos differ by at most one.
"""

import dataclasses
import pathlib

from pvdm_jax.config import require
from pvdm_jax.data.folders import DATASET_SPLITS, VideoEntry
from pvdm_jax.data.layouts import Listing
from pvdm_jax.data.prepare import vizdoom
from pvdm_jax.data.prepare.folder import write_dataset
from pvdm_jax.data.prepare.options import GameOptions, PrepareOptions
from pvdm_jax.data.prepare.summary import Summary
from pvdm_jax.storage.files import check_new_folder

PREFIX = "vizdoom:"  # of a source
ALL = "all"  # scenarios


def is_game(source: str | pathlib.Path) -> bool:
    """Whether a --source names scenarios of a game, not a folder."""
    return str(source).startswith(PREFIX)


def prepare_game(
    source: str | pathlib.Path,
    output: pathlib.Path,
    options: PrepareOptions,
    *,
    num_videos: int,
    held_out_videos: int | None = None,
    workers: int = 0,
) -> Summary:
    """Renders videos of the scenarios that `source` names and writes them as a dataset, with a summary file.

    source: vizdoom:SCENARIO, several scenarios separated by commas, or vizdoom:all. options: must have `game` set.
    num_videos: videos of the split "train". held_out_videos: videos of each of the splits "holdout" and "test" (None:
    an eighth of num_videos, and at least one of each scenario). workers: processes that render; 0: one for each core.

    Resumes after a kill, and raises the same errors, as `folder.prepare` does; also ConfigError if ViZDoom is not
    installed or has no such scenario.
    """
    check_new_folder(output)
    scenarios = parse_scenarios(source)
    require(options.storage != "video", "--storage", options.storage, "a game's frames are stored as jpeg or frames")
    if held_out_videos is None:
        held_out_videos = max(num_videos // 8, len(scenarios))
    version = vizdoom.engine_version()
    counts = {"train": num_videos, "test": held_out_videos, "holdout": held_out_videos}
    videos = [
        entry for split in DATASET_SPLITS for entry in list_game_videos(scenarios, split, counts[split], options.game)
    ]
    plan = {
        "source": f"{PREFIX}{','.join(scenarios)}",
        "engine": version,
        "options": dataclasses.asdict(options),
        "counts": counts,
    }
    return write_dataset(Listing("vizdoom", videos, {}), plan, output, options, workers, name=str(source))


def parse_scenarios(source: str | pathlib.Path) -> list[str]:
    """The scenarios of a source, sorted. Raises ConfigError if there is no such scenario."""
    names = sorted({name.strip() for name in str(source).removeprefix(PREFIX).split(",")})
    if names == [ALL]:
        return list(vizdoom.SCENARIOS)
    for name in names:
        allowed = f"choose from {', '.join(vizdoom.SCENARIOS)}, or {ALL}"
        require(name in vizdoom.SCENARIOS, "--source", f"{PREFIX}{name}", allowed)
    return names


def list_game_videos(scenarios: list[str], split: str, count: int, game: GameOptions) -> list[VideoEntry]:
    """The `count` videos of a split, grouped by scenario so that each shard starts few engines."""
    numbers = range(count)
    return [
        VideoEntry(
            name=f"{scenario}/{split}_{game.seed}_{number:06d}",
            class_name=scenario,
            split=split,
            kind="game",
            path=scenario,
            index=number,
        )
        for which, scenario in enumerate(scenarios)
        for number in numbers[which :: len(scenarios)]
    ]
