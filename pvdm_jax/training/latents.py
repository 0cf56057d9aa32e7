"""The cache of latents: every training video is encoded once, ahead of stage 2.

Encoding a clip costs more than a training step of the denoiser on it, so doing it once removes most of stage 2's
cost. The cache holds pairs of consecutive clips' latents in array_record files, one a split, with an index.json that
says what they are and by which autoencoder they were made.

    latents/index.json     sizes, count of each split, the autoencoder's fingerprint, the settings that made them
    latents/train.array_record, latents/holdout.array_record
        a record: has_previous and label (int32), then the latents of the previous clip and of the clip
        (float32, positions x channels)
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
from flax import nnx

from pvdm_jax import sharding
from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, config_to_dict
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, plane_shape
from pvdm_jax.training.autoencoder import FOLDER as AUTOENCODER_FOLDER
from pvdm_jax.training.autoencoder import to_float
from pvdm_jax.triplane import PlaneShape

FOLDER = "latents"
SPLITS = ("train", "holdout")
# What decides the latents, beside the autoencoder's weights.
DECISIVE = ("seed", "data", "encode", "autoencoder")


class LatentCache:
    """A split of the cache: a sequence of {"previous", "clip": float32 (positions, channels), "has_previous": bool,
    "label": int32}. Threads may read from it side by side."""

    def __init__(self, path: pathlib.Path, index: dict[str, Any]):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.shape = PlaneShape(*index["shape"])
        self.identity: str = index["made_by"]["autoencoder"]  # fingerprint of the autoencoder that made them
        self.class_names: tuple[str, ...] = tuple(index["class_names"])
        self._latent = (self.shape.positions, index["channels"])
        self._records = ArrayRecordDataSource(str(path))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = self._records[index]
        has_previous, label = np.frombuffer(record, np.int32, 2)
        previous, clip = np.frombuffer(record, np.float32, offset=8).reshape(2, *self._latent)
        return {"previous": previous, "clip": clip, "has_previous": np.bool_(has_previous), "label": np.int32(label)}


@dataclasses.dataclass(frozen=True)
class EncodeSummary:
    """What `encode` wrote."""

    folder: pathlib.Path
    counts: dict[str, int]  # pairs of each split
    mean: float  # over all latent values of the training split
    std: float

    def __str__(self) -> str:
        pairs = ", ".join(f"{count} pairs of clips for {split}" for split, count in self.counts.items())
        return f"latents: {pairs}; mean {self.mean:.3f}, standard deviation {self.std:.3f} ({self.folder})"


def fingerprint(params: functional.Params) -> str:
    """A hash of all weights (nested dicts of arrays), with their names."""
    digest = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: str(item[0])):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()


def load_autoencoder(model: AutoencoderConfig, workdir: str | pathlib.Path) -> tuple[nnx.GraphDef, functional.Params]:
    """The trained autoencoder of a run (its EMA weights). Raises FileNotFoundError where stage 1 left no checkpoint."""
    from pvdm_jax.checkpoint import read_part

    graphdef, abstract = functional.abstract(lambda: Autoencoder(model, rngs=nnx.Rngs(0)))
    return graphdef, read_part(pathlib.Path(workdir) / AUTOENCODER_FOLDER, "ema", abstract)


def encode(config: Config, workdir: str | pathlib.Path) -> EncodeSummary:
    """Encodes `config.encode.windows` pairs of clips of every video with the run's autoencoder, into its cache.

    All devices share the work; several processes write from the first. A cache that is already there is kept if it
    is the same, and refused with ConfigError if another autoencoder or other settings made it.
    """
    from pvdm_jax.data.loader import clip_pairs
    from pvdm_jax.data.sources import open_held_out, open_source

    folder = pathlib.Path(workdir) / FOLDER
    graphdef, params = load_autoencoder(config.autoencoder, workdir)
    identity = {"autoencoder": fingerprint(params)} | _decisive(config)
    if (folder / "index.json").exists():
        index = _read_index(folder)
        _check_same(index["made_by"], identity, folder)
        return EncodeSummary(folder, index["counts"], index["mean"], index["std"])

    mesh = sharding.make_mesh(config.mesh)
    params = jax.device_put(params, sharding.parameter_shardings(mesh, params))
    encode_video = jax.jit(lambda params, video: functional.merge(graphdef, params).encode(to_float(video)).pack())
    shape = plane_shape(config.autoencoder)
    writing = jax.process_index() == 0
    if writing:
        folder.mkdir(parents=True, exist_ok=True)
    counts, statistics = {}, (0.0, 1.0)
    for split in SPLITS:
        if split == "train":
            source = open_source(config.data, config.autoencoder, split, config.seed)
        else:
            source = open_held_out(config.data, config.autoencoder, config.seed)
        windows, training = config.encode.windows, split == "train"
        pairs = clip_pairs(source, config.autoencoder, config.data, windows, config.seed, augment=training)
        if split == "holdout":
            # Only the evaluation reads them: as many as it uses, spread over the videos.
            pairs = pairs[:: max(1, len(pairs) // config.train_diffusion.eval_clips)]
        counts[split], moments = _encode_split(
            pairs, folder / f"{split}.array_record", lambda v: encode_video(params, v), mesh, config, writing
        )
        if split == "train":
            statistics = moments
    if writing:
        index = {
            "shape": list(shape),
            "channels": config.autoencoder.latent_channels,
            "counts": counts,
            "class_names": list(source.class_names),
            "mean": statistics[0],
            "std": statistics[1],
            "made_by": identity,
        }
        temporary = folder / "index.json.tmp"
        temporary.write_text(json.dumps(index, indent=2) + "\n")
        os.replace(temporary, folder / "index.json")  # the cache counts as complete from here on
    return EncodeSummary(folder, counts, *statistics)


def open_latents(config: Config, workdir: str | pathlib.Path, split: str) -> LatentCache:
    """The run's cached latents. Raises ConfigError where there are none or they were made otherwise."""
    folder = pathlib.Path(workdir) / FOLDER
    if not (folder / "index.json").exists():
        raise ConfigError(f"there are no latents in {folder}; `pvdm encode` makes them from a trained autoencoder")
    index = _read_index(folder)
    made_by = index["made_by"]
    _check_same(made_by, {"autoencoder": made_by["autoencoder"]} | _decisive(config), folder)
    return LatentCache(folder / f"{split}.array_record", index)


def _encode_split(pairs: Any, path: pathlib.Path, encode_video: Any, mesh: Any, config: Config, writing: bool):
    """Writes one split; returns its number of pairs and the mean and standard deviation of the latents."""
    import grain
    from array_record.python.array_record_module import ArrayRecordWriter
    from tqdm import tqdm

    frames = config.autoencoder.frames
    batch_size = config.encode.batch_size
    options = grain.ReadOptions(num_threads=config.data.threads, prefetch_buffer_size=config.data.prefetch)
    batches = pairs.batch(batch_size).to_iter_dataset(options)
    writer = ArrayRecordWriter(str(path), "group_size:1") if writing else None
    count, total, squares, values = 0, 0.0, 0.0, 0
    with tqdm(total=len(pairs), desc=f"encode {path.stem}", unit="pair", disable=not writing) as progress:
        for batch in batches:
            # Both clips of a pair go through the autoencoder as two.
            video = batch["video"].reshape(-1, frames, *batch["video"].shape[2:])
            latents = sharding.map_batches(mesh, encode_video, video, 2 * batch_size)
            latents = latents.reshape(len(batch["label"]), 2, *latents.shape[1:])
            for pair, known, label in zip(latents, batch["has_previous"], batch["label"], strict=True):
                if not known:
                    pair[0] = 0  # what encodes a missing clip is not its latent
                if writer:
                    writer.write(np.array([known, label], np.int32).tobytes() + pair.astype(np.float32).tobytes())
            clips = latents[:, 1].astype(np.float64)
            count, values = count + len(latents), values + clips.size
            total, squares = total + clips.sum(), squares + np.square(clips).sum()
            progress.update(len(latents))
    if writer:
        writer.close()
    mean = total / values
    return count, (float(mean), float(np.sqrt(squares / values - mean**2)))


def _decisive(config: Config) -> dict[str, Any]:
    values = {name: value for name, value in config_to_dict(config).items() if name in DECISIVE}
    for name in ("threads", "prefetch"):
        values["data"].pop(name)
    values["encode"].pop("batch_size")
    return {"settings": values}


def _read_index(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text())


def _check_same(made_by: dict[str, Any], wanted: dict[str, Any], folder: pathlib.Path) -> None:
    from pvdm_jax.checkpoint import check_settings

    if made_by["autoencoder"] != wanted["autoencoder"]:
        raise ConfigError(
            f"the latents in {folder} were made by another autoencoder "
            f"({made_by['autoencoder'][:12]}, this run's is {wanted['autoencoder'][:12]}); remove them to encode anew"
        )
    check_settings(made_by["settings"], wanted["settings"], ())
