"""`pvdm prepare`: what it takes, what it skips and why, and what it leaves when it fails."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from read_frames import read_video

from pvdm_jax.data.prepare import folder as builder
from pvdm_jax.data.prepare import workers
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.prepare.summary import Summary
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.write import write_video


def moving(frames, size=32):
    video = np.zeros((frames, size, size, 3), np.uint8)
    video[np.arange(frames), np.arange(frames) % size] = 255
    return video


@pytest.fixture
def folder(tmp_path):
    """Good, short, damaged and empty files, upper-case suffixes, classes, hidden and other files."""
    path = tmp_path / "videos"
    write_video(path / "walk" / "b.mp4", moving(20), fps=10)
    write_video(path / "walk" / "a.gif", moving(18), fps=10)
    write_video(path / "run" / "c.mp4", moving(30), fps=10)
    (path / "run" / "c.mp4").rename(path / "run" / "c.MP4")
    write_video(path / "top.mp4", moving(16), fps=10)
    write_video(path / "short.mp4", moving(15), fps=10)
    (path / "empty.avi").touch()
    (path / "jump").mkdir()
    (path / "jump" / "text.mkv").write_text("not a video")
    (path / "cut.mp4").write_bytes((path / "top.mp4").read_bytes()[:500])
    (path / "notes.txt").write_text("no suffix of a video")
    (path / ".hidden.mp4").write_bytes((path / "top.mp4").read_bytes())
    (path / ".cache").mkdir()
    (path / ".cache" / "d.mp4").write_bytes((path / "top.mp4").read_bytes())
    return path


def test_good_files_are_taken_and_the_others_named_with_reasons(folder, tmp_path):
    summary = prepare(folder, tmp_path / "out")
    assert (summary.count, summary.frames, summary.classes) == (4, 16 + 30 + 18 + 20, {"run": 1, "walk": 2})
    assert summary.seconds == pytest.approx(8.4)
    assert set(summary.skipped) == {"short.mp4", "empty.avi", "jump/text.mkv", "cut.mp4"}
    assert summary.skipped["short.mp4"] == "it has 15 frames, fewer than 16"
    assert summary.skipped["empty.avi"] == "the file is empty"
    assert "can't be decoded" in summary.skipped["cut.mp4"] and "can't be decoded" in summary.skipped["jump/text.mkv"]
    lines = str(summary).splitlines()
    assert lines[0].startswith("4 videos, 84 frames, 8 seconds, ") and lines[1] == "2 classes: run (1), walk (2)"
    assert "skipped: short.mp4: it has 15 frames, fewer than 16" in lines
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["count"] == 4 and stored["skipped"] == summary.skipped


def test_records_hold_the_files_and_what_is_known_of_them(folder, tmp_path):
    prepare(folder, tmp_path / "out")
    builder = tfds.builder_from_directory(tmp_path / "out")
    records = builder.as_data_source("train")
    assert [record["name"].decode() for record in records] == ["top.mp4", "run/c.MP4", "walk/a.gif", "walk/b.mp4"]
    assert [int(record["label"]) for record in records] == [-1, 0, 1, 1]
    assert builder.info.features["label"].names == ["run", "walk"]
    for record in records:
        path = folder / record["name"].decode()
        assert record["video"] == path.read_bytes()
        video = read_video(path)
        assert (record["frames"], record["height"], record["width"]) == video.shape[:3]
        assert record["fps"] == pytest.approx(10, rel=1e-3)
        np.testing.assert_array_equal(read_video(record["video"]), video)


def test_min_frames_is_a_choice(folder, tmp_path):
    summary = prepare(folder, tmp_path / "out", PrepareOptions(min_frames=20))
    assert summary.count == 2 and summary.skipped["walk/a.gif"] == "it has 18 frames, fewer than 20"


def test_no_usable_video_says_what_was_tried(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(
        VideoError, match=r"in: no usable video. Found an empty folder; expected .*; videos: video files .*$"
    ):
        prepare(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.mp4").touch()
    with pytest.raises(VideoError, match="no usable video .layout videos.; skipped a.mp4: the file is empty$"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_missing_source_and_used_output_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="used is not empty; name a new folder"):
        prepare(folder, tmp_path / "used")
    assert (tmp_path / "used" / "mine.txt").read_text() == "keep"
    (tmp_path / "bare").mkdir()
    assert prepare(folder, tmp_path / "bare").count == 4


def test_tensorflow_is_not_needed(folder, tmp_path):
    """In a program that can't import it."""
    program = f"""
import sys
class WithoutTensorFlow:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] == "tensorflow" else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [WithoutTensorFlow(finder) for finder in sys.meta_path]
from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.sources import open_source
prepare({str(folder)!r}, {str(tmp_path / "out")!r})
data = DataConfig(source="tfds", path={str(tmp_path / "out")!r})
source = open_source(data, AutoencoderConfig(height=32, width=32), "train", seed=0)
print(len(source), source[1].read(0, 16).shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4 (16, 32, 32, 3)"


def names_in(path):
    return [record["name"].decode() for record in tfds.builder_from_directory(path).as_data_source("train")]


def test_a_killed_prepare_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    """Killed in the third of four shards: the first two are kept, and the dataset is as if nothing had happened."""
    monkeypatch.setattr(workers, "SHARD_VIDEOS", 2)
    prepare(folder, tmp_path / "whole", workers=1)
    write_shard = workers.write_shard

    def killed(path, *rest, **keywords):
        if path.name == "shard-00002.array_record":
            raise KeyboardInterrupt
        write_shard(path, *rest, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    unfinished = tmp_path / ".out.unfinished"
    assert sorted(path.name for path in unfinished.glob("*.json"))[-2:] == ["shard-00000.json", "shard-00001.json"]
    made = []

    def noted(path, *rest, **keywords):
        made.append(path.name)
        write_shard(path, *rest, **keywords)

    monkeypatch.setattr(workers, "write_shard", noted)
    assert prepare(folder, tmp_path / "out", workers=1) == prepare_summary(tmp_path / "whole")
    assert made == ["shard-00002.array_record", "shard-00003.array_record"]
    assert names_in(tmp_path / "out") == names_in(tmp_path / "whole")
    assert not unfinished.exists() and not (tmp_path / ".out.lock").exists()


def prepare_summary(path):
    return Summary(**json.loads((path / "summary.json").read_text()))


def test_other_videos_or_options_start_anew(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(builder, "finish_dataset", lambda *args: None)
    prepare(folder, tmp_path / "out")
    monkeypatch.undo()
    (folder / "top.mp4").unlink()
    assert prepare(folder, tmp_path / "out").count == 3
    assert "begun for other videos or options; starting over" in capsys.readouterr().out
    assert "top.mp4" not in names_in(tmp_path / "out")


def test_two_cannot_make_the_same_dataset(folder, tmp_path):
    with builder._lock(tmp_path / ".out.unfinished", tmp_path / "out"):
        with pytest.raises(FileExistsError, match="out: another process is making it right now"):
            prepare(folder, tmp_path / "out")


def test_classes_without_a_usable_video_are_none(folder, tmp_path):
    """The class jump has only a broken file; it leaves no gap among the classes."""
    assert prepare(folder, tmp_path / "out").classes == {"run": 1, "walk": 2}
    dataset = tfds.builder_from_directory(tmp_path / "out")
    assert dataset.info.features["label"].names == ["run", "walk"]
    assert dataset.info.metadata["videos"]["train"][1]["label"] == 0


@pytest.mark.long
def test_worker_processes_make_the_same_dataset(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "SHARD_VIDEOS", 1)
    one = prepare(folder, tmp_path / "one", workers=1)
    assert prepare(folder, tmp_path / "two", workers=2) == one
    assert names_in(tmp_path / "one") == names_in(tmp_path / "two")
