"""Evaluations of large frames: work per call is bounded by pixels, and nothing else changes."""

import jax
import numpy as np
import pytest

from pvdm_jax.config import MeshConfig
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.evaluation import clip_measurements, scattering
from pvdm_jax.evaluation.clip_measurements import measure_clips
from pvdm_jax.evaluation.clip_sets import VideoFolder
from pvdm_jax.evaluation.feature_spaces import FeatureSpace
from pvdm_jax.runtime import sharding
from pvdm_jax.video.write import write_video


def test_bands_of_rows_give_the_same_features(monkeypatch):
    clips = np.random.default_rng(0).integers(0, 256, (2, 11, 41, 30, 3), np.uint8)
    whole = np.asarray(scattering.scattering(clips))
    for pixels in (11 * 30 * 2 * 4, 11 * 30 * 2 * 14):
        monkeypatch.setattr(scattering, "BAND_PIXELS", pixels)
        banded = jax.jit(scattering.scattering.__wrapped__)
        np.testing.assert_allclose(np.asarray(banded(clips)), whole, atol=2e-5)


def test_memory_of_a_large_clip_is_bounded():
    """A clip of 720 rows and 1280 columns: compiled, not run."""
    clip = jax.ShapeDtypeStruct((1, 16, 720, 1280, 3), np.uint8)
    memory = jax.jit(scattering.scattering).lower(clip).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2e9


def test_fewer_large_clips_are_measured_at_once():
    sizes = []

    def function(params, videos):
        sizes.append(videos.shape[0])
        return videos.astype(np.float32).mean((1, 2, 3))

    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    space = FeatureSpace({"network": "x"}, function, {}, mesh, min_frames=1, min_side=1, max_pixels=4 * 8 * 8)
    small = np.random.default_rng(0).integers(0, 256, (7, 1, 8, 8, 3), np.uint8)
    large = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 16, 3), np.uint8)
    for videos, size in ((small, 4), (large, 1)):
        np.testing.assert_allclose(space(videos, 16), videos.mean((1, 2, 3)), rtol=1e-5)
        assert sizes.pop() == size
    with pytest.raises(TypeError, match="videos are int64"):
        space(small.astype(np.int64))


def test_fewer_large_clips_are_read_at_once(tmp_path, monkeypatch, real_clips):
    for i, clip in enumerate(real_clips(5, 24)):
        write_video(tmp_path / "videos" / f"{i}.mp4", clip)
    protocol = ProtocolConfig(frames=(16,), samples=5)
    clips = VideoFolder(tmp_path / "videos").generated_clips(16, 5, protocol, (24, 24))
    monkeypatch.setattr(clip_measurements, "READ_PIXELS", 2 * 16 * 24 * 24)
    sizes = []

    def measure(batch):
        sizes.append(len(batch))
        return {"mean": batch.mean((1, 2, 3, 4))}

    measure_clips(clips, measure, {}, cache=tmp_path / "cache", batch_size=16)
    assert sizes == [2, 2, 1]


def test_a_clip_that_fails_later_is_replaced_and_named(tmp_path, real_clips, caplog):
    for i, clip in enumerate(real_clips(3, 24)):
        write_video(tmp_path / f"{i}.mp4", clip)
    protocol = ProtocolConfig(frames=(16,), samples=3)
    clips = VideoFolder(tmp_path).generated_clips(16, 3, protocol, (24, 24))
    expected = clips.batch(0, 3)
    (tmp_path / "1.mp4").write_bytes(b"gone")
    np.testing.assert_array_equal(clips.batch(0, 3), expected[[0, 2, 2]])
    assert "clip 1 is replaced by the next one" in caplog.text and "1.mp4" in caplog.text
