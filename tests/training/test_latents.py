"""The latents that stage 2 trains from: cached in shards that survive a kill, or made on the fly with equal numbers."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from hostile_json import refused_by_name
from tiny_config import CONFIG, changed

from pvdm_jax.config import (
    ConfigError,
    EncodeConfig,
    LatentsConfig,
    MeshConfig,
    config_to_dict,
)
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.data.loader import clip_pairs
from pvdm_jax.data.samples import PairSpec
from pvdm_jax.data.sources import open_source
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, latent_spec, plane_shape
from pvdm_jax.models.latent import LatentScale
from pvdm_jax.models.pixels import to_float
from pvdm_jax.runtime.sharding import global_batch, make_mesh
from pvdm_jax.storage.files import write_json
from pvdm_jax.storage.run_folder import StageFolder
from pvdm_jax.training import diffusion, latent_statistics, latents
from pvdm_jax.training.encode import encode
from pvdm_jax.weights.run_autoencoder import load_autoencoder


@pytest.fixture
def workdir(stage_one, tmp_path):
    """A run of stage 1 that a test may change."""
    shutil.copytree(stage_one, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def cached(stage_one, tmp_path_factory):
    """A run with a cache in shards of four windows."""
    path = tmp_path_factory.mktemp("cached") / "run"
    shutil.copytree(stage_one, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pvdm_jax.training.encode.SHARD_WINDOWS", 4)
        encode(CONFIG, path)
    return path


def assert_close(one, other):
    """Two batches have the same fields, types and, up to rounding, numbers."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-5)


def files(workdir):
    return {path.name: path.read_bytes() for path in (workdir / "latents").iterdir() if path.suffix != ".json"}


def trained(config, workdir):
    """The run's autoencoder as a module."""
    graphdef, _ = functional.abstract(lambda: Autoencoder(config.autoencoder, rngs=functional.rngs(0)))
    return functional.merge(graphdef, load_autoencoder(config.autoencoder, workdir))


def test_shards_know_their_windows_and_what_made_them(cached):
    names = sorted(path.name for path in (cached / "latents").glob("*.array_record"))
    assert names == [
        f"{s}-0000{i}-of-0000{n}.array_record" for s, n in (("holdout", 2), ("train", 3)) for i in range(n)
    ]
    params = load_autoencoder(CONFIG.autoencoder, cached)
    cache = latents.open_latents(CONFIG, cached, "train")
    assert cache.identity == functional.fingerprint(params) and len(cache) == 10
    source = open_source(CONFIG.data, CONFIG.autoencoder, "train", CONFIG.seed)
    pairs = clip_pairs(source, CONFIG.autoencoder, CONFIG.data, PairSpec(windows=2), CONFIG.seed)
    model, mirrored = trained(CONFIG, cached), set()
    for i in range(10):
        window, pair, item = cache.window(i), pairs[i], cache[i]
        assert window["name"] == source[i // 2].name and item["label"] == source[i // 2].label
        assert (window["start"], window["mirrored"]) == (pair["start"], pair["mirrored"])
        np.testing.assert_allclose(window["crop"], pair["crop"])
        mirrored.add(window["mirrored"])
        if i in (0, 9):
            expected = model.encode(to_float(pair["video"].reshape(2, 4, 16, 24, 3)))
            np.testing.assert_allclose(np.stack([item["previous"], item["clip"]]), expected, atol=1e-5)
    assert mirrored == {True, False}


def test_statistics_are_those_of_the_clips(cached):
    index = json.loads((cached / "latents" / "index.json").read_text())
    cache = latents.open_latents(CONFIG, cached, "train")
    clips = np.stack([cache[i]["clip"] for i in range(len(cache))]).astype(np.float64)
    assert index["mean"] == pytest.approx(clips.mean()) and index["std"] == pytest.approx(clips.std())
    shape = plane_shape(CONFIG.autoencoder)
    rows, columns, frames = shape.height, shape.width, shape.frames
    bounds = np.cumsum([0, rows * columns, frames * columns, frames * rows])
    for plane, first, end in zip(("yx", "tx", "ty"), bounds[:-1], bounds[1:], strict=True):
        np.testing.assert_allclose(index["segments"][plane]["mean"], clips[:, first:end].mean(axis=(0, 1)), rtol=1e-6)
        np.testing.assert_allclose(index["segments"][plane]["std"], clips[:, first:end].std(axis=(0, 1)), rtol=1e-5)
    assert index["bytes_per_window"] == 2 * shape.positions * 4 * 4 + latents.HEADER.itemsize


def test_stage_two_normalises_by_the_statistics_of_its_segments(cached, tmp_path):
    """In the order of the latent's segments, whatever the order in the index."""
    config = dataclasses.replace(CONFIG, latents=LatentsConfig(normalize=True))
    cache = latents.open_latents(config, cached, "train")
    folder = StageFolder(tmp_path)
    completed = latent_statistics.with_statistics(config, cache, folder)
    scale = LatentScale.of(latent_spec(config.autoencoder), completed.latents)
    clips = np.stack([scale.normalize(cache[i]["clip"]) for i in range(len(cache))]).astype(np.float64)
    for part in latent_spec(config.autoencoder).parts:
        np.testing.assert_allclose(clips[:, part.slice].mean(axis=(0, 1)), 0, atol=1e-4)
        np.testing.assert_allclose(clips[:, part.slice].std(axis=(0, 1)), 1, atol=1e-4)
    assert latent_statistics.with_statistics(CONFIG, cache, folder) is CONFIG
    assert latent_statistics.with_statistics(completed, cache, folder) is completed
    # A run that has begun keeps its own; a damaged file of settings is no obstacle.
    other = dataclasses.replace(completed.latents, mean=(0.25,) * len(completed.latents.mean))
    settings = config_to_dict(dataclasses.replace(config, latents=other))
    write_json(folder.config, settings | {"encoded_by": cache.identity})
    assert latent_statistics.with_statistics(config, cache, folder).latents == other
    # Not those of another autoencoder.
    write_json(folder.config, settings | {"encoded_by": "0" * 64})
    assert latent_statistics.with_statistics(config, cache, folder) == completed
    folder.config.write_text("{")
    assert latent_statistics.with_statistics(config, cache, folder) == completed


def test_every_process_has_the_statistics_of_the_first(cached, tmp_path, monkeypatch):
    """Also a host that doesn't see the run's folder: it must neither measure alone nor get other last digits."""
    config = dataclasses.replace(CONFIG, latents=LatentsConfig(normalize=True))
    cache = latents.open_latents(config, cached, "train")
    measured = latent_statistics.with_statistics(config, cache, StageFolder(tmp_path)).latents
    first = dataclasses.replace(measured, mean=(0.25,) * len(measured.mean))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(latent_statistics, "broadcast_json", lambda value: config_to_dict(first))
    monkeypatch.setattr(cache, "statistics", None)
    assert latent_statistics.with_statistics(config, cache, StageFolder(tmp_path)).latents == first


@pytest.mark.parametrize("damage", ["shard missing", "statistics damaged"])
def test_what_is_missing_or_damaged_is_encoded_again(cached, tmp_path, monkeypatch, damage):
    monkeypatch.setattr("pvdm_jax.training.encode.SHARD_WINDOWS", 4)
    run = tmp_path / "run"
    shutil.copytree(cached, run)
    shard = run / "latents" / "train-00001-of-00003.array_record"
    if damage == "statistics damaged":
        shard.with_suffix(".json").write_text("[")
        (run / "latents" / "index.json").unlink()
    else:
        shard.unlink()
        with pytest.raises(ConfigError, match="train-00001-of-00003.array_record is missing; `pvdm encode`"):
            latents.open_latents(CONFIG, run, "train")
    encode(CONFIG, run)
    assert files(run) == files(cached)


def test_a_damaged_index_is_named(cached, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(cached, run)
    path = run / "latents" / "index.json"
    identity = json.loads(path.read_text())["made_by"]["autoencoder"]

    def read():
        try:
            latents.open_latents(CONFIG, run, "train", lambda: identity)
        except ConfigError as error:
            if "these settings differ" not in str(error):  # latents of another run, then
                raise

    assert refused_by_name(path, read) > 60
    path.write_text('{"made_by": {"autoencoder": 3}}')
    with pytest.raises(ConfigError, match="index.json"):
        encode(CONFIG, run)


def test_a_killed_encoding_goes_on_with_the_same_bytes(cached, workdir, monkeypatch):
    """Killed while the third of three shards is written: the first two are kept, and all end up the same."""
    monkeypatch.setattr("pvdm_jax.training.encode.SHARD_WINDOWS", 4)
    close = latents.ShardWriter.close

    def killed(writer):
        if "train-00002" in writer._path.name:
            raise KeyboardInterrupt
        return close(writer)

    with monkeypatch.context() as patch:
        patch.setattr(latents.ShardWriter, "close", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(CONFIG, workdir)
    with pytest.raises(ConfigError, match="begun, but isn't finished"):
        latents.open_latents(CONFIG, workdir, "train")
    kept = workdir / "latents" / "train-00000-of-00003.array_record"
    before = kept.stat().st_mtime_ns
    encode(CONFIG, workdir)
    assert kept.stat().st_mtime_ns == before
    one, other = latents.open_latents(CONFIG, cached, "train"), latents.open_latents(CONFIG, workdir, "train")
    for i in range(10):
        jax.tree.map(np.testing.assert_array_equal, one[i], other[i])
    indexes = [json.loads((path / "latents" / "index.json").read_text()) for path in (cached, workdir)]
    assert indexes[0] == indexes[1]
    assert not list((workdir / "latents").glob("*unfinished")) and not (workdir / "latents" / "encoding.json").exists()


def test_what_another_autoencoder_began_is_refused(workdir):
    folder = workdir / "latents"
    folder.mkdir()
    settings = latents.cached_settings(CONFIG)
    (folder / "encoding.json").write_text(json.dumps({"made_by": {"autoencoder": "0" * 64} | settings}))
    with pytest.raises(ConfigError, match="made by another autoencoder"):
        encode(CONFIG, workdir)
    identity = functional.fingerprint(load_autoencoder(CONFIG.autoencoder, workdir))
    (folder / "encoding.json").write_text(json.dumps({"made_by": {"autoencoder": identity} | settings}))
    with pytest.raises(ConfigError, match="data.flip is False"):
        encode(changed(data={"flip": False}), workdir)


def test_pixels_give_the_numbers_of_the_cache(cached):
    fly = changed(encode={"cache": False})
    mesh = make_mesh(MeshConfig())
    (cache, kept), (pixels, made) = (latents.training_latents(c, cached, mesh) for c in (CONFIG, fly))
    assert (cache.identity, cache.class_names) == (pixels.identity, pixels.class_names)
    # Ten windows: the statistics without a cache are estimated from all of them.
    for name, segment in cache.statistics(CONFIG).items():
        for kind in ("mean", "std"):
            np.testing.assert_allclose(pixels.statistics(fly)[name][kind], segment[kind], atol=1e-5)
    streams = [source.batches(CONFIG if source is cache else fly, 4, 2) for source in (cache, pixels)]
    for _ in range(3):
        assert_close(*(next(stream) for stream in streams))
    for stream in streams:
        stream.close()
    assert_close(kept, made)


@pytest.mark.slow
def test_stage_two_trains_from_pixels_alike(cached, workdir):
    def losses(run):
        lines = [json.loads(line) for line in (run / "diffusion" / "metrics.jsonl").read_text().splitlines()]
        return [line["train/loss"] for line in lines if "train/loss" in line]

    diffusion.train(changed(encode={"cache": False}), workdir)
    assert not (workdir / "latents").exists()
    shutil.copytree(cached, workdir.parent / "other")
    diffusion.train(CONFIG, workdir.parent / "other")
    np.testing.assert_allclose(losses(workdir), losses(workdir.parent / "other"), rtol=1e-4)


def test_a_cache_of_nothing_is_refused(workdir):
    with pytest.raises(ConfigError, match="encode.windows is 0; .* needs encode.cache=False"):
        EncodeConfig(windows=0)
    with pytest.raises(ConfigError, match="encode.cache is False"):
        encode(changed(encode={"cache": False}), workdir)


def test_windows_of_three_clips_for_a_denoiser_that_takes_the_next_one(workdir):
    config = changed(data={"synthetic_frames": 14, "crop_scale": 1.0, "flip": False}, denoiser={"next_clip": True})
    encode(config, workdir)
    cache = latents.open_latents(config, workdir, "train")
    item = cache[3]
    assert item["next"].shape == item["clip"].shape and item["has_next"] and item["has_previous"]
    source = open_source(config.data, config.autoencoder, "train", config.seed)
    video = source[1].read(cache.window(3)["start"], 12).reshape(3, 4, 16, 24, 3)
    expected = trained(config, workdir).encode(to_float(video))
    found = np.stack([item["previous"], item["clip"], item["next"]])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ConfigError, match="denoiser.next_clip is False"):
        latents.open_latents(changed(config, denoiser={"next_clip": False}), workdir, "train")


@pytest.mark.parametrize("next_clip", [False, True])
def test_unconditional_clips_are_stored_with_their_windows(workdir, next_clip):
    """From the cache and from pixels: clips of the window's own frames, encoded."""
    config = changed(encode={"unconditional_anywhere": True}, denoiser={"next_clip": next_clip})
    encode(config, workdir)
    cache = latents.open_latents(config, workdir, "train")
    source = open_source(config.data, config.autoencoder, "train", config.seed)
    spec = PairSpec(config.encode.windows, next_clip=next_clip, unconditional=True)
    pair = clip_pairs(source, config.autoencoder, config.data, spec, config.seed)[3]
    clips = pair["video"].reshape(3 + next_clip, 4, 16, 24, 3)
    expected = trained(config, workdir).encode(to_float(clips))
    item, names = cache[3], ["previous", "clip", *(["next"] if next_clip else []), "unconditional"]
    np.testing.assert_allclose(np.stack([item[name] for name in names]), expected, atol=1e-5)
    fly = changed(config, encode={"cache": False})
    pixels, _ = latents.training_latents(fly, workdir, make_mesh(MeshConfig()))
    streams = [cache.batches(config, 4, 1), pixels.batches(fly, 4, 1)]
    one, other = (next(stream) for stream in streams)
    assert one.unconditional is not None
    assert_close(one, other)
    for stream in streams:
        stream.close()
    with pytest.raises(ConfigError, match="encode.unconditional_anywhere is False"):
        latents.open_latents(changed(config, encode={"unconditional_anywhere": False}), workdir, "train")


class ZeroEncoder:
    """Encodes every clip as zeros, without an autoencoder."""

    identity = "zeros"

    def __init__(self, model, workdir, mesh):
        self.mesh = mesh
        self.frames = model.frames
        self.shape = latent_spec(model).shape

    def encode(self, video):
        clips = len(video) * (video.shape[1] // self.frames)
        return global_batch(self.mesh, np.zeros((clips, *self.shape), np.float32))


@pytest.mark.parametrize("next_clip", [False, True])
@pytest.mark.parametrize("unconditional", [False, True])
def test_the_abstract_batch_is_that_of_training_and_evaluation(tmp_path, monkeypatch, next_clip, unconditional):
    """From the cache and from pixels: the same fields, shapes and types as what a step is planned for."""
    for module in ("encode", "latents"):
        monkeypatch.setattr(f"pvdm_jax.training.{module}.Encoder", ZeroEncoder)
    cached = changed(encode={"unconditional_anywhere": unconditional}, denoiser={"next_clip": next_clip})
    encode(cached, tmp_path)
    mesh = make_mesh(MeshConfig())
    for config in (cached, changed(cached, encode={"cache": False})):
        training, held_out = latents.training_latents(config, tmp_path, mesh)
        batches = training.batches(config, 3, 0)
        for batch in (next(batches), held_out):
            abstract = LatentBatch.abstract(config, len(batch))
            assert jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch) == abstract
        batches.close()
    assert (batch.next is None, batch.unconditional is None) == (not next_clip, not unconditional)


def test_videos_of_two_clips_have_either_neighbour():
    config = changed(data={"synthetic_frames": 10, "crop_scale": 1.0, "flip": False})
    source = open_source(config.data, config.autoencoder, "train", 0)
    triples = clip_pairs(source, config.autoencoder, config.data, PairSpec(6, next_clip=True), seed=0)
    seen = set()
    for i in range(len(triples)):
        item = triples[i]
        known = (bool(item["has_previous"]), bool(item["has_next"]))
        seen.add(known)
        first = 0 if known[0] else 4
        expected = source[i // 6].read(int(item["start"]), 8)
        np.testing.assert_array_equal(item["video"][first : first + 8], expected)
        assert (np.delete(item["video"], np.s_[first : first + 8], axis=0) == 0).all()
    assert seen == {(True, False), (False, True)}
