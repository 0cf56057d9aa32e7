"""The latents that stage 2 trains on: a cache that `pvdm encode` writes once, or pixels encoded in every step.

Encoding a clip costs more than a training step of the denoiser on it, so the cache saves most of stage 2's cost.
latent_files.py describes its files.
"""

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import Config, ConfigError, config_to_dict
from pvdm_jax.data.dataset_identity import dataset_identity, find_dataset_identity
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.data.samples import ClipPairs, PairSpec
from pvdm_jax.data.sources import VideoSource, open_held_out, open_source
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import latent_spec
from pvdm_jax.runtime import sharding
from pvdm_jax.storage import buckets
from pvdm_jax.storage.json_files import read_json
from pvdm_jax.storage.run_folder import DATASET, RunFolder
from pvdm_jax.storage.same_settings import check_settings
from pvdm_jax.training.encoder import Encoder, local_rows
from pvdm_jax.training.latent_files import (
    CONTENT,
    HEADER,
    INCOMPLETE_INDEX,
    INDEX,
    LatentCache,
    ShardWriter,
    make_fields,
    merge_statistics,
    missing_shards,
    shard_path,
    stored_clips,
    zero_missing,
)
from pvdm_jax.weights.run_autoencoder import load_autoencoder

MEASURED_WINDOWS = 512  # windows whose latents give the statistics if there is no cache
HELD_OUT_WINDOWS = 4  # windows of each held-out video, if training always takes new ones
# The settings that decide the latents, besides the autoencoder's weights: these sections without these fields.
CACHED_SECTIONS = ("seed", "data", "encode", "autoencoder")
UNCACHED_FIELDS = {
    "data": ("threads", "prefetch", "workers"),
    "encode": ("batch_size", "cache"),
    "autoencoder": ("remat",),
}


class PixelLatents:
    """Latents of the training videos, encoded on request, with the attributes, `statistics` and `batches` of
    `LatentCache`.

    For the same windows the numbers equal the cache's, up to float32 rounding.
    """

    def __init__(self, config: Config, workdir: str | pathlib.Path, mesh: Mesh):
        self.encoder = Encoder(config.autoencoder, workdir, mesh)
        self._source = open_source(config.data, config.autoencoder, "train", config.seed)
        self._clips = stored_clips(config)
        self.identity = self.encoder.identity
        self.dataset = dataset_identity(config.data)
        self.class_names = tuple(self._source.class_names)

    def statistics(self, config: Config) -> dict[str, dict[str, list[float]]]:
        """As `LatentCache.statistics`, estimated from MEASURED_WINDOWS windows spread over the training videos."""
        _, pairs, rows = split_windows(config, "train")
        chosen = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(MEASURED_WINDOWS, len(rows)))]
        sums = ShardWriter(
            shard_path(RunFolder(".").latents, "train", 0, 1), latent_spec(config.autoencoder).segments, writing=False
        )
        for latents, facts in encoded_windows(self.encoder, pairs, [chosen], config):
            sums.write(latents, facts)
        return merge_statistics([sums.close()])["segments"]

    def batches(self, config: Config, batch_size: int, start: int) -> Iterable[LatentBatch]:
        """This process's share of the endless batches from number `start` on; see `loader.pair_batches`."""
        from pvdm_jax.data.loader import pair_batches
        from pvdm_jax.data.streams import BatchSpec, ProcessShare

        pairs = _pair_spec(config, config.encode.windows)
        batches = BatchSpec(batch_size, config.seed, start, ProcessShare.current())
        return pair_batches(self._source, config.autoencoder, config.data, pairs, batches).map(self._encode)

    def _encode(self, batch: dict[str, np.ndarray]) -> LatentBatch:
        latents = local_rows(self.encoder.encode(batch["video"]))
        latents = latents.reshape(len(batch["label"]), -1, *latents.shape[1:])
        return LatentBatch(**make_fields(self._clips, zero_missing(self._clips, latents, batch), batch))


def open_latents(
    config: Config, workdir: str | pathlib.Path, split: str, autoencoder: Callable[[], str] | None = None
) -> LatentCache:
    """The run's cached latents. Raises ConfigError if there are none, or if they were made by another autoencoder, from
    another dataset or with other settings.

    autoencoder: called, once the latents are found, for the fingerprint of the run's autoencoder (None: it is read).
    The dataset may be gone; if it exists, it is compared.
    """
    folder = RunFolder(workdir).latents
    buckets.fetch(folder)
    if not (folder / INDEX).exists():
        begun = " (encoding was begun, but isn't finished)" if (folder / INCOMPLETE_INDEX).exists() else ""
        raise ConfigError(
            f"there are no latents in {folder}{begun}; `pvdm encode` makes them from a trained autoencoder"
        )
    index = read_json(folder / INDEX, CONTENT)
    lost = missing_shards(folder, index)
    if lost:
        raise ConfigError(f"{lost[0]} is missing; `pvdm encode` regenerates it")
    if autoencoder is None:
        identity = functional.fingerprint(load_autoencoder(config.autoencoder, workdir))
    else:
        identity = autoencoder()
    found = {"autoencoder": identity, DATASET: find_dataset_identity(config.data) or index["made_by"].get(DATASET)}
    check_made_by(index["made_by"], found | cached_settings(config), folder)
    return LatentCache(folder, split, index)


def training_latents(
    config: Config, workdir: str | pathlib.Path, mesh: Mesh
) -> tuple[LatentCache | PixelLatents, LatentBatch]:
    """What stage 2 trains on, and the windows that it is evaluated on.

    Both are read from the cache, or encoded from pixels if `encode.cache` is False. The evaluation has
    `train_diffusion.eval_clips` windows, or as many as there are, spread evenly over the held-out ones.
    """
    held_out: Sequence[dict[str, np.ndarray]]
    if config.encode.cache:
        autoencoder = functools.cache(lambda: Encoder(config.autoencoder, workdir, mesh).identity)
        training = open_latents(config, workdir, "train", autoencoder)
        held_out = open_latents(config, workdir, "holdout", autoencoder)
    else:
        training = PixelLatents(config, workdir, mesh)
        _, pairs, rows = split_windows(config, "holdout")
        held_out = [
            make_fields(stored_clips(config), window, {name: values[row] for name, values in facts.items()})
            for latents, facts in encoded_windows(training.encoder, pairs, [rows], config)
            for row, window in enumerate(latents)
        ]
    count = min(config.train_diffusion.eval_clips, len(held_out))
    chosen = np.linspace(0, len(held_out) - 1, count).astype(int)
    return training, LatentBatch.stack([held_out[int(i)] for i in chosen])


def _pair_spec(config: Config, windows: int, augment: bool = True) -> PairSpec:
    return PairSpec(
        windows=windows,
        next_clip=config.denoiser.next_clip,
        unconditional=config.encode.unconditional_anywhere,
        flips=config.encode.flips,
        augment=augment,
    )


def split_windows(config: Config, split: str) -> tuple[VideoSource, ClipPairs, list[int]]:
    """The source of a split, its windows, and the numbers of the windows to encode."""
    from pvdm_jax.data.loader import clip_pairs

    training = split == "train"
    if training:
        source = open_source(config.data, config.autoencoder, split, config.seed)
    else:
        source = open_held_out(config.data, config.autoencoder, config.seed)
    spec = _pair_spec(config, config.encode.windows or HELD_OUT_WINDOWS, augment=training)
    pairs = clip_pairs(source, config.autoencoder, config.data, spec, config.seed)
    # Only the evaluation reads held-out windows: as many as it uses, spread over the videos.
    step = 1 if training else max(1, len(pairs) // config.train_diffusion.eval_clips)
    return source, pairs, list(range(0, len(pairs), step))


def encoded_windows(
    encoder: Encoder, pairs: ClipPairs, parts: Sequence[Sequence[int]], config: Config
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The latents float32 (b, clips, positions, channels) and facts (b,) of the windows in `parts`, in batches.

    No batch crosses the end of a part. Every process decodes its share of each batch and gets the latents of all. The
    last batch of a part is padded with repetitions, which are dropped afterwards. Latents of a missing clip are zero.
    """
    from pvdm_jax.data.streams import BatchSpec, ProcessShare, listed_batches

    batch_size = sharding.round_up(encoder.mesh, config.encode.batch_size)
    share = BatchSpec(batch_size, config.seed, share=ProcessShare.current()).rows
    counts = []
    rows = []
    for part in parts:
        for first in range(0, len(part), batch_size):
            counts.append(min(batch_size, len(part) - first))
            rows.append([part[min(first + row, len(part) - 1)] for row in share])
    if not rows:
        return
    batches = listed_batches(pairs, rows, config.data, pairs.read)
    try:
        for count, batch in zip(counts, batches, strict=True):
            latents = sharding.to_numpy(encoder.encode(batch.pop("video")))
            batch = {name: batch[name].astype(HEADER[name].base) for name in HEADER.names if name in batch}
            facts = sharding.to_numpy(sharding.global_batch(encoder.mesh, batch))
            latents = latents.reshape(batch_size, -1, *latents.shape[1:])[:count].astype(np.float32)
            facts = {name: values[:count] for name, values in facts.items()}
            yield zero_missing(stored_clips(config), latents, facts), facts
    finally:
        batches.close()


def cached_settings(config: Config) -> dict[str, Any]:
    """The settings that decide the latents, as {"settings": nested dicts}."""
    settings = {name: value for name, value in config_to_dict(config).items() if name in CACHED_SECTIONS}
    for section, fields in UNCACHED_FIELDS.items():
        settings[section] = {name: value for name, value in settings[section].items() if name not in fields}
    return {"settings": settings | {"denoiser": {"next_clip": config.denoiser.next_clip}}}


def check_made_by(made_by: dict[str, Any], wanted: dict[str, Any], folder: pathlib.Path) -> None:
    if made_by["autoencoder"] != wanted["autoencoder"]:
        raise ConfigError(
            f"the latents in {folder} were made by another autoencoder "
            f"({made_by['autoencoder'][:12]}, this run's is {wanted['autoencoder'][:12]}); remove them to encode again"
        )
    saved, current = ({DATASET: made.get(DATASET)} | made["settings"] for made in (made_by, wanted))
    check_settings(saved, current, ())
