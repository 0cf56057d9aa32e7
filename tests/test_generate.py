"""Sampling, extending and reconstructing into files, with a small stand-in for a trained model."""

import json
import math

import jax
import numpy as np
import pytest

from pvdm_jax import generate, media
from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, DataConfig, UNetConfig

FRAMES, SIDE = 4, 16


class Model:
    """Answers as `PVDM` does, with noise for samples, a frozen frame for extensions, and off-by-one reconstructions."""

    def __init__(self, num_classes=0, stride=1):
        clip = AutoencoderConfig(frames=FRAMES, height=SIDE, width=SIDE)
        unet = UNetConfig(channel_mult=(1,), num_classes=num_classes)
        self.config = Config(data=DataConfig(stride=stride), autoencoder=clip, unet=unet)
        self.class_names = ("bounce", "orbit", "spin")
        self.calls = []

    def sample(self, key, num_videos, num_frames=None, labels=None, **options):
        self.calls.append({"num_videos": num_videos, "labels": labels, **options})
        shape = (num_videos, num_frames or FRAMES, SIDE, SIDE, 3)
        return jax.random.randint(key, shape, 0, 256).astype(np.uint8)

    def extend(self, video, num_frames, key, labels=None, **options):
        self.calls.append({"video": video, **options})
        return np.repeat(video[:, -1:], num_frames, axis=1)

    def reconstruct(self, video):
        self.calls.append({"video": video})
        return np.where(video < 255, video + 1, 254).astype(np.uint8)


@pytest.fixture
def model():
    return Model()


def moving_square(frames: int) -> np.ndarray:
    """A bright square that moves down and right, on grey, in frames wider than high."""
    video = np.full((frames, 32, 40, 3), 60, np.uint8)
    for i in range(frames):
        video[i, i % 20 : i % 20 + 12, 4 + i % 20 : 16 + i % 20] = (220, 120, 40)
    return video


@pytest.fixture
def folder(tmp_path):
    """Three usable videos of 10, 20 and 9 frames, and files that are none."""
    folder = tmp_path / "videos"
    media.write_video(folder / "a.mp4", moving_square(10), fps=24)
    media.write_video(folder / "b.gif", moving_square(20), fps=10)
    media.write_video(folder / "deeper" / "a.mp4", moving_square(9), fps=24)
    media.write_video(folder / "short.mp4", moving_square(FRAMES - 1), fps=24)
    (folder / "broken.mp4").write_bytes(b"this is no video")
    (folder / ".hidden.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("no video, and not named as skipped")
    return folder


def names(path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def test_sample_writes_each_video_and_a_grid(model, tmp_path):
    generate.sample(model, tmp_path / "out", num_videos=3, num_frames=6, batch_size=2, fps=12)
    videos = [f"video_000{i}.{suffix}" for i in range(3) for suffix in ("gif", "mp4")]
    assert names(tmp_path / "out") == ["grid.gif", "grid.mp4", "grid.png", *videos]
    info = media.probe_video(tmp_path / "out" / "video_0002.mp4")
    assert (info.frames, info.height, info.width, info.fps) == (6, SIDE, SIDE, 12)
    grid = media.probe_video(tmp_path / "out" / "grid.mp4")
    assert grid.frames == 6
    assert grid.width >= 2 * generate.GRID_SIDE


def test_all_batches_have_one_size(model, tmp_path):
    generate.sample(model, tmp_path / "out", num_videos=5, batch_size=2, formats=["gif"])
    assert [call["num_videos"] for call in model.calls] == [2, 2, 2]
    assert "video_0004.gif" in names(tmp_path / "out")
    assert "video_0005.gif" not in names(tmp_path / "out")


def test_videos_follow_from_the_seed(model, tmp_path):
    def frames(name, seed):
        generate.sample(model, tmp_path / name, num_videos=4, batch_size=2, seed=seed, formats=["mp4"])
        return [media.read_video(tmp_path / name / f"video_000{i}.mp4") for i in range(4)]

    first, again, other = frames("first", 1), frames("again", 1), frames("other", 2)
    np.testing.assert_array_equal(first, again)
    different = [np.abs(a.astype(int) - b).mean() > 10 for a, b in zip(first, other, strict=True)]
    assert all(different)
    assert np.abs(first[0].astype(int) - first[2]).mean() > 10  # the batches differ too


def test_options_reach_the_sampler(model, tmp_path):
    generate.sample(model, tmp_path / "out", num_videos=1, options={"steps": 3, "guidance": 2.0}, formats=["gif"])
    assert model.calls == [{"num_videos": 1, "labels": None, "steps": 3, "guidance": 2.0}]


def test_classes_are_given_in_turn(tmp_path):
    model = Model(num_classes=3)
    generate.sample(model, tmp_path / "out", num_videos=4, batch_size=2, classes=["spin", "bounce"], formats=["gif"])
    assert [call["labels"].tolist() for call in model.calls] == [[2, 0], [2, 0]]


@pytest.mark.parametrize(
    ("num_classes", "arguments", "parts"),
    [
        (3, {"classes": ["jump"]}, ["jump", "bounce, orbit, spin"]),
        (0, {"classes": ["spin"]}, ["spin", "without classes"]),
        (0, {"formats": ["avi"]}, ["avi", "mp4, gif"]),
        (0, {"options": {"eta": 2.0}}, ["sample.eta", "2.0"]),
        (0, {"options": {"steps": 5000}}, ["sample.steps", "5000", "1000"]),
    ],
)
def test_impossible_options_are_refused_before_sampling(tmp_path, num_classes, arguments, parts):
    model = Model(num_classes)
    with pytest.raises(ConfigError) as error:
        generate.sample(model, tmp_path / "out", **arguments)
    for part in parts:
        assert part in str(error.value)
    assert model.calls == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sample", "extend", "reconstruct"])
def test_results_are_never_overwritten(model, folder, tmp_path, command):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="out is not empty"):
        if command == "sample":
            generate.sample(model, output)
        elif command == "extend":
            generate.extend(model, [folder], output, num_frames=4)
        else:
            generate.reconstruct(model, [folder], output)
    assert names(output) == ["mine.txt"]
    assert model.calls == []


def test_extend_appends_to_the_end_of_the_original(model, folder, tmp_path):
    generate.extend(model, [folder / "b.gif"], tmp_path / "out", num_frames=5, original_frames=8, formats=["mp4"])
    assert names(tmp_path / "out") == ["b.mp4", "videos.json"]
    frames = media.read_video(tmp_path / "out" / "b.mp4")
    assert frames.shape == (8 + 5, SIDE, SIDE, 3)
    original = media.read_video(folder / "b.gif", start=12)
    expected = generate.center_crop_resize(original, SIDE, SIDE)
    assert np.abs(frames[:8].astype(int) - expected).mean() < 6  # lossy files
    assert np.abs(frames[8:].astype(int) - expected[-1]).mean() < 6
    record = json.loads((tmp_path / "out" / "videos.json").read_text())["videos"][0]
    assert record["file"] == "b"
    assert record["continuation_starts_at"] == 8


def test_extend_reads_folders_and_skips_by_name(model, folder, tmp_path, capsys):
    generate.extend(model, [folder], tmp_path / "out", num_frames=2, batch_size=2, formats=["mp4"])
    assert names(tmp_path / "out") == ["a.mp4", "a_.mp4", "b.mp4", "videos.json"]
    assert [len(call["video"]) for call in model.calls] == [2, 2]  # the second batch is filled up
    errors = capsys.readouterr().err
    assert "broken.mp4" in errors
    assert "short.mp4" in errors
    skipped = json.loads((tmp_path / "out" / "videos.json").read_text())["skipped"]
    reasons = {record["source"].rpartition("/")[2]: record["reason"] for record in skipped}
    assert set(reasons) == {"broken.mp4", "short.mp4"}
    assert "3 frames" in reasons["short.mp4"]


def test_stride_and_frame_rate(folder, tmp_path):
    model = Model(stride=2)
    generate.extend(model, [folder / "a.mp4"], tmp_path / "out", num_frames=4, original_frames=4, formats=["mp4"])
    info = media.probe_video(tmp_path / "out" / "a.mp4")
    assert (info.frames, info.fps) == (8, 12)
    every_second = media.read_video(folder / "a.mp4", start=2, count=4, stride=2)
    given = model.calls[0]["video"][0]
    np.testing.assert_array_equal(given, generate.center_crop_resize(every_second, SIDE, SIDE))
    generate.extend(model, [folder / "a.mp4"], tmp_path / "fast", num_frames=4, formats=["mp4"], fps=30)
    assert media.probe_video(tmp_path / "fast" / "a.mp4").fps == 30


def test_reconstruct_shows_both_and_measures(model, folder, tmp_path, capsys):
    generate.reconstruct(model, [folder], tmp_path / "out", max_frames=8, formats=["mp4"])
    assert names(tmp_path / "out") == ["a.mp4", "a_.mp4", "b.mp4", "reconstruction.json"]
    info = media.probe_video(tmp_path / "out" / "b.mp4")
    assert (info.frames, info.height, info.width) == (8, SIDE, 2 * SIDE)
    result = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    off_by_one = 20 * math.log10(255)
    assert [record["clips"] for record in result["videos"]] == [2, 2, 2]
    assert result["mean"]["psnr"] == pytest.approx(off_by_one)
    assert 5 < result["mean"]["still_psnr"] < off_by_one
    assert len(result["skipped"]) == 2
    table = capsys.readouterr().out
    assert table.count("48.13") == 4  # three videos and their mean
    assert "mean of the videos" in table


def test_no_usable_source(model, folder, tmp_path):
    with pytest.raises(media.VideoError, match="none of the 2 files can be used.*broken"):
        generate.reconstruct(model, [folder / "broken.mp4", folder / "short.mp4"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        generate.reconstruct(model, [folder / "nowhere.mp4"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(media.VideoError, match="empty: no video file"):
        generate.reconstruct(model, [tmp_path / "empty"], tmp_path / "out")
