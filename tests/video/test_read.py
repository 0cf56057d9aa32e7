"""Video files are read frame-exactly: any frame is the one that a full decode gives."""

import concurrent.futures
import io
import struct

import av
import numpy as np
import pytest
from read_frames import read_video

from pvdm_jax.video import read
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.read import decode_frames, probe_video, video_frames
from pvdm_jax.video.write import encode_mp4, write_video

FORMATS = {
    "avi": ("avi", "mpeg4", {}),
    "mp4": ("mp4", "libx264", {}),
    "open groups": ("mp4", "libx264", {"x264-params": "open-gop=1:keyint=12"}),
    "mkv": ("matroska", "libx264", {}),
    "webm": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "no time stamps": ("mpeg", "mpeg1video", {}),
}


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
def test_any_frames_are_those_of_a_full_decode(moving, name):
    data = encoded(*FORMATS[name], moving())
    full = read_video(data)
    assert full.shape == (60, 48, 64, 3) and full.dtype == np.uint8
    # Correlated with all frames that were written, each is most like its own.
    found, written = (frames.reshape(60, -1) - 127.5 for frames in (full, moving()))
    np.testing.assert_array_equal((found @ written.T).argmax(axis=1), np.arange(60))
    for start, count, stride in [(0, 3, 1), (1, 2, 7), (11, 4, 1), (12, 1, 1), (13, 4, 3), (37, 5, 2), (59, 1, 1)]:
        for total in (None, 60):
            part = read_video(data, start, count, stride, total=total)
            np.testing.assert_array_equal(part, full[start : start + count * stride : stride])


@pytest.mark.parametrize("name", ["avi", "mp4", "open groups", "mkv", "webm"])
def test_decoding_starts_at_the_last_key_frame(moving, name, monkeypatch):
    """Counted are the frames that come out of the decoder before the one asked for."""
    data, seek, decoded = encoded(*FORMATS[name], moving()), read._seek, []

    def counting(*args):
        for number, frame in seek(*args):
            decoded.append(number)
            yield number, frame

    monkeypatch.setattr(read, "_seek", counting)
    read_video(data, 57, 2, total=60)
    assert decoded == list(range(decoded[0], 59)) and 57 - decoded[0] < 24


def test_video_of_a_phone_held_upright_is_turned(moving):
    """Its file says "turn by 90 degrees": a matrix in the track's header."""
    data = bytearray(encode_mp4(moving(3, 32, 64)))
    flat = read_video(bytes(data))
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    turned = read_video(bytes(data))
    # This matrix maps (x, y) to (-y, x): clockwise, with y downwards.
    np.testing.assert_array_equal(turned, np.rot90(flat, -1, axes=(1, 2)))
    info = probe_video(bytes(data))
    assert (info.height, info.width) == (64, 32)


def test_transform_sees_single_frames(moving):
    data = encode_mp4(moving(8))
    small = read_video(data, 2, 3, 2, transform=lambda frame: frame[:8, ::4])
    np.testing.assert_array_equal(small, read_video(data)[2:8:2, :8, ::4])


def test_threads_do_not_disturb_each_other(moving):
    files = [encode_mp4(moving(12, 32 + 16 * k, 64)) for k in range(4)]
    alone = [read_video(data) for data in files]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(read_video, files * 4))
    for k, video in enumerate(together):
        np.testing.assert_array_equal(video, alone[k % 4])


def test_unusable_files_are_named_with_the_reason(moving, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.avi").write_text("not a video")
    (tmp_path / "cut.mp4").write_bytes(encode_mp4(moving(4))[:400])
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for function in (read_video, probe_video):
        with pytest.raises(VideoError, match="empty.mp4: the file is empty"):
            function(tmp_path / "empty.mp4")
        with pytest.raises(VideoError, match="text.avi: it can't be decoded"):
            function(tmp_path / "text.avi")
        with pytest.raises(VideoError, match="cut.mp4: it can't be decoded"):
            function(tmp_path / "cut.mp4")
        with pytest.raises(VideoError, match="sound.mp4: there is no video in it"):
            function(tmp_path / "sound.mp4")
        with pytest.raises(FileNotFoundError):
            function(tmp_path / "none.mp4")


def test_frames_that_are_not_there_are_refused(moving):
    data = encode_mp4(moving(10))
    for start, count in ((4, 7), (10, 1), (25, 1)):
        with pytest.raises(VideoError, match="clip7: there is no frame"):
            read_video(data, start, count, name="clip7")
    with pytest.raises(ValueError, match="none below 0"):
        decode_frames(data, [-1])


def test_named_frames_come_in_their_order_as_often_as_named(moving, tmp_path):
    write_video(tmp_path / "a.mp4", moving(40), fps=10)
    data = (tmp_path / "a.mp4").read_bytes()
    whole = read_video(tmp_path / "a.mp4")
    for numbers in ([7], [3, 4, 5], [2, 9, 16], [30, 4, 4, 31, 0], range(5, 39, 3)):
        np.testing.assert_array_equal(decode_frames(data, numbers), whole[list(numbers)])
    half = decode_frames(data, [9, 1], transform=lambda frame: frame[::2])
    np.testing.assert_array_equal(half, whole[[9, 1], ::2])
    with pytest.raises(VideoError, match="x: there is no frame 41; from frame 1 on only"):
        decode_frames(data, [1, 2, 41], "x")
    with pytest.raises(ValueError, match="at least one, and none below 0"):
        decode_frames(data, [])
    for frame, expected in zip(video_frames(data), whole, strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert probe_video(data).fps == pytest.approx(10)


def test_a_title_that_is_not_text_does_no_harm(tmp_path):
    """PyAV reads titles when it opens a file, each version in its own way."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 16
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert b"TITLE" in content
    path.write_bytes(content.replace(b"TITLE", b"\xff\xfe\xfd\xe9!"))
    assert probe_video(path).frames == 1
