"""One interface over both kinds of source; training and held-out parts share no frame."""

import dataclasses

import numpy as np
import pytest

from pvdm_jax.config import AutoencoderConfig, ConfigError, DataConfig
from pvdm_jax.data import stored_videos
from pvdm_jax.data.clips import Crop
from pvdm_jax.data.loader import clip_pairs
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.samples import PairSpec
from pvdm_jax.data.sources import open_source
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.write import write_video

CLIP = AutoencoderConfig(frames=8, height=32, width=32)


def numbers(source, read_numbers):
    """{name: the numbers of all frames that the source hands out of that video}."""
    videos = [source[i] for i in range(len(source))]
    return {video.name: read_numbers(video.read(0, video.frames)) for video in videos}


def test_synthetic_splits_share_nothing():
    data = DataConfig(synthetic_videos=12, synthetic_frames=16)
    train, held_out = (open_source(data, CLIP, split, seed=0) for split in ("train", "holdout"))
    assert len(train) == len(held_out) == 12
    first = {train[i].read(0, 8).tobytes() for i in range(12)}
    assert len(first) == 12 and not first & {held_out[i].read(0, 8).tobytes() for i in range(12)}
    again = open_source(data, CLIP, "holdout", seed=0)
    np.testing.assert_array_equal(again[3].read(0, 8), held_out[3].read(0, 8))


@pytest.mark.parametrize(("holdout", "tails"), [(0.15, (8, 12, 8)), (0.5, (10, 40, 25))])
def test_held_out_end_of_each_video_is_not_in_training(dataset, read_numbers, holdout, tails):
    data = DataConfig(source="tfds", path=dataset, holdout=holdout)
    train, held_out = (numbers(open_source(data, CLIP, s, seed=0), read_numbers) for s in ("train", "holdout"))
    lengths = {"run/short.mp4": 20, "walk/long.mp4": 80, "walk/middle.gif": 50}
    assert set(train) == set(held_out) == set(lengths)
    for (name, frames), tail in zip(lengths.items(), tails, strict=True):
        assert train[name] == list(range(frames - tail))
        assert held_out[name] == list(range(frames - tail, frames))


def test_videos_shorter_than_two_clips_are_for_training_only(dataset):
    data = DataConfig(source="tfds", path=dataset, stride=2)  # a clip spans 16 frames; run/short has 20
    train, held_out = (open_source(data, CLIP, split, seed=0) for split in ("train", "holdout"))
    assert {train[i].name: train[i].frames for i in range(3)}["run/short.mp4"] == 20
    assert "run/short.mp4" not in {held_out[i].name for i in range(len(held_out))}
    data = DataConfig(source="tfds", path=dataset, holdout=0.0)
    assert len(open_source(data, CLIP, "holdout", seed=0)) == 0


def test_classes_and_labels_are_the_subfolders(dataset):
    source = open_source(DataConfig(source="tfds", path=dataset), CLIP, "train", seed=0)
    assert source.class_names == ("run", "walk")
    for video in (source[i] for i in range(3)):
        assert source.class_names[video.label] == video.name.split("/")[0]


@pytest.mark.parametrize(("resize", "crop_scale"), [("antialias", 1.0), ("bilinear", 1.0), ("antialias", 0.8)])
def test_kept_and_freshly_decoded_frames_are_the_same(dataset, read_numbers, monkeypatch, resize, crop_scale):
    data = DataConfig(source="tfds", path=dataset, resize=resize, crop_scale=crop_scale)
    kept = open_source(data, CLIP, "train", seed=0)
    crop = Crop(0.8, 0.2, 0.9) if crop_scale < 1 else None
    monkeypatch.setattr(stored_videos, "CACHE_BYTES", 0)
    fresh = open_source(data, CLIP, "train", seed=0)
    for i in range(3):
        video = fresh[i].read(5, 3, 2)
        assert video.shape == (3, 32, 32, 3) and read_numbers(video) == [5, 7, 9]
        np.testing.assert_array_equal(kept[i].read(5, 3, 2), video)
        np.testing.assert_array_equal(kept[i].read(5, 3, 2, crop), fresh[i].read(5, 3, 2, crop))


def test_crops_are_cut_out_of_the_whole_frame(tmp_path):
    """A picture twice as wide as high: the crop at the right end shows what the centred window doesn't have."""
    video = np.zeros((16, 64, 128, 3), np.uint8)
    video[:, :, 96:] = 255
    write_video(tmp_path / "videos" / "a.mp4", video, fps=10)
    prepare(tmp_path / "videos", tmp_path / "data")
    data = DataConfig(source="tfds", path=str(tmp_path / "data"), crop_scale=0.5)
    train = open_source(data, CLIP, "train", seed=0)[0]
    right, left = (train.read(0, 8, crop=Crop(0.5, 0.5, column)) for column in (1.0, 0.0))
    assert right.shape == left.shape == (8, 32, 32, 3) and right.min() > 245 and left.max() < 10
    centred = open_source(dataclasses.replace(data, crop_scale=1.0), CLIP, "train", seed=0)[0].read(0, 8)
    assert np.abs(train.read(0, 8).astype(int) - centred).mean() < 1


def test_reading_beyond_a_part_is_refused(dataset):
    """Even if the file is longer: its other frames are held out."""
    video = open_source(DataConfig(source="tfds", path=dataset), CLIP, "train", seed=0)[0]
    with pytest.raises(ValueError, match=f"has {video.frames} frames;"):
        video.read(video.frames - 4, 5)


def test_damage_is_reported_with_the_video_s_name(dataset):
    video = open_source(DataConfig(source="tfds", path=dataset), CLIP, "train", seed=0)[0]
    video.load = lambda piece: b"not a video"
    with pytest.raises(VideoError, match=video.name):
        video.read(0, 8)


def test_missing_dataset_names_the_setting_and_the_remedy(tmp_path):
    data = DataConfig(source="tfds", path=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"data.path is '.*none'; .*pvdm prepare"):
        open_source(data, CLIP, "train", seed=0)


def test_too_short_videos_name_the_longest(dataset):
    data = DataConfig(source="tfds", path=dataset, stride=11)
    with pytest.raises(ConfigError, match=r"data.path is .* 88 frames .* the longest, walk/long.mp4, has 80"):
        open_source(data, CLIP, "train", seed=0)
    with pytest.raises(ConfigError, match="data.synthetic_frames is 10; .* at least 16"):
        open_source(DataConfig(synthetic_frames=10, stride=2), CLIP, "train", seed=0)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split is 'test'; choose one of train, holdout"):
        open_source(DataConfig(), CLIP, "test", seed=0)


def test_target_rate_and_stride_choose_frames(dataset, read_numbers):
    """The videos play at 10 frames a second."""
    data = DataConfig(source="tfds", path=dataset, fps=5.0, holdout=0.0)
    video = open_source(data, CLIP, "train", seed=0)[1]
    assert video.name == "walk/long.mp4" and video.frames == 40
    assert read_numbers(video.read(3, 8)) == list(range(6, 22, 2))
    assert read_numbers(video.read(3, 4, 3)) == [6, 12, 18, 24]
    data = dataclasses.replace(data, holdout=0.3)
    parts = [numbers(open_source(data, CLIP, split, seed=0), read_numbers) for split in ("train", "holdout")]
    assert parts[0]["walk/long.mp4"] == list(range(0, 56, 2)) and parts[1]["walk/long.mp4"] == list(range(56, 80, 2))


def test_faster_than_the_videos_no_frame_is_in_both_parts(dataset, read_numbers):
    data = DataConfig(source="tfds", path=dataset, fps=25.0, holdout=0.4)
    train, held_out = (numbers(open_source(data, CLIP, s, seed=0), read_numbers) for s in ("train", "holdout"))
    for name in held_out:
        assert not set(train[name]) & set(held_out[name])


def test_a_target_rate_needs_videos_that_say_theirs(tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", np.zeros((20, 8, 8, 3), np.uint8))
    prepare(tmp_path / "in", tmp_path / "data")
    with pytest.raises(ConfigError, match="data.fps is 5.0; the dataset doesn't say how fast a.npy plays; .*--fps"):
        open_source(DataConfig(source="tfds", path=str(tmp_path / "data"), fps=5.0), CLIP, "train", seed=0)


@pytest.mark.parametrize(
    ("policy", "expected"), [("loop", [i % 5 for i in range(16)]), ("pad", [0, 1, 2, 3, 4, 4, 4, 4])]
)
def test_short_videos_are_used_if_asked_for(tmp_path, read_numbers, numbered, policy, expected):
    write_video(tmp_path / "in" / "short.mp4", numbered(5), fps=10)
    write_video(tmp_path / "in" / "long.mp4", numbered(40), fps=10)
    prepare(tmp_path / "in", tmp_path / "data", PrepareOptions(min_frames=1))
    data = DataConfig(source="tfds", path=str(tmp_path / "data"), short_videos=policy)
    source = open_source(data, CLIP, "train", seed=0)
    short = next(source[i] for i in range(2) if source[i].name == "short.mp4")
    assert read_numbers(short.read(0, short.frames)) == expected
    pairs = clip_pairs(source, CLIP, data, PairSpec(windows=1), seed=0)
    marked = {source[i].name: bool(pairs[i]["has_previous"]) for i in range(2)}
    assert marked == {"long.mp4": True, "short.mp4": policy == "loop"}
    skipping = open_source(dataclasses.replace(data, short_videos="skip"), CLIP, "train", seed=0)
    assert len(skipping) == 1 and skipping.left_out == ["short.mp4"]


def test_splits_train_and_evaluate_on_different_videos(tmp_path, read_numbers, numbered):
    for name in ("train/a", "train/b", "test/c"):
        write_video(tmp_path / "in" / f"{name}.mp4", numbered(20), fps=10)
    prepare(tmp_path / "in", tmp_path / "data")
    data = DataConfig(source="tfds", path=str(tmp_path / "data"), eval_split="test")
    parts = [numbers(open_source(data, CLIP, split, seed=0), read_numbers) for split in ("train", "holdout")]
    assert {name: len(frames) for name, frames in parts[0].items()} == {"train/a.mp4": 20, "train/b.mp4": 20}
    assert {name: len(frames) for name, frames in parts[1].items()} == {"test/c.mp4": 20}
    everything = open_source(dataclasses.replace(data, split="all", eval_split=""), CLIP, "train", seed=0)
    assert len(everything) == 3
    with pytest.raises(ConfigError, match="data.eval_split is 'val'; the dataset has train, test"):
        open_source(dataclasses.replace(data, eval_split="val"), CLIP, "holdout", seed=0)


@pytest.mark.parametrize(
    ("split", "eval_split"), [("all", "test"), ("train", "train"), ("test", "test"), ("train", "all"), ("all", "all")]
)
def test_videos_that_are_trained_on_are_not_evaluated_on(split, eval_split):
    message = f"data.eval_split is '{eval_split}'; data.split={split} trains on these videos"
    data = DataConfig(source="tfds", path="data", split=split, eval_split=eval_split)
    with pytest.raises(ConfigError, match=message):
        data.check_held_out()
