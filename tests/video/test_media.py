"""Video files: what is written can be read, and any frame is the one that a full decode gives."""

import concurrent.futures
import fractions
import io
import pathlib
import struct

import av
import numpy as np
import pytest

from pvdm_jax.video import media
from pvdm_jax.video.media import (
    VideoError,
    VideoInfo,
    decode_video,
    encode_mp4,
    probe_video,
    read_video,
    upscale,
    video_grid,
    write_image,
    write_video,
)

FORMATS = {
    "avi": ("avi", "mpeg4", {}),
    "mp4": ("mp4", "libx264", {}),
    "open groups": ("mp4", "libx264", {"x264-params": "open-gop=1:keyint=12"}),
    "mkv": ("matroska", "libx264", {}),
    "webm": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "no time stamps": ("mpeg", "mpeg1video", {}),
}


def moving(frames=60, height=48, width=64):
    """A smooth pattern that no two frames have in common."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(0.1 * x + 0.2 * t), np.sin(0.15 * y - 0.13 * t), np.sin(0.07 * (x + y) + 0.31 * t)]
    return np.rint(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def encoded(container, codec, options, frames):
    """A file with a key frame every 12 frames and B-frames in between."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.gop_size = 12
        stream.codec_context.max_b_frames = 2
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_any_frames_are_those_of_a_full_decode(name):
    data = encoded(*FORMATS[name], moving())
    full = decode_video(data)
    assert full.shape == (60, 48, 64, 3) and full.dtype == np.uint8
    # Correlated with all frames that were written, each is most like its own.
    read, written = (frames.reshape(60, -1) - 127.5 for frames in (full, moving()))
    np.testing.assert_array_equal((read @ written.T).argmax(axis=1), np.arange(60))
    for start, count, stride in [(0, 3, 1), (1, 2, 7), (11, 4, 1), (12, 1, 1), (13, 4, 3), (37, 5, 2), (59, 1, 1)]:
        read = decode_video(data, start, count, stride)
        np.testing.assert_array_equal(read, full[start : start + count * stride : stride])
    np.testing.assert_array_equal(decode_video(data, 40, None, 3), full[40::3])


@pytest.mark.parametrize("name", ["avi", "mp4", "open groups", "mkv", "webm"])
def test_decoding_starts_at_the_last_key_frame(name, monkeypatch):
    """Counted are the frames that come out of the decoder before the one asked for."""
    data, seek, decoded = encoded(*FORMATS[name], moving()), media._seek, []

    def counting(*args):
        for number, frame in seek(*args):
            decoded.append(number)
            yield number, frame

    monkeypatch.setattr(media, "_seek", counting)
    decode_video(data, 57, 2)
    assert decoded == list(range(decoded[0], 59)) and 57 - decoded[0] < 24


def test_gif_frames_are_exact(tmp_path):
    frames = moving(20)
    write_video(tmp_path / "a.gif", frames, fps=10)
    full = read_video(tmp_path / "a.gif")
    assert full.shape == frames.shape
    assert np.abs(full.astype(float) - frames).mean() < 8
    np.testing.assert_array_equal(read_video(tmp_path / "a.gif", 7, 4, 3), full[7:19:3])
    assert probe_video(tmp_path / "a.gif") == VideoInfo(20, 48, 64, 10.0)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47)])
def test_mp4_round_trip(tmp_path, height, width):
    frames = moving(10, height, width)
    write_video(tmp_path / "new" / "a.MP4", frames, fps=12.5)
    read = read_video(str(tmp_path / "new" / "a.MP4"))
    assert read.shape == (10, height + height % 2, width + width % 2, 3)
    assert np.abs(read[:, :height, :width].astype(float) - frames).mean() < 4
    assert probe_video(tmp_path / "new" / "a.MP4") == VideoInfo(10, *read.shape[1:3], 12.5)


def test_mp4_is_what_browsers_play():
    with av.open(io.BytesIO(encode_mp4(moving(4), fps=8))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert stream.average_rate == fractions.Fraction(8)


def test_video_of_a_phone_held_upright_is_turned():
    """Its file says "turn by 90 degrees": a matrix in the track's header."""
    data = bytearray(encode_mp4(moving(3, 32, 64)))
    flat = decode_video(bytes(data))
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    turned = decode_video(bytes(data))
    # This matrix maps (x, y) to (-y, x): clockwise, with y downwards.
    np.testing.assert_array_equal(turned, np.rot90(flat, -1, axes=(1, 2)))
    info = probe_video(bytes(data))
    assert (info.height, info.width) == (64, 32)


def test_transform_sees_single_frames():
    data = encode_mp4(moving(8))
    small = decode_video(data, 2, 3, 2, transform=lambda frame: frame[:8, ::4])
    np.testing.assert_array_equal(small, decode_video(data)[2:8:2, :8, ::4])


def test_threads_do_not_disturb_each_other():
    files = [encode_mp4(moving(12, 32 + 16 * k, 64)) for k in range(4)]
    alone = [decode_video(data) for data in files]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(decode_video, files * 4))
    for k, video in enumerate(together):
        np.testing.assert_array_equal(video, alone[k % 4])


def test_unusable_files_are_named_with_the_reason(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.avi").write_text("not a video")
    (tmp_path / "cut.mp4").write_bytes(encode_mp4(moving(4))[:400])
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for read in (read_video, probe_video):
        with pytest.raises(VideoError, match="empty.mp4: the file is empty"):
            read(tmp_path / "empty.mp4")
        with pytest.raises(VideoError, match="text.avi: it can't be decoded"):
            read(tmp_path / "text.avi")
        with pytest.raises(VideoError, match="cut.mp4: it can't be decoded"):
            read(tmp_path / "cut.mp4")
        with pytest.raises(VideoError, match="sound.mp4: there is no video in it"):
            read(tmp_path / "sound.mp4")
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.mp4")


def test_frames_that_are_not_there_are_refused():
    data = encode_mp4(moving(10))
    for start, count in ((4, 7), (10, 1), (25, None)):
        with pytest.raises(VideoError, match="clip7: there is no frame"):
            decode_video(data, start, count, name="clip7")
    with pytest.raises(ValueError, match="start=-1"):
        decode_video(data, -1)


def test_wrong_frames_suffixes_and_rates_are_refused_before_writing(tmp_path):
    with pytest.raises(VideoError, match="can't write .avi; choose .mp4 or .gif"):
        write_video(tmp_path / "a.avi", moving(2))
    with pytest.raises(VideoError, match=r"frames are float64 \(2, 48, 64, 3\); uint8"):
        write_video(tmp_path / "a.mp4", moving(2) / 2)
    with pytest.raises(VideoError, match=r"frames are uint8 \(0, 48, 64, 3\)"):
        write_video(tmp_path / "a.gif", moving(2)[:0])
    with pytest.raises(VideoError, match="fps is 0"):
        write_video(tmp_path / "a.gif", moving(2), fps=0)
    with pytest.raises(VideoError, match="can't write .jpg; choose .png"):
        write_image(tmp_path / "a.jpg", moving(1)[0])
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def full(self, data):
        self.touch()
        raise OSError("no space left")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        write_video(path, moving(2))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_images_are_exact(tmp_path):
    frame = moving(1)[0]
    write_image(tmp_path / "a.png", frame)
    np.testing.assert_array_equal(read_video(tmp_path / "a.png")[0], frame)


def test_grid_puts_videos_in_rows():
    videos = np.stack([np.full((2, 3, 4, 3), value, np.uint8) for value in (10, 20, 30)])
    grid = video_grid(videos, columns=2, padding=1)
    assert grid.shape == (2, 7, 9, 3)
    expected = np.full((7, 9), 255)
    expected[:3, :4], expected[:3, 5:], expected[4:, :4] = 10, 20, 30
    np.testing.assert_array_equal(grid, np.broadcast_to(expected[None, :, :, None], grid.shape))


def test_upscale_repeats_pixels():
    frame = np.arange(6, dtype=np.uint8).reshape(1, 2, 1, 3)
    assert upscale(frame, 2)[..., 0].tolist() == [[[0, 0], [0, 0], [3, 3], [3, 3]]]


def test_named_frames_come_in_their_order_as_often_as_named(tmp_path):
    write_video(tmp_path / "a.mp4", moving(40), fps=10)
    data = (tmp_path / "a.mp4").read_bytes()
    whole = read_video(tmp_path / "a.mp4")
    for numbers in ([7], [3, 4, 5], [2, 9, 16], [30, 4, 4, 31, 0], range(5, 39, 3)):
        np.testing.assert_array_equal(media.decode_frames(data, numbers), whole[list(numbers)])
    half = media.decode_frames(data, [9, 1], transform=lambda frame: frame[::2])
    np.testing.assert_array_equal(half, whole[[9, 1], ::2])
    with pytest.raises(VideoError, match="x: there is no frame 41; from frame 1 on only"):
        media.decode_frames(data, [1, 2, 41], "x")
    with pytest.raises(ValueError, match="at least one, and none below 0"):
        media.decode_frames(data, [])
    for frame, expected in zip(media.video_frames(data), whole, strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert media.frame_rate(data) == pytest.approx(10)


def test_pictures_are_decoded_to_rgb(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    media.write_image(tmp_path / "a.png", frame)
    np.testing.assert_array_equal(media.decode_image((tmp_path / "a.png").read_bytes()), frame)
    flat = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    assert np.abs(media.decode_image(media.encode_jpeg(flat)).astype(int) - flat).max() <= 3
    for data, reason in ((b"", "it is empty"), (b"no picture", "it can't be decoded")):
        with pytest.raises(VideoError, match=f"p: {reason}"):
            media.decode_image(data, "p")
