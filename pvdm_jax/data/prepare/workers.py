"""Writing a dataset's shards with several processes and one progress bar."""

import dataclasses
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from concurrent import futures

import tqdm

from pvdm_jax.data.folders import DATASET_SPLITS, VideoEntry
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.prepare.shards import OUTCOME, outcome_path, write_shard
from pvdm_jax.runtime.worker import end_with_parent
from pvdm_jax.storage.json_files import try_read_json

# A shard is full at the first of these.
SHARD_VIDEOS = 64
SHARD_BYTES = 2**26  # bytes of source files


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard to write."""

    path: pathlib.Path
    split: str
    videos: list[VideoEntry]


def plan_shards(folder: pathlib.Path, videos: Sequence[VideoEntry]) -> Iterator[Shard]:
    """Distributes the videos, split by split and in their order, over shards of bounded size in `folder`."""
    number = 0
    for split in DATASET_SPLITS:
        full = True
        for video in (video for video in videos if video.split == split):
            if full:
                shard = Shard(folder / f"shard-{number:05d}.array_record", split, [])
                size = 0
                number += 1
            shard.videos.append(video)
            size += os.path.getsize(video.path) if video.kind == "file" else 0
            full = len(shard.videos) == SHARD_VIDEOS or size >= SHARD_BYTES
            if full:
                yield shard
        if not full:
            yield shard


def write_shards(shards: Sequence[Shard], classes: Sequence[str], options: PrepareOptions, workers: int) -> None:
    """Writes the shards that are missing, with a progress bar. workers: processes, 0 for one for each core."""
    again = "its shard is written again"
    missing = [shard for shard in shards if try_read_json(outcome_path(shard.path), OUTCOME, print, again) is None]
    workers = min(workers or os.cpu_count() or 1, len(missing))
    total = sum(len(shard.videos) for shard in shards)
    done = total - sum(len(shard.videos) for shard in missing)
    interval = 0.5 if sys.stderr.isatty() else 10.0  # seconds; a log file needs fewer lines
    with tqdm.tqdm(total=total, initial=done, desc="preparing", unit="video", mininterval=interval) as progress:
        if workers <= 1:
            for shard in missing:
                write_shard(shard.path, shard.videos, classes, options, done=progress.update)
        else:
            _write_in_processes(missing, classes, options, workers, progress)


def _write_in_processes(
    shards: Sequence[Shard], classes: Sequence[str], options: PrepareOptions, workers: int, progress: tqdm.tqdm
) -> None:
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", progress.n)
    with futures.ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(counter,)) as pool:
        waiting = {pool.submit(_write_in_worker, shard, classes, options) for shard in shards}
        try:
            while waiting:
                finished, waiting = futures.wait(waiting, timeout=0.5, return_when=futures.FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                progress.update(counter.value - progress.n)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_counter = None  # in a worker: the number of videos that all workers have finished


def _start_worker(counter) -> None:
    global _counter
    _counter = counter
    end_with_parent()


def _write_in_worker(shard: Shard, classes: Sequence[str], options: PrepareOptions) -> None:
    write_shard(shard.path, shard.videos, classes, options, done=_count)


def _count() -> None:
    with _counter.get_lock():
        _counter.value += 1
