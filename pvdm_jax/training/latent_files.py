"""The files of cached latents: records, shards and their statistics.

Windows of consecutive clips are stored as array_record files in the run's folder of latents:

    index.json           counts, sizes, statistics, the videos' names, the fingerprints of autoencoder and dataset,
                         settings
    encoding.json        while the cache is incomplete: fingerprints and settings
    SPLIT-00000-of-00012.array_record, and a .json of the same name with its statistics
        a record: has_previous, has_next, label, source, start, mirrored (int32), crop (three float32), then the
        latents of the window's clips (float32, positions x channels) in the order of `stored_clips`. source is the
        video's number in the index's names of that split, start the window's first frame in it, crop the (scale, row,
        column) of data/clips.py
"""

import logging
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pvdm_jax.config import Config
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.storage import buckets
from pvdm_jax.storage.files import write_json
from pvdm_jax.storage.json_files import Maybe, read_json, try_read_json
from pvdm_jax.storage.run_folder import DATASET

INDEX = "index.json"
INCOMPLETE_INDEX = "encoding.json"
# The contents of these two files, and of a shard's statistics.
MADE_BY = {"made_by": {"autoencoder": str, "settings": dict, DATASET: Maybe(str)}}
CONTENT = MADE_BY | {
    "clips": [str],
    "positions": int,
    "channels": int,
    "counts": {"train": int, "holdout": int},
    "shards": {"train": int, "holdout": int},
    "names": {"train": [str], "holdout": [str]},
    "class_names": [str],
    "mean": float,
    "std": float,
    "segments": {str: {"mean": [float], "std": [float]}},
    "bytes_per_window": int,
}
STATISTICS = {"count": int, "bytes": int, "positions": {str: int}, "sums": {str: [[float]]}}
HEADER = np.dtype(
    [
        ("has_previous", "<i4"),
        ("has_next", "<i4"),
        ("label", "<i4"),
        ("source", "<i4"),
        ("start", "<i4"),
        ("mirrored", "<i4"),
        ("crop", "<f4", 3),
    ]
)


def stored_clips(config: Config) -> tuple[str, ...]:
    """The clips of a window, as fields of `LatentBatch`, in the order in which they are read and stored."""
    clips = ["previous", "clip"]
    if config.denoiser.next_clip:
        clips.append("next")
    if config.encode.unconditional_anywhere:
        clips.append("unconditional")
    return tuple(clips)


class LatentCache:
    """A split of the cache: a sequence of items {name of a field of `LatentBatch`: array without the batch axis}.

    Several threads may read from it at once.
    """

    def __init__(self, folder: pathlib.Path, split: str, index: dict[str, Any]):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.identity: str = index["made_by"]["autoencoder"]  # fingerprint of the autoencoder that made the latents
        self.dataset: str = index["made_by"].get(DATASET) or ""  # of the videos; "": an older version stored none
        self.class_names: tuple[str, ...] = tuple(index["class_names"])
        self.names: list[str] = index["names"][split]  # of the videos
        self._clips: tuple[str, ...] = tuple(index["clips"])
        self._shape = (len(self._clips), index["positions"], index["channels"])
        self._statistics = index["segments"]
        count = index["shards"][split]
        self._records = ArrayRecordDataSource([str(shard_path(folder, split, i, count)) for i in range(count)])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"there are no latents {index}; the cache has {len(self)}")
        record = self._records[index]
        header = np.frombuffer(record, HEADER, 1)[0]
        latents = np.frombuffer(record, np.float32, offset=HEADER.itemsize).reshape(self._shape)
        return make_fields(self._clips, latents, header)

    def statistics(self, config: Config) -> dict[str, dict[str, list[float]]]:
        """The "mean" and "std" of each channel of the training latents, by segment."""
        return self._statistics

    def window(self, index: int) -> dict[str, Any]:
        """Where item `index` is from: the video's name, the first frame, whether mirrored, (scale, row, column)."""
        header = np.frombuffer(self._records[index], HEADER, 1)[0]
        return {
            "name": self.names[header["source"]],
            "start": int(header["start"]),
            "mirrored": bool(header["mirrored"]),
            "crop": tuple(float(value) for value in header["crop"]),
        }

    def video(self, index: int) -> str:
        """The name of the video that item `index` is from."""
        return self.window(index)["name"]

    def batches(self, config: Config, batch_size: int, start: int) -> Iterable[LatentBatch]:
        """This process's share of the endless batches from number `start` on; see `loader.latent_batches`."""
        from pvdm_jax.data.loader import latent_batches
        from pvdm_jax.data.streams import BatchSpec, ProcessShare

        spec = BatchSpec(batch_size, config.seed, start, ProcessShare.current())
        return latent_batches(self, config.data, spec).map(lambda fields: LatentBatch(**fields))


class ShardWriter:
    """Writes a file of windows and adds up the statistics of their clips.

    segments: the positions of each part of the latents that has its own statistics. writing: whether anything is
    written to the disk.
    """

    def __init__(self, path: pathlib.Path, segments: Mapping[str, slice], writing: bool):
        self._path = path
        self._segments = segments
        self._writer = None
        self._unfinished = path.with_suffix(".unfinished")
        self._bytes = 0
        self._sums: dict[str, np.ndarray] = {}
        self.count = 0
        if writing:
            from array_record.python.array_record_module import ArrayRecordWriter

            self._writer = ArrayRecordWriter(str(self._unfinished), "group_size:1")

    def write(self, latents: np.ndarray, facts: dict[str, np.ndarray]) -> None:
        """latents: float32 (b, clips, positions, channels); facts: fields of HEADER, (b,) each."""
        headers = np.zeros(len(latents), HEADER)
        for name, values in facts.items():
            headers[name] = values
        for header, window in zip(headers, latents, strict=True):
            record = header.tobytes() + window.tobytes()
            self._bytes += len(record)
            if self._writer:
                self._writer.write(record)
        self.count += len(latents)
        clips = latents[:, 1].astype(np.float64)
        for name, segment in self._segments.items():
            part = clips[:, segment]
            moments = np.stack([part.sum(axis=(0, 1)), np.square(part).sum(axis=(0, 1))])
            self._sums[name] = self._sums.get(name, 0) + moments

    def close(self) -> dict[str, Any]:
        """Gives the file its name. Returns the shard's statistics, and writes them beside it."""
        outcome = {
            "count": self.count,
            "bytes": self._bytes,
            "positions": {name: segment.stop - segment.start for name, segment in self._segments.items()},
            "sums": {name: moments.tolist() for name, moments in self._sums.items()},
        }
        if self._writer:
            self._writer.close()
            os.replace(self._unfinished, self._path)
            write_json(statistics_path(self._path), outcome)
        return outcome


def zero_missing(clips: Sequence[str], latents: np.ndarray, facts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Latents (b, clips, positions, channels) with missing clips, which were encoded as black, set to zero."""
    latents = latents.copy()
    for slot, name in enumerate(clips):
        if f"has_{name}" in facts:
            latents[np.asarray(facts[f"has_{name}"]) == 0, slot] = 0
    return latents


def make_fields(clips: Sequence[str], latents: np.ndarray, facts: Any) -> dict[str, np.ndarray]:
    """The fields of a `LatentBatch`, from latents (..., clips, positions, channels) and fields of HEADER (...)."""
    fields = {name: latents[..., slot, :, :] for slot, name in enumerate(clips)}
    fields |= {f"has_{name}": np.bool_(facts[f"has_{name}"]) for name in ("previous", "next") if name in clips}
    return fields | {"label": np.int32(facts["label"])}


def merge_statistics(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Statistics of the latents of all shards: of everything, and of each segment's channels."""
    count = sum(outcome["count"] for outcome in outcomes)
    positions = outcomes[0]["positions"]
    sums = {name: sum(np.array(outcome["sums"][name]) for outcome in outcomes) for name in positions}
    segments = {}
    for name, moments in sums.items():
        mean, square = moments / (count * positions[name])
        segments[name] = {"mean": mean.tolist(), "std": np.sqrt(np.maximum(square - mean**2, 0)).tolist()}
    mean, square = sum(moments.mean(axis=1) for moments in sums.values()) / (count * sum(positions.values()))
    return {
        "mean": float(mean),
        "std": float(np.sqrt(max(square - mean**2, 0))),
        "segments": segments,
        "bytes_per_window": sum(outcome["bytes"] for outcome in outcomes) // count,
    }


def shard_path(folder: pathlib.Path, split: str, number: int, count: int) -> pathlib.Path:
    """The file of shard `number` of a split's `count`."""
    return folder / f"{split}-{number:05d}-of-{count:05d}.array_record"


def statistics_path(shard: pathlib.Path) -> pathlib.Path:
    """The file of a shard's statistics, written once the shard is complete."""
    return shard.with_suffix(".json")


def read_statistics(shard: pathlib.Path) -> dict[str, Any]:
    """What `ShardWriter.close` returned for a complete shard."""
    return read_json(statistics_path(shard), STATISTICS)


def is_complete(shard: pathlib.Path) -> bool:
    """Whether a shard and its statistics can be used. If not, the shard is encoded again.

    A shard in a bucket need not be on this machine: it was uploaded before its statistics.
    """
    again = "its shard is encoded again"
    exists = shard.is_file() or buckets.in_bucket(buckets.url(shard))
    return exists and try_read_json(statistics_path(shard), STATISTICS, logging.warning, again) is not None


def missing_shards(folder: pathlib.Path, index: Mapping[str, Any]) -> list[pathlib.Path]:
    """The shards that an index lists but that are not in its folder."""
    paths = [shard_path(folder, split, i, count) for split, count in index["shards"].items() for i in range(count)]
    return [path for path in paths if not path.is_file()]
