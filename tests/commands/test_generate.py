"""Sampling, extending and reconstructing into files, with a small stand-in for a trained model."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from read_frames import read_video

from pvdm_jax.commands import generate
from pvdm_jax.commands.reconstruct import reconstruct
from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, DataConfig, MeshConfig, UNetConfig
from pvdm_jax.data.clips import center_crop_resize
from pvdm_jax.runtime.sharding import AXES, make_mesh
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.grid import MIN_SIDE
from pvdm_jax.video.read import probe_video
from pvdm_jax.video.write import FORMATS, write_video

FRAMES, SIDE = 4, 16


class Model:
    """Stands in for `PVDM`: samples are each video's own noise, extensions a frozen frame, clips between two others the
    mean of both sides, and reconstructions off by one."""

    def __init__(self, num_classes=0, stride=1, next_clip=False):
        clip = AutoencoderConfig(frames=FRAMES, height=SIDE, width=SIDE)
        unet = UNetConfig(channel_mult=(1,), num_classes=num_classes, next_clip=next_clip)
        self.config = Config(data=DataConfig(stride=stride), autoencoder=clip, denoiser=unet)
        self.class_names = ("bounce", "orbit", "spin")
        self.card = {}
        self.mesh = make_mesh(MeshConfig(), jax.local_devices())
        self.calls = []

    def fingerprint(self):
        return "model"

    def stream(self, key, num_videos, num_frames=None, *, video=None, labels=None, indices=None, **options):
        given = {"num_videos": num_videos, "labels": labels, "indices": list(indices), **options}
        self.calls.append(given if video is None else given | {"video": video})
        num_frames = num_frames or FRAMES
        keys = [jax.random.fold_in(key, int(index)) for index in indices]
        for start in range(0, num_frames, FRAMES):
            frames = min(FRAMES, num_frames - start)
            if video is not None:
                yield np.repeat(video[:, -1:], frames, axis=1)
                continue
            shape = (frames, SIDE, SIDE, 3)
            clips = [jax.random.randint(jax.random.fold_in(key, start), shape, 0, 256) for key in keys]
            yield np.stack(clips).astype(np.uint8)

    def preview(self, key, num_videos, *, every, labels=None, indices=None, **options):
        self.calls.append({"preview": num_videos, "every": every, "indices": list(indices)})
        return np.zeros((3, num_videos, FRAMES, SIDE, SIDE, 3), np.uint8), np.array([9, 5, 0])

    def interpolate(self, first, second, key, labels=None, indices=None, **options):
        self.calls.append({"first": first, "second": second, "indices": list(indices)})
        return ((first.astype(int) + second) // 2).astype(np.uint8)

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
    """Three usable videos of 10, 20 and 9 frames, and files that are not videos."""
    folder = tmp_path / "videos"
    write_video(folder / "a.mp4", moving_square(10), fps=24)
    write_video(folder / "b.gif", moving_square(20), fps=10)
    write_video(folder / "deeper" / "a.mp4", moving_square(9), fps=24)
    write_video(folder / "short.mp4", moving_square(FRAMES - 1), fps=24)
    (folder / "broken.mp4").write_bytes(b"this is no video")
    (folder / ".hidden.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("no video, and not named as skipped")
    return folder


def names(path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def frames_of(path):
    with np.load(path) as arrays:
        return arrays["video"]


def test_sample_writes_each_video_and_a_grid(model, tmp_path):
    generate.sample(model, tmp_path / "out", num_videos=3, num_frames=6, batch_size=2, fps=12)
    videos = [f"video_0000{i}.{suffix}" for i in range(3) for suffix in ("gif", "mp4")]
    assert names(tmp_path / "out") == ["grid.gif", "grid.mp4", "grid.png", "request.json", *videos]
    info = probe_video(tmp_path / "out" / "video_00002.mp4")
    assert (info.frames, info.height, info.width, info.fps) == (6, SIDE, SIDE, 12)
    grid = probe_video(tmp_path / "out" / "grid.mp4")
    assert grid.frames == 6
    assert grid.width >= 2 * MIN_SIDE


def test_every_format(model, tmp_path):
    generate.sample(model, tmp_path / "out", num_videos=1, formats=FORMATS)
    assert (tmp_path / "out" / "video_00000" / "frame_00003.png").exists()
    assert frames_of(tmp_path / "out" / "video_00000.npz").shape == (FRAMES, SIDE, SIDE, 3)
    generate.sample(model, tmp_path / "arrays", num_videos=2, formats=["npz"])
    assert "grid.mp4" in names(tmp_path / "arrays")  # a grid is to be looked at


def test_all_batches_have_one_size(model, tmp_path):
    generate.sample(model, tmp_path / "out", num_videos=5, batch_size=2, formats=["gif"])
    assert [call["indices"] for call in model.calls] == [[0, 1], [2, 3], [4, 4]]
    assert "video_00004.gif" in names(tmp_path / "out")
    assert "video_00005.gif" not in names(tmp_path / "out")


def test_a_video_is_its_own_whatever_is_made_with_it(model, tmp_path):
    def frames(name, number, **arguments):
        generate.sample(model, tmp_path / name, formats=["npz"], num_frames=6, **arguments)
        return frames_of(tmp_path / name / f"video_{number:05d}.npz")

    expected = frames("all", 5, num_videos=7, batch_size=3)
    np.testing.assert_array_equal(frames("alone", 5, videos=[5], batch_size=1), expected)
    np.testing.assert_array_equal(frames("later", 5, first_video=4, num_videos=2), expected)
    assert np.abs(frames("seed", 5, videos=[5], seed=1).astype(int) - expected).mean() > 10
    assert np.abs(frames_of(tmp_path / "all" / "video_00004.npz").astype(int) - expected).mean() > 10


def test_an_interrupted_folder_is_resumed(model, tmp_path, capsys):
    arguments = dict(num_videos=5, batch_size=2, formats=["npz"])
    generate.sample(model, tmp_path / "whole", **arguments)
    generate.sample(model, tmp_path / "out", **arguments)
    (tmp_path / "out" / "video_00001.npz").unlink()
    (tmp_path / "out" / ".video_00001.npz.7").write_bytes(b"half of it")
    model.calls.clear()
    generate.sample(model, tmp_path / "out", **arguments)
    assert [call["indices"] for call in model.calls] == [[1, 1]]
    assert "4 of 5 videos are in" in capsys.readouterr().out
    for i in range(5):
        whole, found = (frames_of(tmp_path / name / f"video_0000{i}.npz") for name in ("whole", "out"))
        np.testing.assert_array_equal(whole, found)
    generate.sample(model, tmp_path / "out", **arguments | {"num_videos": 6})
    assert "video_00005.npz" in names(tmp_path / "out")
    for change in ({"seed": 3}, {"num_frames": 8}, {"options": {"steps": 3}}):
        with pytest.raises(ConfigError, match="belong to another request"):
            generate.sample(model, tmp_path / "out", **arguments | change)


def test_options_reach_the_sampler(model, tmp_path):
    generate.sample(model, tmp_path / "out", num_videos=1, options={"steps": 3, "guidance": 2.0}, formats=["gif"])
    call = model.calls[0]
    assert (call["steps"], call["guidance"], call["labels"]) == (3, 2.0, None)


def test_classes_are_given_in_turn(tmp_path):
    model = Model(num_classes=3)
    arguments = dict(batch_size=2, classes=["spin", "0"], formats=["gif"])
    generate.sample(model, tmp_path / "out", num_videos=4, **arguments)
    assert [call["labels"] for call in model.calls] == [[2, 0], [2, 0]]
    generate.sample(model, tmp_path / "one", videos=[3], **arguments)
    assert model.calls[-1]["labels"] == [0, 0]
    assert json.loads((tmp_path / "out" / "request.json").read_text())["classes"] == ["spin", "bounce"]


def test_preview_shows_the_denoising(model, tmp_path):
    generate.sample(model, tmp_path / "out", num_videos=6, preview_every=5, formats=["mp4"], fps=4)
    assert model.calls[-1] == {"preview": 4, "every": 5, "indices": [0, 1, 2, 3]}
    assert probe_video(tmp_path / "out" / "preview.mp4").frames == 3 + 4  # the last stays for a second


@pytest.mark.parametrize(
    ("num_classes", "arguments", "parts"),
    [
        (3, {"classes": ["jump"]}, ["jump", "bounce, orbit, spin"]),
        (0, {"classes": ["spin"]}, ["spin", "without classes"]),
        (0, {"formats": ["avi"]}, ["avi", "mp4, gif, png, npz"]),
        (0, {"options": {"eta": 2.0}}, ["sample.eta", "2.0"]),
        (0, {"options": {"steps": 5000}}, ["sample.steps", "5000", "1000"]),
        (0, {"options": {"class_guidance": 1.0}}, ["class_guidance", "without classes"]),
        (0, {"options": {"guidance_from": 0.9, "guidance_to": 0.1}}, ["guidance_from", "0.9"]),
        (3, {"classes": ["3"]}, ["'3'", "from 0 to 2"]),
        (0, {"videos": [3, -1]}, ["videos", "-1"]),
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


def test_long_videos_need_a_model_that_takes_the_previous_clip(model, folder, tmp_path):
    model.config = dataclasses.replace(
        model.config, denoiser=dataclasses.replace(model.config.denoiser, previous_clip=False, next_clip=False)
    )
    with pytest.raises(ConfigError, match="num_frames is 5; continuing a clip"):
        generate.sample(model, tmp_path / "out", num_frames=FRAMES + 1)
    with pytest.raises(ConfigError, match="denoiser.previous_clip is False; continuing a clip"):
        generate.extend(model, [folder], tmp_path / "out", num_frames=2)
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
            reconstruct(model, [folder], output)
    assert names(output) == ["mine.txt"]
    assert model.calls == []


def test_extend_appends_to_the_end_of_the_original(model, folder, tmp_path):
    generate.extend(model, [folder / "b.gif"], tmp_path / "out", num_frames=5, original_frames=8, formats=["mp4"])
    assert names(tmp_path / "out") == ["b.mp4", "videos.json"]
    frames = read_video(tmp_path / "out" / "b.mp4")
    assert frames.shape == (8 + 5, SIDE, SIDE, 3)
    original = read_video(folder / "b.gif", start=12)
    expected = center_crop_resize(original, SIDE, SIDE)
    assert np.abs(frames[:8].astype(int) - expected).mean() < 6  # lossy files
    assert np.abs(frames[8:].astype(int) - expected[-1]).mean() < 6
    record = json.loads((tmp_path / "out" / "videos.json").read_text())["videos"][0]
    assert record["file"] == "b"
    assert record["continuation_starts_at"] == 8


def test_a_long_continuation_of_originals_that_differ(model, folder, tmp_path):
    generate.extend(model, [folder], tmp_path / "out", num_frames=10, original_frames=8, formats=["mp4"])
    found = {path.stem: probe_video(path) for path in (tmp_path / "out").glob("*.mp4")}
    assert {name: info.frames for name, info in found.items()} == {"a": 8 + 10, "a_": 8 + 10, "b": 8 + 10}
    assert {name: info.fps for name, info in found.items()} == {"a": 24, "a_": 24, "b": 10}
    assert model.calls[0]["indices"] == [0, 1, 2, 3]


def test_interpolate_joins_two_videos(folder, tmp_path):
    model = Model(next_clip=True)
    arguments = dict(num_videos=3, batch_size=2, formats=["npz"])
    generate.interpolate(model, folder / "a.mp4", folder / "b.gif", tmp_path / "out", **arguments)
    assert names(tmp_path / "out") == ["between_00000.npz", "between_00001.npz", "between_00002.npz", "videos.json"]
    video = frames_of(tmp_path / "out" / "between_00002.npz")
    before, between, after = np.split(video.astype(int), 3)
    np.testing.assert_array_equal(between, (before + after) // 2)
    expected = center_crop_resize(read_video(folder / "a.mp4", start=10 - FRAMES), SIDE, SIDE)
    np.testing.assert_array_equal(before, expected)
    assert [call["indices"] for call in model.calls] == [[0, 1], [2, 3]]
    with pytest.raises(ConfigError, match="denoiser.next_clip is False"):
        generate.interpolate(Model(), folder / "a.mp4", folder / "b.gif", tmp_path / "other")


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
    info = probe_video(tmp_path / "out" / "a.mp4")
    assert (info.frames, info.fps) == (8, 12)
    every_second = read_video(folder / "a.mp4", start=2, count=4, stride=2)
    given = model.calls[0]["video"][0]
    np.testing.assert_array_equal(given, center_crop_resize(every_second, SIDE, SIDE))
    generate.extend(model, [folder / "a.mp4"], tmp_path / "fast", num_frames=4, formats=["mp4"], fps=30)
    assert probe_video(tmp_path / "fast" / "a.mp4").fps == 30


def test_reconstruct_shows_both_and_measures(model, folder, tmp_path, capsys):
    reconstruct(model, [folder], tmp_path / "out", max_frames=8, formats=["mp4"])
    assert names(tmp_path / "out") == ["a.mp4", "a_.mp4", "b.mp4", "reconstruction.json"]
    info = probe_video(tmp_path / "out" / "b.mp4")
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
    with pytest.raises(VideoError, match="none of the 2 files can be used.*broken"):
        reconstruct(model, [folder / "broken.mp4", folder / "short.mp4"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        reconstruct(model, [folder / "nowhere.mp4"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="empty: no video file"):
        reconstruct(model, [tmp_path / "empty"], tmp_path / "out")


@pytest.mark.parametrize("batch_size, rows", [(4, 8), (8, 8), (9, 16)])
def test_batches_fill_the_devices(tmp_path, batch_size, rows):
    """On eight devices a batch of four would be generated twice, because each device takes at least one video."""
    model = Model()
    model.mesh = jax.sharding.AbstractMesh((4, 2), AXES)
    generate.sample(model, tmp_path / "out", num_videos=10, batch_size=batch_size, formats=["npz"])
    assert {call["num_videos"] for call in model.calls} == {rows}
    made = [index for call in model.calls for index in dict.fromkeys(call["indices"])]
    assert made == list(range(10))
