"""Reading a video file opens nothing but that file."""

import os
import socket
import time

import numpy as np
import pytest
from read_frames import read_video

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.read import probe_video
from pvdm_jax.video.write import encode_mp4, write_video


@pytest.fixture
def port():
    """A local port on which nothing listens, and which nothing may ask for."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]


def texts(port):
    return {
        "session": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port + 1} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "list": "ffconcat version 1.0\nfile good.mp4\n",
        "playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
        "itself": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nitself.mp4\n#EXT-X-ENDLIST\n",
        "dash": f'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:{port}/</BaseURL></MPD>',
        "address": f"[reference]\nref1=http://127.0.0.1:{port}/a\n",
    }


@pytest.mark.parametrize("name", texts(0))
def test_files_that_refer_to_others_are_refused_at_once(moving, tmp_path, port, name):
    write_video(tmp_path / "good.mp4", moving(4))
    path = tmp_path / f"{name}.mp4"
    path.write_text(texts(port)[name])
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    start = time.perf_counter()
    for function in (probe_video, read_video):
        with pytest.raises(VideoError, match=f"{name}.mp4: it can't be decoded"):
            function(path)
    with pytest.raises(VideoError, match="bytes: it can't be decoded"):
        read_video(path.read_bytes(), name="bytes")
    assert time.perf_counter() - start < 2
    if before:
        assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize("name", ["12:30:05.mp4", "concat:good.mp4", "http:/127.0.0.1:9/x.mp4", "a?b#c%20 .mp4"])
def test_names_are_only_names(moving, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data = encode_mp4(moving(4))
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "wb") as file:
        file.write(data)
    np.testing.assert_array_equal(read_video(name), read_video(data))
    assert probe_video(name) == probe_video(data)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_names_with_colons_are_written(moving, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    write_video(f"2026-11-27T12:30:05/a:b{suffix}", moving(4))
    assert probe_video(f"2026-11-27T12:30:05/a:b{suffix}").frames == 4


def test_an_unknown_codec_is_named(moving):
    data = encode_mp4(moving(4))
    place = data.index(b"avc1", data.index(b"stsd"))
    with pytest.raises(VideoError, match="x: it can't be decoded .its codec is not known"):
        probe_video(data[:place] + b"xyz9" + data[place + 4 :], "x")
