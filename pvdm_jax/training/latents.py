"""The latents that stage 2 trains from: made once and cached, or made from pixels in every step.

Encoding a clip costs more than a training step of the denoiser on it, so doing it once removes most of stage 2's
cost. See latent_files.py for its files.

A shard has its name once it is complete, so a run that is killed goes on with the shards that are missing; index.json
comes last. Until then encoding.json says by which autoencoder and settings the shards are made.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pvdm_jax.config import Config, ConfigError, DataConfig, EncodeConfig, config_to_dict
from pvdm_jax.models.autoencoder import plane_shape
from pvdm_jax.runtime import sharding
from pvdm_jax.storage import buckets
from pvdm_jax.storage.files import read_json, write_json
from pvdm_jax.storage.run_folder import RunFolder
from pvdm_jax.training.encoder import Encoder, local_rows
from pvdm_jax.training.latent_files import (
    HEADER,
    LatentCache,
    ShardWriter,
    make_item,
    merge_statistics,
    plane_segments,
    rows_of,
    shard_path,
    without_missing,
)
from pvdm_jax.weights.run_autoencoder import import_autoencoder

if TYPE_CHECKING:
    from pvdm_jax.data.loader import ClipPairs
    from pvdm_jax.data.sources import VideoSource

SPLITS = ("train", "holdout")
SHARD_PAIRS = 1024  # pairs of clips in a file; what a kill can cost
HELD_OUT_WINDOWS = 4  # of each held-out video, where training has always new ones
# What decides the latents, beside the autoencoder's weights.
DECISIVE = ("seed", "data", "encode", "autoencoder")
FREE = {"data": ("threads", "prefetch", "workers"), "encode": ("batch_size", "cache"), "autoencoder": ("remat",)}


class PixelLatents:
    """Latents of the training videos, encoded when they are asked for: `batches` as those of a `LatentCache`.

    For the same windows the numbers are the cache's, up to float32 rounding.
    """

    def __init__(self, config: Config, workdir: str | pathlib.Path, mesh: Mesh):
        from pvdm_jax.data.sources import open_source

        self._encoder = Encoder(config.autoencoder, workdir, mesh)
        self._source = open_source(config.data, config.autoencoder, "train", config.seed)
        self.shape = plane_shape(config.autoencoder)
        self.identity = self._encoder.identity
        self.class_names = tuple(self._source.class_names)

    def batches(self, config: Config, batch_size: int, start: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's share of the endless batches from number `start` on."""
        from pvdm_jax.data.loader import pair_batches

        share = (start, jax.process_index(), jax.process_count())
        encode, settings = config.encode, (config.autoencoder, config.data)
        windows = (encode.windows, encode.flips, batch_size, config.seed, *share, _clips(config), encode.lone_clips)
        pixels = pair_batches(self._source, *settings, *windows)
        return _EncodedBatches(self._encoder, pixels, encode.lone_clips)


class _EncodedBatches(Iterator[dict[str, np.ndarray]]):
    """Batches of pairs of clips (`loader.Batches`), encoded."""

    def __init__(self, encoder: Encoder, pixels: Any, lone: bool):
        self._encoder, self._pixels, self._lone = encoder, pixels, lone
        self.videos, self.close = pixels.videos, pixels.close

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._pixels)
        latents = local_rows(self._encoder.encode(batch["video"]))
        latents = latents.reshape(len(batch["label"]), -1, *latents.shape[1:])
        rows = zip(without_missing(latents, batch), rows_of(batch), strict=True)
        items = [make_item(*row, self._lone) for row in rows]
        return {name: np.stack([item[name] for item in items]) for name in items[0]}


@dataclasses.dataclass(frozen=True)
class EncodeSummary:
    """What `encode` wrote."""

    folder: pathlib.Path
    counts: dict[str, int]  # pairs of each split
    mean: float  # over all latent values of the training split
    std: float
    bytes_per_pair: int

    def __str__(self) -> str:
        pairs = ", ".join(f"{count} pairs of clips for {split}" for split, count in self.counts.items())
        return (
            f"latents: {pairs}, {self.bytes_per_pair:,} bytes each; "
            f"mean {self.mean:.3f}, standard deviation {self.std:.3f} ({self.folder})"
        )


def encode(config: Config, workdir: str | pathlib.Path, autoencoder: str | pathlib.Path | None = None) -> EncodeSummary:
    """Encodes `config.encode.windows` pairs of clips of every video with the run's autoencoder, into its cache.

    autoencoder: a model folder or another run's folder, whose autoencoder the run imports (`weights.run_autoencoder`).

    All devices and processes share the work; the first process writes. A cache that is already there is kept, and one
    that was begun is gone on with, if it is the same; it is refused with ConfigError if another autoencoder or other
    settings made it.
    """
    folder = RunFolder(workdir).latents
    mesh = sharding.make_mesh(config.mesh)
    if not config.encode.cache:
        raise ConfigError("encode.cache is False; then stage 2 encodes by itself, and there is nothing to do")
    if autoencoder is not None:
        import_autoencoder(autoencoder, config, workdir)
    encoder = Encoder(config.autoencoder, workdir, mesh)
    identity = {"autoencoder": encoder.identity} | _decisive(config)
    _share_shards(folder)
    for name in ("index.json", "encoding.json"):
        if (folder / name).exists():
            _check_same(read_json(folder / name)["made_by"], identity, folder)
    if (folder / "index.json").exists():
        open_latents(config, workdir, "train")
        return _summary(folder, read_json(folder / "index.json"))
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "encoding.json", {"made_by": identity})

    index = {"shape": list(plane_shape(config.autoencoder)), "channels": config.autoencoder.latent_channels}
    index |= {"clips": _clips(config), "lone": config.encode.lone_clips, "counts": {}, "shards": {}, "names": {}}
    for split in SPLITS:
        source, pairs, rows = _pairs(config, split)
        shards = [rows[first : first + SHARD_PAIRS] for first in range(0, len(rows), SHARD_PAIRS)]
        outcomes = _encode_split(encoder, pairs, shards, folder, split, config)
        index["counts"][split], index["shards"][split] = len(rows), len(shards)
        index["names"][split] = [source[i].name for i in range(len(source))]
        if split == "train":
            index["class_names"] = list(source.class_names)
            index |= merge_statistics(outcomes)
    index["made_by"] = identity
    if jax.process_index() == 0:
        write_json(folder / "index.json", index)  # the cache counts as complete from here on
        (folder / "encoding.json").unlink()
        buckets.push(folder)
    return _summary(folder, index)


def _share_shards(folder: pathlib.Path) -> None:
    """Where the run is in a bucket, lets all machines know of the same shards: the bucket's and the first process's."""
    if not buckets.in_bucket(buckets.url(folder)):
        return
    if jax.process_index() == 0:
        buckets.fetch(folder, "*.json")
        buckets.push(folder)
    multihost_utils.sync_global_devices("shards of latents in the bucket")
    if jax.process_index() != 0:
        buckets.fetch(folder, "*.json")


def open_latents(config: Config, workdir: str | pathlib.Path, split: str) -> LatentCache:
    """The run's cached latents. Raises ConfigError where there are none or they were made otherwise."""
    folder = RunFolder(workdir).latents
    buckets.fetch(folder)
    if not (folder / "index.json").exists():
        begun = " (they were begun, but aren't finished)" if (folder / "encoding.json").exists() else ""
        raise ConfigError(
            f"there are no latents in {folder}{begun}; `pvdm encode` makes them from a trained autoencoder"
        )
    index = read_json(folder / "index.json")
    made_by = index["made_by"]
    if "shards" not in index:
        raise ConfigError(f"the latents in {folder} were made by an older version; remove them and run `pvdm encode`")
    _check_same(made_by, {"autoencoder": made_by["autoencoder"]} | _decisive(config), folder)
    return LatentCache(folder, split, index)


def training_latents(
    config: Config, workdir: str | pathlib.Path, mesh: Mesh
) -> tuple[LatentCache | PixelLatents, Sequence[dict[str, np.ndarray]]]:
    """What stage 2 trains from and what it is evaluated on: from the cache, or (`encode.cache` False) from pixels.

    Both have items as those of a `LatentCache`; the first has `batches`, `shape`, `identity` and `class_names`.
    """
    if config.encode.cache:
        return tuple(open_latents(config, workdir, split) for split in SPLITS)
    training = PixelLatents(config, workdir, mesh)
    _, pairs, rows = _pairs(config, "holdout")
    encoder, batch_size = training._encoder, _batch_size(config.encode, mesh)
    held_out = []
    for latents, facts in _encoded(encoder, pairs, [rows], batch_size, config.data):
        held_out += [make_item(*parts, config.encode.lone_clips) for parts in zip(latents, rows_of(facts), strict=True)]
    return training, held_out


def _pairs(config: Config, split: str) -> tuple["VideoSource", "ClipPairs", list[int]]:
    """The source of a split, its pairs of clips, and which of them are encoded."""
    from pvdm_jax.data.loader import clip_pairs
    from pvdm_jax.data.sources import open_held_out, open_source

    training, windows = split == "train", config.encode.windows or HELD_OUT_WINDOWS
    if training:
        source = open_source(config.data, config.autoencoder, split, config.seed)
    else:
        source = open_held_out(config.data, config.autoencoder, config.seed)
    settings = (config.autoencoder, config.data, windows, config.seed)
    extras = {"clips": _clips(config), "lone": config.encode.lone_clips}
    pairs = clip_pairs(source, *settings, augment=training, flips=config.encode.flips, **extras)
    # Only the evaluation reads what is held out: as many as it uses, spread over the videos.
    step = 1 if training else max(1, len(pairs) // config.train_diffusion.eval_clips)
    return source, pairs, list(range(0, len(pairs), step))


def _batch_size(config: EncodeConfig, mesh: Mesh) -> int:
    """Pairs encoded at once: `batch_size`, rounded up so that every device gets as many."""
    return -(-config.batch_size // mesh.size) * mesh.size


def _encoded(
    encoder: Encoder, pairs: "ClipPairs", parts: Sequence[Sequence[int]], batch_size: int, data: DataConfig
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The latents float32 (b, clips, positions, channels) and facts (b,) of the pairs that `parts` lists, in batches.

    No batch reaches over the end of a part. Every process decodes its share of each batch, and gets the latents of all;
    the last batch of a part is filled up with repetitions, which are left out again. What encodes a missing clip is
    set to zero.
    """
    from pvdm_jax.data.loader import read_ahead

    processes, process = jax.process_count(), jax.process_index()
    share, counts, rows = batch_size // processes, [], []
    for part in parts:
        for first in range(0, len(part), batch_size):
            places = np.minimum(np.arange(first, first + batch_size), len(part) - 1)
            rows.append([part[i] for i in places[process * share :][:share]])
            counts.append(min(batch_size, len(part) - first))
    if not rows:
        return
    batches = read_ahead(pairs, rows, data)
    try:
        for count, batch in zip(counts, batches, strict=True):
            latents = sharding.to_numpy(encoder.encode(batch.pop("video")))
            batch = {name: batch[name].astype(HEADER[name].base) for name in HEADER.names if name in batch}
            facts = sharding.to_numpy(sharding.global_batch(encoder.mesh, batch))
            latents = latents.reshape(batch_size, -1, *latents.shape[1:])[:count].astype(np.float32)
            facts = {name: values[:count] for name, values in facts.items()}
            yield without_missing(latents, facts), facts
    finally:
        batches.close()


def _encode_split(
    encoder: Encoder,
    pairs: "ClipPairs",
    shards: Sequence[Sequence[int]],
    folder: pathlib.Path,
    split: str,
    config: Config,
) -> list[dict[str, Any]]:
    """Writes the shards of a split that are missing; returns the statistics of all."""
    from tqdm import tqdm

    paths = [shard_path(folder, split, number, len(shards)) for number in range(len(shards))]
    # Every process must come to the same list, whatever the first one has written when it looks.
    done = multihost_utils.broadcast_one_to_all(np.array([path.with_suffix(".json").exists() for path in paths]))
    missing = [number for number in range(len(shards)) if not done[number]]
    parts = [shards[number] for number in missing]
    batches = _encoded(encoder, pairs, parts, _batch_size(config.encode, encoder.mesh), config.data)
    total, ready = sum(map(len, shards)), sum(len(shards[n]) for n in range(len(shards)) if done[n])
    planes = plane_segments(plane_shape(config.autoencoder))
    outcomes = {n: read_json(paths[n].with_suffix(".json")) for n in range(len(shards)) if done[n]}
    writing = jax.process_index() == 0
    with tqdm(total=total, initial=ready, desc=f"encode {split}", unit="pair", disable=not writing) as progress:
        for number in missing:
            shard = ShardWriter(paths[number], planes, writing)
            while shard.count < len(shards[number]):
                latents, facts = next(batches)
                shard.write(latents, facts)
                progress.update(len(latents))
            outcomes[number] = shard.close()
            if writing:
                buckets.push(folder)
    batches.close()
    return [outcomes[number] for number in range(len(shards))]


def _clips(config: Config) -> int:
    """Clips of a window: the previous one and the clip, perhaps the next one."""
    return 3 if config.unet.cond_next else 2


def _summary(folder: pathlib.Path, index: dict[str, Any]) -> EncodeSummary:
    return EncodeSummary(folder, index["counts"], index["mean"], index["std"], index["bytes_per_pair"])


def _decisive(config: Config) -> dict[str, Any]:
    values = {name: value for name, value in config_to_dict(config).items() if name in DECISIVE}
    for section, names in FREE.items():
        values[section] = {name: value for name, value in values[section].items() if name not in names}
    return {"settings": values | {"clips": _clips(config)}}


def _check_same(made_by: dict[str, Any], wanted: dict[str, Any], folder: pathlib.Path) -> None:
    from pvdm_jax.storage.checkpoint import check_settings

    if made_by["autoencoder"] != wanted["autoencoder"]:
        raise ConfigError(
            f"the latents in {folder} were made by another autoencoder "
            f"({made_by['autoencoder'][:12]}, this run's is {wanted['autoencoder'][:12]}); remove them to encode anew"
        )
    check_settings(_with_defaults(made_by["settings"]), wanted["settings"], ())


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of an older version, which knew fewer fields."""
    defaults = _decisive(Config())["settings"]
    return {
        name: defaults[name] | value if isinstance(value, dict) and name in defaults else value
        for name, value in settings.items()
    }
