"""Which clips are compared: windows of videos, and folders of files."""

import dataclasses

import numpy as np
import pytest

from pvdm_jax.config import ConfigError, DataConfig
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.evaluation.clip_sets import VideoFolder, choose_windows, source_clips
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.write import write_video

PROTOCOL = ProtocolConfig()


def test_one_window_of_each_video_comes_first():
    lengths = [20, 9, 30, 16, 40]
    for videos in ("first", "spread", "random"):
        windows = choose_windows(lengths, 16, 4, videos=videos, clips="random", seed=0)
        assert sorted(i for i, _ in windows) == [0, 2, 3, 4]
        assert all(0 <= start <= lengths[i] - 16 for i, start in windows)
    more = choose_windows(lengths, 16, 100, videos="first", clips="random", seed=0)
    assert [i for i, _ in more[:4]] == [0, 2, 3, 4]
    # All different windows there are: 5 + 15 + 1 + 25.
    assert len(more) == len(set(more)) == 46


def test_windows_from_the_start_do_not_overlap():
    windows = choose_windows([40, 16, 33], 16, 10, videos="first", clips="start", seed=0)
    assert windows == [(0, 0), (1, 0), (2, 0), (0, 16), (2, 16)]


def test_which_videos_where_there_are_more():
    lengths = [16] * 100
    assert [i for i, _ in choose_windows(lengths, 16, 4, videos="first", clips="start", seed=0)] == [0, 1, 2, 3]
    assert [i for i, _ in choose_windows(lengths, 16, 4, videos="spread", clips="start", seed=0)] == [12, 37, 62, 87]
    drawn = choose_windows(lengths, 16, 4, videos="random", clips="start", seed=0)
    assert drawn == choose_windows(lengths, 16, 4, videos="random", clips="start", seed=0)
    assert drawn != choose_windows(lengths, 16, 4, videos="random", clips="start", seed=1)


def test_windows_depend_on_the_seed_alone():
    lengths = np.random.default_rng(0).integers(16, 60, 30).tolist()
    few, many = (choose_windows(lengths, 16, count, videos="first", clips="random", seed=3) for count in (30, 60))
    assert few != choose_windows(lengths, 16, 30, videos="first", clips="random", seed=4)
    assert [i for i, _ in few] == [i for i, _ in many[:30]]


@pytest.fixture
def folder(tmp_path, real_clips):
    clips = real_clips(3, 24)
    for i, frames in enumerate((16, 10, 16)):
        write_video(tmp_path / "videos" / f"class_{i % 2}" / f"{i}.mp4", clips[i, :frames])
    (tmp_path / "videos" / "broken.avi").write_bytes(b"no video")
    (tmp_path / "videos" / "notes.txt").write_text("no video either")
    return tmp_path / "videos"


def test_folder(folder):
    found = VideoFolder(folder)
    assert found.size == (24, 24) and found.longest == 16
    assert len(found.skipped) == 1 and "broken.avi" in found.skipped[0]
    clips = found.real_clips(16, 16, dataclasses.replace(PROTOCOL, clips="start"), (20, 24))
    assert len(clips) == 2 and clips.facts["clips"] == 2
    batch = clips.batch(0, 2)
    assert batch.shape == (2, 16, 20, 24, 3) and batch.dtype == np.uint8
    np.testing.assert_array_equal(clips.batch(1, 2), batch[1:])
    assert len(found.real_clips(8, 16, dataclasses.replace(PROTOCOL, clips="start"), (24, 24))) == 5


def test_facts_change_with_the_clips(folder, real_clips):
    def facts(**changes):
        return VideoFolder(folder).real_clips(8, 4, dataclasses.replace(PROTOCOL, **changes), (24, 24)).facts

    first = facts()
    assert facts() == first
    assert facts(seed=1) != first and facts(resize="bilinear") != first
    write_video(folder / "class_0" / "0.mp4", real_clips(4, 24)[3])
    assert facts()["sha256"] != first["sha256"]


def test_folder_refuses(folder, tmp_path):
    with pytest.raises(ConfigError, match="frames is 20; fewer than two clips of 20 frames .*its longest video has 16"):
        VideoFolder(folder).real_clips(20, 16, PROTOCOL, (24, 24))
    with pytest.raises(ConfigError, match="which span 32"):
        VideoFolder(folder).real_clips(16, 16, dataclasses.replace(PROTOCOL, stride=2), (24, 24))
    with pytest.raises(FileNotFoundError, match="no folder"):
        VideoFolder(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="no video file"):
        VideoFolder(tmp_path / "empty")


def test_splits_of_a_source_share_no_clip():
    data = DataConfig(synthetic_videos=6, synthetic_frames=20)

    def clips(split, count=6):
        protocol = dataclasses.replace(PROTOCOL, split=split)
        return source_clips(data, protocol, seed=0, frames=16, count=count, size=(32, 32), identity="synthetic")

    train, held_out = clips("train"), clips("holdout")
    assert train.facts["sha256"] != held_out.facts["sha256"]
    assert not np.array_equal(train.batch(0, 6), held_out.batch(0, 6))
    assert len(clips("all", 12)) == 12 and clips("all", 12).facts["videos"] == 12
    assert train.labels().shape == (6,)
