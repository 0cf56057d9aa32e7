"""`pvdm prepare`: a folder of videos becomes a TFDS dataset (array_record, without TensorFlow).

Records hold the files' own bytes or, on request, jpg pictures or plain frames of the size that training needs; frames
are decoded when they are read. Read a dataset with `tfds.builder_from_directory(path).as_data_source("train")`, or with
`data.source=tfds` and `data.path=PATH`.

All cores work, each on a shard of the videos. The shards are written to a hidden folder beside the output, which
becomes the output at the end. After a kill, the next call keeps the finished shards if the videos and options are the
same.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from pvdm_jax.config.checks import listed
from pvdm_jax.data.layouts import Listing, list_videos
from pvdm_jax.data.prepare.finish import VERSION, finish_dataset
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.prepare.shards import OUTCOME, outcome_path
from pvdm_jax.data.prepare.summary import Summary, summarize
from pvdm_jax.data.prepare.workers import plan_shards, write_shards
from pvdm_jax.storage.files import check_new_folder, write_json
from pvdm_jax.storage.json_files import read_json, try_read_json
from pvdm_jax.video.errors import VideoError

DEFAULT_OPTIONS = PrepareOptions()
PLAN = "plan.json"  # in the hidden folder: what its shards are made from


def prepare(
    source_dir: str | pathlib.Path,
    output_dir: str | pathlib.Path,
    options: PrepareOptions = DEFAULT_OPTIONS,
    *,
    layout: str = "auto",
    split: str = "all",
    list_number: int = 1,
    workers: int = 0,
) -> Summary:
    """Writes the videos of a folder as a dataset, with a summary file.

    `layout`, `split` and `list_number` are those of `list_videos`; the dataset has the splits "train" and "test" if the
    folder has them. Videos that can't be decoded or are too short are skipped, and the summary says why. `workers`
    processes write it; 0: one for each core.

    The dataset appears under `output_dir` once it is complete; calling this again after a kill resumes. Raises OSError
    if there is no such folder, `output_dir` isn't empty or another process is writing it, LayoutError if the folder has
    another layout, VideoError if no video is usable.
    """
    output = pathlib.Path(output_dir)
    check_new_folder(output)
    listing = list_videos(source_dir, layout, split, list_number)
    plan = _plan(source_dir, listing, options)
    return write_dataset(listing, plan, output, options, workers, name=str(source_dir))


def write_dataset(
    listing: Listing, plan: dict[str, Any], output: pathlib.Path, options: PrepareOptions, workers: int, *, name: str
) -> Summary:
    """Writes the listed videos as the dataset `output`.

    plan: what the shards are made from; shards of a killed call are kept if their plan is the same. name: the source's
    name, for messages. Raises VideoError if no video is usable.
    """
    classes = sorted({video.class_name for video in listing.videos} - {""})
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.parent / f".{output.name}.unfinished"
    shards = list(plan_shards(unfinished, listing.videos))
    with _lock(unfinished, output):
        _start_or_resume(unfinished, {"version": VERSION} | plan)
        write_shards(shards, classes, options, workers)
        outcomes = [read_json(outcome_path(shard.path), OUTCOME) for shard in shards]
        summary = summarize(listing, options.storage, [shard.split for shard in shards], outcomes, classes)
        if not summary.count:
            reasons = [f"skipped {video}: {reason}" for video, reason in summary.skipped.items()]
            shutil.rmtree(unfinished)
            raise VideoError(f"{name}: no usable video (layout {listing.layout}); {listed(reasons)}")
        actions = options.game is not None
        finish_dataset(unfinished, output, shards, outcomes, classes, summary, actions)
    return summary


def _plan(source: str | pathlib.Path, listing: Listing, options: PrepareOptions) -> dict[str, Any]:
    """What shards are made from: existing ones are kept only if this is the same."""
    digest = hashlib.sha256()
    for video in listing.videos:
        status = os.stat(video.path)
        digest.update(repr((dataclasses.astuple(video), status.st_size, status.st_mtime_ns)).encode())
    return {
        "source": str(pathlib.Path(source).resolve()),
        "options": dataclasses.asdict(options),
        "videos": len(listing.videos),
        "files": digest.hexdigest(),
    }


@contextlib.contextmanager
def _lock(unfinished: pathlib.Path, output: pathlib.Path) -> Iterator[None]:
    """Keeps two processes from writing the same dataset."""
    path = unfinished.with_suffix(".lock")
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FileExistsError(f"{output}: another process is making it right now") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _start_or_resume(unfinished: pathlib.Path, plan: dict[str, Any]) -> None:
    """Creates the folder of shards, or keeps it if its shards were written for the same plan."""
    path = unfinished / PLAN
    if unfinished.exists():
        if try_read_json(path, dict, print, "starting over") == plan:
            return
        print(f"{unfinished}: it was begun for other videos or options; starting over")
        shutil.rmtree(unfinished)
    write_json(path, plan)
