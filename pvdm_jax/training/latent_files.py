"""The files of cached latents: records, shards and their statistics.

Pairs of consecutive clips' latents lie in array_record files:

    latents/index.json            sizes, counts, statistics, the videos' names, the autoencoder's fingerprint, settings
    latents/SPLIT-00000-of-00012.array_record, and a .json of the same name: its statistics
        a record: has_previous, has_next, label, source, start, mirrored (int32), crop (three float32), then the
        latents of the previous clip, of the clip, for denoiser.next_clip of the next one and, with encode.lone_clips, of
        one at a random place in the window (float32, positions x channels). source is the video's number in the
        index's names of that split, start the window's first frame in it, crop the (scale, row, column) of
        data/clips.py
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from pvdm_jax.config import Config
from pvdm_jax.models.triplane import PlaneShape
from pvdm_jax.storage.files import write_json

HEADER = np.dtype(
    [(name, "<i4") for name in ("has_previous", "has_next", "label", "source", "start", "mirrored")]
    + [("crop", "<f4", 3)]
)


class LatentCache:
    """A split of the cache: a sequence of {"previous", "clip": float32 (positions, channels), "has_previous": bool,
    "label": int32}, for denoiser.next_clip also {"next", "has_next"}, with encode.lone_clips "lone". Threads may read from
    it side by side."""

    def __init__(self, folder: pathlib.Path, split: str, index: dict[str, Any]):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.shape = PlaneShape(*index["shape"])
        self.identity: str = index["made_by"]["autoencoder"]  # fingerprint of the autoencoder that made them
        self.class_names: tuple[str, ...] = tuple(index["class_names"])
        self.names: list[str] = index["names"][split]  # of the videos
        self._lone: bool = index.get("lone", False)
        self._latents = (index["clips"] + self._lone, self.shape.positions, index["channels"])
        count = index["shards"][split]
        self._records = ArrayRecordDataSource([str(shard_path(folder, split, i, count)) for i in range(count)])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"there are no latents {index}; the cache has {len(self)}")
        record = self._records[index]
        header = np.frombuffer(record, HEADER, 1)[0]
        latents = np.frombuffer(record, np.float32, offset=HEADER.itemsize).reshape(self._latents)
        return make_item(latents, header, self._lone)

    def window(self, index: int) -> dict[str, Any]:
        """Where item `index` is from: the video's name, the first frame, whether mirrored, (scale, row, column)."""
        header = np.frombuffer(self._records[index], HEADER, 1)[0]
        crop = tuple(float(value) for value in header["crop"])
        name, start = self.names[header["source"]], int(header["start"])
        return {"name": name, "start": start, "mirrored": bool(header["mirrored"]), "crop": crop}

    def video(self, index: int) -> str:
        """The name of the video that item `index` is from."""
        return self.window(index)["name"]

    def batches(self, config: Config, batch_size: int, start: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's share of the endless batches from number `start` on; see `latent_batches`."""
        from pvdm_jax.data.loader import latent_batches

        share = (start, jax.process_index(), jax.process_count())
        return latent_batches(self, batch_size, config.seed, *share, config.data.threads, config.data.prefetch)


class ShardWriter:
    """Writes a file of pairs and adds up their statistics. Only where `writing` it touches the disk."""

    def __init__(self, path: pathlib.Path, segments: dict[str, slice], writing: bool):
        self._path, self._segments, self._writer, self._size = path, segments, None, 0
        self._unfinished = path.with_suffix(".unfinished")
        self.count, self._sums = 0, {}
        if writing:
            from array_record.python.array_record_module import ArrayRecordWriter

            self._writer = ArrayRecordWriter(str(self._unfinished), "group_size:1")

    def write(self, latents: np.ndarray, facts: dict[str, np.ndarray]) -> None:
        """latents: float32 (b, clips, positions, channels); facts: fields of HEADER, (b,) each."""
        headers = np.zeros(len(latents), HEADER)
        for name, values in facts.items():
            headers[name] = values
        for header, pair in zip(headers, latents, strict=True):
            record = header.tobytes() + pair.tobytes()
            self._size += len(record)
            if self._writer:
                self._writer.write(record)
        self.count += len(latents)
        clips = latents[:, 1].astype(np.float64)
        for plane, segment in self._segments.items():
            part = clips[:, segment]
            moments = np.stack([part.sum(axis=(0, 1)), np.square(part).sum(axis=(0, 1))])
            self._sums[plane] = self._sums.get(plane, 0) + moments

    def close(self) -> dict[str, Any]:
        """Gives the file its name; returns, and writes beside it, its statistics."""
        sums = {plane: moments.tolist() for plane, moments in self._sums.items()}
        sizes = {plane: segment.stop - segment.start for plane, segment in self._segments.items()}
        outcome = {"count": self.count, "bytes": self._size, "positions": sizes, "sums": sums}
        if self._writer:
            self._writer.close()
            os.replace(self._unfinished, self._path)
            write_json(self._path.with_suffix(".json"), outcome)
        return outcome


def without_missing(latents: np.ndarray, facts: dict[str, np.ndarray]) -> np.ndarray:
    """Latents (b, clips, ...) with zeros for clips that aren't there: what encodes black is not their latent."""
    for slot, name in ((0, "has_previous"), (2, "has_next")):
        if name in facts:
            latents = np.where(
                (np.arange(latents.shape[1]) == slot)[:, None, None] & (facts[name] == 0)[:, None, None, None],
                np.float32(0),
                latents,
            )
    return latents


def rows_of(facts: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    for row in range(len(facts["label"])):
        yield {name: values[row] for name, values in facts.items() if name in HEADER.names}


def make_item(latents: np.ndarray, facts: Any, lone: bool = False) -> dict[str, np.ndarray]:
    """What stage 2 takes, of latents (clips, positions, channels), the last one "lone" or not, and fields of HEADER."""
    item = {"previous": latents[0], "clip": latents[1], "has_previous": np.bool_(facts["has_previous"])}
    if lone:
        item["lone"], latents = latents[-1], latents[:-1]
    if len(latents) == 3:
        item |= {"next": latents[2], "has_next": np.bool_(facts["has_next"])}
    return item | {"label": np.int32(facts["label"])}


def plane_segments(shape: PlaneShape) -> dict[str, slice]:
    """Which positions of packed latents belong to each plane."""
    sizes = {
        "yx": shape.height * shape.width,
        "tx": shape.frames * shape.width,
        "ty": shape.frames * shape.height,
    }
    ends = np.cumsum(list(sizes.values())).tolist()
    return {plane: slice(end - size, end) for (plane, size), end in zip(sizes.items(), ends, strict=True)}


def merge_statistics(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Statistics of the latents of all shards: over everything, and of each plane's channels."""
    pairs = sum(outcome["count"] for outcome in outcomes)
    positions = outcomes[0]["positions"]
    sums = {plane: sum(np.array(outcome["sums"][plane]) for outcome in outcomes) for plane in positions}
    planes = {}
    for plane, moments in sums.items():
        mean, square = moments / (pairs * positions[plane])
        planes[plane] = {"mean": mean.tolist(), "std": np.sqrt(np.maximum(square - mean**2, 0)).tolist()}
    mean, square = sum(moments.mean(axis=1) for moments in sums.values()) / (pairs * sum(positions.values()))
    size = sum(outcome["bytes"] for outcome in outcomes)
    std = float(np.sqrt(max(square - mean**2, 0)))
    return {"mean": float(mean), "std": std, "planes": planes, "bytes_per_pair": size // pairs}


def shard_path(folder: pathlib.Path, split: str, number: int, count: int) -> pathlib.Path:
    return folder / f"{split}-{number:05d}-of-{count:05d}.array_record"
