"""Video files as inputs: the same as in `prepare` and `evaluate`, each decoded once, under names that are safe."""

import os

import numpy as np
import pytest
from read_frames import read_video

from pvdm_jax.commands import input_videos
from pvdm_jax.commands.input_videos import list_video_files, read_clips, read_usable
from pvdm_jax.config import AutoencoderConfig, Config, DataConfig, UNetConfig
from pvdm_jax.data.layouts import list_videos
from pvdm_jax.evaluation.clip_sets import VideoFolder
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.write import write_video

SIDE = 16


def config(**data):
    data = DataConfig(source="tfds", path="unused", **data)
    clip = AutoencoderConfig(frames=4, height=SIDE, width=SIDE, patch_size=4)
    return Config(data=data, autoencoder=clip, denoiser=UNetConfig(channel_mult=(1,)))


def moving(frames=40):
    grey = np.arange(frames, dtype=np.uint8)[:, None, None, None] * 6
    return np.broadcast_to(grey, (frames, SIDE, SIDE, 3)).copy()


def test_all_commands_find_the_same_files(tmp_path, capsys):
    root = tmp_path / "videos"
    for name in ("10.mp4", "9.mp4", "a/1.mp4"):
        write_video(root / name, moving(8))
    (root / "a" / "2.m4v").write_bytes((root / "9.mp4").read_bytes())
    write_video(tmp_path / "other" / "3.mp4", moving(8))
    (root / "more").symlink_to(tmp_path / "other")
    (root / "up").symlink_to(tmp_path)
    (root / "gone.mp4").symlink_to("nowhere")
    os.mkfifo(root / "pipe.mp4")
    expected = ["9.mp4", "10.mp4", "a/1.mp4", "a/2.m4v", "more/3.mp4"]
    assert [video.name for video in list_videos(root).videos] == expected
    assert [str(path.relative_to(root)) for path in list_video_files([root])] == expected
    folder = VideoFolder(root)
    assert [str(path.relative_to(root)) for path, _ in folder._files] == expected
    for names in (list(list_videos(root).skipped), [line.split(":")[0] for line in folder.skipped]):
        assert names == ["gone.mp4", "pipe.mp4", "up"]
    error = capsys.readouterr().err
    assert "gone.mp4: it is a link to nowhere" in error and "pipe.mp4: it is a named pipe" in error


@pytest.mark.parametrize(
    ("name", "made"), [("..mp4", "video"), ("...mp4", "video"), (".a.mp4", "a"), ("é" * 120, "é" * 100)]
)
def test_results_stay_in_their_folder(tmp_path, name, made):
    path = tmp_path / name
    if name.startswith("é"):
        path = path.with_name(f"{name}.mp4")
    write_video(tmp_path / "x.mp4", moving())
    (tmp_path / "x.mp4").rename(path)
    skipped = []
    (video,) = read_usable([path], config(), 2, from_end=False, skipped=skipped)
    assert video.name == made and not skipped


@pytest.mark.parametrize("from_end", [False, True])
@pytest.mark.parametrize("data", [{}, {"fps": 3.0}, {"fps": 16.0}, {"fps": 4.0, "stride": 2}])
def test_clips_are_decoded_once(tmp_path, monkeypatch, data, from_end):
    path = tmp_path / "a.mp4"
    write_video(path, moving(), fps=8)
    decode = input_videos.decode_frames
    calls = []

    def counting(*args, **keywords):
        calls.append(args)
        return decode(*args, **keywords)

    monkeypatch.setattr(input_videos, "decode_frames", counting)
    clips, fps = read_clips(path, config(**data), 3, from_end=from_end)
    assert len(calls) == 1
    stride, rate = data.get("stride", 1), data.get("fps", 8.0)
    assert fps == rate / stride
    shown = np.floor(np.arange(int(39 * rate / 8) + 1) * 8 / rate + 0.5).astype(int).clip(max=39)
    count = min(3, len(shown) // (4 * stride))
    first = len(shown) - count * 4 * stride if from_end else 0
    numbers = shown[first : first + count * 4 * stride : stride]
    np.testing.assert_array_equal(clips.reshape(-1, SIDE, SIDE, 3), read_video(path)[numbers])


def test_what_is_no_file_is_skipped_with_the_reason(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    skipped = []
    with pytest.raises(VideoError, match="none of the 2 files can be used; the first: .*pipe.mp4: it is a named pipe"):
        paths = list_video_files([tmp_path / "pipe.mp4", tmp_path / "gone.mp4"])
        list(read_usable(paths, config(), 1, from_end=False, skipped=skipped))
    assert "a link to nowhere" in skipped[1]["reason"]
