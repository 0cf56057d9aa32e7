"""Frames, times and pictures of files that cameras, browsers and accidents make."""

import numpy as np
import pytest
from read_frames import read_video
from support.odd_videos import clock_gif, clock_times, clock_video, encode, remux, with_cover, with_matrix

from pvdm_jax.data.clips import resample
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.read import decode_frames, probe_video, video_frames
from pvdm_jax.video.timing import frame_timing
from pvdm_jax.video.write import encode_mp4


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_a_recording_that_begins_between_key_frames(moving, container, tmp_path):
    """Frame k is the k-th that can be decoded, whether decoding starts at the beginning or at a key frame."""
    data = remux(encode("mp4", "libx264", moving(60), group=20), container, drop=lambda number: number < 7)
    (tmp_path / "a.mp4").write_bytes(data)
    full = np.stack(list(video_frames(data)))
    assert probe_video(data).frames == len(full) == 40
    for number in (0, 5, 13, 25, 39):
        np.testing.assert_array_equal(read_video(tmp_path / "a.mp4", number, 1)[0], full[number])
        np.testing.assert_array_equal(decode_frames(data, [number], total=40)[0], full[number])


@pytest.mark.parametrize(
    "container, codec",
    [("avi", "mpeg4"), ("asf", "wmv2"), ("flv", "flv"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("mp4", "libx265")],
)
def test_what_no_decoder_can_know_is_no_frame(moving, container, codec):
    """If a recording begins between key frames, MPEG-4 and its relatives would invent frames; others would fail."""
    data = encode(container, codec, moving(30), b_frames=0, options={"x265-params": "log-level=0"})
    full = read_video(data)
    begun_late = remux(data, container, drop=lambda number: number < 3)
    assert probe_video(begun_late).frames == 18
    np.testing.assert_array_equal(read_video(begun_late), full[12:])
    np.testing.assert_array_equal(read_video(begun_late, 13, 1, total=18), full[25:26])


def test_without_a_key_frame_everything_is_decoded(moving):
    data = encode("avi", "mpeg4", moving(10), group=12, b_frames=0)
    assert probe_video(remux(data, "avi", drop=lambda number: number < 1)).frames == 9


def test_mpeg_ts_under_another_name(moving):
    data = remux(encode("mp4", "libx264", moving(60), group=20), "mpegts")
    full = read_video(data)
    for number in (19, 20, 41, 59):
        np.testing.assert_array_equal(read_video(data, number, 1, total=60)[0], full[number])


@pytest.mark.parametrize("failure", ["raises", "yields nothing", "yields another frame"])
def test_a_seek_that_fails_is_no_failure(moving, monkeypatch, failure):
    from pvdm_jax.video import read

    data = encode_mp4(moving(30))
    full = read_video(data)

    def seek(container, stream, start, total):
        if failure == "raises":
            container.seek(-(2**62), stream=stream)
            raise VideoError("Operation not permitted")
        yield from {"yields nothing": (), "yields another frame": [(start, next(container.decode(stream)))]}[failure]

    if failure == "yields another frame":  # as if the container's index were wrong
        seek = _with_wrong_seek(read._seek)
    monkeypatch.setattr(read, "_seek", seek)
    np.testing.assert_array_equal(decode_frames(data, [17, 20], total=30), full[[17, 20]])


def _with_wrong_seek(seek):
    class Container:
        def __init__(self, container):
            self._container = container
            self.demux, self.decode = container.demux, container.decode

        def seek(self, time, stream):
            self._container.seek(0, stream=stream)

    return lambda container, stream, start, total: seek(Container(container), stream, start, total)


PHONE = [k * 1000 / 30 for k in range(30)] + [1000 + k * 1000 / 7.5 for k in range(30)]  # the light gets dim
BROWSER = np.cumsum(np.random.default_rng(0).integers(25, 45, 100)).tolist()
UNEVEN = [0, *np.cumsum([40] * 20 + [500] * 8)]


@pytest.mark.parametrize(
    ("data", "times", "rate"),
    [
        (lambda: clock_video("mp4", "libx264", PHONE), PHONE, 59 / 4.867),
        (lambda: clock_video("webm", "libvpx", BROWSER, live=True), BROWSER, 99 / (BROWSER[-1] - BROWSER[0]) * 1000),
        (lambda: clock_video("matroska", "libx264", UNEVEN), UNEVEN, 28 / 4.8),
        (lambda: clock_gif(UNEVEN), UNEVEN, 28 / 4.8),
    ],
)
def test_frames_at_a_rate_are_the_nearest_by_time_stamp(data, times, rate):
    data = data()
    info = probe_video(data)
    assert info.frames == len(times) and info.fps == pytest.approx(rate, rel=0.01)
    numbers = resample(info.frames, info.fps, 4.0, info.times)
    seconds = (np.array(times) - times[0]) / 1000
    assert len(numbers) == int(seconds[-1] * 4) + 1
    wanted = np.arange(len(numbers)) / 4
    nearest = np.abs(seconds[:, None] - wanted).min(axis=0)
    shown = clock_times(decode_frames(data, numbers)) - times[0] / 1000
    np.testing.assert_allclose(np.abs(shown - wanted), nearest, atol=0.09)  # two grey levels


def test_the_header_rate_is_kept_where_time_stamps_agree():
    thirtieths = np.round(np.arange(90) / 30, 3).tolist()  # a container that counts milliseconds
    assert frame_timing(thirtieths, 30.0, 0.001) == (30.0, None)
    rate, times = frame_timing(thirtieths, 1000.0, 0.001)
    assert rate == pytest.approx(30, rel=1e-3) and times is None
    assert frame_timing([0.0, None, 0.1], 25.0, 0.001) == (25.0, None)
    assert frame_timing([0.0, 0.0, 0.1], 25.0, 0.001) == (25.0, None)
    assert frame_timing([1.0, 1.1, 1.5], 10.0, 0.001)[1] == (0.0, 0.1, 0.5)


def test_a_cover_is_no_video(moving):
    plain = encode_mp4(moving(6))
    tagged = with_cover(plain, np.zeros((40, 40, 3), np.uint8))
    assert probe_video(tagged) == probe_video(plain)
    np.testing.assert_array_equal(read_video(tagged, 2, 3), read_video(plain, 2, 3))


MATRICES = {
    (1, 0, 0, 1): lambda v: v,
    (0, 1, -1, 0): lambda v: np.rot90(v, -1, axes=(1, 2)),
    (0, -1, 1, 0): lambda v: np.rot90(v, 1, axes=(1, 2)),
    (-1, 0, 0, -1): lambda v: v[:, ::-1, ::-1],
    (-1, 0, 0, 1): lambda v: v[:, :, ::-1],
    (1, 0, 0, -1): lambda v: v[:, ::-1],
    (0, 1, 1, 0): lambda v: v.swapaxes(1, 2),
    (0, -1, -1, 0): lambda v: v.swapaxes(1, 2)[:, ::-1, ::-1],
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_whole_display_matrix_counts(moving, matrix):
    plain = encode_mp4(moving(2, 32, 64))
    expected = MATRICES[matrix](read_video(plain))
    data = with_matrix(plain, *matrix)
    np.testing.assert_array_equal(read_video(data), expected)
    info = probe_video(data)
    assert (info.height, info.width) == expected.shape[1:3]


CONTAINERS = {
    "avi": ("avi", "mpeg4"),
    "mkv": ("matroska", "libx264"),
    "webm": ("webm", "libvpx"),
    "flv": ("flv", "flv"),
    "ts": ("mpegts", "libx264"),
    "mpg": ("mpeg", "mpeg1video"),
    "gif": ("gif", "gif"),
    "mp4": ("mp4", "libx264"),
}


@pytest.mark.parametrize("name", ["avi", "mkv", "webm", "flv", "gif", "mp4"])
def test_whole_files_are_taken_and_cut_ones_named(moving, name):
    data = encode(*CONTAINERS[name], moving(40), b_frames=0)
    assert probe_video(data).frames == 40
    for part in (0.6, 0.9):
        with pytest.raises(VideoError, match="x: it (is damaged|is cut off|can't be decoded)"):
            probe_video(data[: int(part * len(data))], "x")


@pytest.mark.parametrize("name", ["avi", "mkv", "ts", "mpg", "mp4"])
def test_random_bytes_in_the_middle_are_named(moving, name):
    """The bytes are those within packets. One packet of random bytes can pass for a picture; sixteen in a row don't."""
    rng = np.random.default_rng(0)

    def damage(number, data):
        return data[:16] + rng.bytes(max(len(data) - 16, 0)) if 12 <= number < 28 else data

    whole = encode(*CONTAINERS[name], moving(40))
    data = encode(*CONTAINERS[name], moving(40), damage=damage)
    assert probe_video(whole).frames == 40 and len(data) == len(whole)
    with pytest.raises(VideoError, match="x: it (is damaged|is cut off|can't be decoded)"):
        probe_video(data, "x")


def test_damage_that_a_decoder_notices_is_named(moving):
    """Most single flipped bits break the codes of WMV; without strict decoding, none was named, 14 of 16 with it."""
    rng = np.random.default_rng(0)
    noisy = np.clip(moving(30).astype(int) + rng.integers(-20, 20, (30, 48, 64, 3)), 0, 255).astype(np.uint8)
    data = encode("asf", "wmv2", noisy, b_frames=0)
    named = 0
    for place in rng.integers(len(data) * 3 // 10, len(data) * 8 // 10, 16):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        try:
            probe_video(bytes(damaged))
        except VideoError:
            named += 1
    assert probe_video(data).frames == 30
    assert named >= 8


def test_an_encoder_of_the_tests_repeats_itself(moving):
    for container in CONTAINERS.values():
        one, other = (encode(*container, moving(8), b_frames=0) for _ in range(2))
        assert one == other
