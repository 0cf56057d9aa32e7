"""`pvdm prepare`: a folder of videos becomes a TFDS dataset (array_record, no TensorFlow).

Records hold the files' own bytes (or, if asked for, jpg pictures or plain frames of the size that training needs), and
frames are decoded when they are read. Read it with `tfds.builder_from_directory(path).as_data_source("train")`, or as
`data.source=tfds`, `data.path=PATH`.

All cores work, each on a shard of videos. The shards grow in a hidden folder beside the output, which becomes the
output at the end; after a kill, what is finished there is kept as long as videos and options are the same.
"""

import collections
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures

import tensorflow_datasets as tfds
import tqdm

from pvdm_jax.config import require
from pvdm_jax.data.clips import METHODS
from pvdm_jax.data.layouts import SPLITS, Found, Listing, find_videos
from pvdm_jax.data.prepare.shards import STORAGES, Options, features, relabel, write_shard
from pvdm_jax.video.errors import VideoError

NAME = "video_folder"  # of the dataset, in its files' names
VERSION = "1.1.0"
# A shard is closed at the first of these.
SHARD_VIDEOS = 64
SHARD_BYTES = 2**26  # of source files
SHOWN = 20  # skipped videos that the summary's text names; summary.json has all


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `prepare` did."""

    count: int  # videos written
    frames: int
    seconds: float  # of video, where the files say how fast they play
    bytes: int  # of the records
    layout: str
    storage: str
    splits: dict[str, int]  # videos of each split
    classes: dict[str, int]  # videos of each class
    skipped: dict[str, str]  # name: reason

    def __str__(self) -> str:
        length = f"{self.seconds / 3600:.1f} hours" if self.seconds >= 3600 else f"{self.seconds:.0f} seconds"
        lines = [f"{self.count} videos, {self.frames} frames, {length}, {_size(self.bytes)} (layout {self.layout})"]
        if len(self.splits) > 1 or "train" not in self.splits:
            lines.append("splits: " + ", ".join(f"{name} ({count})" for name, count in self.splits.items()))
        if self.classes:
            names = [f"{name} ({count})" for name, count in self.classes.items()]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"{len(names)} classes: {', '.join(names[:SHOWN])}{more}")
        lines += [f"skipped: {name}: {reason}" for name, reason in list(self.skipped.items())[:SHOWN]]
        if len(self.skipped) > SHOWN:
            lines.append(f"skipped: {len(self.skipped) - SHOWN} more; summary.json names them all")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Job:
    """A shard to make."""

    number: int
    split: str
    videos: list[Found]


def prepare(
    source_dir,
    output_dir,
    min_frames: int = 16,
    *,
    layout: str = "auto",
    split: str = "all",
    list_number: int = 1,
    storage: str = "video",
    height: int = 0,
    width: int = 0,
    resize: str = "antialias",
    quality: int = 95,
    fps: float = 0.0,
    workers: int = 0,
) -> Summary:
    """Writes the videos of a folder as a dataset, and `summary.json` beside it.

    `layout`, `split` and `list_number` are those of `find_videos`; a dataset has the splits "train" and "test" where
    the folder has them. What can't be decoded or has fewer than `min_frames` frames is skipped, and the summary says
    why. `storage` says how videos are kept: "video" as they are, "jpeg" as pictures of that `quality`, "frames" as
    plain uint8 frames; the latter two cropped at the centre and resized to (height, width) where those are given.
    `fps` is the frame rate of folders of frames and of arrays. `workers` processes make it, 0: as many as there are
    cores.

    The dataset appears under `output_dir` only once it is complete; a call that was killed goes on when it is made
    again. Raises OSError where there is no such folder, `output_dir` isn't empty or another process is making it,
    LayoutError where the folder is laid out otherwise, VideoError where no video is usable.
    """
    output = pathlib.Path(output_dir)
    options = _checked(Options(min_frames, storage, height, width, resize, quality, fps))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output}: it exists and isn't empty; choose another output, or remove it first")
    listing = find_videos(source_dir, layout, split, list_number)
    jobs = list(_shards(listing.videos))
    classes = sorted({video.class_name for video in listing.videos} - {""})
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.parent / f".{output.name}.unfinished"
    with _only_one(unfinished, output):
        _start_or_go_on(unfinished, _plan(source_dir, listing, options))
        _make(unfinished, jobs, classes, options, workers or os.cpu_count() or 1)
        outcomes = [json.loads(_shard(unfinished, job).with_suffix(".json").read_text()) for job in jobs]
        summary = _summarize(listing, options, jobs, outcomes, classes)
        if not summary.count:
            reasons = "".join(f"\nskipped: {name}: {reason}" for name, reason in list(summary.skipped.items())[:SHOWN])
            shutil.rmtree(unfinished)
            raise VideoError(f"{source_dir}: no usable video (layout {listing.layout}){reasons}")
        _finish(unfinished, output, jobs, outcomes, classes, summary)
    return summary


def _checked(options: Options) -> Options:
    require(options.storage in STORAGES, "storage", options.storage, f"choose one of {', '.join(STORAGES)}")
    for name in ("height", "width", "fps"):
        require(getattr(options, name) >= 0, name, getattr(options, name), "it can't be negative")
    require(
        (options.height > 0) == (options.width > 0), "height", options.height, "give both height and width, or none"
    )
    allowed = "storage=video keeps videos as they are; with jpeg and frames they can be resized"
    require(options.storage != "video" or not options.height, "height", options.height, allowed)
    require(1 <= options.quality <= 100, "quality", options.quality, "choose from 1 to 100")
    require(options.resize in METHODS, "resize", options.resize, f"choose one of {', '.join(METHODS)}")
    return options


def _shards(videos: Sequence[Found]) -> Iterator[_Job]:
    """The videos in their order, split by split, in shards of bounded size."""
    number = 0
    for split in SPLITS:
        batch, size = [], 0
        for video in (video for video in videos if video.split == split):
            batch.append(video)
            size += os.path.getsize(video.path) if video.kind == "file" else 0
            if len(batch) == SHARD_VIDEOS or size >= SHARD_BYTES:
                yield _Job(number, split, batch)
                number, batch, size = number + 1, [], 0
        if batch:
            yield _Job(number, split, batch)
            number += 1


def _plan(source, listing: Listing, options: Options) -> dict:
    """What the unfinished folder must have been started for, to be gone on with."""
    digest = hashlib.sha256()
    for video in listing.videos:
        status = os.stat(video.path)
        digest.update(repr((dataclasses.astuple(video), status.st_size, status.st_mtime_ns)).encode())
    return {
        "version": VERSION,
        "source": str(pathlib.Path(source).resolve()),
        "options": dataclasses.asdict(options),
        "videos": len(listing.videos),
        "files": digest.hexdigest(),
    }


@contextlib.contextmanager
def _only_one(unfinished: pathlib.Path, output: pathlib.Path) -> Iterator[None]:
    """Two processes that make the same dataset would spoil it for each other."""
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


def _start_or_go_on(unfinished: pathlib.Path, plan: dict) -> None:
    """Makes the folder of shards, or keeps the one that is there if it was begun for the same plan."""
    path = unfinished / "plan.json"
    if unfinished.exists():
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text()) == plan:
                return
        print(f"{unfinished}: it was begun for other videos or options; starting anew")
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    path.write_text(json.dumps(plan, indent=2) + "\n")


def _shard(folder: pathlib.Path, job: _Job) -> pathlib.Path:
    return folder / f"shard-{job.number:05d}.array_record"


def _make(folder: pathlib.Path, jobs: list[_Job], classes: list[str], options: Options, workers: int) -> None:
    """Makes the shards that are missing, with a progress bar."""
    missing = [job for job in jobs if not _shard(folder, job).with_suffix(".json").exists()]
    total = sum(len(job.videos) for job in jobs)
    done = total - sum(len(job.videos) for job in missing)
    interval = 0.5 if sys.stderr.isatty() else 10.0  # seconds: a log file needs fewer lines
    with tqdm.tqdm(total=total, initial=done, desc="preparing", unit="video", mininterval=interval) as progress:
        if min(workers, len(missing)) <= 1:
            for job in missing:
                write_shard(_shard(folder, job), job.videos, classes, options, progress.update)
            return
        context = multiprocessing.get_context("spawn")
        counter = context.Value("q", done)
        pool = futures.ProcessPoolExecutor(
            min(workers, len(missing)), context, initializer=_start_worker, initargs=(counter, os.getpid())
        )
        with pool:
            waiting = {pool.submit(_work, _shard(folder, job), job.videos, classes, options) for job in missing}
            try:
                while waiting:
                    finished, waiting = futures.wait(waiting, timeout=0.5, return_when=futures.FIRST_EXCEPTION)
                    for future in finished:
                        future.result()
                    if counter.value > progress.n:
                        progress.update(counter.value - progress.n)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


_counter = None  # of a worker: videos that all workers have done


def _start_worker(counter, parent: int) -> None:
    global _counter
    _counter = counter

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the command was killed; nobody would end this process

    threading.Thread(target=watch, daemon=True).start()


def _work(path: pathlib.Path, videos: list[Found], classes: list[str], options: Options) -> None:
    write_shard(path, videos, classes, options, _count)


def _count() -> None:
    with _counter.get_lock():
        _counter.value += 1


def _summarize(
    listing: Listing, options: Options, jobs: list[_Job], outcomes: list[dict], classes: list[str]
) -> Summary:
    videos = [video for outcome in outcomes for video in outcome["videos"]]
    splits = collections.Counter()
    for job, outcome in zip(jobs, outcomes, strict=True):
        splits[job.split] += len(outcome["videos"])
    labels = collections.Counter(classes[video["label"]] for video in videos if video["label"] >= 0)
    return Summary(
        count=len(videos),
        frames=sum(video["frames"] for video in videos),
        seconds=sum(video["frames"] / video["fps"] for video in videos if video["fps"] > 0),
        bytes=sum(outcome["bytes"] for outcome in outcomes),
        layout=listing.layout,
        storage=options.storage,
        splits={name: splits[name] for name in SPLITS if splits[name]},
        classes=dict(sorted(labels.items())),
        skipped=listing.skipped | functools.reduce(dict.__or__, (outcome["skipped"] for outcome in outcomes), {}),
    )


def _finish(
    folder: pathlib.Path,
    output: pathlib.Path,
    jobs: list[_Job],
    outcomes: list[dict],
    classes: list[str],
    summary: Summary,
) -> None:
    """Gives the shards their final names, writes what TFDS and `data.prepared` need, and moves it all to `output`.

    Each step can be repeated, should it be killed in between.
    """
    dataset = folder / "dataset"
    dataset.mkdir(exist_ok=True)
    used = list(summary.classes)  # classes none of whose videos is usable are no classes
    infos, index = [], {}
    for split in summary.splits:
        kept = [(job, o) for job, o in zip(jobs, outcomes, strict=True) if job.split == split and o["records"]]
        template = tfds.core.ShardedFileTemplate(
            dataset, dataset_name=NAME, split=split, filetype_suffix="array_record"
        )
        index[split], record = [], 0
        for number, (job, outcome) in enumerate(kept):
            target = pathlib.Path(template.sharded_filepath(shard_index=number, num_shards=len(kept)))
            if not target.exists():
                if used != classes:
                    relabel(_shard(folder, job), target, classes, used)
                else:
                    os.replace(_shard(folder, job), target)
            for video in outcome["videos"]:
                label = used.index(classes[video["label"]]) if video["label"] >= 0 else -1
                index[split].append(video | {"label": label, "record": record})
                record += video["records"]
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[outcome["records"] for _, outcome in kept],
                num_bytes=sum(outcome["bytes"] for _, outcome in kept),
                filename_template=template,
            )
        )
    identity = tfds.core.dataset_info.DatasetIdentity(NAME, tfds.core.Version(VERSION), str(dataset), __name__)
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Videos of a folder, prepared by pvdm_jax.",
        features=features(used),
        # Opening a dataset needs every video's length, and must not take reading all of the files.
        metadata=tfds.core.MetadataDict(videos=index),
        disable_shuffling=True,  # the index's order is the records'
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(dataset)
    (dataset / "summary.json").write_text(json.dumps(dataclasses.asdict(summary), indent=2) + "\n")
    if output.exists():
        output.rmdir()  # it was empty
    os.replace(dataset, output)
    shutil.rmtree(folder)


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
