"""Makes a TFDS dataset of finished shards: their final names, and the files that describe them."""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from pvdm_jax.data.dataset_files import SUMMARY
from pvdm_jax.data.prepare.shards import features, relabel
from pvdm_jax.data.prepare.summary import Summary
from pvdm_jax.data.prepare.workers import Shard
from pvdm_jax.storage.files import write_json

NAME = "video_folder"  # the dataset's name within its file names
VERSION = "1.2.0"


def finish_dataset(
    folder: pathlib.Path,
    output: pathlib.Path,
    shards: Sequence[Shard],
    outcomes: Sequence[dict[str, Any]],
    classes: Sequence[str],
    summary: Summary,
    actions: bool = False,
) -> None:
    """Turns the shards in `folder`, with their outcomes and classes, into the dataset `output`; removes `folder`.

    actions: whether the records hold the actions of a game's player. If the process is killed in between, the call can
    be repeated.
    """
    dataset = folder / "dataset"
    dataset.mkdir(exist_ok=True)
    used = list(summary.classes)  # a class without a usable video is dropped
    infos = []
    index = {}
    for split in summary.splits:
        kept = [(s, o) for s, o in zip(shards, outcomes, strict=True) if s.split == split and o["records"]]
        template = tfds.core.ShardedFileTemplate(
            dataset, dataset_name=NAME, split=split, filetype_suffix="array_record"
        )
        for number, (shard, _) in enumerate(kept):
            target = pathlib.Path(template.sharded_filepath(shard_index=number, num_shards=len(kept)))
            if target.exists():
                continue
            if used == classes:
                os.replace(shard.path, target)
            else:
                relabel(shard.path, target, classes, used, actions)
        index[split] = _index([outcome for _, outcome in kept], classes, used)
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[outcome["records"] for _, outcome in kept],
                num_bytes=sum(outcome["bytes"] for _, outcome in kept),
                filename_template=template,
            )
        )
    _write_info(dataset, used, index, infos, actions)
    write_json(dataset / SUMMARY, dataclasses.asdict(summary))
    if output.exists():
        output.rmdir()  # an empty folder
    os.replace(dataset, output)
    shutil.rmtree(folder)


def _index(outcomes: Sequence[dict[str, Any]], old: Sequence[str], new: Sequence[str]) -> list[dict[str, Any]]:
    """The facts of a split's videos, as in `datasets.Dataset`, with labels that index the classes `new`."""
    index: list[dict[str, Any]] = []
    record = 0
    for video in (video for outcome in outcomes for video in outcome["videos"]):
        label = new.index(old[video["label"]]) if video["label"] >= 0 else -1
        index.append(video | {"label": label, "record": record})
        record += video["records"]
    return index


def _write_info(
    dataset: pathlib.Path,
    classes: Sequence[str],
    index: dict[str, list],
    splits: Sequence[tfds.core.SplitInfo],
    actions: bool,
) -> None:
    """Writes the files by which TFDS, and `datasets.PreparedDataset`, open a dataset."""
    identity = tfds.core.dataset_info.DatasetIdentity(NAME, tfds.core.Version(VERSION), str(dataset), __name__)
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Videos prepared by pvdm_jax.",
        features=features(classes, actions),
        # Opening a dataset requires every video's length, and must not require reading all records.
        metadata=tfds.core.MetadataDict(videos=index),
        disable_shuffling=True,  # the index has the records' order
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(dataset)
