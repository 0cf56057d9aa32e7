"""`pvdm encode`: writes the cache of latents that stage 2 trains on, with all devices and processes.

A shard gets its name once it is complete, so an encoding that was killed resumes with the missing shards. The index is
written last. Until then, encoding.json records the autoencoder and the settings that the shards are made with.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pvdm_jax.config import Config, ConfigError
from pvdm_jax.data.dataset_identity import dataset_identity
from pvdm_jax.data.samples import ClipPairs
from pvdm_jax.data.sources import SPLITS
from pvdm_jax.models.autoencoder import latent_spec
from pvdm_jax.runtime import sharding
from pvdm_jax.storage import buckets
from pvdm_jax.storage.files import write_json
from pvdm_jax.storage.json_files import read_json
from pvdm_jax.storage.run_folder import DATASET, RunFolder
from pvdm_jax.storage.run_lock import single_writer
from pvdm_jax.training.encoder import Encoder
from pvdm_jax.training.latent_files import (
    CONTENT,
    INCOMPLETE_INDEX,
    INDEX,
    MADE_BY,
    ShardWriter,
    is_complete,
    merge_statistics,
    missing_shards,
    read_statistics,
    shard_path,
    statistics_path,
    stored_clips,
)
from pvdm_jax.training.latents import cached_settings, check_made_by, encoded_windows, open_latents, split_windows
from pvdm_jax.weights.run_autoencoder import import_autoencoder

SHARD_WINDOWS = 1024  # windows in a file, the most that a kill can lose


@dataclasses.dataclass(frozen=True)
class EncodeSummary:
    """What `encode` wrote."""

    folder: pathlib.Path
    counts: dict[str, int]  # windows of each split
    mean: float  # of all latent values of the training split
    std: float
    bytes_per_window: int

    def __str__(self) -> str:
        windows = ", ".join(f"{count} windows for {split}" for split, count in self.counts.items())
        return (
            f"latents: {windows}, {self.bytes_per_window:,} bytes each; "
            f"mean {self.mean:.3f}, standard deviation {self.std:.3f} ({self.folder})"
        )


@single_writer
def encode(config: Config, workdir: str | pathlib.Path, autoencoder: str | pathlib.Path | None = None) -> EncodeSummary:
    """Encodes `config.encode.windows` windows of every video with the run's autoencoder, into the run's cache.

    autoencoder: a model folder or another run's folder, whose autoencoder the run imports (`weights.run_autoencoder`).

    All devices and processes share the work; the first process writes. An existing cache is kept and an incomplete one
    is resumed if autoencoder, dataset and settings are the same; otherwise ConfigError is raised.
    """
    config.data.check_held_out()
    folder = RunFolder(workdir).latents
    mesh = sharding.make_mesh(config.mesh)
    if not config.encode.cache:
        raise ConfigError("encode.cache is False; stage 2 encodes pixels itself, so there is nothing to do")
    if autoencoder is not None:
        import_autoencoder(autoencoder, config, workdir)
    encoder = Encoder(config.autoencoder, workdir, mesh)
    _share_shards(folder)
    if (folder / INDEX).exists():
        buckets.fetch(folder)
        index = read_json(folder / INDEX, CONTENT)
        lost = missing_shards(folder, index)
        if not lost:
            open_latents(config, workdir, "train", lambda: encoder.identity)
            return _summary(folder, index)
        for shard in lost:
            statistics_path(shard).unlink(missing_ok=True)  # so that the shard is encoded again
    made_by = {"autoencoder": encoder.identity, DATASET: dataset_identity(config.data)} | cached_settings(config)
    for name, shape in ((INDEX, CONTENT), (INCOMPLETE_INDEX, MADE_BY)):
        if (folder / name).exists():
            check_made_by(read_json(folder / name, shape)["made_by"], made_by, folder)
    if jax.process_index() == 0:
        write_json(folder / INCOMPLETE_INDEX, {"made_by": made_by})

    index: dict[str, Any] = {
        "clips": stored_clips(config),
        "positions": latent_spec(config.autoencoder).positions,
        "channels": config.autoencoder.latent_channels,
        "counts": {},
        "shards": {},
        "names": {},
    }
    for split in SPLITS:
        source, pairs, rows = split_windows(config, split)
        shards = [rows[first : first + SHARD_WINDOWS] for first in range(0, len(rows), SHARD_WINDOWS)]
        outcomes = _encode_split(encoder, pairs, shards, folder, split, config)
        index["counts"][split] = len(rows)
        index["shards"][split] = len(shards)
        index["names"][split] = [source[i].name for i in range(len(source))]
        if split == "train":
            index["class_names"] = list(source.class_names)
            index |= merge_statistics(outcomes)
    index["made_by"] = made_by
    if jax.process_index() == 0:
        write_json(folder / INDEX, index)  # completes the cache
        (folder / INCOMPLETE_INDEX).unlink()
        buckets.push(folder)
    return _summary(folder, index)


def _share_shards(folder: pathlib.Path) -> None:
    """If the run is in a bucket, tells every machine which shards exist, in the bucket or on the first machine."""
    if not buckets.in_bucket(buckets.url(folder)):
        return
    if jax.process_index() == 0:
        buckets.fetch(folder, "*.json")
        buckets.push(folder)
    multihost_utils.sync_global_devices("shards of latents in the bucket")
    if jax.process_index() != 0:
        buckets.fetch(folder, "*.json")


def _encode_split(
    encoder: Encoder,
    pairs: ClipPairs,
    shards: Sequence[Sequence[int]],
    folder: pathlib.Path,
    split: str,
    config: Config,
) -> list[dict[str, Any]]:
    """Writes the missing shards of a split; returns the statistics of all of them."""
    from tqdm import tqdm

    paths = [shard_path(folder, split, number, len(shards)) for number in range(len(shards))]
    # Every process must use the same list, whatever the first process has written in the meantime.
    done = multihost_utils.broadcast_one_to_all(np.array([is_complete(path) for path in paths]))
    outcomes = {number: read_statistics(path) for number, path in enumerate(paths) if done[number]}
    missing = [number for number in range(len(shards)) if not done[number]]
    batches = encoded_windows(encoder, pairs, [shards[number] for number in missing], config)
    segments = latent_spec(config.autoencoder).segments
    total = sum(map(len, shards))
    ready = total - sum(len(shards[number]) for number in missing)
    writing = jax.process_index() == 0
    with tqdm(total=total, initial=ready, desc=f"encode {split}", unit="window", disable=not writing) as progress:
        for number in missing:
            shard = ShardWriter(paths[number], segments, writing)
            while shard.count < len(shards[number]):
                latents, facts = next(batches)
                shard.write(latents, facts)
                progress.update(len(latents))
            outcomes[number] = shard.close()
            if writing:
                buckets.push(folder)
    batches.close()
    return [outcomes[number] for number in range(len(shards))]


def _summary(folder: pathlib.Path, index: dict[str, Any]) -> EncodeSummary:
    return EncodeSummary(
        folder=folder,
        counts=index["counts"],
        mean=index["mean"],
        std=index["std"],
        bytes_per_window=index["bytes_per_window"],
    )
