"""Videos are written frame by frame, completely or not at all, and read back by the libraries that others would use."""

import fractions
import io
import sys

import av
import numpy as np
import pytest
from PIL import Image
from read_frames import read_video

from pvdm_jax.video import encoders
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.read import VideoInfo, first_frames, probe_video
from pvdm_jax.video.write import FORMATS, VideoWriter, encode_mp4, video_path, write_video, write_video_or_frames


def test_every_format_has_an_encoder():
    assert tuple(encoders.ENCODERS) == FORMATS


def square(frames=6, height=24, width=36):
    """A bright square that moves over a gradient."""
    base = np.broadcast_to(np.linspace(20, 120, width)[None, :, None], (height, width, 3))
    frames = np.stack([base.copy() for _ in range(frames)]).astype(np.uint8)
    for i, frame in enumerate(frames):
        frame[4 : 4 + 8, 2 * i : 2 * i + 8] = (220, 160, 40)
    return frames


def writer_of(folder, format, fps=8.0):
    """For the six frames of `square`, as folder/a."""
    return VideoWriter(video_path(folder / "a", format), format, frames=6, height=24, width=36, fps=fps)


@pytest.mark.parametrize("format", FORMATS)
def test_written_in_parts_and_read_back(tmp_path, format):
    frames = square()
    with writer_of(tmp_path, format) as writer:
        writer.write(frames[:4])
        writer.write(frames[4:])
    path = video_path(tmp_path / "a", format)
    assert list(tmp_path.iterdir()) == [path]
    found = first_frames(path, 5)
    assert found.shape == (5, 24, 36, 3)
    tolerance = {"mp4": 6, "gif": 3, "png": 0, "npz": 0}[format]
    assert np.abs(found.astype(int) - frames[:5]).mean() <= tolerance
    assert first_frames(path, 9).shape == frames.shape


def test_frames_stand_for_a_video_where_pyav_is_not_installed(tmp_path, monkeypatch, caplog):
    frames = square()
    assert write_video_or_frames(tmp_path / "a.gif", frames) == tmp_path / "a.gif"
    monkeypatch.setitem(sys.modules, "av", None)
    written = write_video_or_frames(tmp_path / "new" / "a.gif", frames)
    assert written == tmp_path / "new" / "a.png" and list(written.parent.iterdir()) == [written]
    assert "PyAV is not installed" in caplog.text
    with Image.open(written) as picture:
        found = np.asarray(picture)
    np.testing.assert_array_equal(found, np.concatenate([frames[i] for i in (0, 2, 3, 5)]))


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_a_video_written_at_once_is_the_same_file(tmp_path, monkeypatch, format):
    """With a processor's own instructions, x264 doesn't repeat itself exactly; here it goes without."""
    monkeypatch.setitem(encoders.MP4_OPTIONS, "x264-params", "asm=0")
    frames = square()
    whole, parts = tmp_path / f"whole.{format}", tmp_path / f"parts.{format}"
    with VideoWriter(parts, format, frames=6, height=24, width=36, fps=12) as writer:
        for frame in frames:
            writer.write(frame[None])
    write_video(whole, frames, fps=12)
    assert parts.read_bytes() == whole.read_bytes()
    if format == "mp4":
        np.testing.assert_array_equal(read_video(whole), read_video(encode_mp4(frames, fps=12)))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47)])
def test_mp4_round_trip(moving, tmp_path, height, width):
    frames = moving(10, height, width)
    write_video(tmp_path / "new" / "a.MP4", frames, fps=12.5)
    read = read_video(str(tmp_path / "new" / "a.MP4"))
    assert read.shape == (10, height + height % 2, width + width % 2, 3)
    assert np.abs(read[:, :height, :width].astype(float) - frames).mean() < 4
    assert probe_video(tmp_path / "new" / "a.MP4") == VideoInfo(10, *read.shape[1:3], 12.5)


def test_mp4_is_what_browsers_play(moving):
    with av.open(io.BytesIO(encode_mp4(moving(4), fps=8))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert stream.average_rate == fractions.Fraction(8)


def test_gif_frames_are_exact(moving, tmp_path):
    frames = moving(20)
    write_video(tmp_path / "a.gif", frames, fps=10)
    full = read_video(tmp_path / "a.gif")
    assert full.shape == frames.shape
    assert np.abs(full.astype(float) - frames).mean() < 8
    np.testing.assert_array_equal(read_video(tmp_path / "a.gif", 7, 4, 3), full[7:19:3])
    assert probe_video(tmp_path / "a.gif") == VideoInfo(20, 48, 64, 10.0)


def test_a_gif_of_few_colours_is_almost_exact(tmp_path):
    write_video(tmp_path / "a.gif", square(height=32, width=32))
    assert np.abs(read_video(tmp_path / "a.gif").astype(int) - square(height=32, width=32)).max() <= 1


@pytest.mark.parametrize("still", [False, True])
def test_a_gif_loops_and_keeps_the_time(tmp_path, still):
    """A video without motion also keeps all its frames."""
    write_video(tmp_path / "a.gif", square()[[0] * 6] if still else square(), fps=12.0)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (6, (36, 24), 0)
        durations = []
        for i in range(6):
            image.seek(i)
            durations.append(image.info["duration"])
    assert sum(durations) == 500
    assert set(durations) <= {80, 90}


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_left_of_a_video_that_failed(tmp_path, format):
    for written in (0, 2):
        with pytest.raises(KeyError):
            with writer_of(tmp_path, format) as writer:
                writer.write(square(written) if written else square()[:0])
                raise KeyError
        with pytest.raises(VideoError, match=f"{6 - written} frames were announced and never written"):
            with writer_of(tmp_path, format) as writer:
                writer.write(square(written) if written else square()[:0])
        assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(moving, tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def full(self, frame):
        raise OSError("no space left")

    monkeypatch.setattr(encoders.Mp4Encoder, "write", full)
    with pytest.raises(OSError, match="no space left"):
        write_video(path, moving(2))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_wrong_frames_are_refused(tmp_path):
    with pytest.raises(VideoError, match="choose from mp4, gif, png, npz"):
        writer_of(tmp_path, "avi")
    for frames in (square(height=20), square(7), square().astype(np.float32)):
        with pytest.raises(VideoError, match="is needed"):
            with writer_of(tmp_path, "npz") as writer:
                writer.write(frames)


def test_wrong_frames_suffixes_and_rates_are_refused_before_writing(moving, tmp_path):
    with pytest.raises(VideoError, match="can't write .avi; choose .mp4 or .gif"):
        write_video(tmp_path / "a.avi", moving(2))
    with pytest.raises(VideoError, match=r"frames are float64 \(2, 48, 64, 3\); uint8"):
        write_video(tmp_path / "a.mp4", moving(2) / 2)
    with pytest.raises(VideoError, match=r"frames are uint8 \(0, 48, 64, 3\)"):
        write_video(tmp_path / "a.gif", moving(2)[:0])
    with pytest.raises(VideoError, match="fps is 0"):
        write_video(tmp_path / "a.gif", moving(2), fps=0)
    assert not list(tmp_path.iterdir())
